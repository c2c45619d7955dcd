"""Features of a split by a frozen encoder, computed once and stored."""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.data.pipeline import Pipeline

# Called as encoder(frames, training=...).
Encoder = Callable[..., tf.Tensor]


def _batches(data: Pipeline, batch: int, seed: int = 0) -> tf.data.Dataset:
    return data.eval_batches(batch, seed=seed)


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of all videos of a split, in the order of the records.

    Attributes:
      views: float32 [N, V, D], one feature for each view.
      labels: int32 [N].
    """

    views: np.ndarray
    labels: np.ndarray

    @property
    def of_videos(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean over the views of each video, float32 [N, D], and the labels."""
        return self.views.mean(axis=1), self.labels


def extract(encoder: Encoder, data: Pipeline, batch: int, copies: int = 1) -> Features:
    """Encode each view of a split once.

    Args:
      encoder: float frames [N, T, H, W, 3] in [0, 1] to features [N, D]; called in inference mode.
      data: the split.
      batch: number of clips in a step; all clips of a video are in the same step.
      copies: number of passes over the data. Random crops and clips are drawn anew in each; all of
        them count as views.
    """

    def features_of(views: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(views)
        frames = tf.reshape(views, tf.concat([[-1], shape[2:]], axis=0))
        features = encoder(tf.image.convert_image_dtype(frames, tf.float32), training=False)
        return tf.reshape(tf.cast(features, tf.float32), [shape[0], shape[1], -1])

    videos = max(1, batch // data.num_views)
    steps = -(-data.num_examples // videos)
    progress = keras.utils.Progbar(copies * steps, unit_name="batch")
    traced = None
    of_copies, labels = [], []
    for copy in range(copies):
        batches = _batches(data, videos, seed=copy)
        # Traced once, for the shape that all batches have.
        traced = traced or tf.function(features_of).get_concrete_function(
            batches.element_spec["frames"]
        )
        features = []
        for examples in batches:
            features.append(traced(examples["frames"]).numpy())
            if not copy:
                labels.append(examples["label"].numpy())
            progress.add(1)
        of_copies.append(np.concatenate(features)[: data.num_examples])
    return Features(np.concatenate(of_copies, axis=1), np.concatenate(labels)[: data.num_examples])


class FeatureStore:
    """A folder of features, with what determined them. Stored features are not computed again."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(
        self,
        name: str,
        made_of: str,
        encoder: Callable[[], Encoder],
        data: Pipeline,
        batch: int,
        copies: int = 1,
    ) -> Features:
        """Return the features that `extract` gives, stored ones if there are any.

        Args:
          name: name of the encoder, for the file.
          made_of: what determines the encoder, such as `checkpoints.fingerprint`.
          encoder: returns the encoder; called only if the features are not stored.
          data, batch, copies: see `extract`.
        """
        path, text = self._place(name, made_of, data, copies)
        if path.exists():
            with np.load(path) as stored:
                return Features(stored["views"], stored["labels"])
        print(f"Features of {data.facts['split']!r}: {name}", flush=True)
        features = extract(encoder(), data, batch, copies)
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".part", delete=False) as part:
            np.savez(part, views=features.views, labels=features.labels, facts=text)
        Path(part.name).replace(path)  # a reader sees the whole file or none
        return features

    def path(self, name: str, made_of: str, data: Pipeline, copies: int = 1) -> Path:
        """Return the .npz file of `get`, with views, labels and facts."""
        return self._place(name, made_of, data, copies)[0]

    def _place(self, name: str, made_of: str, data: Pipeline, copies: int) -> tuple[Path, str]:
        text = json.dumps({"encoder": made_of, "copies": copies, **data.facts}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{name}-{data.facts['split']}-{digest}.npz", text


def calibrate(encoder: keras.Model, data: Pipeline, batch: int) -> None:
    """Replace the batch normalization statistics by those of a split. The weights stay.

    The statistics of a randomly initialized encoder, 0 and 1, fit no data; with fitting ones it is
    a harder baseline to beat. The new statistics are the plain mean over the batches, taken in all
    layers at once.

    Args:
      encoder: a built encoder; changed in place.
      data: split to take the statistics of.
      batch: number of videos in a step.
    """
    norms = [
        layer for layer in encoder.submodules if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [norm.momentum for norm in norms]
    for number, examples in enumerate(_batches(data, batch)):
        for norm in norms:
            norm.momentum = number / (number + 1)  # a running mean over all batches so far
        frames = tf.image.convert_image_dtype(examples["frames"][:, 0], tf.float32)
        encoder(frames, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
