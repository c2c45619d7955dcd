"""What stands in a record and beside the records: feature keys and `dataset_info.json`.

A record is a `tf.train.SequenceExample`, one per video. The keys are those that the Model Garden's
`video_input` and DeepMind's DMVR read, and a few more that neither knows (marked "ours").
"""

import dataclasses
import json
import os

from etils import epath

from cvrl_tf import files

# Feature list: one JPEG per Feature, in presentation order.
FRAMES = "image/encoded"

# Context.
LABEL_INDEX = "clip/label/index"  # int64; absent in unlabeled data
LABEL_TEXT = "clip/label/text"  # bytes; absent in unlabeled data
FILENAME = "video/filename"  # bytes, the path relative to the input folder
START = "clip/start/timestamp"  # int64, microseconds into the source
END = "clip/end/timestamp"  # int64, microseconds into the source
TIMES = "image/timestamp"  # int64 list, one a frame, microseconds into the source (ours)
FRAME_RATE = "clip/frame_rate"  # float, frames per second (ours)
NUM_FRAMES = "clip/num_frames"  # int64 (ours)
HEIGHT = "image/height"  # int64, pixels (ours)
WIDTH = "image/width"  # int64, pixels (ours)
VIDEO_ID = "video/id"  # bytes, unique in the data set (ours)

INFO_FILE = "dataset_info.json"


@dataclasses.dataclass
class SplitInfo:
    """One split of a data set.

    Attributes:
      shards: file names and the number of records in each, in reading order.
      num_frames: frames of all videos together.
      frame_rates: how many videos have which frame rate; keys like "29.97".
      class_counts: how many videos have which label; empty when unlabeled.
      skipped: input path -> reason, for every video that was not written.
      fps: frames per second to which the videos were resampled; None for their own.
    """

    shards: dict[str, int]
    num_frames: int
    frame_rates: dict[str, int]
    class_counts: dict[str, int]
    skipped: dict[str, str]
    fps: float | None = None

    @property
    def num_examples(self) -> int:
        return sum(self.shards.values())


@dataclasses.dataclass
class DatasetInfo:
    """The facts of a data set; nothing that stands here is configured anywhere else.

    Attributes:
      labels: sorted class names, whose position is `clip/label/index`; empty when unlabeled.
      short_side: length of the frames' short side, pixels.
      splits: by name, such as "train" and "validation".
    """

    labels: list[str]
    short_side: int
    splits: dict[str, SplitInfo]

    def save(self, folder: str | os.PathLike[str]) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        files.write_text(epath.Path(folder) / INFO_FILE, text)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "DatasetInfo":
        """Reads `dataset_info.json`.

        Raises:
          FileNotFoundError: the folder has none.
        """
        path = epath.Path(folder) / INFO_FILE
        if not path.is_file():
            what = "no such folder" if not epath.Path(folder).is_dir() else "it holds no records"
            raise FileNotFoundError(
                f"No {INFO_FILE} in {str(folder)!r}: {what}. "
                "Make records with tools/make_tfrecords.py, or correct the path."
            )
        fields = json.loads(path.read_text())
        fields["splits"] = {name: SplitInfo(**split) for name, split in fields["splits"].items()}
        return cls(**fields)

    def split(self, name: str) -> SplitInfo:
        """The split of that name.

        Raises:
          ValueError: there is none, or it is empty.
        """
        if name not in self.splits:
            raise ValueError(f"No split {name!r}; {INFO_FILE} has {sorted(self.splits)}.")
        if not self.splits[name].num_examples:
            raise ValueError(
                f"Split {name!r} is empty: {len(self.splits[name].skipped)} videos were skipped; "
                f"{INFO_FILE} says why."
            )
        return self.splits[name]
