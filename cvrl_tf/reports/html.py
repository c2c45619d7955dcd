"""A page of HTML that needs no other file."""

import base64
import dataclasses
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem }
img { max-width: 100% }
figure { margin: 1rem 0 }
figcaption { color: #555; font-size: 0.85rem; overflow-wrap: anywhere }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 0.9rem }
td, th { padding: 0.2rem 0.8rem; text-align: left; border-bottom: 1px solid #ddd }
.gallery { display: flex; flex-wrap: wrap; gap: 0.5rem; margin-bottom: 0.8rem }
.gallery figure { margin: 0; width: 9rem; border: 4px solid transparent; text-align: center }
.gallery figure.query { border-color: #2c6fbb }
.gallery figure.other { border-color: #d1495b }
.gallery img { width: 8rem; height: 8rem; object-fit: contain }
"""


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, in plain text, and what stands below it, in HTML."""

    heading: str
    html: str


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page."""
    links = "".join(
        f'<li><a href="#s{n}">{html.escape(section.heading)}</a></li>'
        for n, section in enumerate(sections)
    )
    parts = "\n".join(
        f'<h2 id="s{n}">{html.escape(section.heading)}</h2>\n{section.html}'
        for n, section in enumerate(sections)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n<ul>{links}</ul>\n{parts}\n</body></html>\n"
    )


def paragraph(text: str) -> str:
    """Of plain text."""
    return f"<p>{html.escape(text)}</p>\n"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Of plain texts."""

    def line(tag: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(v)}</{tag}>" for v in values) + "</tr>\n"

    body = "".join(line("td", row) for row in rows)
    return f'<div class="wide"><table>\n{line("th", heads)}{body}</table></div>\n'


def picture(caption: str, figure: Figure) -> str:
    """A figure of matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _figure(caption, buffer.getvalue(), "png")


def image(caption: str, path: Path) -> str:
    """A file whose suffix says its format."""
    return _figure(caption, path.read_bytes(), path.suffix[1:])


def row(*pictures: tuple[str, bytes | None, str, str]) -> str:
    """Pictures side by side, each as caption, content (None: it is gone), format, and "query",
    "same" or "other", which colors its frame."""
    shown = "".join(
        _figure(caption, content, kind, of)
        if content is not None
        else f'<figure class="{of}"><figcaption>{html.escape(caption)}: gone</figcaption></figure>'
        for caption, content, kind, of in pictures
    )
    return f'<div class="gallery">{shown}</div>\n'


def gallery(queries: Sequence[dict[str, Any]]) -> str:
    """What `gallery.nearest_videos` returns: a row a query."""
    rows = []
    for query in queries:
        shown = [(query["class"], *_file(query), "query")]
        for near in query["nearest"]:
            caption = f"{near['class']}, {near['cosine']:.2f}"
            kind = "same" if near["class"] == query["class"] else "other"
            shown.append((caption, *_file(near), kind))
        rows.append(row(*shown))
    return "".join(rows)


def _file(shown: dict[str, Any]) -> tuple[bytes, str]:
    path = Path(shown["picture"])
    return path.read_bytes(), path.suffix[1:]


def _figure(caption: str, content: bytes, kind: str, of: str = "") -> str:
    text = html.escape(caption)
    data = base64.b64encode(content).decode()
    return (
        f'<figure class="{of}"><img alt="{text}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>\n"
    )
