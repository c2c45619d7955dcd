"""3-D convolutions, computed as 2-D ones where possible, which compilers handle better."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf
import tf_keras as keras

# Frames of fewer channels than this are stacked for any kernel; wider ones, which would take too
# much memory, only for strided kernels of time alone.
_FEW_CHANNELS = 8

_differentiable = contextvars.ContextVar("_differentiable", default=True)


@contextlib.contextmanager
def no_gradients() -> Iterator[None]:
    """Leave out custom gradients, in a graph that is traced for its shapes alone.

    TensorFlow never forgets a custom gradient of a graph, nor what the graph holds: its weights.
    """
    token = _differentiable.set(False)
    try:
        yield
    finally:
        _differentiable.reset(token)


class Conv(keras.layers.Conv3D):
    """`Conv3D` with 'same' padding and no bias. Its kernel is always [t, h, w, C, F]."""

    def __init__(
        self, filters: int, kernel: Sequence[int], strides: Sequence[int], symmetric: bool = False
    ) -> None:
        """Args: as of `Conv3D`, and `symmetric`, see `convolve`."""
        self._symmetric = symmetric
        super().__init__(
            filters,
            kernel,
            strides,
            padding="same",
            use_bias=False,
            kernel_initializer="variance_scaling",
        )

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return convolve(inputs, kernel, self.strides, self._symmetric)


class FramePool(keras.layers.Layer):
    """Max pool of 3x3 pixels with stride 2 in every frame. 3-D pools have no float16 on CPUs."""

    def __init__(self, symmetric: bool = False) -> None:
        """Args:
        symmetric: see `convolve`; the input must not be negative.
        """
        super().__init__()
        self._symmetric = symmetric

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if self._symmetric:
            return _per_frame(lambda x: tf.nn.max_pool2d(x, 3, 2, "VALID"), _framed(x, 1, 1))
        return _per_frame(lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"), x)


def convolve(
    x: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], symmetric: bool = False
) -> tf.Tensor:
    """Compute `tf.nn.conv3d` with 'SAME' padding.

    Args:
      x: float [B, T, H, W, C]; all but C may be unknown.
      kernel: [t, h, w, C, F].
      strides: of t, h, w.
      symmetric: pad as much above as below and left as right, as PyTorch does; and, if the kernel
        is of time alone, as much before as after. 'SAME' pads one more below, right and after where
        a stride of 2 meets an even size.

    Returns:
      [B, T / stride, H / stride, W / stride, F], rounded up.
    """
    kernel = tf.convert_to_tensor(kernel)
    taps, height, width, channels = kernel.shape[:4]
    padding = "SAME"
    if symmetric and strides[1] > 1:
        x = _framed(x, (height - 1) // 2, (width - 1) // 2)
        padding = "VALID"
    if (height, width) == (1, 1) and tuple(strides) == (1, 1, 1):
        return _temporal(x, kernel)
    if taps == 1 and strides[0] == 1:
        return _spatial(x, kernel, strides, padding)
    of_time = (height, width) == (1, 1)
    if channels < _FEW_CHANNELS or of_time:
        if symmetric and of_time:
            before = after = (taps - 1) // 2
        else:
            missing = tf.maximum(taps - 1 - (tf.shape(x)[1] - 1) % strides[0], 0)
            before, after = missing // 2, missing - missing // 2
        x = _stack_frames(x, range(taps), strides[0], (before, after))
        kernel = tf.transpose(kernel, [1, 2, 0, 3, 4])
        kernel = tf.reshape(kernel, [1, height, width, taps * channels, -1])
        return _spatial(x, kernel, strides, padding)
    if padding == "VALID":
        before, after = (taps - 1) // 2, taps // 2  # only the stem has a stride in time
        x = tf.pad(x, [[0, 0], [before, after], *[[0, 0]] * 3])
        return tf.nn.conv3d(x, kernel, [1, *strides, 1], padding)
    length = x.shape[1]
    if kernel.dtype == tf.bfloat16 and length is not None and length < taps and strides[0] == 1:
        # On CPUs, TensorFlow's gradient is wrong where the kernel is longer than the clip.
        x = tf.concat([x, *[tf.zeros_like(x[:, :1])] * (taps - length)], axis=1)
        return tf.nn.conv3d(x, kernel, [1, *strides, 1], "SAME")[:, :length]
    return tf.nn.conv3d(x, kernel, [1, *strides, 1], "SAME")


def _spatial(x: tf.Tensor, kernel: tf.Tensor, strides: Sequence[int], padding: str) -> tf.Tensor:
    """Convolve every frame by itself; the kernel is [1, h, w, C, F]."""
    kernel = tf.squeeze(kernel, 0)
    return _per_frame(lambda x: tf.nn.conv2d(x, kernel, [1, *strides[1:], 1], padding), x)


def _framed(x: tf.Tensor, rows: int, columns: int) -> tf.Tensor:
    """Pad [B, T, H, W, C] with rows and columns of zeros on each side."""
    return tf.pad(x, [[0, 0], [0, 0], [rows, rows], [columns, columns], [0, 0]])


def _per_frame(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Apply a function of images [N, H, W, C] to the frames of clips [B, T, H, W, C]."""
    shape = tf.shape(x)
    y = function(tf.reshape(x, tf.concat([[-1], shape[2:]], axis=0)))
    return tf.reshape(y, tf.concat([shape[:2], tf.shape(y)[1:]], axis=0))


