"""What the commands that parse gin share: flags, parsing, and errors a person can act on."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

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


def start(argv: list[str]) -> None:
    """To be called first: ends the command if there are arguments that are no flags."""
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        sys.exit(f'Unknown arguments {argv[1:]}; parameters go into --gin_param="name=value".')
