"""Reads and writes `SPLIT_manifest.jsonl`: what became of every input, one line a video or file."""

import dataclasses
import json
from collections.abc import Iterable

from etils import epath

from cvrl_tf import files
from cvrl_tf.data import schema


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Tells what became of an input: it was written, or skipped or ignored for a reason.

    Attributes:
      name: as the annotation has it.
      label: name of its class; None in unlabeled data.
      shard: in which it is, or would have been; empty for what was not tried.
      reason: why it was skipped, or, after "ignored: ", is taken for no video; empty if it was
        written.
      warning: that a video which was written has fewer frames than its container announces.
      num_frames: stored frames.
      frame_rate: frames per second, 0 where unknown.
      height, width: of the stored frames, pixels.
      num_bytes: size of the record, without its frame of 16 bytes.
      offset: in bytes, where the frame of the record begins in its shard; the record itself begins
        12 bytes later. None for a skipped video, and in manifests of version 1.
    """

    name: str
    label: str | None
    shard: str
    reason: str = ""
    warning: str = ""
    num_frames: int = 0
    frame_rate: float = 0.0
    height: int = 0
    width: int = 0
    num_bytes: int = 0
    offset: int | None = None


def write(path: epath.Path, outcomes: Iterable[Outcome]) -> None:
    """Writes outcomes as JSON lines, whole or not at all."""
    lines = (json.dumps(dataclasses.asdict(outcome)) + "\n" for outcome in outcomes)
    files.write_text(path, "".join(lines))


def read(path: epath.Path) -> list[Outcome]:
    """Reads what `write` wrote, in this version or an older one.

    Raises:
      ValueError: a line is damaged, or has fields that are not known here.
    """
    outcomes = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            outcomes.append(schema.from_fields(Outcome, json.loads(line)))
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"Line {number} of {str(path)!r} can't be read: {error}. Restore the file, update "
                "cvrl_tf if a newer one wrote it, or make the split again."
            ) from error
    return outcomes
