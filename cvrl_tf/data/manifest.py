"""What became of every input video: `SPLIT_manifest.jsonl`, one line a video."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a video: written, or skipped for a reason.

    Attributes:
      name: as the annotation has it.
      label: name of its class; None in unlabelled data.
      shard: in which it is, or would have been.
      reason: why it was skipped; empty if it was written.
      num_frames: stored frames.
      frame_rate: frames per second, 0 where unknown.
      height, width: of the stored frames, pixels.
      num_bytes: size of the record.
    """

    name: str
    label: str | None
    shard: str
    reason: str = ""
    num_frames: int = 0
    frame_rate: float = 0.0
    height: int = 0
    width: int = 0
    num_bytes: int = 0


def write(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes outcomes as JSON lines, whole or not at all."""
    text = "".join(json.dumps(dataclasses.asdict(outcome)) + "\n" for outcome in outcomes)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with aside.open("w") as lines:
        lines.write(text)
        lines.flush()
        os.fsync(lines.fileno())
    aside.rename(path)


def read(path: Path) -> list[Outcome]:
    """What `write` wrote."""
    return [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]
