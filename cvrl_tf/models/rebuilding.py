"""Models that a JSON file describes, rebuilt of classes that are here and of nothing else.

The file is data, perhaps a stranger's. Keras's own deserializer would import any module that it
names and call what it finds there.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import tf_keras as keras

from cvrl_tf import models


class Rebuildable(keras.Model):
    """A model that its class and the arguments of its constructor describe.

    A subclass keeps the arguments in `_config`, and is decorated with
    `keras.saving.register_keras_serializable`, by whose name a file means it.

    Attributes:
      options: names of the constructor's arguments that change no number, such as what is
        recomputed to save memory.
    """

    options: ClassVar[frozenset[str]] = frozenset()
    _config: dict[str, Any]

    def get_config(self) -> dict[str, Any]:
        return dict(self._config)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Rebuildable":
        # Not Keras's, which rebuilds layers that the config holds, of whatever class.
        return cls(**config)


_Kind = TypeVar("_Kind", bound=Rebuildable)


def rebuild(described: Any, base: type[_Kind], **options: Any) -> _Kind:
    """Make a model that a file describes, randomly initialized and not built.

    Args:
      described: what `keras.saving.serialize_keras_object` made of a model.
      base: which its class must be derived from.
      options: of `Rebuildable.options`; those of the file are not taken over.

    Raises:
      ValueError: there is no such class, or it does not take the arguments.
    """
    described = described if isinstance(described, Mapping) else {}
    kind = _class_of(described.get("module"), described.get("registered_name"), base)
    try:
        config = {k: v for k, v in described["config"].items() if k not in kind.options}
        return kind.from_config(config | options)
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{kind.__name__} can't be made of its arguments: {error}.") from error


def _class_of(module: Any, name: Any, base: type[_Kind]) -> type[_Kind]:
    """A class of `cvrl_tf.models`, or of a module that is imported already: no other module is."""
    ours = [f"{models.__name__}.{each.name}" for each in pkgutil.iter_modules(models.__path__)]
    if module in ours:
        importlib.import_module(module)
    kind = keras.saving.get_registered_object(name) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ValueError(
            f"the class {name!r} of the module {module!r} is no {base.__name__} of "
            f"{models.__name__}. If it is yours, name its module, since no file's word is taken "
            "for what to import: --module=MODULE, in a recipe `import MODULE`, in Python an import."
        )
    return kind
