"""What the preparation of a split says at its end."""

from collections.abc import Iterator, Mapping

from cvrl_tf.data import schema
from cvrl_tf.preparation.annotations import IGNORED

_SHOWN = 20


def summary(
    name: str, folder: str, split: schema.SplitInfo, ignored: Mapping[str, str], seconds: float
) -> str:
    """Say what was written, what was skipped and what was ignored.

    Args:
      name: of the split.
      folder: of the records.
      split: facts of the split.
      ignored: files that are taken for no videos, with the reasons.
      seconds: that it took.
    """
    classes = f"of {len(split.class_counts)} classes" if split.class_counts else "unlabeled,"
    without = split.num_examples - sum(split.class_counts.values())
    if split.class_counts and without:
        classes += f" ({without:,} without a class)"
    place = f"see {name}_manifest.jsonl in {folder}"
    lines = [
        f"Wrote {split.num_examples:,} videos, {split.num_frames:,} frames, {classes} "
        f"as {len(split.shards)} shards {name}-*-of-* in {folder} ({seconds:.0f} s, "
        f"{split.num_frames / seconds:,.0f} frames/s).",
        *listing("Skipped {} videos", split.skipped, place),
    ]
    if ignored:
        lines += listing("Ignored {} files", ignored, place)
    return "\n".join(lines)


def listing(heading: str, reasons: Mapping[str, str], place: str) -> Iterator[str]:
    """List names with reasons, the first of them; names that can't be printed, in ASCII.

    Args:
      heading: with {} for their number.
      reasons: by name.
      place: where all are, as the end of the last line.
    """
    yield heading.format(f"{len(reasons):,}") + (":" if reasons else ".")
    for name, reason in list(reasons.items())[:_SHOWN]:
        yield f"  {name if name.isprintable() else ascii(name)}: {reason.removeprefix(IGNORED)}"
    if len(reasons) > _SHOWN:
        yield f"  and {len(reasons) - _SHOWN:,} more: {place}."