def _temporal(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolve with [t, 1, 1, C, F]: time is the height of an image, pixels are its width."""
    shape = tf.shape(x)
    image = tf.reshape(x, [shape[0], shape[1], -1, x.shape[-1]])
    conv = _column_conv if _differentiable.get() else _plain_column_conv
    y = conv(image, tf.squeeze(kernel, 1))
    return tf.reshape(y, tf.concat([shape[:4], [kernel.shape[-1]]], axis=0))


def _plain_column_conv(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Convolve [B, T, P, C] with [t, 1, C, F]."""
    return tf.nn.conv2d(x, kernel, 1, "SAME")


@tf.custom_gradient
def _column_conv(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """Compute `_plain_column_conv`, with a matrix product for the gradient, which is faster."""
    taps, _, channels, filters = kernel.shape

    def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        dx = tf.nn.conv2d_transpose(dy, kernel, tf.shape(x), 1, "SAME")
        # dy is shifted, not x, because it has fewer channels to copy.
        before = (taps - 1) // 2
        backwards = range(taps)[::-1]
        shifted = _stack_frames(dy, backwards, 1, (taps - 1 - before, before))
        dkernel = tf.matmul(
            tf.reshape(x, [-1, channels]),
            tf.reshape(shifted, [-1, taps * filters]),
            transpose_a=True,
        )
        dkernel = tf.transpose(tf.reshape(dkernel, [channels, taps, filters]), [1, 0, 2])
        return dx, tf.reshape(dkernel, kernel.shape)

    return _plain_column_conv(x, kernel), gradient


def _stack_frames(
    x: tf.Tensor, taps: range, stride: int, padding: tuple[tf.Tensor | int, tf.Tensor | int]
) -> tf.Tensor:
    """Stack the frames that a kernel covers at each place in time, as channels.

    Args:
      x: [B, T, ..., C].
      taps: offsets in the kernel, in the order of the stack.
      stride: in time.
      padding: zeros before and after, in time.

    Returns:
      [B, places, ..., taps * C]; taps vary more slowly than channels.
    """
    if len(taps) == stride == 1:
        return x
    x = tf.pad(x, [[0, 0], padding, *[[0, 0]] * (x.shape.rank - 2)])
    # A gather copies whole frames; a strided slice copies pixel by pixel.
    first = tf.range(0, tf.shape(x)[1] - len(taps) + 1, stride)
    return tf.concat([tf.gather(x, first + tap, axis=1) for tap in taps], axis=-1)
