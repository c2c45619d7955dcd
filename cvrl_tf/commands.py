"""What commands share: flags, parsing of recipes, and the errors that users can mend."""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import gin
import joblib
from absl import app, flags, logging

from cvrl_tf import files, output, renamed

# Before TensorFlow is imported: its start-up notes would bury what a command has to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_ENDING = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1


class Interrupted(KeyboardInterrupt):
    """A signal asks the command to end.

    Attributes:
      number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}.")
        self.number = number


def run(main: Callable[[list[str]], object]) -> None:
    """Run a command as `absl.app.run` does, and end it in a sentence on a signal.

    Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 raise `Interrupted` in `main`. The second of them ends the
    process on the spot. Where nobody reads what the command writes, it ends too. The exit code is
    128 + the signal, as of a shell.

    Args:
      main: takes the arguments of the command line that are no flags.
    """
    app.run(functools.partial(_run, main))


def _run(main: Callable[[list[str]], object], argv: list[str]) -> None:
    for number in _ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
    try:
        main(argv)
        sys.stdout.flush()
        return
    except Interrupted as stop:
        status = 128 + stop.number
        with contextlib.suppress(BrokenPipeError):
            print(f"\n{stop} Rerun the same command to resume.", file=sys.stderr, flush=True)
    except BrokenPipeError:
        if not output.unread():
            raise
        status = 128 + signal.SIGPIPE
    for descriptor in output.unread():  # or the end of Python would try to write there once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    sys.exit(status)


def _interrupt(number: int, _: FrameType | None) -> None:
    for each in _ENDING:
        if signal.getsignal(each) == _interrupt:
            signal.signal(each, _end)
    raise Interrupted(number)


def _end(number: int, _: FrameType | None) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"\nStopped at once. Rerun the same command to resume.\n")
    os._exit(128 + number)


def _innermost_module(error: BaseException) -> str:
    """Name the module that raised an error."""
    trace, module = error.__traceback__, ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return module


def is_for_the_user(error: Exception) -> bool:
    """Tell an error that the user can mend from a bug.

    Wrong values and files raise ValueError and OSError. What gin itself raises is a mistake in a
    recipe or in a parameter, whatever its type: a TypeError for a missing value, for example. A
    closed pipe has nobody who would read of it; see `run`.
    """
    if isinstance(error, BrokenPipeError):
        return False
    return isinstance(error, (ValueError, OSError)) or (
        _innermost_module(error).partition(".")[0] == "gin"
    )


@contextlib.contextmanager
def explained(only: type[Exception] | None = None) -> Iterator[None]:
    """End the command without a traceback on an error that the user can mend.

    Other errors are bugs and keep their traceback. `--verbosity=1` shows it for all errors.

    Args:
      only: the type of these errors; by default what `is_for_the_user` says.
    """
    try:
        yield
    except Exception as error:
        if not (is_for_the_user(error) if only is None else isinstance(error, only)):
            raise
        logging.debug("Traceback:", exc_info=True)
        sys.exit(f"{type(error).__name__}: {error}")


def needs(package: str, extra: str) -> None:
    """End the command if a package of an extra is not installed."""
    if importlib.util.find_spec(package) is None:
        sys.exit(
            f"This needs the package {package}, which comes with an extra: in the project's folder "
            f"run pip install -e '.[{extra}]'."
        )


def define_gin_flags() -> None:
    """Define the flags that `parse_gin` reads."""
    flags.DEFINE_multi_string(
        "gin_file", None, "Recipe, such as gin/pretrain/k400.gin.", required=True
    )
    flags.DEFINE_multi_string(
        "gin_param", [], "One parameter, such as \"DATA_DIR='records/k400'\"."
    )


def parse_gin(more: Sequence[str] = ()) -> None:
    """Parse the recipes and the parameters that the flags give.

    Paths are relative to the current folder or, if there is no such file, to `files.project`, so
    gin/demo/pretrain.gin is found from everywhere.

    Args:
      more: parameters that come after those of the flags.

    Raises:
      ValueError: a parameter sets a macro that the recipes don't have. And what gin raises.
    """
    gin.add_config_file_search_path(str(files.project()))
    recipes, parameters = flags.FLAGS.gin_file, [*flags.FLAGS.gin_param, *more]
    try:
        gin.parse_config_files_and_bindings(recipes, [], finalize_config=False)
        _check_macros(parameters)
        gin.parse_config_files_and_bindings([], parameters)
    except Exception as error:
        if hints := _new_names([*recipes, *parameters]):
            raise ValueError(f"{error}\nRenamed: {'; '.join(hints)}.") from error
        raise
    _resolve_checkpoint()


def _check_macros(parameters: Sequence[str]) -> None:
    """Raise a ValueError if a parameter sets a macro that the parsed recipes don't have."""
    config = gin.config_str()
    known = {*re.findall(r"^(\w+) = ", config, re.M), *re.findall(r"%(\w+)\b(?!\.)", config)}
    for name in re.findall(r"^\s*(\w+)\s*=", "\n".join(parameters), re.MULTILINE):
        if name not in known:
            near = difflib.get_close_matches(name, known, 1) or sorted(known)
            raise ValueError(
                f"--gin_param={name}=...: the recipe has no such macro. It has {', '.join(near)}."
            )


