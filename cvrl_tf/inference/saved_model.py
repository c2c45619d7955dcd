"""An encoder as a SavedModel that loads with TensorFlow alone.

Signatures, for any number of clips B, frames T, and any size of frames H, W::

  clips    uint8 [B, T, H, W, 3], RGB             one square from the middle of each clip
  jpegs    string [B, T], JPEGs of one size       the same
  records  string [B], what tools/make_tfrecords.py writes: whole videos. Of each the test views
           (K clips x crops, section 4.1) are taken, and their results averaged.

Their results::

  feature      float32 [B, D], of the encoder
  embedding    float32 [B, E], of the projection head, of length 1; if the checkpoint has a head
  probability  float32 [B, C]; if the checkpoint has a classifier

Input that can't be used is an InvalidArgumentError to the caller.

Beside the model stands `assets.extra/cvrl_tf.json`: where it comes from, the clips it was trained
on, the views that are taken of a record, the classes.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.checkpoints import SavedRun
from cvrl_tf.data import record_views
from cvrl_tf.data.sampling import Sampling
from cvrl_tf.models.encoder import Encoder

EXPORT_VERSION = 2

Results = dict[str, tf.Tensor]


class ExportedEncoder(tf.Module):
    """An encoder with what comes before and after it."""

    def __init__(
        self,
        encoder: Encoder,
        sampling: Sampling,
        num_clips: int,
        num_crops: int,
        head: keras.Model | None = None,
        classifier: keras.layers.Layer | None = None,
        normalize_features: bool = False,
    ) -> None:
        """Args:
        encoder: built, and so are the others.
        sampling: what a clip is.
        num_clips: taken of a record.
        num_crops: of each clip, 1 or 3.
        head: features to embeddings.
        classifier: features to logits.
        normalize_features: before the classifier, to unit length.
        """
        super().__init__()
        layers = [layer for layer in (encoder, head, classifier) if layer is not None]
        # The variables are tracked, but not the Keras models themselves, whose own traced training
        # functions would be saved as well.
        self._variables = [variable for layer in layers for variable in layer.variables]
        self._results = lambda frames: _results(
            encoder(frames, training=False), head, classifier, normalize_features
        )
        self._spec = {"feature": tf.TensorSpec([encoder.feature_dim])}
        if head is not None:
            shape = head.compute_output_shape((None, encoder.feature_dim))
            self._spec["embedding"] = tf.TensorSpec(shape[1:])
        if classifier is not None:
            self._spec["probability"] = tf.TensorSpec([classifier.units])
        self._center = sampling.crops(1)
        self._views_of = lambda record: record_views.evaluation_views(
            record, sampling, num_clips, num_crops
        )

    def _of_frames(self, frames: tf.Tensor, batch_and_time: tf.Tensor) -> Results:
        """Results of clips, whose frames, uint8 [B * T, H, W, 3], stand one behind the other."""
        windows, _ = self._center(tf.shape(frames)[1:3], tf.zeros([2], tf.int32))
        top, left, height, width = tf.unstack(windows[0])
        square = frames[:, top : top + height, left : left + width]
        size = self._center.size
        # As floats: ONNX can't resize uint8 to float32, as TensorFlow does.
        square = tf.image.resize(tf.cast(square, tf.float32), [size, size]) / 255.0
        return self._results(tf.reshape(square, [*tf.unstack(batch_and_time), size, size, 3]))

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, None, 3], tf.uint8, "clips")])
    def clips(self, clips: tf.Tensor) -> Results:
        # At run time too: whoever loads the model may call it with other ranks.
        clips = tf.ensure_shape(clips, [None, None, None, None, 3])
        shape = _not_empty(tf.shape(clips))
        frames = tf.reshape(clips, tf.concat([[shape[0] * shape[1]], shape[2:]], axis=0))
        return self._of_frames(frames, shape[:2])

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, "jpegs")])
    def jpegs(self, jpegs: tf.Tensor) -> Results:
        def decode(jpeg: tf.Tensor) -> tf.Tensor:
            return tf.io.decode_jpeg(jpeg, channels=3)

        shape = _not_empty(tf.shape(jpegs))
        flat = tf.reshape(jpegs, [shape[0] * shape[1]])
        spec = tf.TensorSpec([None, None, 3], tf.uint8)
        frames = tf.map_fn(decode, flat, fn_output_signature=spec)
        return self._of_frames(frames, shape)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "records")])
    def records(self, records: tf.Tensor) -> Results:
        def of_video(serialized: tf.Tensor) -> Results:
            frames = self._views_of(serialized)
            results = self._results(tf.image.convert_image_dtype(frames, tf.float32))
            means = {name: tf.reduce_mean(values, axis=0) for name, values in results.items()}
            if "embedding" in means:
                means["embedding"] = tf.math.l2_normalize(means["embedding"], axis=0)
            return means

        # One at a time, or ten videos' views would be in memory.
        return tf.map_fn(of_video, records, fn_output_signature=self._spec, parallel_iterations=1)


def _not_empty(shape: tf.Tensor) -> tf.Tensor:
    """The shape of a batch of clips, int32, checked."""
    some = tf.debugging.assert_positive(shape, "There must be a clip, of at least one frame.")
    with tf.control_dependencies([some]):
        return tf.identity(shape)


def _results(
    features: tf.Tensor,
    head: keras.Model | None,
    classifier: keras.layers.Layer | None,
    normalize_features: bool,
) -> Results:
    """What is said of clips, from their features [N, D]."""
    results = {"feature": features}
    if head is not None:
        results["embedding"] = tf.math.l2_normalize(head(features, training=False), axis=1)
    if classifier is not None:
        seen = tf.math.l2_normalize(features, axis=1) if normalize_features else features
        results["probability"] = tf.nn.softmax(tf.cast(classifier(seen), tf.float32))
    return results


def export_encoder(
    checkpoint: str | Path,
    output: str | Path,
    num_clips: int,
    num_crops: int,
    size: int | None = None,
    num_frames: int | None = None,
) -> None:
    """Write a SavedModel, whole or not at all.

    Args:
      checkpoint: see `checkpoints.resolve`.
      output: folder to write.
      num_clips: K, evenly spaced over a video; 10 in the paper.
      num_crops: of each, 1 or 3; 3 in the paper.
      size: side of the frames that the encoder sees; as in training if None.
      num_frames: of a test view; as in training if None.

    Raises:
      FileNotFoundError: no checkpoint there.
      FileExistsError: `output` exists.
      ValueError: the run is of an earlier version, or its encoder or weights are not finite.
    """
    output = Path(output)
    if output.exists():
        raise FileExistsError(f"{str(output)!r} exists; delete it or choose another folder.")
    run = SavedRun.open(checkpoint)
    encoder = run.load_encoder()
    head = run.load_head(encoder.feature_dim)
    classifier = run.load_classifier(encoder.feature_dim)
    parts = {"encoder": encoder, "head": head, "classifier": classifier}
    layers = {name: layer for name, layer in parts.items() if layer is not None}
    _check_weights(layers, run.prefix)
    sampling = dataclasses.replace(
        run.sampling,
        size=size or run.sampling.size,
        num_frames=num_frames or run.sampling.num_frames,
    )
    module = ExportedEncoder(
        encoder,
        sampling,
        num_clips,
        num_crops,
        head,
        classifier,
        run.facts.get("normalize_features", False),
    )
    _check_results(module, sampling, run.prefix)
    signatures = {
        "serving_default": module.clips,
        "clips": module.clips,
        "jpegs": module.jpegs,
        "records": module.records,
    }
    gin, about = run.folder / "config.gin", run.folder / "run.json"
    metadata = {
        "version": EXPORT_VERSION,
        "feature": "of the encoder, not normalized",
        "classes": run.facts.get("labels"),
        "views": {**dataclasses.asdict(sampling), "num_clips": num_clips, "num_crops": num_crops},
        "trained_on": dataclasses.asdict(run.sampling),
        "encoder": run.encoder_config,
        "fingerprint": checkpoints.fingerprint(*layers.values()),
        "checkpoint": run.prefix,
        "run": json.loads(about.read_text()) if about.is_file() else None,
        "gin": gin.read_text() if gin.is_file() else None,
        "tensorflow": tf.__version__,
    }
    aside = output.with_name(f".{output.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    tf.saved_model.save(module, str(aside), signatures)
    path = aside / checkpoints.EXPORT_FILE
    path.parent.mkdir()
    path.write_text(json.dumps(metadata, indent=2) + "\n")
    aside.rename(output)


_ANOTHER = (
    "Export another checkpoint, such as one that its run saved before: --checkpoint=RUN/best."
)


def _check_weights(layers: Mapping[str, keras.layers.Layer], prefix: str) -> None:
    """Raise a ValueError that names the weights of a checkpoint that are not finite."""
    broken = [
        key.removesuffix(checkpoints.VALUE)
        for name, layer in layers.items()
        for key, weight in checkpoints.keys_of(layer, name).items()
        if not np.all(np.isfinite(weight.numpy()))
    ]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise ValueError(f"Not finite in {prefix!r}: {', '.join(broken[:3])}{more}. {_ANOTHER}")


def _check_results(module: ExportedEncoder, sampling: Sampling, prefix: str) -> None:
    """Raise a ValueError if a model of finite weights has results of noise that are not finite."""
    shape = (1, sampling.num_frames, sampling.size, sampling.size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for name, rows in module.clips(noise).items():
        if not np.all(np.isfinite(rows)):
            raise ValueError(f"The {name} by {prefix!r} of a clip is not finite. {_ANOTHER}")
