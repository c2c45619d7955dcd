"""Inflated networks give a still video the features of the network of images."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from garden_encoder import randomize

from cvrl_tf.models import inflation
from cvrl_tf.models.convolution import convolve
from cvrl_tf.models.r2plus1d import R2Plus1D
from cvrl_tf.models.resnet3d import DEPTHS, ResNet3D

IMAGE = np.random.default_rng(0).uniform(size=(2, 64, 96, 3)).astype(np.float32)
STILL = np.repeat(IMAGE[:, np.newaxis], 9, axis=1)
NORMALIZED = (IMAGE - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]  # as torchvision does


def assert_same(features: tf.Tensor, expected: np.ndarray) -> None:
    assert features.shape == expected.shape and np.std(expected) > 1e-3
    scale = np.abs(expected).max()
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("taps", range(1, 7))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frames", [8, 9])
def test_the_center_meets_a_frame_at_every_place(taps: int, stride: int, frames: int) -> None:
    """So a still video has the response of its frame, for kernels of even extent too."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(1, 1, 3, 2)).astype(np.float32)
    still = np.repeat(rng.normal(size=(1, 1, 2, 2, 3)).astype(np.float32), frames, axis=1)
    inflated = inflation.inflated_kernel(kernel, taps, "center")
    response = convolve(tf.constant(still), inflated, (stride, 1, 1))
    assert response.shape[1] == -(-frames // stride)
    expected = np.repeat(still[:, :1] @ kernel[0, 0], response.shape[1], axis=1)
    np.testing.assert_allclose(response, expected, atol=1e-5)


def torch_weights(depth: int) -> dict[str, np.ndarray]:
    """Draw random weights under the names of torchvision's `state_dict`."""
    rng = np.random.default_rng(1)
    tensors: dict[str, np.ndarray] = {}

    def conv_norm(conv: str, norm: str, inputs: int, outputs: int, size: int) -> None:
        scale = np.sqrt(2 / (inputs * size**2))
        kernel = scale * rng.normal(size=(outputs, inputs, size, size))
        tensors[f"{conv}.weight"] = kernel.astype(np.float32)
        for name, base, noise in (
            ("weight", 1, 0.1),
            ("bias", 0, 0.3),
            ("running_mean", 0, 0.3),
            ("running_var", 1, 0.2),
        ):
            values = base + noise * rng.uniform(-1, 1, outputs)
            tensors[f"{norm}.{name}"] = values.astype(np.float32)
        tensors[f"{norm}.num_batches_tracked"] = np.array(7)

    counts, is_bottleneck = DEPTHS[depth]
    conv_norm("conv1", "bn1", 3, 64, 7)
    inputs = 64
    for stage, count in enumerate(counts, start=1):
        filters = 32 * 2**stage
        outputs = 4 * filters if is_bottleneck else filters
        for block in range(count):
            prefix = f"layer{stage}.{block}"
            sizes = [(inputs, filters, 3), (filters, filters, 3)]
            if is_bottleneck:
                sizes = [(inputs, filters, 1), (filters, filters, 3), (filters, outputs, 1)]
            for index, size in enumerate(sizes, start=1):
                conv_norm(f"{prefix}.conv{index}", f"{prefix}.bn{index}", *size)
            if block == 0 and inputs != outputs:
                names = f"{prefix}.downsample.0", f"{prefix}.downsample.1"
                conv_norm(*names, inputs, outputs, 1)
            inputs = outputs
    tensors["fc.weight"], tensors["fc.bias"] = np.zeros([5, inputs]), np.zeros(5)
    return tensors


def torch_features(
    tensors: dict[str, np.ndarray], x: np.ndarray, is_simclr: bool = False
) -> np.ndarray:
    """Compute torchvision's ResNet: padding of k // 2 on each side, and an epsilon of 1e-5.

    SimCLR's differs in the padding of the pool.
    """

    def conv_norm(x: tf.Tensor, conv: str, norm: str, stride: int) -> tf.Tensor:
        kernel = tensors[f"{conv}.weight"].astype(np.float64).transpose(2, 3, 1, 0)
        around = [kernel.shape[0] // 2] * 2
        x = tf.nn.conv2d(tf.pad(x, [[0, 0], around, around, [0, 0]]), kernel, stride, "VALID")
        names = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, variance = (tensors[f"{norm}.{name}"] for name in names)
        return (x - mean) / np.sqrt(variance.astype(np.float64) + 1e-5) * gamma + beta

    x = tf.nn.relu(conv_norm(tf.constant(x, tf.float64), "conv1", "bn1", 2))
    if not is_simclr:
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-np.inf)
    x = tf.nn.max_pool2d(x, 3, 2, "SAME" if is_simclr else "VALID")
    for stage in (1, 2, 3, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in tensors:
            prefix, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = x
            if f"{prefix}.downsample.0.weight" in tensors:
                names = f"{prefix}.downsample.0", f"{prefix}.downsample.1"
                shortcut = conv_norm(x, *names, stride)
            last = 3 if f"{prefix}.conv3.weight" in tensors else 2
            strided = 2 if last == 3 else 1
            for index in range(1, last + 1):
                names = f"{prefix}.conv{index}", f"{prefix}.bn{index}"
                x = conv_norm(x, *names, stride if index == strided else 1)
                x = tf.nn.relu(x) if index < last else tf.nn.relu(x + shortcut)
            block += 1
    return tf.reduce_mean(x, axis=[1, 2]).numpy()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_torchvision(depth: int) -> None:
    tensors = torch_weights(depth)
    encoder = inflation.inflate(inflation.from_torch(tensors), "center")
    assert encoder.get_config()["depth"] == depth
    assert encoder.get_config()["temporal_kernels"] == [1, 1, 3, 3]
    assert_same(encoder(STILL, training=False), torch_features(tensors, NORMALIZED))
    again = ResNet3D.from_config(encoder.get_config())  # as for loading a checkpoint
    again.build()
    again.set_weights(encoder.get_weights())
    np.testing.assert_array_equal(again(STILL), encoder(STILL))


@pytest.mark.slow
def test_the_gardens(tmp_path: Path) -> None:
    from official.vision.modeling.backbones import resnet

    garden = resnet.ResNet(50, keras.layers.InputSpec(shape=[None, 64, 96, 3]), norm_epsilon=1e-5)
    randomize(garden, 0)
    prefix = str(tmp_path / "ckpt")
    tf.train.Checkpoint(backbone=garden).write(prefix)
    reader = tf.train.load_checkpoint(prefix)
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    encoder = inflation.inflate(inflation.from_garden(tensors), "center")
    expected = tf.reduce_mean(garden(NORMALIZED, training=False)["5"], axis=[1, 2]).numpy()
    assert_same(encoder(STILL, training=False), expected)


def simclr_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draw bottlenecks under the names of google-research/simclr, tf2/resnet.py."""
    norm = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean"}
    norm["running_var"] = "moving_variance"
    places = {"conv1": (0, "conv2d"), "bn1": (1, "bn"), "conv2": (3, "conv2d"), "bn2": (4, "bn")}
    places |= {"conv3": (6, "conv2d"), "bn3": (7, "bn")}
    renamed = {}
    for name, value in tensors.items():
        *where, part, leaf = name.split(".")
        if leaf == "num_batches_tracked" or part == "fc":
            continue
        if where and where[-1] == "downsample":
            *where, _ = where
            folder = f"projection_layers/{part}/" + ("conv2d" if part == "0" else "bn")
            is_kernel = part == "0"
        else:
            number, layer = places[part]
            folder = f"conv_relu_dropblock_layers/{number}/{layer}"
            is_kernel = layer == "conv2d"
        if where:
            folder = f"block_groups/{int(where[0][-1]) - 1}/layers/{where[1]}/{folder}"
        else:
            folder = f"initial_conv_relu_max_pool/{0 if is_kernel else 2}/" + folder.split("/")[-1]
        leaf = "kernel" if is_kernel else norm[leaf]
        value = value.transpose(2, 3, 1, 0) if is_kernel else value
        renamed[f"model/resnet_model/{folder}/{leaf}/.ATTRIBUTES/VARIABLE_VALUE"] = value
    return renamed


def test_simclr() -> None:
    tensors = torch_weights(50)
    named = simclr_names(tensors)
    assert len(named) == 265
    for name in (
        "initial_conv_relu_max_pool/2/bn/gamma",
        "block_groups/3/layers/0/projection_layers/0/conv2d/kernel",
        "block_groups/2/layers/5/conv_relu_dropblock_layers/6/conv2d/kernel",
    ):
        assert f"model/resnet_model/{name}/.ATTRIBUTES/VARIABLE_VALUE" in named
    head = {"model/_projection_head/linear_layers/0/dense/kernel": np.zeros(3)}
    encoder = inflation.inflate(inflation.from_simclr({**named, **head}), "center")
    assert encoder.get_config()["width"] == 1
    assert_same(encoder(STILL, training=False), torch_features(tensors, IMAGE, is_simclr=True))
    selective = {"model/resnet_model/block_groups/0/layers/0/se_layer/se_reduce/bias": np.zeros(3)}
    with pytest.raises(
        ValueError, match="plain ResNet has no tensors block_groups/0/layers/0/se_layer"
    ):
        inflation.from_simclr({**named, **selective})


def encoder_of_frames() -> ResNet3D:
    encoder = ResNet3D(
        10, 0.25, temporal_kernels=(1,) * 4, stem_kernel=(1, 7, 7), stem_strides=(1, 2, 2)
    )
    encoder.build()
    randomize(encoder, 3)
    return encoder


def test_our_own() -> None:
    frames = encoder_of_frames()
    encoder = inflation.inflate(inflation.from_encoder(frames), "center")
    assert encoder.stem.conv.kernel.shape[0] == 5
    expected = frames(IMAGE[:, np.newaxis], training=False).numpy()
    assert_same(encoder(STILL, training=False), expected)
    for count in (1, 2, 16):  # different 'same' padding
        assert_same(encoder(STILL[:, :1].repeat(count, axis=1), training=False), expected)


def test_mean_inflation_keeps_the_sum_over_time() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    for how in inflation.HOW:
        for taps in (1, 3, 5):
            inflated = inflation.inflated_kernel(kernel, taps, how)
            assert inflated.shape == (taps, 3, 3, 4, 5)
            np.testing.assert_allclose(inflated.sum(axis=0), kernel, rtol=1e-6)
    mean = inflation.inflated_kernel(kernel, 3, "mean")
    np.testing.assert_allclose(mean[0], kernel / 3)
    np.testing.assert_array_equal(mean[0], mean[2])
    encoders = [
        inflation.inflate(inflation.from_encoder(encoder_of_frames()), how) for how in inflation.HOW
    ]
    # They agree except near the ends of the clip, where the mean includes zeros.
    long = np.repeat(IMAGE[:1, np.newaxis], 80, axis=1)
    stems = [each.stem(long).numpy()[:, 1:-1] for each in encoders]
    np.testing.assert_allclose(*stems, rtol=1e-4, atol=1e-4 * np.abs(stems[0]).max())


@pytest.mark.parametrize(
    "name",
    ["conv2_block1_1_conv/kernel:0", "res2.0.conv1.weight", "res2_0_branch2a_w"],
)
def test_stride_on_the_first_convolution_is_refused(name: str) -> None:
    for read in (inflation.from_torch, inflation.from_garden):
        with pytest.raises(ValueError, match=f"{name}.*ResNet v1.*1x1.*3x3"):
            read({name: np.zeros([1, 1, 64, 64], np.float32)})


def test_what_does_not_fit_is_named() -> None:
    tensors = torch_weights(18)
    missing = {name: value for name, value in tensors.items() if name != "layer2.1.bn2.bias"}
    with pytest.raises(ValueError, match=r"'layer2.1.bn2.bias' is missing"):
        inflation.from_torch(missing)
    with pytest.raises(ValueError, match=r"plain ResNet has no tensors layer1.0.se.fc1.weight"):
        inflation.from_torch({**tensors, "layer1.0.se.fc1.weight": np.zeros(3)})
    wide = {**tensors, "layer3.0.conv2.weight": np.zeros([512, 256, 3, 3], np.float32)}
    with pytest.raises(ValueError, match=r"\(3, 0, 2\) is \(3, 3, 256, 512\), not"):
        inflation.inflate(inflation.from_torch(wide), "center")
    short = {name: value for name, value in tensors.items() if not name.startswith("layer4.1")}
    with pytest.raises(ValueError, match=r"has \(2, 2, 2, 1\) blocks in its stages"):
        inflation.from_torch(short)
    with pytest.raises(ValueError, match="sees 5 frames"):
        encoder = ResNet3D(10, 0.125)
        encoder.build()
        inflation.from_encoder(encoder)
    with pytest.raises(ValueError, match="No inflation 'middle'; choose one of center, mean"):
        inflation.inflated_kernel(np.zeros([1, 1, 1, 1]), 3, "middle")
    with pytest.raises(ValueError, match="Only a ResNet3D .* not a R2Plus1D"):
        inflation.from_encoder(R2Plus1D(10, 0.125))
