"""Checkpoints: where a run resumes, and encoders for another. Every restore says what matched."""

import contextlib
import dataclasses
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from etils import epath

from cvrl_tf import checkpoint_files, encoder_json, files
from cvrl_tf.data.sampling import Sampling
from cvrl_tf.encoder_json import ENCODER_FILE, ENCODER_VERSION
from cvrl_tf.models.encoder import Encoder
from cvrl_tf.models.heads import Head
from cvrl_tf.models.rebuilding import rebuild

EXPORT_FILE = "assets.extra/cvrl_tf.json"  # in an export; TensorFlow looks for nothing there
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def resolve(path: str | Path) -> str:
    """Find the checkpoint that a path means: a prefix, or the newest whole one of a run's folder.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged or, in a folder, all are.
    """
    path = Path(path)
    for folder in (path / "checkpoints", path):
        newest = checkpoint_files.newest(folder) if folder.is_dir() else None
        if newest:
            return newest
    if path.with_name(path.name + ".index").is_file():
        if problem := checkpoint_files.damage(str(path)):
            raise ValueError(f"The checkpoint {str(path)!r} can't be read: {problem}")
        return str(path)
    raise FileNotFoundError(
        f"No checkpoint at {str(path)!r}: give a run's folder, its checkpoints folder, or a "
        "prefix such as runs/demo/pretrain/checkpoints/ckpt-100."
    )


def keys_of(root: tf.Module, prefix: str) -> dict[str, tf.Variable]:
    """Return the variables of an object by the keys under which a checkpoint stores them."""
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
    """Raise a ValueError that lists how the shapes stored in `path` differ from those wanted."""
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
    """Load one root of a checkpoint, all of it.

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


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A checkpoint of a run with what `encoder.json` says of it, resolved once.

    Whatever is read from it is of one checkpoint, even if the run still writes new ones.

    Attributes:
      prefix: of the checkpoint.
      encoder_config: the encoder's class and arguments, as Keras serializes them.
      sampling: what its clips are.
      facts: what else the run said; see `Task.export_facts`.
    """

    prefix: str
    encoder_config: Mapping[str, Any]
    sampling: Sampling
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "SavedRun":
        """Find a checkpoint and read what belongs to it.

        Args:
          path: see `resolve`.

        Raises:
          FileNotFoundError: no checkpoint, or no `encoder.json` in the run's folder.
          ValueError: `encoder.json` is of another version and can't be read.
        """
        prefix = resolve(path)
        content = encoder_json.read(encoder_file(prefix))
        return cls(prefix, content.pop("encoder"), content.pop("sampling"), content)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.prefix).parent.parent

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Name the file in which an error is."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"In {str(encoder_file(self.prefix))!r}, {error}") from error

    def new_encoder(self, **options: Any) -> Encoder:
        """Rebuild the encoder, randomly initialized.

        Args:
          options: of `Encoder.options`; those of the run are not taken over.

        Raises:
          ValueError: `encoder.json` describes no encoder that is here; see `rebuilding`.
        """
        with self._explained():
            encoder = rebuild(self.encoder_config, Encoder, **options)  # type: ignore[type-abstract]
        encoder.build()
        return encoder

    def load_encoder(self, **options: Any) -> Encoder:
        """Rebuild the encoder with its weights.

        Raises:
          ValueError: the weights do not fit the architecture.
        """
        encoder = self.new_encoder(**options)
        initialize(encoder, self.prefix)
        return encoder

    def load_head(self, feature_dim: int) -> keras.Model | None:
        """Rebuild the head that gives embeddings, with its weights; None if there is none.

        Raises:
          ValueError: the weights do not fit, or `encoder.json` describes no head that is here.
        """
        if "head" not in self.facts:
            return None
        with self._explained():
            head = rebuild(self.facts["head"], Head)
        head.build((None, feature_dim))
        initialize(head, self.prefix, "head")
        return head

    def load_classifier(self, feature_dim: int) -> keras.layers.Layer | None:
        """Rebuild the linear classifier with its weights; None if there is none."""
        if "labels" not in self.facts:
            return None
        classifier = keras.layers.Dense(len(self.facts["labels"]))
        classifier.build((None, feature_dim))
        initialize(classifier, self.prefix, "classifier")
        return classifier

    def check(self, encoder: Encoder) -> None:
        """Check what the shapes of tensors don't tell: strides, padding, normalization of pixels.

        Args:
          encoder: that the checkpoint's weights are for.

        Raises:
          ValueError: the checkpoint's encoder is of another class, or has other arguments.
        """
        kind = self.encoder_config["class_name"]
        if kind != type(encoder).__name__:
            raise ValueError(
                f"The encoder of {self.prefix!r} is a {kind}, not a {type(encoder).__name__}: "
                "bind ENCODER to the same class."
            )
        here = json.loads(json.dumps(encoder.get_config()))
        different = [
            f"{name}={value!r} (here {here[name]!r})"
            for name, value in self.encoder_config["config"].items()
            if name in here and name not in encoder.options and value != here[name]
        ]
        if different:
            raise ValueError(
                f"The encoder of {self.prefix!r} was built with {', '.join(different)}. Say the "
                f'same: --gin_param="MODULE.{kind}.NAME=VALUE".'
            )


