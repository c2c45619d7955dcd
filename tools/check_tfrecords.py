"""Check records for damage and print what is in them.

    python tools/check_tfrecords.py --data_dir=records
    python tools/check_tfrecords.py --data_dir=records --split=train --sample=4 \\
      --contact_sheet=sheet.png

The check reads every byte, compares every record with dataset_info.json and with the manifest, and
decodes every frame. Records and frames are counted from 0. If there are problems, the exit code
is 1.
"""

import collections
import os
import statistics
import sys
from io import BytesIO
from pathlib import Path

# Before TensorFlow is imported: its start-up messages would hide the output, and it would take the
# memory of an accelerator that this command does not use.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import matplotlib
from absl import app, flags
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cvrl_tf import commands
from cvrl_tf.data import schema
from cvrl_tf.preparation import verification
from cvrl_tf.preparation.inspection import Record
from cvrl_tf.preparation.verification import Report

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of the records.", required=True)
_SPLIT = flags.DEFINE_string("split", None, "Split to check. Default: all splits.")
_SAMPLE = flags.DEFINE_integer(
    "sample", None, "Number of frames to decode of each video. Default: all frames.", lower_bound=1
)
_CONTACT_SHEET = flags.DEFINE_string(
    "contact_sheet", None, "Picture to write (.png), with six frames of each of up to 24 videos."
)

_PROBLEMS_SHOWN = 50
_CLASSES_SHOWN = 10  # of the largest classes, and as many of the smallest
_BAR = 40  # characters
_VIDEOS_DRAWN, _COLUMNS = 24, 2
_FRAMES_DRAWN = 6
_CELL = 176, 132  # width and height, pixels
_GAP, _LINE, _POINTS = 8, 24, 14
_FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"  # knows most alphabets


def _printable(name: str) -> str:
    """Return a label or an id as text. They come from file names, which may not be UTF-8."""
    return os.fsencode(name).decode(errors="replace")


def _most_common(counts: collections.Counter[str]) -> str:
    """Return the five most common keys with their counts."""
    shown = [f"{key} ({count:,})" for key, count in counts.most_common(5)]
    return ", ".join(shown) + (f", and {len(counts) - 5:,} others" if len(counts) > 5 else "")


def _histogram(counts: collections.Counter[str]) -> list[str]:
    """Return a line for each class, or for the largest and the smallest classes."""
    per_block = max(counts.values()) / _BAR
    rows = []
    for label, count in counts.most_common():
        bar = "█" * max(count > 0, round(count / per_block))
        rows.append(f"    {count:>9,}  {bar} {_printable(label)}")
    if len(rows) <= 2 * _CLASSES_SHOWN:
        return rows
    between = f"          ... {len(rows) - 2 * _CLASSES_SHOWN:,} classes between"
    return [*rows[:_CLASSES_SHOWN], between, *rows[-_CLASSES_SHOWN:]]


def _summary(report: Report, labels: list[str]) -> str:
    """Return what is in the records that could be read."""
    records = report.records
    if not records:
        return f"Split {report.split!r}: no record could be read."
    lengths = [record.num_frames for record in records]
    size = sum(record.num_bytes for record in records)
    sizes = collections.Counter(f"{record.height}x{record.width}" for record in records)
    rates = collections.Counter(f"{record.frame_rate:g}" for record in records)
    classes = collections.Counter(dict.fromkeys(labels, 0))
    classes.update(record.label for record in records if record.label is not None)
    lines = [
        f"Split {report.split!r}: {len(records):,} videos, {sum(lengths):,} frames, "
        f"{size / 1e6:,.1f} MB ({size / max(1, sum(lengths)):,.0f} bytes a frame).",
        f"  frames a video: {min(lengths):,} at least, {statistics.median(lengths):,.0f} median, "
        f"{statistics.mean(lengths):,.1f} mean, {max(lengths):,} at most",
        f"  height x width: {_most_common(sizes)}",
        f"  frames per second: {_most_common(rates)}",
    ]
    if classes.total():
        lines += [f"  videos of {len(classes):,} classes:", *_histogram(classes)]
    else:
        lines += ["  unlabeled"]
    return "\n".join(lines)


