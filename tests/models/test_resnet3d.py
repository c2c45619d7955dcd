"""The encoder against the Model Garden's, and its shapes."""

import gc

import pytest
import tensorflow as tf
import tf_keras as keras
from tensorflow.__internal__ import FuncGraph

from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.r2plus1d import R2Plus1D
from cvrl_tf.models.resnet3d import ResNet3D


@pytest.mark.parametrize(
    ("depth", "blocks"), [(10, (1, 1, 1, 1)), (18, (2, 2, 2, 2)), (34, (3, 4, 6, 3))]
)
def test_basic_blocks_have_the_parameters_of_the_table(depth: int, blocks: tuple) -> None:
    channels, kernels = (64, 128, 256, 512), (1, 1, 3, 3)
    norm = 4  # gamma, beta, mean, variance
    count = 5 * 7 * 7 * 3 * 64 + norm * 64
    before = 64
    for stage, repeats in enumerate(blocks):
        width, taps = channels[stage], kernels[stage] * 9
        for block in range(repeats):
            count += taps * before * width + taps * width * width + 2 * norm * width
            if block == 0 and stage > 0:
                count += before * width + norm * width
            before = width
    encoder = ResNet3D(depth=depth)
    encoder.build()
    assert encoder.count_params() == count
    assert encoder.feature_dim == 512


@pytest.mark.slow
@pytest.mark.parametrize("depth", [101, 152])
def test_deep_bottlenecks_build(depth: int) -> None:
    encoder = ResNet3D(depth=depth, width=0.125)
    encoder.build()
    convs = sum(len(block.convs) for block in encoder.blocks)
    assert convs + 2 == depth  # and conv1 and the linear layer, which give a ResNet its number
    assert encoder(tf.zeros([1, 2, 32, 32, 3])).shape == (1, encoder.feature_dim)


def test_width_scales_channels_and_any_clip_length_goes_in() -> None:
    encoder = ResNet3D(depth=50, width=0.25)
    assert encoder.feature_dim == 512
    for shape in ([1, 4, 32, 48, 3], [2, 16, 64, 64, 3], [1, 1, 32, 32, 3]):
        assert encoder(tf.zeros(shape)).shape == (shape[0], 512)


def test_strides() -> None:
    """conv1 halves time and space, the pool space, res3 to res5 space: 32 in all."""
    encoder = ResNet3D(depth=18, width=0.125)
    x = tf.zeros([1, 16, 224, 224, 3])
    x = encoder.stem(x)
    assert x.shape == (1, 8, 112, 112, 8)
    x = encoder.pool(x)
    assert x.shape == (1, 8, 56, 56, 8)
    sizes = []
    for block in encoder.blocks:
        x = block(x)
        sizes.append(tuple(x.shape[1:4]))
    assert sizes == [(8, 56, 56)] * 2 + [(8, 28, 28)] * 2 + [(8, 14, 14)] * 2 + [(8, 7, 7)] * 2


def test_unknown_depth_and_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="depth 42"):
        ResNet3D(depth=42)
    with pytest.raises(ValueError, match="give 4"):
        ResNet3D(temporal_kernels=(1, 3))


def test_config_round_trip() -> None:
    encoder = ResNet3D(depth=18, width=0.5, temporal_kernels=(3, 3, 3, 3), stem_pool=False)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(encoder))
    assert again.get_config() == encoder.get_config()


def test_projection_head() -> None:
    head = ProjectionHead()
    embeddings = head(tf.random.normal([4, 2048]), training=True)
    assert embeddings.shape == (4, 128)
    dense = 2048 * 2048 + 2048
    assert head.count_params() == 3 * (dense + 4 * 2048) + 2048 * 128 + 128
    assert {norm.momentum for norm in head.norms} == {0.997}


@pytest.mark.parametrize(("build", "depth"), [(ResNet3D, 50), (R2Plus1D, 10)])
def test_nothing_holds_what_building_traced(build: type[Encoder], depth: int) -> None:
    def graphs() -> int:
        gc.collect()
        return sum(isinstance(each, FuncGraph) for each in gc.get_objects())

    before = graphs()
    build(depth, width=0.125).build()
    assert graphs() == before  # a graph would hold the weights
