"""The photometric augmentations of the paper (section 3.3), for one clip [T, H, W, 3] in [0, 1].

Strengths and formulas follow the authors' code, which takes them from SimCLR.
"""

import dataclasses
import math

import tensorflow as tf

Params = dict[str, tf.Tensor]


def _uniform(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Draw from U[0, 1), float32 [count], with the same result on every device.

    The algorithm is named, and floats are made from bits here: XLA uses the upper bits for floats,
    TensorFlow's kernels the lower ones.
    """
    bits = tf.random.stateless_uniform([count], seed, None, None, tf.uint32, alg="philox")
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def _between(uniform: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + uniform * (high - low)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue in random order; clip to [0, 1] after each.

    Contrast moves pixels away from the mean of the whole clip, per channel.

    Attributes:
      brightness, contrast, saturation: s, for a factor from U(max(0, 1 - s), 1 + s).
      hue: h, for a shift from U(-h, h), in turns of the color circle.
      probability: of changing a clip.
    """

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    probability: float = 0.8

    def sample(self, seed: tf.Tensor) -> Params:
        draws = _uniform(seed, 9)
        strengths = (self.brightness, self.contrast, self.saturation)
        factors = [
            _between(draws[i], max(0.0, 1 - strength), 1 + strength)
            for i, strength in enumerate(strengths)
        ]
        return {
            "apply": draws[8] < self.probability,
            "brightness": factors[0],
            "contrast": factors[1],
            "saturation": factors[2],
            "hue": _between(draws[3], -self.hue, self.hue),
            "order": tf.argsort(draws[4:8]),
        }

    def apply(self, frames: tf.Tensor, params: Params) -> tf.Tensor:
        # Branches for the orders would be slow, and slow to compile, under XLA. Saturation and hue
        # commute with each other and stay in [0, 1], so every order is a case of one sequence:
        # color, level, color, level, color. A level is brightness or contrast, which are both a
        # product plus a share of the clip's mean. A color that is not due is the identity.
        rank = tf.argsort(params["order"])  # when brightness, contrast, saturation and hue act
        turns = tf.unstack(
            rank[3] > tf.sort(rank[:2])
        )  # whether it acts after the first level, after the second
        boosts = tf.unstack(rank[2] > tf.sort(rank[:2]))
        brightness, contrast = params["brightness"], params["contrast"]

        def color(x: tf.Tensor, turn: tf.Tensor, boost: tf.Tensor) -> tf.Tensor:
            """Change hue and saturation, each if it is due."""
            return turn_and_saturate(
                x, tf.where(turn, params["hue"], 0.0), tf.where(boost, params["saturation"], 1.0)
            )

        def level(x: tf.Tensor, is_contrast: tf.Tensor) -> tf.Tensor:
            """Change contrast or brightness."""
            mean = tf.reduce_mean(tf.reduce_mean(x, axis=[0, 1]), axis=0)  # two steps are faster
            share = tf.where(is_contrast, 1.0 - contrast, 0.0)
            factor = tf.where(is_contrast, contrast, brightness)
            return tf.clip_by_value(share * mean + factor * x, 0.0, 1.0)

        def jitter() -> tf.Tensor:
            contrast_first = rank[1] < rank[0]
            x = color(frames, ~turns[0], ~boosts[0])
            x = level(x, contrast_first)
            x = color(x, turns[0] & ~turns[1], boosts[0] & ~boosts[1])
            x = level(x, ~contrast_first)
            return color(x, turns[1], boosts[1])

        return tf.cond(params["apply"], jitter, lambda: frames)


def turn_and_saturate(frames: tf.Tensor, turn: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Change hue and saturation as in HSV space, without converting to it.

    The result equals that of `tf.image.adjust_hue` and `adjust_saturation` within 2e-6.

    Args:
      frames: float32 [..., 3] in [0, 1].
      turn: shift of the hue, in turns of the color circle.
      factor: of the saturation, which is clipped to 1.
    """
    red, green, blue = tf.unstack(frames, axis=-1)
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    sextant = tf.where(
        value == red,
        green - blue,
        tf.where(value == green, 2 * chroma + blue - red, 4 * chroma + red - green),
    )
    hue = tf.math.divide_no_nan(sextant, chroma) + 6 * turn
    chroma = tf.minimum(chroma * factor, value)

    def channel(offset: float) -> tf.Tensor:
        distance = hue + offset
        distance -= 6 * tf.floor(distance / 6)  # tf.math.floormod takes ten times as long
        return value - chroma * tf.clip_by_value(tf.minimum(distance, 4 - distance), 0.0, 1.0)

    return tf.stack([channel(5.0), channel(3.0), channel(1.0)], axis=-1)


@dataclasses.dataclass(frozen=True)
class Grayscale:
    """Convert to gray.

    Attributes:
      probability: of applying it.
    """

    probability: float = 0.2

    def sample(self, seed: tf.Tensor) -> Params:
        return {"apply": _uniform(seed, 1)[0] < self.probability}

    def apply(self, frames: tf.Tensor, params: Params) -> tf.Tensor:
        def gray() -> tf.Tensor:
            return tf.repeat(tf.image.rgb_to_grayscale(frames), 3, axis=-1)

        return tf.cond(params["apply"], gray, lambda: frames)


@dataclasses.dataclass(frozen=True)
class ReplicateChannel:
    """Put one channel, drawn uniformly, in the place of all three, against chromatic aberration.

    Attributes:
      probability: of applying it.
    """

    probability: float = 0.5

    def sample(self, seed: tf.Tensor) -> Params:
        draws = _uniform(seed, 2)
        return {"apply": draws[0] < self.probability, "channel": tf.cast(3 * draws[1], tf.int32)}

    def apply(self, frames: tf.Tensor, params: Params) -> tf.Tensor:
        chosen = tf.where(params["apply"], tf.fill([3], params["channel"]), tf.range(3))
        return tf.gather(frames, chosen, axis=-1)


@dataclasses.dataclass(frozen=True)
class GaussianBlur:
    """Blur with a kernel of side H // 10, made odd; the border is padded with zeros.

    Taps beyond three times the largest sigma are left out, so that 13 of 23 remain for 224 pixels.
    No pixel differs by more than 0.522 / 255, which an edge around the 13x13 pixels reaches.

    Attributes:
      probability: of blurring.
      sigma: range of the standard deviation, pixels.
    """

    probability: float = 0.5
    sigma: tuple[float, float] = (0.1, 2.0)

    def sample(self, seed: tf.Tensor) -> Params:
        draws = _uniform(seed, 2)
        return {
            "apply": draws[0] < self.probability,
            "sigma": _between(draws[1], *self.sigma),
        }

    def apply(self, frames: tf.Tensor, params: Params) -> tf.Tensor:
        _, height, width, channels = frames.shape
        # The radius is static: shapes must not depend on the sigma that is drawn.
        radius = min(height // 10 // 2, math.ceil(3 * self.sigma[1]))
        # Reshaped outside of the blur: inside, it would keep XLA from vectorizing the loops.
        rows = tf.reshape(frames, [-1, height, width * channels])
        rows = tf.cond(params["apply"], lambda: _blur(rows, params["sigma"], radius), lambda: rows)
        return tf.reshape(rows, tf.shape(frames))


def _blur(rows: tf.Tensor, sigma: tf.Tensor, radius: int) -> tf.Tensor:
    """Convolve rows [T, H, W * 3] with a Gaussian along H and W, padded with zeros.

    This adds shifted images, which XLA fuses into one loop. XLA's convolutions are slow on CPUs.
    """
    _, height, width = rows.shape
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    weights = tf.exp(-0.5 * (offsets / sigma) ** 2)
    taps = tf.unstack(weights / tf.reduce_sum(weights))
    padded = tf.pad(rows, [[0, 0], [0, 0], [3 * radius, 3 * radius]])
    rows = tf.add_n([tap * padded[:, :, 3 * i : 3 * i + width] for i, tap in enumerate(taps)])
    padded = tf.pad(rows, [[0, 0], [radius, radius], [0, 0]])
    rows = tf.add_n([tap * padded[:, i : i + height] for i, tap in enumerate(taps)])
    return tf.clip_by_value(rows, 0.0, 1.0)  # rounding may exceed 1


@dataclasses.dataclass(frozen=True)
class Solarize:
    """Invert pixels that are not darker than a threshold.

    Attributes:
      probability: of applying it.
      threshold: in [0, 1].
    """

    probability: float = 0.2
    threshold: float = 0.5

    def sample(self, seed: tf.Tensor) -> Params:
        return {"apply": _uniform(seed, 1)[0] < self.probability}

    def apply(self, frames: tf.Tensor, params: Params) -> tf.Tensor:
        inverted = params["apply"] & (frames >= self.threshold)
        return tf.where(inverted, 1.0 - frames, frames)
