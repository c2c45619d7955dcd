"""Checkpoints: where a run resumes, and encoders for another. Every restore says what matched."""

import hashlib
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

ENCODER_FILE = "encoder.json"
EXPORT_FILE = "assets.extra/cvrl_tf.json"  # in an export; TensorFlow looks for nothing there
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


class Progress(tf.Module):
    """What a run's checkpoint says of the run; its step is the optimizer's.

    Attributes:
      seed: int64 [].
      steps_per_epoch: int64 []; with the step it gives the epoch, and the position in it.
      best: float32 [], best value so far of the metric that the best checkpoint is kept by; not a
        number before there is one.
    """

    def __init__(self, seed: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.seed = tf.Variable(seed, False, dtype=tf.int64)
        self.steps_per_epoch = tf.Variable(steps_per_epoch, False, dtype=tf.int64)
        self.best = tf.Variable(float("nan"), False)

    def check(self, seed: int, steps_per_epoch: int) -> None:
        """Raises a ValueError if what was restored is of a run with other data or another seed."""
        for name, here in (("seed", seed), ("steps_per_epoch", steps_per_epoch)):
            there = int(getattr(self, name).numpy())
            if there != here:
                raise ValueError(
                    f"The run's checkpoint has {name}={there}, but now it is {here}: go on with "
                    "the seed, data and batch of before, or choose another --model_dir, perhaps "
                    "with this run as its run.Run.initial_checkpoint."
                )


def resolve(path: str | Path) -> str:
    """The checkpoint that a path means: its prefix, or a run's or checkpoint folder (the latest).

    Raises:
      FileNotFoundError: there is none.
    """
    path = Path(path)
    for folder in (path / "checkpoints", path):
        latest = tf.train.latest_checkpoint(folder) if folder.is_dir() else None
        if latest:
            return latest
    if path.with_name(path.name + ".index").is_file():
        return str(path)
    raise FileNotFoundError(
        f"No checkpoint at {str(path)!r}: give a run's folder, its checkpoints folder, or a "
        "prefix such as runs/demo/pretrain/checkpoints/ckpt-100."
    )


def keys_of(root: tf.Module, prefix: str) -> dict[str, tf.Variable]:
    """The variables of an object by the keys under which a checkpoint stores them."""
    view = tf.train.TrackableView(root)
    found: dict[str, tf.Variable] = {}
    seen = {id(root)}
    waiting = deque([(prefix, root)])
    while waiting:
        path, node = waiting.popleft()
        if isinstance(node, tf.Variable):
            found[path + VALUE] = node
        for name, child in view.children(node).items():
            if id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{path}/{name}", child))
    return found


def _compare(root: tf.Module, name: str, path: str) -> None:
    """`compare` with the checkpoint's tensors under `name`."""
    stored = {
        key.removesuffix(VALUE): tuple(shape)
        for key, shape in tf.train.load_checkpoint(path).get_variable_to_shape_map().items()
        if key.startswith(f"{name}/") and "/.OPTIMIZER_SLOT/" not in key
    }
    wanted = {key.removesuffix(VALUE): tuple(v.shape) for key, v in keys_of(root, name).items()}
    compare(wanted, stored, name, path)


def compare(
    wanted: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]], what: str, path: str
) -> None:
    """Raises a ValueError that lists how the shapes stored in `path` differ from those wanted."""
    problems = [f"  missing there: {key}" for key in sorted(wanted.keys() - stored.keys())]
    problems += [f"  not in the model: {key}" for key in sorted(stored.keys() - wanted.keys())]
    problems += [
        f"  shape {stored[key]} there, {wanted[key]} in the model: {key}"
        for key in sorted(wanted.keys() & stored.keys())
        if wanted[key] != stored[key]
    ]
    if problems:
        shown = problems[:10]
        if len(problems) > len(shown):
            shown.append(f"  and {len(problems) - len(shown)} more")
        raise ValueError(
            f"The {what} ({len(wanted)} tensors) does not match the checkpoint {path!r}; is it of "
            f"another depth or width? {len(problems)} differences:\n" + "\n".join(shown)
        )


def initialize(root: tf.Module, path: str | Path, name: str = "encoder") -> str:
    """Loads one root of a checkpoint, all of it.

    Args:
      root: a built model.
      path: see `resolve`.
      name: of the root in the checkpoint.

    Returns:
      The checkpoint's prefix.

    Raises:
      FileNotFoundError: no checkpoint there.
      ValueError: a tensor is missing, unknown, or of another shape; lists them.
    """
    prefix = resolve(path)
    _compare(root, name, prefix)
    status = tf.train.Checkpoint(**{name: root}).read(prefix)
    status.assert_existing_objects_matched().expect_partial()
    return prefix


def check_architecture(encoder: keras.Model, path: str | Path) -> None:
    """What the shapes of tensors don't tell: strides, padding, normalization of pixels.

    Args:
      encoder: that the checkpoint's weights are for.
      path: see `resolve`.

    Raises:
      ValueError: the checkpoint's encoder was built with other arguments.
    """
    config = Path(resolve(path)).parent.parent / ENCODER_FILE
    if not config.is_file():
        return
    here = encoder.get_config()
    there = json.loads(config.read_text())["encoder"]["config"]
    different = [
        f"{name}={value!r} (here {here[name]!r})"
        for name, value in there.items()
        if name in here and name != "recompute" and value != json.loads(json.dumps(here[name]))
    ]
    if different:
        raise ValueError(
            f"The encoder of {str(path)!r} was built with {', '.join(different)}. Say the same: "
            '--gin_param="resnet3d.ResNet3D.NAME=VALUE".'
        )


