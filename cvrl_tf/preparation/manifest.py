"""What became of every input video: `SPLIT_manifest.jsonl`, one line a video."""

import dataclasses
import json
from collections.abc import Iterable

from etils import epath

from cvrl_tf import files


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a video: written, or skipped for a reason.

    Attributes:
      name: as the annotation has it.
      label: name of its class; None in unlabeled data.
      shard: in which it is, or would have been.
      reason: why it was skipped; empty if it was written.
      warning: that a video which was written has fewer frames than its container announces.
      num_frames: stored frames.
      frame_rate: frames per second, 0 where unknown.
      height, width: of the stored frames, pixels.
      num_bytes: size of the record.
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


def write(path: epath.Path, outcomes: Iterable[Outcome]) -> None:
    """Writes outcomes as JSON lines, whole or not at all."""
    lines = (json.dumps(dataclasses.asdict(outcome)) + "\n" for outcome in outcomes)
    files.write_text(path, "".join(lines))


def read(path: epath.Path) -> list[Outcome]:
    """What `write` wrote."""
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]
