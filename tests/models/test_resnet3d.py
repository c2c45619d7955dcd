"""The encoder against the Model Garden's, and its shapes."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D


def garden_r3d50() -> keras.Model:
    """The network of the authors' YAML, which is not the Garden's default ResNet3D50."""
    from official.vision.configs import backbones_3d
    from official.vision.modeling.backbones import resnet_3d

    blocks = [("1", 3), ("1", 4), ("3", 6), ("3", 3)]
    specs = [
        backbones_3d.ResNet3DBlock(
            temporal_strides=1,
            temporal_kernel_sizes=(int(kernel),) * count,
            use_self_gating=False,
        )
        for kernel, count in blocks
    ]
    return resnet_3d.ResNet3D(
        model_id=50,
        temporal_strides=[spec.temporal_strides for spec in specs],
        temporal_kernel_sizes=[spec.temporal_kernel_sizes for spec in specs],
        use_self_gating=[spec.use_self_gating for spec in specs],
        input_specs=keras.layers.InputSpec(shape=[None, None, None, None, 3]),
        stem_type="v0",
        stem_conv_temporal_kernel_size=5,
        stem_conv_temporal_stride=2,
        stem_pool_temporal_stride=1,
        norm_momentum=0.9,
        norm_epsilon=1e-5,
    )


def randomise(model: keras.Model, seed: int) -> None:
    """Weights and statistics that would show any wrong wiring."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        noise = rng.normal(size=variable.shape).astype(np.float32)
        name = variable.name.rsplit("/", 1)[-1]
        if "variance" in name:
            variable.assign(0.5 + np.abs(noise))
        elif "gamma" in name:
            variable.assign(1 + 0.1 * noise)
        elif "kernel" in name:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(noise * np.sqrt(2 / fan_in))
        else:
            variable.assign(0.1 * noise)


def test_r3d50_equals_the_gardens() -> None:
    garden = garden_r3d50()
    randomise(garden, 0)
    ours = ResNet3D(depth=50)
    ours.build()
    assert ours.count_params() == garden.count_params() == 31_725_248

    def in_pairs(model: keras.Model) -> list[list[tf.Variable]]:
        """[kernel, gamma, beta, mean, variance] of each convolution, in the order of creation."""
        kernels = [v for v in model.variables if "kernel" in v.name]
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        rest = [[v for v in model.variables if name in v.name] for name in names]
        return [list(group) for group in zip(kernels, *rest, strict=True)]

    def reordered(pairs: list) -> list:
        """The Garden's blocks make the shortcut first, ours last."""
        result, at = pairs[:1], 1
        for block in ours.blocks:
            count = len(block.convs) + (block.shortcut is not None)
            group = pairs[at : at + count]
            result += group[1:] + group[:1] if block.shortcut is not None else group
            at += count
        assert at == len(pairs)
        return result

    for target, source in zip(in_pairs(ours), reordered(in_pairs(garden)), strict=True):
        for to, value in zip(target, source, strict=True):
            to.assign(value)
    frames = np.random.default_rng(1).uniform(size=(2, 8, 64, 64, 3)).astype(np.float32)
    expected = tf.reduce_mean(garden(frames, training=False)["5"], axis=[1, 2, 3])
    features = ours(frames, training=False).numpy()
    assert features.shape == (2, 2048) and np.std(expected) > 0
    # Relative to the size of the features: single entries may be near zero.
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


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
