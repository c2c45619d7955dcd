"""Inflation of 2-D ResNets into encoders of clips, for the paper's baselines (section 4).

Source: Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017, section 2.4.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.resnet3d import DEPTHS, ResNet3D, Where, parts_of

# RGB in [0, 1]. torchvision, timm and the Model Garden normalize images by these.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

HOW = ("center", "mean")


@dataclasses.dataclass(frozen=True)
class Part:
    """A 2-D convolution and its batch normalization.

    Attributes:
      kernel: float32 [h, w, C, F].
      norm: gamma, beta, mean and variance, each float32 [F]; epsilon is 1e-5.
    """

    kernel: np.ndarray
    norm: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class ImageNetwork:
    """A ResNet v1.5 of images. See `ResNet3D` for the padding and the normalization of pixels."""

    depth: int
    width: float
    parts: Mapping[Where, Part]
    padding: str
    pixel_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pixel_std: tuple[float, float, float] = (1.0, 1.0, 1.0)


def inflated_kernel(kernel: np.ndarray, taps: int, how: str) -> np.ndarray:
    """Inflate a kernel [h, w, C, F] to [taps, h, w, C, F], whose sum over time is the kernel.

    Args:
      kernel: float [h, w, C, F].
      taps: extent in time.
      how: "center" puts the kernel at the middle of time, the earlier one of an even number of
        taps, with zeros around it. A still video then has the features of its frame. "mean" spreads
        the kernel over time. Features of a still video then differ slightly, because clips are
        padded with zeros in time.

    Raises:
      ValueError: `how` is another word.
    """
    if how not in HOW:
        raise ValueError(f"No inflation {how!r}; choose one of {', '.join(HOW)}.")
    if how == "mean":
        return np.repeat(kernel[np.newaxis] / taps, taps, axis=0)
    # 'same' pads at most as many zeros before the clip as there are taps before this one, and fewer
    # where a stride of 2 meets an even number of frames, so it meets a frame at every place.
    inflated = np.zeros([taps, *kernel.shape], kernel.dtype)
    inflated[(taps - 1) // 2] = kernel
    return inflated


def inflate(network: ImageNetwork, how: str, like: Mapping[str, Any] | None = None) -> ResNet3D:
    """Build an encoder of clips with the kernels of a network of images.

    Args:
      network: of images.
      how: see `inflated_kernel`.
      like: arguments of `ResNet3D` that the network does not determine: the extent of kernels in
        time, and the stem. None for those of the paper.

    Raises:
      ValueError: tensors are missing, unknown or of another shape; the message lists them.
    """
    encoder = ResNet3D(
        network.depth,
        network.width,
        padding=network.padding,
        pixel_mean=network.pixel_mean,
        pixel_std=network.pixel_std,
        **(like or {}),
    )
    encoder.build()
    wanted = dict(parts_of(encoder))
    _check_parts(network, {where: part.conv.kernel.shape[1:] for where, part in wanted.items()})
    for where, target in wanted.items():
        part = network.parts[where]
        taps = target.conv.kernel.shape[0]
        target.conv.kernel.assign(inflated_kernel(part.kernel, taps, how))
        norm = target.norm
        variables = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        for variable, value in zip(variables, part.norm, strict=True):
            variable.assign(value)
    return encoder


def _check_parts(network: ImageNetwork, wanted: Mapping[Where, Sequence[int]]) -> None:
    """Check that a network has kernels of these shapes, and no others."""
    problems = [f"no {where}" for where in wanted.keys() - network.parts.keys()]
    problems += [f"unknown {where}" for where in network.parts.keys() - wanted.keys()]
    for where in wanted.keys() & network.parts.keys():
        kernel, shape = network.parts[where].kernel, tuple(wanted[where])
        if kernel.shape != shape:
            problems.append(f"{where} is {kernel.shape}, not {shape}")
    if problems:
        raise ValueError(
            f"No ResNet-{network.depth} of width {network.width:g}; (stage, block, convolution): "
            + "; ".join(sorted(problems)[:10])
        )


def from_torch(tensors: Mapping[str, np.ndarray]) -> ImageNetwork:
    """Read a ResNet-18 to 152 of torchvision or timm, which have the stride on the 3x3 (v1.5).

    Args:
      tensors: by the names in its `state_dict`; `fc` is ignored.

    Raises:
      ValueError: it is another network, such as a ResNet v1, or a tensor is missing or unknown.
    """
    _refuse_v1(tensors)
    left = {name for name in tensors if not re.match(r"fc\.|.*num_batches_tracked$", name)}

    def take(name: str) -> np.ndarray:
        if name not in tensors:
            raise ValueError(
                f"Tensor {name!r} is missing; is this a ResNet of torchvision or timm?"
            )
        left.discard(name)
        return np.asarray(tensors[name], np.float32)

    def part(conv: str, norm: str) -> Part:
        statistics = ("weight", "bias", "running_mean", "running_var")
        kernel = take(f"{conv}.weight").transpose(2, 3, 1, 0)
        return Part(kernel, tuple(take(f"{norm}.{name}") for name in statistics))

    parts = {(0, 0, 1): part("conv1", "bn1")}
    blocks = sorted(
        {(int(s), int(b)) for s, b in re.findall(r"layer(\d)\.(\d+)\.conv1\.", "\n".join(tensors))}
    )
    is_bottleneck = "layer1.0.conv3.weight" in tensors
    for stage, number in blocks:
        prefix = f"layer{stage}.{number}"
        for index in range(1, 4 if is_bottleneck else 3):
            parts[stage, number, index] = part(f"{prefix}.conv{index}", f"{prefix}.bn{index}")
        if f"{prefix}.downsample.0.weight" in tensors:
            shortcut = part(f"{prefix}.downsample.0", f"{prefix}.downsample.1")
            parts[stage, number, 0] = shortcut
    if left:
        raise ValueError(f"A plain ResNet has no tensors {', '.join(sorted(left)[:5])}.")
    depth = _depth(blocks, is_bottleneck)
    return ImageNetwork(depth, 1, parts, "symmetric", IMAGENET_MEAN, IMAGENET_STD)


def from_garden(tensors: Mapping[str, np.ndarray]) -> ImageNetwork:
    """Read a ResNet-50, 101 or 152 (v1.5) of the Model Garden, with an epsilon of 1e-5.

    Args:
      tensors: by the names in its `tf.train.Checkpoint(backbone=...)`.

    Raises:
      ValueError: as `from_torch`.
    """
    _refuse_v1(tensors)
    layers: dict[int, dict[str, np.ndarray]] = {}
    for name, value in tensors.items():
        found = re.match(r"backbone/layer_with_weights-(\d+)/(.+?)(/\.ATTRIBUTES.*)?$", name)
        if found:
            layers.setdefault(int(found[1]), {})[found[2]] = value

    def part(number: int, conv: str, norm: int | str) -> Part:
        prefix = norm if isinstance(norm, str) else f"_norm{norm}/"
        source = layers[number + 1] if norm == "" else layers[number]
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        try:
            kernel = layers[number][f"{conv}kernel"]
            return Part(kernel, tuple(source[f"{prefix}{name}"] for name in names))
        except KeyError as error:
            name = f"backbone/layer_with_weights-{number}/{error.args[0]}"
            raise ValueError(f"Tensor {name!r} is missing; is this a ResNet-50?") from None

    if not {0, 1, 2} <= layers.keys():
        raise ValueError(
            "There are no tensors backbone/layer_with_weights-N: no ResNet of the Model Garden."
        )
    parts = {(0, 0, 1): part(0, "", "")}
    blocks: list[tuple[int, int]] = []
    for number in range(2, max(layers) + 1):
        begins = "_shortcut/kernel" in layers.get(number, {})
        stage, block = (blocks[-1][0] + begins, blocks[-1][1] + 1) if blocks else (1, 0)
        blocks.append((stage, 0 if begins else block))
        for index in (1, 2, 3):
            parts[*blocks[-1], index] = part(number, f"_conv{index}/", index)
        if begins:
            parts[*blocks[-1], 0] = part(number, "_shortcut/", 0)
    return ImageNetwork(_depth(blocks, True), 1, parts, "same", IMAGENET_MEAN, IMAGENET_STD)


def from_simclr(tensors: Mapping[str, np.ndarray]) -> ImageNetwork:
    """Read a ResNet-50, 101 or 152 (v1.5) of SimCLR's TensorFlow 2 code, without SK or SE.

    The width is arbitrary. Images are in [0, 1]. Layout: google-research/simclr, tf2/resnet.py.

    Args:
      tensors: by the names in its `tf.train.Checkpoint(model=...)`.

    Raises:
      ValueError: as `from_torch`.
    """
    root = "model/resnet_model/"
    found = {
        name.removeprefix(root).removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): value
        for name, value in tensors.items()
        if name.startswith(root) and "/.OPTIMIZER_SLOT/" not in name
    }
    left = set(found)

    def take(name: str) -> np.ndarray:
        if name not in found:
            raise ValueError(f"Tensor {root + name!r} is missing; is this SimCLR's ResNet-50?")
        left.discard(name)
        return found[name]

    def part(layers: str, conv: int, norm: int) -> Part:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        kernel = take(f"{layers}/{conv}/conv2d/kernel")
        return Part(kernel, tuple(take(f"{layers}/{norm}/bn/{name}") for name in names))

    # Layers without weights have numbers too.
    parts = {(0, 0, 1): part("initial_conv_relu_max_pool", 0, 2)}
    pattern = r"block_groups/(\d)/layers/(\d+)/"
    blocks = sorted({(int(g) + 1, int(b)) for g, b in re.findall(pattern, "\n".join(found))})
    for stage, number in blocks:
        prefix = f"block_groups/{stage - 1}/layers/{number}"
        for index in (1, 2, 3):
            first = 3 * (index - 1)
            layers = f"{prefix}/conv_relu_dropblock_layers"
            parts[stage, number, index] = part(layers, first, first + 1)
        if number == 0:
            parts[stage, number, 0] = part(f"{prefix}/projection_layers", 0, 1)
    if left:
        raise ValueError(f"A plain ResNet has no tensors {', '.join(sorted(left)[:5])}.")
    width = parts[0, 0, 1].kernel.shape[-1] / 64
    return ImageNetwork(_depth(blocks, True), width, parts, "symmetric_convs")


def from_encoder(encoder: Encoder) -> ImageNetwork:
    """Read an encoder of ours for single frames, whose temporal kernels are 1.

    Raises:
      ValueError: a temporal kernel is larger, or the encoder is no `ResNet3D`.
    """
    parts = {}
    for where, part in parts_of(encoder):
        taps, *_ = part.conv.kernel.shape
        if taps != 1:
            raise ValueError(f"Convolution {where} sees {taps} frames: not an encoder of frames.")
        norm = part.norm
        values = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        parts[where] = Part(part.conv.kernel.numpy()[0], tuple(v.numpy() for v in values))
    config = encoder.get_config()
    names = ("depth", "width", "padding", "pixel_mean", "pixel_std")
    depth, width, padding, mean, std = (config[name] for name in names)
    return ImageNetwork(depth, width, parts, padding, tuple(mean), tuple(std))


def _depth(blocks: list[tuple[int, int]], is_bottleneck: bool) -> int:
    counts = tuple(sum(stage == each for stage, _ in blocks) for each in (1, 2, 3, 4))
    for depth, known in DEPTHS.items():
        if known == (counts, is_bottleneck):
            return depth
    raise ValueError(f"No ResNet of depth {sorted(DEPTHS)} has {counts} blocks in its stages.")


def _refuse_v1(tensors: Mapping[str, np.ndarray]) -> None:
    """Refuse the networks that are known to be of the first version, by the names of tensors.

    Their weights have the same shapes. They are those of Keras's applications
    (`conv2_block1_1_conv`), Caffe and Detectron (`res2.0.conv1`, `res2_0_branch2a`).
    """
    pattern = r"conv\d_block\d+_1_conv|res\d[._]\d+[._](conv1|branch2a)|res\d[a-z]\d*_branch2a"
    for name in tensors:
        if re.search(pattern, name):
            raise ValueError(
                f"Tensor {name!r} is of a ResNet v1, whose stride is on the first 1x1 convolution; "
                "ours is on the 3x3 (v1.5). The weights would fit but give wrong features. "
                "Take torchvision's or timm's resnet50."
            )
