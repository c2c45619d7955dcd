"""Defines what records and `dataset_info.json` hold.

A record is a `tf.train.SequenceExample`, one per video. The keys are those that the Model Garden's
`video_input` and DeepMind's DMVR read, and a few more that neither knows (marked "ours").
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from etils import epath

from cvrl_tf import files

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Version of the records and of `dataset_info.json`. Those that say none are version 1: they have no
# times of frames and no name of the data set.
VERSION = 2

# Feature list: one JPEG per Feature, in presentation order.
FRAMES = "image/encoded"

# Context.
RECORD_VERSION = "record/version"  # int64, `VERSION` (ours)
LABEL_INDEX = "clip/label/index"  # int64; absent in unlabeled data
LABEL_TEXT = "clip/label/text"  # bytes; absent in unlabeled data
FILENAME = "video/filename"  # bytes, the path relative to the input folder
START = "clip/start/timestamp"  # int64, microseconds into the source
END = "clip/end/timestamp"  # int64, microseconds into the source; 0 where unknown
# int64 list, one value per frame: when the source shows it, in microseconds from the source's
# beginning. Absent where neither the times nor the frame rate are known. (Ours; MediaPipe has a
# feature list of this name.)
TIMES = "image/timestamp"
FRAME_RATE = "clip/frame_rate"  # float, frames per second, 0 where unknown (ours)
NUM_FRAMES = "clip/num_frames"  # int64 (ours)
HEIGHT = "image/height"  # int64, pixels (ours)
WIDTH = "image/width"  # int64, pixels (ours)
VIDEO_ID = "video/id"  # bytes, unique in the data set (ours)

INFO_FILE = "dataset_info.json"

_Dataclass = TypeVar("_Dataclass", bound="DataclassInstance")


@dataclasses.dataclass
class SplitInfo:
    """Describes one split of a data set.

    Attributes:
      shards: file names and the number of records in each, in reading order.
      num_frames: of all videos together.
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
        """Records in all shards."""
        return sum(self.shards.values())


@dataclasses.dataclass
class DatasetInfo:
    """Holds the facts of a data set. They are configured nowhere else.

    Attributes:
      labels: sorted class names, whose position is `clip/label/index`; empty when unlabeled.
      short_side: length of the frames' short side, pixels.
      splits: by name, such as "train" and "validation".
      name: of the data set, as results report it. `load` takes the folder's name where it is empty.
    """

    labels: list[str]
    short_side: int
    splits: dict[str, SplitInfo]
    name: str = ""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `dataset_info.json` in the newest version."""
        fields = {"version": VERSION, "name": self.name, **dataclasses.asdict(self)}
        files.write_text(epath.Path(folder) / INFO_FILE, json.dumps(fields, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "DatasetInfo":
        """Reads `dataset_info.json` of any version up to `VERSION`.

        Raises:
          FileNotFoundError: the folder has none.
          ValueError: the file is damaged, or of a version that is not known here.
        """
        path = epath.Path(folder) / INFO_FILE
        if not path.is_file():
            what = "no such folder" if not epath.Path(folder).is_dir() else "it holds no records"
            raise FileNotFoundError(
                f"No {INFO_FILE} in {str(folder)!r}: {what}. "
                "Make records with tools/make_tfrecords.py, or correct the path."
            )
        try:
            fields = json.loads(path.read_text())
            version = fields.pop("version", 1)
            info = _info_of(fields) if version in range(1, VERSION + 1) else None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{os.fspath(path)!r} can't be read: {error}. "
                "Restore it, or make the records again in a new folder."
            ) from error
        if info is None:
            raise ValueError(
                f"{os.fspath(path)!r} has version {version}, but this cvrl_tf reads versions 1 to "
                f"{VERSION}. Update cvrl_tf, or make the records again in a new folder."
            )
        info.name = info.name or folder_name(folder)
        return info

    @staticmethod
    def locked(folder: str | os.PathLike[str]) -> contextlib.AbstractContextManager[None]:
        """Locks `dataset_info.json` against other writers: lock, load, change, save.

        Raises:
          files.InUse: another process has held it for minutes.
        """
        lock = epath.Path(folder) / f".{INFO_FILE}.lock"
        return files.locked(lock, "stop that process, or choose another folder", patience=120)

    def split(self, name: str) -> SplitInfo:
        """Returns the split of that name.

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


def _info_of(fields: dict[str, Any]) -> DatasetInfo:
    info = from_fields(DatasetInfo, fields)
    splits: Mapping[str, Any] = info.splits
    info.splits = {name: from_fields(SplitInfo, split) for name, split in splits.items()}
    return info


def folder_name(folder: str | os.PathLike[str]) -> str:
    """Returns the last part of a path: the name of a data set to which no other was given."""
    return os.path.basename(os.path.abspath(folder))


def from_fields(kind: type[_Dataclass], fields: Mapping[str, Any]) -> _Dataclass:
    """Makes a dataclass from the fields of a file.

    Raises:
      ValueError: a field is unknown or missing.
    """
    known = {field.name: field for field in dataclasses.fields(kind)}
    required = {
        name
        for name, field in known.items()
        if field.default is field.default_factory is dataclasses.MISSING
    }
    for what, names in (
        ("unknown", sorted(fields.keys() - known.keys())),
        ("missing", sorted(required - fields.keys())),
    ):
        if names:
            raise ValueError(f"{what} fields {names}")
    return kind(**fields)
