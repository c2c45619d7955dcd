"""What the preparation of a split says at its end."""

from cvrl_tf.data import schema

_SKIPPED_SHOWN = 20


def summary(name: str, folder: str, split: schema.SplitInfo, seconds: float) -> str:
    """Say what was written and what was skipped.

    Args:
      name: of the split.
      folder: of the records.
      split: facts of the split.
      seconds: that it took.
    """
    classes = f"of {len(split.class_counts)} classes" if split.class_counts else "unlabeled,"
    lines = [
        f"Wrote {split.num_examples:,} videos, {split.num_frames:,} frames, {classes} "
        f"as {len(split.shards)} shards {name}-*-of-* in {folder} ({seconds:.0f} s, "
        f"{split.num_frames / seconds:,.0f} frames/s).",
        f"Skipped {len(split.skipped):,} videos{':' if split.skipped else '.'}",
    ]
    reasons = [f"  {video}: {reason}" for video, reason in split.skipped.items()]
    lines += reasons[:_SKIPPED_SHOWN]
    if len(reasons) > _SKIPPED_SHOWN:
        hidden = len(reasons) - _SKIPPED_SHOWN
        lines.append(f"  and {hidden:,} more: see {schema.INFO_FILE} in {folder}.")
    return "\n".join(lines)
