"""The encoder: 3-D ResNets (section 3.2 of the paper).

The paper's R3D-50 takes clips [B, 16, 224, 224, 3] with pixels in [0, 1]:

    stage       kernel t,h,w                    stride t,h,w   channels
    conv1       5,7,7                           2,2,2          64
    max pool    1,3,3                           1,2,2          64
    res2 x3     (1,1,1) (1,3,3) (1,1,1)         1,1,1          256
    res3 x4     (1,1,1) (1,3,3) (1,1,1)         1,2,2          512
    res4 x6     (3,1,1) (1,3,3) (1,1,1)         1,2,2          1024
    res5 x3     (3,1,1) (1,3,3) (1,1,1)         1,2,2          2048
    global average pool
"""

from collections.abc import Iterator, Sequence

import tensorflow as tf
import tf_keras as keras

from cvrl_tf.models.convolution import Conv, FramePool
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.normalization import BatchNorm
from cvrl_tf.models.recomputation import recomputed

# depth: (blocks in each stage, whether they are bottlenecks). 10 is ours, for laptops.
DEPTHS = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}

PADDINGS = ("same", "symmetric", "symmetric_convs")


class ConvNorm(keras.layers.Layer):
    """Convolution without bias, then batch normalization over all replicas."""

    def __init__(
        self,
        filters: int,
        kernel: Sequence[int],
        strides: Sequence[int] = (1, 1, 1),
        symmetric: bool = False,
    ):
        super().__init__()
        self.conv = Conv(filters, kernel, strides, symmetric)
        self.norm = BatchNorm(momentum=0.9)

    def call(self, x: tf.Tensor, training: bool | None = None, replay: bool = False) -> tf.Tensor:
        return self.norm(self.conv(x), training=training, replay=replay)


class ResidualBlock(keras.layers.Layer):
    """Bottleneck or basic block.

    In a bottleneck the first convolution carries the temporal kernel and the second the spatial
    stride (ResNet v1.5). In a basic block both convolutions carry the temporal kernel, and the
    first the stride.
    """

    def __init__(
        self,
        filters: int,
        temporal_kernel: int,
        stride: int,
        bottleneck: bool,
        project: bool,
        symmetric: bool,
    ):
        super().__init__()
        strides = (1, stride, stride)
        if bottleneck:
            self.convs = [
                ConvNorm(filters, (temporal_kernel, 1, 1)),
                ConvNorm(filters, (1, 3, 3), strides, symmetric),
                ConvNorm(4 * filters, (1, 1, 1)),
            ]
        else:
            self.convs = [
                ConvNorm(filters, (temporal_kernel, 3, 3), strides, symmetric),
                ConvNorm(filters, (temporal_kernel, 3, 3)),
            ]
        out_filters = 4 * filters if bottleneck else filters
        self.shortcut = ConvNorm(out_filters, (1, 1, 1), strides) if project else None

    def call(self, x: tf.Tensor, training: bool | None = None, replay: bool = False) -> tf.Tensor:
        how = {"training": training, "replay": replay}
        shortcut = x if self.shortcut is None else self.shortcut(x, **how)
        for conv in self.convs[:-1]:
            x = tf.nn.relu(conv(x, **how))
        return tf.nn.relu(self.convs[-1](x, **how) + shortcut)