def encoder_file(prefix: str) -> Path:
    """Return the path at which a run says what its encoder is; it need not exist."""
    return Path(prefix).parent.parent / ENCODER_FILE


def save_encoder_config(
    encoder: Encoder, sampling: Sampling, folder: str | Path, **facts: Any
) -> None:
    """Write beside the checkpoints what `SavedRun` reads.

    Args:
      encoder: registered with Keras.
      sampling: of the clips it was trained on.
      folder: the run's folder.
      facts: what else the export must know, for JSON; see `Task.export_facts`.
    """
    content = {
        "version": ENCODER_VERSION,
        "encoder": keras.saving.serialize_keras_object(encoder),
        "sampling": dataclasses.asdict(sampling),
        **facts,
    }
    files.write_text(epath.Path(folder) / ENCODER_FILE, json.dumps(content, indent=2) + "\n")


def save_as_run(encoder: Encoder, sampling: Sampling, folder: str | Path, **facts: Any) -> str:
    """Write an encoder as a run would, for `initial` checkpoints, export and evaluation.

    Args: as `save_encoder_config`; the folder is made.

    Returns:
      The checkpoint's prefix.
    """
    (Path(folder) / "checkpoints").mkdir(parents=True)
    save_encoder_config(encoder, sampling, folder, **facts)
    prefix = Path(folder) / "checkpoints" / "ckpt"
    return tf.train.Checkpoint(encoder=encoder).save(str(prefix))


def encoder_of(
    build: Callable[..., Encoder],
    checkpoint: str | Path | None = None,
    recompute: bool | None = None,
) -> Encoder:
    """Build the encoder of a recipe, or one for a checkpoint's weights.

    Args:
      build: makes an encoder, if there is no checkpoint.
      checkpoint: whose class and arguments are taken instead; see `resolve`.
      recompute: the encoder's option of that name; None leaves it alone.

    Raises:
      FileNotFoundError, ValueError: see `SavedRun.open`.
    """
    options = {} if recompute is None else {"recompute": recompute}
    if checkpoint is None:
        return build(**options)
    return SavedRun.open(checkpoint).new_encoder(**options)


def load_encoder(path: str | Path) -> Encoder:
    """Load the encoder of a run: clips, float [B, T, H, W, 3] in [0, 1], to features [B, D].

    Args:
      path: a run's folder, which means its latest checkpoint, or what else `resolve` knows.

    Raises:
      FileNotFoundError: no checkpoint, or no `encoder.json` in the run's folder.
      ValueError: the weights do not fit the architecture.
    """
    return SavedRun.open(path).load_encoder()


def fingerprint(*layers: keras.layers.Layer) -> str:
    """Compute a digest of architectures and weights."""
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(json.dumps(layer.get_config(), sort_keys=True).encode())
        for weight in layer.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()