# How an encoder's clips come about, beside their shape; see `save_encoder_config`.
SAMPLING = ("stride", "fps", "short_side", "record_fps")


def save_encoder_config(
    encoder: keras.Model,
    input_shape: tuple,
    folder: str | Path,
    stride: int = 2,
    fps: float | None = None,
    short_side: int = 256,
    record_fps: float | None = None,
    **facts: Any,
) -> None:
    """Writes beside the checkpoints what `load_encoder` and the export need.

    Args:
      encoder: a serializable Keras model.
      input_shape: (T, H, W, 3) of the clips it was trained on.
      folder: the run's folder.
      stride: of the clips; the authors' is 2.
      fps: the rate in which it counts, see `clips.at_rate`.
      short_side: of the records' frames, pixels.
      record_fps: to which the records' videos were resampled; None for their own.
      facts: what else the export must know, for JSON; see `saved_model.export_encoder`.
    """
    content = {
        "encoder": keras.saving.serialize_keras_object(encoder),
        "input_shape": list(input_shape),
        **dict(zip(SAMPLING, (stride, fps, short_side, record_fps), strict=True)),
        **facts,
    }
    (Path(folder) / ENCODER_FILE).write_text(json.dumps(content, indent=2) + "\n")


def save_as_run(encoder: keras.Model, input_shape: tuple, folder: str | Path, **facts: Any) -> str:
    """Writes an encoder as a run would, for `initial_checkpoint`, export and evaluation.

    Args: as `save_encoder_config`; the folder is made.

    Returns:
      The checkpoint's prefix.
    """
    (Path(folder) / "checkpoints").mkdir(parents=True)
    save_encoder_config(encoder, input_shape, folder, **facts)
    prefix = Path(folder) / "checkpoints" / "ckpt"
    return tf.train.Checkpoint(encoder=encoder).save(str(prefix))


def encoder_facts(path: str | Path) -> dict[str, Any]:
    """What stands in `encoder.json` of a run.

    Args:
      path: see `resolve`.

    Raises:
      FileNotFoundError: no checkpoint, or no `encoder.json` in the run's folder.
    """
    config = Path(resolve(path)).parent.parent / ENCODER_FILE
    if not config.is_file():
        raise FileNotFoundError(
            f"No {ENCODER_FILE} in {str(config.parent)!r}, which a run writes beside its "
            "checkpoints folder; without it the architecture is unknown."
        )
    return json.loads(config.read_text())


def sampling_of(path: str | Path) -> dict[str, Any]:
    """How the clips of a run came about: `SAMPLING`, out of its `encoder.json`.

    Args:
      path: see `resolve`.

    Raises:
      FileNotFoundError: no checkpoint, or no `encoder.json` in the run's folder.
      ValueError: the run is of an earlier version, which did not say it.
    """
    facts = encoder_facts(path)
    if unknown := [name for name in SAMPLING if name not in facts]:
        raise ValueError(
            f"{ENCODER_FILE} of {str(path)!r} is of an earlier version and lacks "
            f"{', '.join(unknown)}: write them into it; docs/formats.md says what they are."
        )
    return {name: facts[name] for name in SAMPLING}


def encoder_of(checkpoint: str | Path | None, build: Callable[..., keras.Model]) -> keras.Model:
    """The encoder for a checkpoint's weights: of the architecture that it was trained with.

    Args:
      checkpoint: see `resolve`; None for none.
      build: makes an encoder. What the checkpoint does not settle (all without one, and with one
        how much is recomputed) is its own.

    Raises:
      FileNotFoundError: no checkpoint, or no `encoder.json` in the run's folder.
    """
    if checkpoint is None:
        return build()
    config = encoder_facts(checkpoint)["encoder"]["config"]
    return build(**{name: value for name, value in config.items() if name != "recompute"})


def build_encoder(path: str | Path) -> keras.Model:
    """Rebuilds the encoder of a run, randomly initialized.

    Args:
      path: see `resolve`.

    Raises:
      FileNotFoundError: no checkpoint, or no `encoder.json` in the run's folder.
    """
    encoder = keras.saving.deserialize_keras_object(encoder_facts(path)["encoder"])
    encoder.build((None, None, None, None, 3))
    return encoder


def load_encoder(path: str | Path) -> keras.Model:
    """The encoder of a run: clips, float [B, T, H, W, 3] in [0, 1], to features [B, D].

    Args:
      path: a run's folder, which means its latest checkpoint, or what else `resolve` knows.

    Raises:
      FileNotFoundError: no checkpoint, or no `encoder.json` in the run's folder.
      ValueError: the weights do not fit the architecture.
    """
    encoder = build_encoder(path)
    initialize(encoder, path)
    return encoder


def fingerprint(*layers: keras.layers.Layer) -> str:
    """A digest of architectures and weights."""
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(json.dumps(layer.get_config(), sort_keys=True).encode())
        for weight in layer.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