@keras.saving.register_keras_serializable("cvrl_tf")
class ResNet3D(Encoder):
    """3-D ResNet: clips [B, T, H, W, 3] to features [B, `feature_dim`]; any B, T, H and W.

    Attributes:
      feature_dim: D, 2048 for depth 50 at width 1.
    """

    options = frozenset({"recompute"})

    def __init__(
        self,
        depth: int = 50,
        width: float = 1,
        temporal_kernels: Sequence[int] = (1, 1, 3, 3),
        stem_kernel: Sequence[int] = (5, 7, 7),
        stem_strides: Sequence[int] = (2, 2, 2),
        stem_pool: bool = True,
        recompute: bool = False,
        padding: str = "same",
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """Args:
          depth: a key of `DEPTHS`.
          width: multiplies every number of channels.
          temporal_kernels: temporal extent of the kernels in each of the four stages.
          stem_kernel, stem_strides: of conv1, as t, h, w.
          stem_pool: whether the max pool follows; small clips do better without.
          recompute: in training, keep only the inputs of the residual blocks for the gradient;
            less memory, more time, same numbers.
          padding: where there is a spatial stride, "same" as TensorFlow pads, or "symmetric" as
            PyTorch does, or "symmetric_convs", with the pool as TensorFlow's, as SimCLR's code
            does; for weights that come from there.
          pixel_mean, pixel_std: RGB, in [0, 1], by which frames are normalized; the authors'
            encoder takes them as they are.

        Raises:
          ValueError: unknown depth or padding, or not one temporal kernel a stage.
        """
        super().__init__()
        if depth not in DEPTHS:
            raise ValueError(f"No ResNet of depth {depth}; choose one of {sorted(DEPTHS)}.")
        if padding not in PADDINGS:
            raise ValueError(f"No padding {padding!r}; choose one of {', '.join(PADDINGS)}.")
        blocks, bottleneck = DEPTHS[depth]
        if len(temporal_kernels) != len(blocks):
            raise ValueError(
                f"temporal_kernels={tuple(temporal_kernels)}: give {len(blocks)}, one a stage."
            )
        self._config = {
            "depth": depth,
            "width": width,
            "temporal_kernels": list(temporal_kernels),
            "stem_kernel": list(stem_kernel),
            "stem_strides": list(stem_strides),
            "stem_pool": stem_pool,
            "recompute": recompute,
            "padding": padding,
            "pixel_mean": list(pixel_mean),
            "pixel_std": list(pixel_std),
        }
        self._normalization = tuple(pixel_mean), tuple(pixel_std)
        filters = [round(64 * width * 2**stage) for stage in range(len(blocks))]
        self.feature_dim = filters[-1] * (4 if bottleneck else 1)

        symmetric = padding != "same"
        self.stem = ConvNorm(filters[0], stem_kernel, stem_strides, symmetric)
        self.pool = FramePool(padding == "symmetric") if stem_pool else None
        self.blocks = []
        for stage, count in enumerate(blocks):
            for block in range(count):
                first = block == 0
                self.blocks.append(
                    ResidualBlock(
                        filters[stage],
                        temporal_kernels[stage],
                        stride=2 if first and stage > 0 else 1,
                        bottleneck=bottleneck,
                        # A basic block of res2 already has the stem's channels.
                        project=first and (bottleneck or stage > 0),
                        symmetric=symmetric,
                    )
                )

    @property
    def stages(self) -> list[list[keras.layers.Layer]]:
        """The stem, and the blocks of res2 to res5."""
        blocks = iter(self.blocks)
        counts = DEPTHS[self._config["depth"]][0]
        return [[self.stem], *([next(blocks) for _ in range(count)] for count in counts)]

    def feature_maps(self, frames: tf.Tensor, training: bool | None = None) -> list[tf.Tensor]:
        """Compute the maps of the stem, before the pool, and of res2 to res5; see `Encoder`."""
        if self._normalization != ((0, 0, 0), (1, 1, 1)):
            mean, std = (tf.cast(each, frames.dtype) for each in self._normalization)
            frames = (frames - mean) / std
        (_, *stages) = self.stages
        x = tf.nn.relu(self.stem(frames, training=training))
        maps = [x]
        if self.pool is not None:
            x = self.pool(x)
        for blocks in stages:
            for block in blocks:
                if training and self._config["recompute"]:
                    x = recomputed(block, x)
                else:
                    x = block(x, training=training)
            maps.append(x)
        return maps


# Stage from 1, block from 0, and which of its convolutions, from 1; the shortcut is 0. The stem is
# (0, 0, 1).
Where = tuple[int, int, int]


def check(encoder: Encoder) -> None:
    """Raise a ValueError if an encoder is no `ResNet3D`: what follows is of its layout."""
    if not isinstance(encoder, ResNet3D):
        raise ValueError(
            f"Only a {ResNet3D.__name__} can be inflated or converted, not a "
            f"{type(encoder).__name__}: give the run of one."
        )


def parts_of(encoder: ResNet3D) -> Iterator[tuple[Where, ConvNorm]]:
    """Yield the convolutions of an encoder and where they are; raises as `check` does."""
    check(encoder)
    yield (0, 0, 1), encoder.stem
    for stage, blocks in enumerate(encoder.stages[1:], start=1):
        for number, block in enumerate(blocks):
            for index, part in enumerate(block.convs, start=1):
                yield (stage, number, index), part
            if block.shortcut is not None:
                yield (stage, number, 0), block.shortcut
