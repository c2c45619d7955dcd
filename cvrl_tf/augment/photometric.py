"""The paper's photometric augmentations (section 3.3), each for one clip [T, H, W, 3] in [0, 1].

Strengths and formulas follow the authors' code, which takes them from SimCLR.
"""

import dataclasses

import tensorflow as tf

Params = dict[str, tf.Tensor]


def _uniform(seed: tf.Tensor, count: int) -> tf.Tensor:
    """U[0, 1), float32 [count]; the same on every device, so with the algorithm named.

    Only the bits are: XLA makes floats of the upper ones, TensorFlow's kernels of the lower ones.
    """
    bits = tf.random.stateless_uniform([count], seed, None, None, tf.uint32, alg="philox")
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def _between(uniform: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + uniform * (high - low)


@dataclasses.dataclass(frozen=True)
class ColorJitter:
    """Brightness, contrast, saturation and hue, in random order, clipped to [0, 1] after each.

    Contrast moves pixels away from the mean of the whole clip, per channel.

    Attributes:
      brightness, contrast, saturation: s, for a factor from U(max(0, 1 - s), 1 + s).
      hue: h, for a turn from U(-h, h), in turns of the colour circle.
      probability: of jittering a clip at all.
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
        def brightness(x: tf.Tensor) -> tf.Tensor:
            return x * params["brightness"]

        def contrast(x: tf.Tensor) -> tf.Tensor:
            mean = tf.reduce_mean(x, axis=[0, 1, 2])
            return mean + (x - mean) * params["contrast"]

        def saturation(x: tf.Tensor) -> tf.Tensor:
            return tf.image.adjust_saturation(x, params["saturation"])

        def hue(x: tf.Tensor) -> tf.Tensor:
            return tf.image.adjust_hue(x, params["hue"])

        def jitter() -> tf.Tensor:
            x = frames
            for i in range(4):
                steps = [lambda f=f, x=x: f(x) for f in (brightness, contrast, saturation, hue)]
                x = tf.clip_by_value(tf.switch_case(params["order"][i], steps), 0.0, 1.0)
            return x

        return tf.cond(params["apply"], jitter, lambda: frames)


@dataclasses.dataclass(frozen=True)
class Greyscale:
    """Drops the colour.

    Attributes:
      probability: of doing so.
    """

    probability: float = 0.2

    def sample(self, seed: tf.Tensor) -> Params:
        return {"apply": _uniform(seed, 1)[0] < self.probability}

    def apply(self, frames: tf.Tensor, params: Params) -> tf.Tensor:
        def grey() -> tf.Tensor:
            return tf.repeat(tf.image.rgb_to_grayscale(frames), 3, axis=-1)

        return tf.cond(params["apply"], grey, lambda: frames)


@dataclasses.dataclass(frozen=True)
class GaussianBlur:
    """Blurs with a kernel of side H // 10, made odd; the border is padded with zeros.

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
        radius = frames.shape[1] // 10 // 2  # static: the kernel's shape must not depend on sigma

        def blur() -> tf.Tensor:
            offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
            weights = tf.exp(-0.5 * (offsets / params["sigma"]) ** 2)
            taps = weights / tf.reduce_sum(weights)
            x = frames
            for shape in ([-1, 1, 1, 1], [1, -1, 1, 1]):
                kernel = tf.tile(tf.reshape(taps, shape), [1, 1, 3, 1])
                x = tf.nn.depthwise_conv2d(x, kernel, strides=[1, 1, 1, 1], padding="SAME")
            return tf.clip_by_value(x, 0.0, 1.0)  # the taps sum to 1 only up to rounding

        return tf.cond(params["apply"], blur, lambda: frames)


@dataclasses.dataclass(frozen=True)
class Solarise:
    """Inverts what is brighter than a threshold.

    Attributes:
      probability: of doing so.
      threshold: in [0, 1].
    """

    probability: float = 0.2
    threshold: float = 0.5

    def sample(self, seed: tf.Tensor) -> Params:
        return {"apply": _uniform(seed, 1)[0] < self.probability}

    def apply(self, frames: tf.Tensor, params: Params) -> tf.Tensor:
        inverted = params["apply"] & (frames >= self.threshold)
        return tf.where(inverted, 1.0 - frames, frames)
