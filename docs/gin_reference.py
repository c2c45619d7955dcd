"""What recipes may bind, out of the recipes and the code: docs/gin_reference.md, docs/migration.md.

`docs/conf.py` puts the text into the pages when the site is built, so it can't go stale.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gin import config_parser

from cvrl_tf import renamed

ROOT = Path(__file__).parents[1]
_NO_DEFAULT = inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of something that gin builds.

    Attributes:
      name, kind: as the signature has them; the kind is the annotation.
      default: Python's text of it; None if it must be given.
      text: of the docstring; empty if it says nothing.
    """

    name: str
    kind: str
    default: str | None
    text: str


@dataclasses.dataclass(frozen=True)
class Configurable:
    """A class or function that a recipe binds.

    Attributes:
      name: as recipes write it, "settings.Validation".
      path: "cvrl_tf.training.settings.Validation".
      summary: first sentence of the docstring.
      parameters: in the order of the signature.
    """

    name: str
    path: str
    summary: str
    parameters: tuple[Parameter, ...]

    @property
    def ours(self) -> bool:
        return self.path.startswith("cvrl_tf.")


class _Collector(config_parser.ParserDelegate):
    """Notes what a recipe refers to by `@`."""

    def __init__(self) -> None:
        self.referred: set[str] = set()

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> str:
        self.referred.add(scoped_name.rpartition("/")[2])
        return f"@{scoped_name}" + "()" * evaluate

    def macro(self, name: str) -> str:
        return f"%{name}"


def _statements(recipe: Path, collector: _Collector) -> list[Any]:
    with recipe.open() as file:
        return list(config_parser.ConfigParser(file, collector))


def _recipes() -> list[Path]:
    return sorted((ROOT / "gin").rglob("*.gin"))


def configurables() -> list[Configurable]:
    """What recipes bind or refer to, by module and name."""
    modules: dict[str, str] = {}
    bound: dict[str, set[str]] = {}
    for recipe in _recipes():
        collector = _Collector()
        for statement in _statements(recipe, collector):
            if isinstance(statement, config_parser.ImportStatement):
                modules[statement.bound_name()] = statement.module
            elif isinstance(statement, config_parser.BindingStatement) and statement.arg_name:
                bound.setdefault(statement.selector, set()).add(statement.arg_name)
        for name in collector.referred:
            bound.setdefault(name, set())
    found = [_described(name, modules, names) for name, names in bound.items()]
    return sorted(found, key=lambda each: (not each.ours, each.path))


def _described(name: str, modules: dict[str, str], bound: set[str]) -> Configurable:
    alias, _, rest = name.partition(".")
    thing: Any = importlib.import_module(modules[alias])
    if modules[alias].partition(".")[0] == alias:  # `import tf_keras`
        thing = importlib.import_module(alias)
    for part in rest.split("."):
        thing = getattr(thing, part)
    path = f"{modules[alias]}.{rest}"
    signature = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)
    texts = _texts(thing)
    parameters = [
        Parameter(
            each.name,
            _kind(each.annotation),
            None if each.default is _NO_DEFAULT else repr(each.default),
            texts.get(each.name, ""),
        )
        for each in signature.parameters.values()
        if each.name not in ("self", "kwargs")
        and (path.startswith("cvrl_tf.") or each.name in bound)
    ]
    missing = bound - {each.name for each in parameters}
    if missing:
        raise ValueError(f"Recipes bind {name}.{missing.pop()}, which is no parameter of {path}.")
    summary = re.split(r"(?<=\.)\s", inspect.getdoc(thing) or "", maxsplit=1)[0]
    return Configurable(name, path, " ".join(summary.split()), tuple(parameters))


def _kind(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(annotation))


def _texts(thing: Any) -> dict[str, str]:
    """What a docstring, of a class also that of `__init__` and of its bases, says of parameters."""
    if not inspect.isclass(thing):
        return _entries(inspect.getdoc(thing) or "")
    texts: dict[str, str] = {}
    for each in reversed(thing.__mro__[:-1]):
        for documented in (each, each.__dict__.get("__init__")):
            inherited = dict(texts)
            for name, text in _entries(inspect.cleandoc(documented.__doc__ or "")).items():
                referring = text.startswith("see `") and name in inherited
                texts[name] = inherited[name] if referring else text
    return texts


