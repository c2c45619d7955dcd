"""R(2+1)D: 3-D ResNets whose convolutions are of space, then of time.

Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", 2018,
section 3.5. Strides, channels and padding are those of torchvision's `r2plus1d_18`, which gives the
same features for the same weights. It takes clips [B, 16, 112, 112, 3]:

    stage      kernels t,h,w         stride t,h,w   channels   map
    stem       (1,7,7) (3,1,1)       1,2,2          64         16,56,56
    res2 x2    twice (1,3,3) (3,1,1) 1,1,1          64         16,56,56
    res3 x2    twice (1,3,3) (3,1,1) 2,2,2          128        8,28,28
    res4 x2    twice (1,3,3) (3,1,1) 2,2,2          256        4,14,14
    res5 x2    twice (1,3,3) (3,1,1) 2,2,2          512        2,7,7
    global average pool
"""

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.recomputation import recomputed
from cvrl_tf.models.resnet3d import ConvNorm

# depth: blocks in each stage. 10 is ours, for laptops.
BLOCKS = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}

_STEM_MIDDLE = 45  # as torchvision has it; the paper's formula gives 83


def middle_filters(channels: int, filters: int) -> int:
    """Return M, the channels between the two convolutions that stand for one of 3x3x3.

    Args:
      channels: C, of the input.
      filters: F, of the output.

    Returns:
      The largest M with which (1,3,3) C to M and (3,1,1) M to F have no more weights than (3,3,3)
      C to F (section 3.5 of the paper).
    """
    return (27 * channels * filters) // (9 * channels + 3 * filters)


class FactorizedConv(keras.layers.Layer):
    """Convolution of space, normalization, ReLU, convolution of time, normalization."""

    def __init__(
        self, middle: int, filters: int, size: int = 3, strides: tuple[int, int] = (1, 1)
    ) -> None:
        """Args:
        middle: channels between the two.
        filters: channels of the output.
        size: of the spatial kernel, pixels; the temporal one is of 3 frames.
        strides: in time and in space.
        """
        super().__init__()
        time, space = strides
        self.spatial = ConvNorm(middle, (1, size, size), (1, space, space), symmetric=True)
        self.temporal = ConvNorm(filters, (3, 1, 1), (time, 1, 1), symmetric=True)

    def call(self, x: tf.Tensor, training: bool | None = None, replay: bool = False) -> tf.Tensor:
        """Compute [B, T', H', W', F] of float [B, T, H, W, C]; a replay has no side effects."""
        x = tf.nn.relu(self.spatial(x, training=training, replay=replay))
        return self.temporal(x, training=training, replay=replay)


class ResidualBlock(keras.layers.Layer):
    """Two factorized convolutions beside a shortcut; the first has the stride."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        """Args:
        channels: of the input.
        filters: of the output.
        stride: in time and space alike.
        """
        super().__init__()
        # For both convolutions by the block's input, as torchvision has it; the paper goes by the
        # input of each.
        middle = middle_filters(channels, filters)
        self.convs = [
            FactorizedConv(middle, filters, strides=(stride, stride)),
            FactorizedConv(middle, filters),
        ]
        project = stride > 1 or channels != filters
        self.shortcut = ConvNorm(filters, (1, 1, 1), (stride,) * 3) if project else None

    def call(self, x: tf.Tensor, training: bool | None = None, replay: bool = False) -> tf.Tensor:
        """Compute [B, T', H', W', F] of float [B, T, H, W, C]; a replay has no side effects."""
        how = {"training": training, "replay": replay}
        shortcut = x if self.shortcut is None else self.shortcut(x, **how)
        first, second = self.convs
        x = tf.nn.relu(first(x, **how))
        return tf.nn.relu(second(x, **how) + shortcut)


@keras.saving.register_keras_serializable("cvrl_tf")
class R2Plus1D(Encoder):
    """R(2+1)D: clips [B, T, H, W, 3] to features [B, `feature_dim`]; any B, T, H and W.

    Attributes:
      feature_dim: D, 512 at width 1.
    """

    options = frozenset({"recompute"})

    def __init__(self, depth: int = 18, width: float = 1, recompute: bool = False) -> None:
        """Args:
          depth: a key of `BLOCKS`.
          width: multiplies every number of channels.
          recompute: in training, keep only the inputs of the residual blocks for the gradient;
            less memory, more time, same numbers.

        Raises:
          ValueError: unknown depth.
        """
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"No R(2+1)D of depth {depth}; choose one of {sorted(BLOCKS)}.")
        self._config = {"depth": depth, "width": width, "recompute": recompute}
        filters = [round(64 * width * 2**stage) for stage in range(4)]
        self.feature_dim = filters[-1]
        self.stem = FactorizedConv(round(_STEM_MIDDLE * width), filters[0], 7, (1, 2))
        self.blocks = []
        channels = filters[0]
        for stage, count in enumerate(BLOCKS[depth]):
            blocks = []
            for block in range(count):
                stride = 2 if block == 0 and stage > 0 else 1
                blocks.append(ResidualBlock(channels, filters[stage], stride))
                channels = filters[stage]
            self.blocks.append(blocks)

    @property
    def stages(self) -> list[list[keras.layers.Layer]]:
        """The stem, and the blocks of res2 to res5."""
        return [[self.stem], *map(list, self.blocks)]

    def feature_maps(self, frames: tf.Tensor, training: bool | None = None) -> list[tf.Tensor]:
        """Compute the maps of the stem and of res2 to res5; see `Encoder`."""
        x = tf.nn.relu(self.stem(frames, training=training))
        maps = [x]
        for blocks in self.blocks:
            for block in blocks:
                if training and self._config["recompute"]:
                    x = recomputed(block, x)
                else:
                    x = block(x, training=training)
            maps.append(x)
        return maps
