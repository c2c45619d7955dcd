"""What a run that resumes must share with the run before: compared before anything is restored."""

import contextlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tf_keras as keras

from cvrl_tf import checkpoints
from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.tasks.task import Task
from cvrl_tf.training import run_folder

# Arguments that change no number, that may change on the way, or of which a fact speaks already.
_KERAS = {"name", "dtype", "jit_compile", "is_legacy_optimizer", "learning_rate"}
_FREE = _KERAS | {"augment", "block", "recompute", "servers", "skip_damaged"}
# What is compared of `run.json`; the settings are not in those of earlier versions.
_COMPARED = ("epochs", "global_batch", "seed", "train", "test", "settings")


def settings(
    task: Task,
    train_data: Pipeline,
    learning_rate: Any,
    precision: str,
    best_metric: str | None,
) -> dict[str, Any]:
    """Say what determines the numbers of a run besides its budget and data, for JSON."""
    augment = _arguments(train_data).get("augment") or _arguments(task).get("augment")
    said = {
        "task": described(task),
        "augment": described(augment),  # in the step or on the host, with the same pixels
        "input": described(train_data),
        "classes": len(train_data.labels),
        "optimizer": described(task.optimizer),
        "learning_rate": described(learning_rate),
        "precision": precision,
        "best_metric": best_metric,
    }
    return json.loads(json.dumps(said))


def described(value: Any) -> Any:
    """Describe an object by its class and what it keeps of its constructor's arguments, for JSON.

    Args:
      value: it keeps an argument as an attribute of that name, perhaps with an underscore before
        it, or in Keras's `get_config`. Other arguments are left out.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): described(each) for key, each in value.items() if key not in _FREE}
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if isinstance(value, (list, tuple)):
        return [described(each) for each in value]
    if hasattr(value, "tolist"):  # NumPy's
        return value.tolist()
    value = getattr(value, "python_function", value)  # of a tf.function
    if hasattr(value, "__qualname__"):  # a function or a class
        return value.__qualname__
    return {"class": type(value).__name__, **described(_arguments(value))}


def _arguments(value: Any) -> Mapping[str, Any]:
    """Return the arguments of a constructor that the object keeps, by name."""
    if getattr(type(value), "get_config", keras.Model.get_config) is not keras.Model.get_config:
        with contextlib.suppress(NotImplementedError):
            return value.get_config()
    kept = getattr(value, "__dict__", {})
    try:
        names = list(inspect.signature(type(value).__init__).parameters)
    except ValueError:  # of a module that is not written in Python
        names = []
    # A Keras model has a `loss` of its own, so the name with an underscore comes first.
    return {
        name: kept.get(f"_{name}", kept.get(name))
        for name in names
        if name in kept or f"_{name}" in kept
    }


def check(
    folder: Path, now: Mapping[str, Any], extend: bool, initial: str | Path | None
) -> int | None:
    """Compare a run with what is to resume it; facts that only one of them has don't count.

    More epochs, with their learning rate, are allowed if the run is to be extended. After a loss
    that was not finite, learning rate and clipping of gradients may change.

    Args:
      folder: of the run.
      now: what `run.json` would say.
      extend: whether there may be more epochs.
      initial: with what a new run would begin.

    Returns:
      The epochs of before if there are more now; None if not.

    Raises:
      ValueError: they differ. The message names each difference.
    """
    was = run_folder.facts(folder)
    if was.get("train") and was["train"].get("order") != now["train"].get("order"):
        raise ValueError(
            f"The run in {str(folder)!r} began with an earlier version of cvrl_tf, which read the "
            "records in another order. Finish it with that version, or begin a new run in another "
            "--model_dir, with the weights of this one: "
            f"--gin_param=\"settings.Checkpointing.initial='{folder}'\"."
        )
    found = {
        name.removeprefix("settings."): values
        for key in _COMPARED
        if was.get(key) is not None and now.get(key) is not None
        for name, values in _differences(was[key], json.loads(json.dumps(now[key])), key)
    }
    said = {f"train.{name.rpartition('.')[2]}" for name in found if name.startswith("input.")}
    found = {name: values for name, values in found.items() if name not in said}
    if "settings" not in was:  # then the data's name may be that of a folder
        found.pop("train.data", None)
        found.pop("test.data", None)
    if moved := _other_run(was.get("initial_checkpoint"), initial):
        found["settings.Checkpointing.initial"] = moved
    if found.keys() & {"epochs", "global_batch", "train.videos"}:  # the rate is a function of them
        found = {name: of for name, of in found.items() if not name.startswith("learning_rate.")}
    more = "epochs" in found and now["epochs"] > was["epochs"]
    if more and extend:
        del found["epochs"]
    if (folder / run_folder.NOT_FINITE_FILE).exists():
        changed = {name: found.pop(name) for name in list(found) if _tames(name, *found[name])}
        if changed:
            print(f"After a loss that was not finite, {_listed(changed)}.")
    if found:
        longer = f" To train longer, add --extend_to={now['epochs']}." if more else ""
        raise ValueError(
            f"The run in {str(folder)!r} can't resume with other settings: {_listed(found)}. Rerun "
            "the command of before, or choose another --model_dir, perhaps with this run as its "
            f"settings.Checkpointing.initial.{longer}"
        )
    return was["epochs"] if more else None


def say_extension(was: int, now: int, rate: float, last: float) -> None:
    """Print how a run goes on to more epochs.

    Args:
      was, now: epochs.
      rate: learning rate of the next step.
      last: that of the last one.
    """
    print(
        f"Extended from {was} to {now} epochs. From here on, the learning rate is that of a run of "
        f"{now} epochs: {rate:.3g} now, {last:.3g} in the last step."
    )


def _tames(name: str, was: Any, now: Any) -> bool:
    """Tell whether a setting may mend a loss that was not finite."""
    if name.endswith(("clipnorm", "clipvalue")):
        return True
    # A constant rate is a variable of the checkpoint, a schedule is not.
    same = isinstance(was, dict) == isinstance(now, dict)
    return name.startswith("learning_rate") and same


def _differences(was: Any, now: Any, name: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield name, old and new value of what differs."""
    if isinstance(was, dict) and isinstance(now, dict) and was.get("class") == now.get("class"):
        for key in now.keys() & was.keys():
            yield from _differences(was[key], now[key], f"{name}.{key}")
    elif _is_alike(was, now):
        for number, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from _differences(old, new, f"{name}[{number}]")
    elif was != now:
        yield name, (was, now)


def _is_alike(was: Any, now: Any) -> bool:
    """Tell whether these are lists of as many objects."""
    return all(
        isinstance(each, list) and each and all(isinstance(item, dict) for item in each)
        for each in (was, now)
    ) and len(was) == len(now)


def _other_run(was: str | None, now: str | Path | None) -> tuple[str, str] | None:
    """Return two checkpoints if they are there and in folders of different runs."""
    if was is None or now is None:
        return None
    folders = [Path(was).parent.parent, Path(now)]
    with contextlib.suppress(FileNotFoundError, ValueError):  # nothing is loaded from there
        folders[1] = Path(checkpoints.resolve(now)).parent.parent
    if all(folder.is_dir() for folder in folders) and not folders[0].samefile(folders[1]):
        return was, str(now)
    return None


def _listed(found: Mapping[str, tuple[Any, Any]]) -> str:
    """Say "epochs was 3 and is 4, precision was ..." in the order of the names."""
    return ", ".join(
        f"{name} was {_short(was)} and is {_short(now)}"
        for name, (was, now) in sorted(found.items())
    )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("class", value))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_short, value))}]"
    return repr(value)