def _new_names(files_and_parameters: Sequence[str]) -> list[str]:
    """Say what has taken the place of old names in recipes and parameters; see `renamed`."""
    paths = map(Path, files_and_parameters)
    texts = [path.read_text() if path.is_file() else str(path) for path in paths]
    hints = []
    for old, new in (renamed.GIN | renamed.MODULES).items():
        module, _, name = old.rpartition(".")
        used = rf"\b{re.escape(old)}\b|from {re.escape(module)} import {name}\b"
        if any(re.search(used, text) for text in texts):
            hints.append(f"{old} is {new} now")
    return hints


def _resolve_checkpoint() -> None:
    """Replace the macro CHECKPOINT by the checkpoint that it means now.

    A run's folder means its latest checkpoint, which may be another one a moment later.
    """
    from cvrl_tf import checkpoints  # not needed for --help, and it brings TensorFlow

    try:
        path = gin.query_parameter("CHECKPOINT/gin.macro.value")
    except ValueError:  # the recipe has none
        return
    if isinstance(path, str):
        with gin.unlock_config():
            gin.bind_parameter("CHECKPOINT/gin.macro.value", checkpoints.resolve(path))


def define_module_flag() -> None:
    """Define the flag that `import_modules` reads."""
    flags.DEFINE_multi_string(
        "module", [], "Module of yours with the run's encoder or head, such as mine.encoders."
    )


def import_modules() -> None:
    """Import the modules that the flag names, which register their classes.

    Raises:
      ValueError: there is no such module.
    """
    for name in flags.FLAGS.module:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"--module={name}: {error}. Run from the folder that has it, or set PYTHONPATH."
            ) from error


def define_embedder_flags() -> None:
    """Define the flags of commands that embed videos; see `embedder_arguments`."""
    flags.DEFINE_string("model", None, "Folder that cvrl_tf.export wrote.", required=True)
    flags.DEFINE_integer(
        "num_clips", None, "Clips of a video; by default those of the export.", lower_bound=1
    )
    flags.DEFINE_enum(
        "num_crops", None, ["1", "3"], "Crops of a clip; by default those of the export."
    )
    flags.DEFINE_integer(
        "batch", 32, "Number of clips that the model sees at a time.", lower_bound=1
    )
    flags.DEFINE_bool(
        "keep_truncated", False, "Take what decodes of a truncated video; by default it is refused."
    )
    flags.DEFINE_integer(
        "workers",
        joblib.cpu_count(),
        "Number of decoding processes; by default one for every core.",
        lower_bound=1,
    )


def embedder_arguments() -> dict[str, Any]:
    """Return the arguments of `inference.embedder.Embedder` by name."""
    crops = flags.FLAGS.num_crops
    return {
        "model": flags.FLAGS.model,
        "num_clips": flags.FLAGS.num_clips,
        "num_crops": crops and int(crops),
        "batch": flags.FLAGS.batch,
        "keep_truncated": flags.FLAGS.keep_truncated,
    }


def start(argv: list[str]) -> None:
    """Set the verbosity, and end the command if there are arguments that are no flags."""
    if not flags.FLAGS["verbosity"].present:  # on the command line; absl changes the value itself
        logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        sys.exit(f'Unknown arguments {argv[1:]}; parameters go into --gin_param="name=value".')


# The flags belong to the command that asks for them, and its --help shows them.
flags.disclaim_key_flags()
