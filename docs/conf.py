"""The documentation as a site: `make docs`."""

import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

from sphinx.util.inspect import stringify_signature

import cvrl_tf  # noqa: F401  (before TensorFlow: it chooses the Keras)

# isort: split
sys.path.insert(0, str(Path(__file__).parent))
import gin_reference

project = html_title = "cvrl_tf"
html_theme = "furo"
html_show_copyright = False
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["diffs", "notebooks"]
myst_heading_anchors = 3
default_role = "code"  # docstrings write `code` as Markdown does
napoleon_use_rtype = False
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False  # Keras would fill its models with its own


def indent_arguments(app: Any, what: str, name: str, obj: Any, options: Any, lines: list) -> None:
    """A docstring of `Args:` alone has lost its indentation, by which it is read."""
    for number, line in enumerate(lines):
        rest = lines[number + 1 :]
        if line == "Args:" and rest and not rest[0].startswith(" "):
            lines[number + 1 :] = textwrap.indent("\n".join(rest), "    ").splitlines()


def own_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    """Of `__init__`, which Keras hides behind a `__new__` of its own."""
    if what != "class" or "self" not in inspect.signature(obj.__init__).parameters:
        return None
    _, *parameters = inspect.signature(obj.__init__).parameters.values()
    return stringify_signature(inspect.Signature(parameters), unqualified_typehints=True), ""


# Pages of which a part comes out of the code, in place of `<!-- generated -->`.
GENERATED = {"gin_reference": gin_reference.reference, "migration": gin_reference.renamings}


def fill_generated_pages(app: Any, docname: str, source: list[str]) -> None:
    if docname in GENERATED:
        source[0] = source[0].replace("<!-- generated -->", GENERATED[docname]())


def setup(app: Any) -> None:
    app.connect("env-get-outdated", lambda *_: list(GENERATED))
    app.connect("source-read", fill_generated_pages)
    app.connect("autodoc-process-docstring", indent_arguments, priority=100)
    app.connect("autodoc-process-signature", own_signature)
