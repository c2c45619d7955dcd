"""What the commands that parse gin share: flags, parsing, and errors a person can act on."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gin
from absl import flags, logging

# Before TensorFlow is imported: its start-up notes would bury what a command has to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def explained(error_type: type[Exception] = Exception) -> Iterator[None]:
    """Ends the command on such an error, which is the user's to mend, so without a traceback.

    `--verbosity=1` prints where it came from.
    """
    try:
        yield
    except error_type as error:
        logging.debug("Where it came from:", exc_info=True)
        sys.exit(f"{type(error).__name__}: {error}")


def needs(package: str, extra: str) -> None:
    """Ends the command if a package is not there, which an extra of the project brings."""
    if importlib.util.find_spec(package) is None:
        sys.exit(
            f"This needs the package {package}, which comes with an extra: in the project's folder "
            f"run pip install -e '.[{extra}]'."
        )


def define_gin_flags() -> None:
    """The flags that `parse_gin` reads."""
    flags.DEFINE_multi_string(
        "gin_file", None, "Recipe, such as gin/pretrain/k400.gin; may be repeated.", required=True
    )
    flags.DEFINE_multi_string(
        "gin_param", [], "One parameter, such as \"DATA_DIR='records/k400'\"; may be repeated."
    )


def parse_gin() -> None:
    """Parses the recipe and the parameters that the flags give."""
    gin.add_config_file_search_path(str(Path(__file__).parents[1]))  # for `include 'gin/...'`
    gin.parse_config_files_and_bindings(flags.FLAGS.gin_file, flags.FLAGS.gin_param)
    _resolve_checkpoint()


def _resolve_checkpoint() -> None:
    """Replace the macro CHECKPOINT by the checkpoint that it means now.

    A run's folder means its latest checkpoint, which may be another one a moment later.
    """
    from cvrl_tf import checkpoints

    try:
        path = gin.query_parameter("CHECKPOINT/gin.macro.value")
    except ValueError:  # the recipe has none
        return
    if isinstance(path, str):
        with gin.unlock_config():
            gin.bind_parameter("CHECKPOINT/gin.macro.value", checkpoints.resolve(path))


def define_embedder_flags() -> None:
    """The flags of commands that put videos through an export; see `embedder_arguments`."""
    flags.DEFINE_string("model", None, "Folder that cvrl_tf.export wrote.", required=True)
    flags.DEFINE_integer(
        "num_clips", None, "Of a video, if not as the export has it.", lower_bound=1
    )
    flags.DEFINE_enum("num_crops", None, ["1", "3"], "Of a clip, if not as the export has it.")
    flags.DEFINE_integer("batch", 32, "Clips that the model sees at a time.", lower_bound=1)
    flags.DEFINE_integer(
        "workers",
        len(os.sched_getaffinity(0)),
        "Processes that decode; by default one for every core.",
        lower_bound=1,
    )


def embedder_arguments() -> dict[str, Any]:
    """What `embedding.Embedder` wants, by name."""
    crops = flags.FLAGS.num_crops
    return {
        "model": flags.FLAGS.model,
        "num_clips": flags.FLAGS.num_clips,
        "num_crops": crops and int(crops),
        "batch": flags.FLAGS.batch,
    }


def start(argv: list[str]) -> None:
    """To be called first: ends the command if there are arguments that are no flags."""
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        sys.exit(f'Unknown arguments {argv[1:]}; parameters go into --gin_param="name=value".')
