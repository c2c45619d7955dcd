"""An encoder as a SavedModel that loads with TensorFlow alone.

Signatures, both with any B and T:
  clips   uint8 [B, T, H, W, 3], RGB, any H and W   -> feature float32 [B, D]
  jpegs   string [B, T], JPEGs of one size          -> feature float32 [B, D]
Frames are scaled so that the short side is `size`, and the centre square is taken.
"""

from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints


class ExportedEncoder(tf.Module):
    """An encoder with its preprocessing."""

    def __init__(self, encoder: keras.Model, size: int) -> None:
        """Args:
        encoder: built.
        size: side of the square frames that it sees, pixels.
        """
        super().__init__()
        # The variables are tracked, but not the Keras model itself, whose own traced training
        # functions would be saved as well.
        self._variables = encoder.variables
        self._features_of = lambda clips: encoder(clips, training=False)
        self._size = size

    def _prepare(self, frames: tf.Tensor) -> tf.Tensor:
        """uint8 [N, H, W, 3] to float32 [N, size, size, 3] in [0, 1]."""
        height_width = tf.cast(tf.shape(frames)[1:3], tf.float32)
        scale = self._size / tf.reduce_min(height_width)
        scaled = tf.maximum(tf.cast(tf.round(height_width * scale), tf.int32), self._size)
        frames = tf.image.resize(frames, scaled) / 255.0
        top, left = tf.unstack((scaled - self._size) // 2)
        return frames[:, top : top + self._size, left : left + self._size]

    def _features(self, frames: tf.Tensor, batch_and_time: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.concat([batch_and_time, [self._size, self._size, 3]], axis=0)
        clips = tf.reshape(self._prepare(frames), shape)
        return {"feature": self._features_of(clips)}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, None, 3], tf.uint8, "clips")])
    def clips(self, clips: tf.Tensor) -> dict[str, tf.Tensor]:
        shape = tf.shape(clips)
        frames = tf.reshape(clips, tf.concat([[-1], shape[2:]], axis=0))
        return self._features(frames, shape[:2])

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, "jpegs")])
    def jpegs(self, jpegs: tf.Tensor) -> dict[str, tf.Tensor]:
        def decode(jpeg: tf.Tensor) -> tf.Tensor:
            return tf.io.decode_jpeg(jpeg, channels=3)

        spec = tf.TensorSpec([None, None, 3], tf.uint8)
        frames = tf.map_fn(decode, tf.reshape(jpegs, [-1]), fn_output_signature=spec)
        return self._features(frames, tf.shape(jpegs))


def export(checkpoint: str | Path, output: str | Path, size: int | None = None) -> None:
    """Writes a SavedModel.

    Args:
      checkpoint: see `checkpoints.resolve`.
      output: folder to write.
      size: side of the frames that the encoder sees; as in training if None.

    Raises:
      FileNotFoundError: no checkpoint there.
      FileExistsError: `output` exists.
    """
    if Path(output).exists():
        raise FileExistsError(f"{str(output)!r} exists; delete it or choose another folder.")
    encoder, content = checkpoints.load_encoder(checkpoint)
    module = ExportedEncoder(encoder, size or content["input_shape"][1])
    signatures = {"serving_default": module.clips, "clips": module.clips, "jpegs": module.jpegs}
    tf.saved_model.save(module, str(output), signatures)