def _remedy(report: Report) -> str:
    """Return how to repair a split.

    `preparation.prepare` writes all shards of a split that `dataset_info.json` does not name.
    """
    where = f"in {_DATA_DIR.value!r}"
    if len(report.problems) == len(report.strays):
        return f"Delete these shards of another run {where}: {' '.join(report.strays)}"
    return (
        f"To make split {report.split!r} again, delete {where} all files "
        f"{report.split}-?????-of-????? and, in {schema.INFO_FILE}, the entry "
        f'"{report.split}" of "splits". '
        "Then rerun the command that made it (tools/make_tfrecords.py or tools/make_subset.py), "
        "with the same flags."
    )


def _verdict(reports: list[Report]) -> str:
    """Return the problems and the remedies, or that there are none."""
    problems = [problem for report in reports for problem in report.problems]
    if not problems:
        frames = f"{_SAMPLE.value} frames of each video" if _SAMPLE.value else "every frame"
        return f"No problems found: checked every record and {frames}."
    lines = [f"Found {len(problems):,} problems; do not use these records:"]
    lines += [f"  {problem}" for problem in problems[:_PROBLEMS_SHOWN]]
    if len(problems) > _PROBLEMS_SHOWN:
        lines.append(f"  and {len(problems) - _PROBLEMS_SHOWN:,} more")
    return "\n".join([*lines, *(_remedy(report) for report in reports if report.problems)])


def _cell(jpeg: bytes) -> Image.Image:
    """Return a frame on a gray ground, or a red cell if it does not decode."""
    try:
        with Image.open(BytesIO(jpeg)) as image:
            return ImageOps.pad(image.convert("RGB"), _CELL, color="lightgrey")
    except OSError:
        return Image.new("RGB", _CELL, "red")


def sheet(records: list[Record]) -> Image.Image:
    """Draw a row of frames for each video under its label and id, in two columns."""
    step = _CELL[0] + 2
    width, height = _FRAMES_DRAWN * step + _GAP, _LINE + _CELL[1] + _GAP
    rows = -(-len(records) // _COLUMNS)
    page = Image.new("RGB", (_COLUMNS * width + _GAP, rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.truetype(_FONT, _POINTS)
    for number, record in enumerate(records):
        left, top = _GAP + number % _COLUMNS * width, _GAP + number // _COLUMNS * height
        caption = record.video_id if record.label is None else f"{record.label}: {record.video_id}"
        caption = _printable(caption)
        while font.getlength(caption) > width - _GAP:
            caption = caption.rstrip("…")[:-1] + "…"
        draw.text((left, top), caption, fill="black", font=font)
        for i, jpeg in enumerate(record.preview):
            page.paste(_cell(jpeg), (left + i * step, top + _LINE))
    return page


def _prepare_sheet(path: Path) -> None:
    """Check that the picture can be written, before a check that may take hours."""
    if path.suffix != ".png":
        raise ValueError(f"--contact_sheet={path} does not end in .png.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Unexpected {argv[1:]}.")
    picture = Path(_CONTACT_SHEET.value) if _CONTACT_SHEET.value else None
    try:
        if picture:
            _prepare_sheet(picture)
        num_previews = _VIDEOS_DRAWN if picture else 0
        reports = verification.check(_DATA_DIR.value, _SPLIT.value, _SAMPLE.value, num_previews)
        labels = schema.DatasetInfo.load(_DATA_DIR.value).labels
        for report in reports:
            print("\n".join([_summary(report, labels), *(f"  {note}" for note in report.notes)]))
        shown = [record for report in reports for record in report.records if record.preview]
        if picture:
            sheet(shown).save(picture)
            print(f"Drew {len(shown)} videos in {picture}.")
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
    print(_verdict(reports))
    sys.exit(int(any(report.problems for report in reports)))


if __name__ == "__main__":
    commands.run(main)
