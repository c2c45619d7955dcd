"""Optical flow: TV-L1 (Zach, Pock and Bischof, DAGM 2007) in a fixed number of iterations.

"A Duality Based Approach for Realtime TV-L1 Optical Flow". It minimizes, with I the gray values of
two frames and u the flow,

    sum over the pixels x of |grad u_1| + |grad u_2| + _LAMBDA |I_1(x + u) - I_0(x)|

from a coarse copy of the frames to a fine one. All shapes are static, and XLA compiles it.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

_GRAY = (0.299, 0.587, 0.114)
_LAMBDA, _THETA, _TAU = 0.15, 0.3, 0.25  # as in OpenCV, for 256 gray values
_COARSEST = 10  # pixels, the least side of a copy
_WARPS = 3  # of each copy
_ITERATIONS = 15  # of each warp


@tf.function(jit_compile=True, autograph=False)
def optical_flow(frames: tf.Tensor) -> tf.Tensor:
    """Compute where the pixels of each frame are in the next one.

    Args:
      frames: uint8 [N, T, H, W, 3], RGB.

    Returns:
      float32 [2, N, T - 1, H, W], pixels to the right and pixels down.
    """
    num_frames, height, width = frames.shape[1:4]
    copies = [tf.reduce_sum(tf.cast(frames, tf.float32) * _GRAY, axis=-1)]
    while min(copies[-1].shape[2:]) >= 2 * _COARSEST:
        copies.append(_halved(copies[-1]))
    flow = None
    for copy in reversed(copies):
        sides = copy.shape[2:]
        first, second = (tf.reshape(each, [-1, *sides]) for each in (copy[:, :-1], copy[:, 1:]))
        flow = tf.zeros_like(tf.stack([first, first])) if flow is None else _doubled(flow, *sides)
        flow = _refined(flow, first, second)
    return tf.reshape(flow, [2, -1, num_frames - 1, height, width])


def _halved(images: tf.Tensor) -> tf.Tensor:
    """Means of two by two pixels of [N, T, H, W]; the last ones count twice if sides are odd."""
    height, width = images.shape[2:]
    images = tf.pad(images, [[0, 0], [0, 0], [0, height % 2], [0, width % 2]], "SYMMETRIC")
    height, width = -(-height // 2), -(-width // 2)
    shape = [-1, images.shape[1], height, 2, width, 2]
    return tf.reduce_mean(tf.reshape(images, shape), axis=[3, 5])


def _doubled(flow: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """The flow of a copy that is twice as large."""
    return 2 * tf.repeat(tf.repeat(flow, 2, axis=2), 2, axis=3)[:, :, :height, :width]


def _refined(flow: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Improves a flow [2, M, H, W] from images [M, H, W] to images [M, H, W]."""
    around = tf.pad(second, [[0, 0], [1, 1], [1, 1]], "SYMMETRIC")
    across = (around[:, 1:-1, 2:] - around[:, 1:-1, :-2]) / 2
    down = (around[:, 2:, 1:-1] - around[:, :-2, 1:-1]) / 2
    # The dual of the gradients to the right and down, of both components.
    duals = [tf.zeros_like(flow), tf.zeros_like(flow)]

    def warp(flow: tf.Tensor, *duals: tf.Tensor) -> list[tf.Tensor]:
        (warped, *slopes), inside = _warped([second, across, down], flow)
        slope = tf.where(inside, tf.stack(slopes), 0.0)
        # What is left of the brightness term where the flow is 0, to first order.
        rest = tf.where(inside, warped - first, 0.0) - tf.reduce_sum(slope * flow, axis=0)
        return _minimized(flow, duals, slope, rest)

    return _repeated(warp, [flow, *duals], _WARPS)[0]


def _minimized(
    flow: tf.Tensor, duals: Sequence[tf.Tensor], slope: tf.Tensor, rest: tf.Tensor
) -> list[tf.Tensor]:
    """Minimizes with the brightness term rest + slope . flow; returns flow and duals."""
    power = tf.maximum(tf.reduce_sum(slope**2, axis=0), 1e-9)
    most = _LAMBDA * _THETA

    def step(flow: tf.Tensor, right: tf.Tensor, below: tf.Tensor) -> list[tf.Tensor]:
        error = rest + tf.reduce_sum(slope * flow, axis=0)
        flow -= slope * tf.clip_by_value(error / power, -most, most)
        divergence = right - tf.pad(right[..., :-1], [[0, 0], [0, 0], [0, 0], [1, 0]])
        divergence += below - tf.pad(below[..., :-1, :], [[0, 0], [0, 0], [1, 0], [0, 0]])
        flow += _THETA * divergence
        to_right = tf.pad(flow[..., 1:] - flow[..., :-1], [[0, 0], [0, 0], [0, 0], [0, 1]])
        to_below = tf.pad(flow[..., 1:, :] - flow[..., :-1, :], [[0, 0], [0, 0], [0, 1], [0, 0]])
        rate = _TAU / _THETA
        norm = 1 + rate * tf.sqrt(to_right**2 + to_below**2)
        return [flow, (right + rate * to_right) / norm, (below + rate * to_below) / norm]

    return _repeated(step, [flow, *duals], _ITERATIONS)


def _repeated(
    step: Callable[..., list[tf.Tensor]], values: list[tf.Tensor], times: int
) -> list[tf.Tensor]:
    return tf.while_loop(lambda *_: True, step, values, maximum_iterations=times)


def _warped(images: list[tf.Tensor], flow: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Takes images [M, H, W] where the flow leads, bilinearly; and whether it is inside."""
    height, width = flow.shape[2:]
    x = tf.range(width, dtype=tf.float32) + flow[0]
    y = tf.range(height, dtype=tf.float32)[:, tf.newaxis] + flow[1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = tf.clip_by_value(x, 0, width - 1), tf.clip_by_value(y, 0, height - 1)
    left, top = tf.minimum(tf.floor(x), width - 2), tf.minimum(tf.floor(y), height - 2)
    x, y = x - left, y - top
    corner = tf.reshape(tf.cast(top * width + left, tf.int32), [-1, height * width])

    def taken(image: tf.Tensor) -> tf.Tensor:
        pixels = tf.reshape(image, [-1, height * width])
        corners = [
            tf.reshape(tf.gather(pixels, corner + offset, axis=1, batch_dims=1), tf.shape(x))
            for offset in (0, 1, width, width + 1)
        ]
        above, below = ((1 - x) * a + x * b for a, b in (corners[:2], corners[2:]))
        return (1 - y) * above + y * below

    return [taken(image) for image in images], inside
