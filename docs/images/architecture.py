"""Draws docs/images/architecture.svg: `python docs/images/architecture.py`."""

from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 860, 770
LEFT, MAIN = 30, 470  # where the main column begins, and its width
INK, SOFT, LINE = "#1f2933", "#52606d", "#7b8794"
ROOMS = {"data": "#d9e8fb", "learn": "#dcf1df", "use": "#fdebd2", "file": "#eceff3"}


def text(x: float, y: float, words: str, size: int = 14, style: str = "", color: str = INK) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{color}" {style}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str, name: str, what: str) -> str:
    """A room with its name and, below it, what it does."""
    middle = 'text-anchor="middle"'
    center = x + width / 2
    return "".join(
        [
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" ',
            f'fill="{ROOMS[kind]}" stroke="{LINE}"/>',
            text(center, y + 21, name, 15, f'{middle} font-weight="600"'),
            *(
                text(center, y + 40 + 16 * number, line, 12, middle, SOFT)
                for number, line in enumerate(what.split("\n"))
                if line
            ),
        ]
    )


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    return (
        f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="{INK}" '
        'stroke-width="1.5" marker-end="url(#head)"/>'
    )


def down(y: float, words: str, x: float = LEFT + MAIN / 2, length: float = 40) -> str:
    """An arrow to the next room, and what goes along it."""
    return arrow(x, y, x, y + length - 3) + text(x + 14, y + 24, words, 12, "", SOFT)


def main() -> None:
    side = LEFT + MAIN + 50
    wide = WIDTH - side - 30
    third = (MAIN - 2 * 40) / 3
    parts = [
        box(LEFT, 20, MAIN, 34, "file", "raw videos", ""),
        down(54, "any codec that FFmpeg decodes"),
        box(
            LEFT,
            94,
            MAIN,
            52,
            "data",
            "preparation",
            "decode, scale, encode as JPEG; a reason for every skipped video",
        ),
        down(146, "shards of records, dataset_info.json", LEFT + third / 2),
        *(
            box(LEFT + number * (third + 40), 186, third, 52, "data", name, what)
            for number, (name, what) in enumerate(
                [
                    ("data.records", "which bytes"),
                    ("data.clips", "which frames"),
                    ("data.views", "decode, crop, flip"),
                ]
            )
        ),
        arrow(LEFT + third, 212, LEFT + third + 37, 212),
        arrow(LEFT + 2 * third + 40, 212, LEFT + 2 * third + 77, 212),
        down(
            238,
            "uint8 views [B, V, T, H, W, 3], positions, seconds, seeds",
            LEFT + MAIN - third / 2,
        ),
        box(LEFT, 278, MAIN, 52, "learn", "augment", "color, blur, solarize: one draw per clip"),
        down(330, "float32 views in [0, 1]"),
        box(
            LEFT,
            370,
            MAIN,
            68,
            "learn",
            "tasks",
            "pretext/: one method per file\nclassify: probe, fine-tuning",
        ),
        box(side, 278, wide, 52, "learn", "models", "the encoder and its heads"),
        box(side, 378, wide, 52, "learn", "losses", "pure functions of tensors"),
        box(side, 478, wide, 52, "learn", "distribution", "gather over all replicas"),
        arrow(side, 318, LEFT + MAIN + 4, 382),
        arrow(side, 404, LEFT + MAIN + 4, 404),
        arrow(side, 490, LEFT + MAIN + 4, 426),
        down(438, "loss of each row, metrics"),
        box(LEFT, 478, MAIN, 52, "learn", "training", "optimizer, checkpoints, logs, resuming"),
        down(530, "checkpoint {encoder, heads, optimizer, progress, metrics}, encoder.json"),
        box(LEFT, 570, MAIN, 34, "file", "run folder", ""),
        arrow(LEFT + MAIN / 4, 604, LEFT + MAIN / 4, 641),
        arrow(LEFT + 3 * MAIN / 4, 604, LEFT + 3 * MAIN / 4, 641),
        box(LEFT, 644, MAIN / 2 - 15, 52, "use", "evaluation", "probe, k-NN, retrieval"),
        box(
            LEFT + MAIN / 2 + 15,
            644,
            MAIN / 2 - 15,
            52,
            "use",
            "inference",
            "SavedModel, embed, search, serve",
        ),
        box(side, 644, wide, 52, "use", "reports", "the paper's tables, pages"),
        f'<path d="M {LEFT + 110} 696 V 728 H {side + wide / 2} V 699" fill="none" '
        f'stroke="{INK}" stroke-width="1.5" marker-end="url(#head)"/>',
        text(LEFT + 124, 722, "results as JSON", 12, "", SOFT),
    ]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, DejaVu Sans, sans-serif" role="img" '
        'aria-label="The way of the data from raw videos to reports and exports">'
        '<defs><marker id="head" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" '
        f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{INK}"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="#ffffff"/>'
    )
    drawing = "\n".join([head, *parts, "</svg>"])
    Path(__file__).with_suffix(".svg").write_text(drawing + "\n")


if __name__ == "__main__":
    main()
