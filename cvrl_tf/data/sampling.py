"""What a clip is: the facts that training settles, and export, embedding and probe keep to."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cvrl_tf.data.clips import EvenClips
from cvrl_tf.data.views import EvenCrops


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How clips come about. The pipeline returns it, the run stores it, the export reads it.

    Attributes:
      num_frames: T of a clip.
      stride: frames from one frame of a clip to the next.
      fps: frames per second in which the stride counts; None for the record's own frames.
      size: side of the square frames that the encoder sees, pixels.
      short_side: of the records' frames, pixels.
      record_fps: to which the records' videos were resampled; None for their own rate.
    """

    num_frames: int
    stride: int
    fps: float | None
    size: int
    short_side: int
    record_fps: float | None

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Sampling":
        """Read the fields from a mapping that may hold others too.

        Raises:
          KeyError: one is missing.
        """
        return cls(**{field.name: facts[field.name] for field in dataclasses.fields(cls)})

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, 3)."""
        return self.num_frames, self.size, self.size, 3

    def clips(self, num_clips: int) -> EvenClips:
        """Return the clips of a test, evenly spaced over a video."""
        return EvenClips(self.num_frames, self.stride, num_clips)

    def crops(self, num_crops: int) -> EvenCrops:
        """Return the crops of a test, evenly spaced along the long side."""
        return EvenCrops(self.size, self.size, num_crops)
