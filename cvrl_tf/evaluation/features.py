"""Features of a split, through a frozen encoder, computed once and kept."""

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
    """Of all videos of a split, in the order of the records.

    Attributes:
      views: float32 [N, V, D], one feature a view.
      labels: int32 [N].
    """

    views: np.ndarray
    labels: np.ndarray

    @property
    def of_videos(self) -> tuple[np.ndarray, np.ndarray]:
        """The mean over a video's views, float32 [N, D], and labels."""
        return self.views.mean(axis=1), self.labels


def extract(encoder: Encoder, data: Pipeline, batch: int, copies: int = 1) -> Features:
    """Passes each view of a split through the encoder once.

    Args:
      encoder: float frames [N, T, H, W, 3] in [0, 1] to features [N, D]; called in inference mode.
      data: its views.
      batch: clips in a step, but always all of a video.
      copies: passes over the data, each with crops and clips of its own where these are random; all
        of them count as views.
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
    """A folder of features, each file with what made them; what is there is not made again."""

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
        """As `extract`, or what it gave before for the same encoder, data and views.

        Args: as `extract`, but
          name: of the encoder, for the file's.
          made_of: what determines the encoder, such as `checkpoints.fingerprint`.
          encoder: asked for if the features are not there.
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
        Path(part.name).replace(path)  # all of it or nothing
        return features

    def path(self, name: str, made_of: str, data: Pipeline, copies: int = 1) -> Path:
        """The .npz file in which `get` keeps them: views, labels and facts."""
        return self._place(name, made_of, data, copies)[0]

    def _place(self, name: str, made_of: str, data: Pipeline, copies: int) -> tuple[Path, str]:
        text = json.dumps({"encoder": made_of, "copies": copies, **data.facts}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.folder / f"{name}-{data.facts['split']}-{digest}.npz", text


def calibrate(encoder: keras.Model, data: Pipeline, batch: int) -> None:
    """Replaces the batch normalization statistics by those of a split; the weights stay.

    A randomly initialized encoder has statistics (0 and 1) that fit nothing; with fitting ones it
    is a harder baseline to beat. The plain mean over the batches is taken, layer by layer at once,
    which for a fixed network is exact up to the batches' own variation.

    Args:
      encoder: built; changed in place.
      data: what to take the statistics of.
      batch: videos in a step.
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
