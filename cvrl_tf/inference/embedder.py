"""Records of videos to features, through an exported model.

Views are taken as in evaluation: the features are those that an evaluation on the same records has.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from cvrl_tf import checkpoints, files
from cvrl_tf.data import record_views, records
from cvrl_tf.data.sampling import Sampling
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.measures import neighbors
from cvrl_tf.preparation.decoding import FrameOptions
from cvrl_tf.preparation.manifest import Outcome

Results = dict[str, np.ndarray]


class Embedder:
    """An exported model, and the views that it takes of a video.

    Attributes:
      views: how they come about; see `saved_model`.
      classes: names of those that it tells; None if it tells none.
      frames: how videos are stored as the records that it takes them of.
      facts: by which a file of features says whose they are.
    """

    def __init__(
        self,
        model: str | Path,
        num_clips: int | None = None,
        num_crops: int | None = None,
        batch: int = 32,
        keep_truncated: bool = False,
    ) -> None:
        """Args:
          model: folder that `cvrl_tf.export` wrote.
          num_clips, num_crops: of a video and of a clip, if not as the export has it.
          batch: clips that the model sees at a time.
          keep_truncated: whether to take what decodes of a truncated video.

        Raises:
          FileNotFoundError, ValueError: see `facts_of`.
        """
        about = facts_of(model, num_clips, num_crops)
        self.classes = about.pop("classes")
        self.facts = about
        self.views = about["views"]
        self.frames = FrameOptions(
            self.views["short_side"],
            fps=self.views["record_fps"],
            keep_truncated=keep_truncated,
        )
        self._batch = batch
        self._loaded = tf.saved_model.load(str(model))  # keeps the variables
        self._signature = self._loaded.signatures["clips"]
        self._sampling = Sampling.of(self.views)
        counts = self.views["num_clips"], self.views["num_crops"]
        self._views_of = tf.function(
            lambda record: record_views.evaluation_views(record, self._sampling, *counts),
            input_signature=[tf.TensorSpec([], tf.string)],
        )

    @property
    def num_views(self) -> int:
        """Of a video, clips x crops."""
        return self.views["num_clips"] * self.views["num_crops"]

    def views_of(self, record: bytes) -> tf.Tensor:
        """Make the views of a video; see `record_views.evaluation_views`."""
        return self._views_of(record)

    def results_of(self, views: tf.Tensor, count: int) -> Results:
        """Run the model on views, uint8 [N * count, T, size, size, 3]: means of every
        `count`, by name, [N, D]; embeddings stay of length 1."""
        found: dict[str, list[np.ndarray]] = {}
        for begin in range(0, len(views), self._batch):
            for name, rows in self._signature(views[begin : begin + self._batch]).items():
                found.setdefault(name, []).append(rows.numpy())
        # Sorted, for TensorFlow gives them in any order, and the parts of a file must agree.
        return {name: averaged(name, np.concatenate(found[name]), count) for name in sorted(found)}

    def of_records(self, folder: Path, outcomes: Sequence[Outcome]) -> ClipFeatures:
        """Embed videos that were written into a folder, one shard each."""
        written = [outcome for outcome in outcomes if not outcome.reason]
        skipped = {outcome.name: outcome.reason for outcome in outcomes if outcome.reason}
        facts = {**self.facts, "skipped": skipped}
        if not written:
            return ClipFeatures.joined([], facts)
        shards = [str(folder / outcome.shard) for outcome in written]
        of_videos = records.in_order(shards).map(self._views_of, tf.data.AUTOTUNE)
        # As many videos at a time as make a batch.
        some = of_videos.batch(max(1, self._batch // self.num_views)).prefetch(1)
        some = records.ending_promptly(some)
        crops = self.views["num_crops"]
        parts = [self.results_of(tf.reshape(v, [-1, *v.shape[2:]]), crops) for v in some]
        results = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        spans = [self.spans_of(record) for record in records.in_order(shards)]
        starts, ends = np.concatenate(spans).T
        names = np.repeat([outcome.name for outcome in written], self.views["num_clips"])
        return ClipFeatures(names, starts, ends, results, facts)

    def spans_of(self, record: tf.Tensor | bytes) -> np.ndarray:
        """Beginnings and ends of the clips of a record, seconds, float [K, 2]; NaN if unknown."""
        found = record_views.spans(records.parse(record), self._sampling, self.views["num_clips"])
        return np.round(found.numpy().astype(float), 6)  # stamps have microseconds


def facts_of(
    model: str | Path, num_clips: int | None = None, num_crops: int | None = None
) -> dict[str, Any]:
    """Read what an export says of itself. It is not loaded, which would run its code.

    Args:
      model, num_clips, num_crops: as of `Embedder`.

    Returns:
      model, its path; fingerprint; views, how they come about; classes, names or None.

    Raises:
      FileNotFoundError: there is no such model.
      ValueError: what it says of itself is damaged.
    """
    path = Path(model) / checkpoints.EXPORT_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"No {checkpoints.EXPORT_FILE} in {str(model)!r}: give what cvrl_tf.export wrote."
        )
    about = files.read_json(path)
    try:
        views = about["views"]
        views["num_clips"] = num_clips or views["num_clips"]
        views["num_crops"] = num_crops or views["num_crops"]
        return {
            "model": os.path.abspath(model),
            "fingerprint": about["fingerprint"],
            "views": views,
            "classes": about["classes"],
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} is damaged, {error!r}: export the model again.") from error


def averaged(name: str, rows: np.ndarray, count: int) -> np.ndarray:
    """Average every `count` rows, [N * count, D] to [N, D]; embeddings stay of length 1."""
    means = rows.reshape(-1, count, rows.shape[1]).mean(axis=1)
    return neighbors.unit(means) if name == "embedding" else means
