"""The authors' checkpoints (Model Garden, `official/projects/video_ssl`) into ours, and back.

Theirs keep the encoder under `backbone/layer_with_weights-N`: 0 and 1 are convolution and
normalization of the stem, and each N from 2 on is a bottleneck, whose parts have names.
"""

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.data.sampling import Sampling
from cvrl_tf.models import resnet3d
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.resnet3d import DEPTHS, ResNet3D

_ROOT = "backbone"
# What the published encoders were trained on.
SAMPLING = Sampling(num_frames=16, stride=2, fps=None, size=224, short_side=256, record_fps=None)
_CONVS = ("_temporal_conv", "_spatial_conv", "_expand_conv")


def _pairs(encoder: ResNet3D) -> Iterator[tuple[str, tf.Variable]]:
    """Each variable of ours, with the name of the authors' tensor."""

    def conv_norm(ours: keras.layers.Layer, conv: str, norm: str) -> Iterator:
        yield f"{conv}/kernel", ours.conv.kernel
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            yield f"{norm}/{name}", getattr(ours.norm, name)

    def layer(number: int) -> str:
        return f"{_ROOT}/layer_with_weights-{number}"

    yield from conv_norm(encoder.stem, layer(0), layer(1))
    for number, block in enumerate(encoder.blocks, start=2):
        parts = dict(enumerate(block.convs, start=1))
        if block.shortcut is not None:
            parts[0] = block.shortcut
        for index, part in parts.items():
            conv = _CONVS[index - 1] if index else "_shortcut_conv"
            yield from conv_norm(part, f"{layer(number)}/{conv}", f"{layer(number)}/_norm{index}")


def load(path: str | Path, depth: int = 50, width: float = 1) -> tuple[ResNet3D, list[str]]:
    """Reads an encoder that the Garden has saved as `tf.train.Checkpoint(backbone=...)`.

    Args:
      path: the checkpoint's prefix, such as `r3d_1x_k600_800ep_backbone-1`.
      depth, width: of the network; the published ones are of depth 50 and width 1.

    Returns:
      The encoder, and the names of the tensors that are no part of it, such as `save_counter`.

    Raises:
      FileNotFoundError: no checkpoint there.
      ValueError: basic blocks, which the layout does not know; or a tensor of the encoder is
        missing, unknown, or of another shape; lists them.
    """
    if not DEPTHS.get(depth, ((), False))[1]:
        depths = [each for each, (_, is_bottleneck) in DEPTHS.items() if is_bottleneck]
        raise ValueError(f"depth={depth}: the authors' layout has only {depths}.")
    encoder = ResNet3D(depth, width)
    encoder.build()
    prefix = checkpoints.resolve(path)
    reader = tf.train.load_checkpoint(prefix)
    stored = {
        key.removesuffix(checkpoints.VALUE): (key, tuple(shape))
        for key, shape in reader.get_variable_to_shape_map().items()
        if key != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }
    wanted = dict(_pairs(encoder))
    found = {name: shape for name, (_, shape) in stored.items() if name.startswith(f"{_ROOT}/")}
    checkpoints.compare(
        {name: tuple(variable.shape) for name, variable in wanted.items()},
        found,
        f"R3D-{depth} of width {width:g}",
        prefix,
    )
    for name, variable in wanted.items():
        variable.assign(reader.get_tensor(stored[name][0]))
    return encoder, sorted(stored.keys() - found.keys())


def save(encoder: Encoder, prefix: str | Path) -> None:
    """Writes an encoder for the Garden's `tf.train.Checkpoint(backbone=...)`.

    Raises:
      ValueError: it is no `ResNet3D`, or has basic blocks, which the layout does not know.
    """
    resnet3d.check(encoder)
    if encoder.blocks[0].convs[-1].conv.kernel_size != (1, 1, 1):
        raise ValueError("The authors' layout has bottlenecks only: depth 50, 101 or 152.")
    tree: dict = {}
    for name, variable in _pairs(encoder):
        *folders, leaf = name.split("/")
        node = tree
        for each in folders:
            node = node.setdefault(each, {})
        node[leaf] = variable

    def trackable(node: dict | tf.Variable) -> tf.train.Checkpoint | tf.Variable:
        if not isinstance(node, dict):
            return node
        return tf.train.Checkpoint(**{name: trackable(child) for name, child in node.items()})

    trackable(tree).write(str(prefix))