def _entries(docstring: str) -> dict[str, str]:
    """The entries of `Args:` and `Attributes:`, by name."""
    entries: dict[str, str] = {}
    section, indent, names = False, None, []
    for line in docstring.splitlines():
        depth = len(line) - len(line.lstrip())
        if re.fullmatch(r"\s*(Args|Attributes):", line):
            section, indent = True, None
        elif not line.strip():
            names = []
        elif section and re.fullmatch(r"(Returns|Raises|Yields):", line.strip()):
            section = False
        elif section:
            indent = depth if indent is None else indent
            head = re.match(r"\s*([\w*, ]+): +(.*)", line) if depth == indent else None
            if head:
                names = [name.strip() for name in head[1].split(",")]
                entries |= {name: head[2] for name in names}
            elif depth > indent:
                entries |= {name: f"{entries[name]} {line.strip()}" for name in names}
            else:
                section = False
    return entries


def macros() -> dict[str, tuple[str, str, list[str]]]:
    """The macros: their first value in gin/common, what is said of it, and files that set them."""
    found: dict[str, tuple[str, str, list[str]]] = {}
    in_common_first = sorted(_recipes(), key=lambda path: (path.parts[-2] != "common", str(path)))
    for recipe in sorted(in_common_first, key=lambda path: path.name != "run.gin"):
        for line in recipe.read_text().splitlines():
            if match := re.match(r"([A-Z][A-Z_0-9]*) = ([^#]*?)\s*(?:# (.*))?$", line):
                name, value, comment = match[1], match[2], match[3] or ""
                files = found.setdefault(name, (value, comment, []))[2]
                files.append(str(recipe.relative_to(ROOT)))
    return dict(sorted(found.items()))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), ["---" for _ in head], *([_cell(each) for each in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def reference() -> str:
    """Macros and parameters, as Markdown."""
    parts = [
        "## Macros\n",
        _table(
            ["macro", "value", "what", "set in"],
            (
                [f"`{name}`", f"`{value}`", comment, _files(files)]
                for name, (value, comment, files) in macros().items()
            ),
        ),
    ]
    module = ""
    for each in configurables():
        owner = each.path.rpartition(".")[0] if each.ours else "Of other libraries"
        if owner != module:
            module = owner
            parts.append(f"## {f'`{module}`' if each.ours else module}\n")
        parts.append(f"### `{each.name}`\n")
        if each.ours:
            parts.append(f"{each.summary}\n")
        else:
            parts.append(f"`{each.path}`; only what recipes bind of it is listed here.\n")
        if each.parameters:
            parts.append(
                _table(
                    ["parameter", "type", "default", "what"],
                    (
                        [
                            f"`{p.name}`",
                            p.kind and f"`{p.kind}`",
                            "required" if p.default is None else f"`{p.default}`",
                            p.text,
                        ]
                        for p in each.parameters
                    ),
                )
            )
    return "\n".join(parts)


def _files(files: list[str]) -> str:
    shown = ", ".join(f"`{file}`" for file in files[:2])
    return shown + (f" and {len(files) - 2} more" if len(files) > 2 else "")


def renamings() -> str:
    """What is called otherwise now, as Markdown tables."""
    new_owners = set(renamed.GIN.values())
    half_renamed = {old for old in renamed.GIN if old.rpartition(".")[0] in new_owners}
    parts = []
    for title, names in (
        ("Gin parameters", {k: v for k, v in renamed.GIN.items() if k not in half_renamed}),
        ("Modules", renamed.MODULES),
        ("Python names", renamed.PYTHON),
        ("Flags", renamed.FLAGS),
    ):
        rows = ([f"`{old}`", f"`{new}`"] for old, new in names.items())
        parts.append(f"## {title}\n\n{_table(['old', 'new'], rows)}")
    return "\n".join(parts)
