"""What the commands that parse gin share: flags, parsing, and errors a person can act on."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import gin
from absl import flags, logging

_GIN_FILES = flags.DEFINE_multi_string(
    "gin_file", None, "Recipe, such as gin/pretrain/k400.gin; may be repeated.", required=True
)
_GIN_PARAMS = flags.DEFINE_multi_string(
    "gin_param", [], "One parameter, such as \"DATA_DIR='records/k400'\"; may be repeated."
)


@contextlib.contextmanager
def configured() -> Iterator[None]:
    """Parses the recipe; whatever is wrong with it, or with what is built inside, ends the command.

    Such an error is the user's to mend, so it is shown without a traceback (which `-v=1` prints).
    """
    try:
        gin.add_config_file_search_path(str(Path(__file__).parents[1]))  # for `include 'gin/...'`
        gin.parse_config_files_and_bindings(_GIN_FILES.value, _GIN_PARAMS.value)
        yield
    except Exception as error:
        logging.debug("Where it came from:", exc_info=True)
        sys.exit(f"{type(error).__name__}: {error}")


def refuse_extra(argv: list[str]) -> None:
    """Ends the command if there are arguments that are no flags."""
    if len(argv) > 1:
        sys.exit(f"Unknown arguments {argv[1:]}; parameters go into --gin_param=\"name=value\".")
