"""Measure the sizes that the house style bounds, and name what is over them.

    python .ci/structure.py             # cvrl_tf and tools as they are
    python .ci/structure.py REVISION    # as they were in a commit

Exits with 1 if anything is over its bound. Reads the syntax trees alone and imports nothing.
"""

import argparse
import ast
import dataclasses
import io
import math
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cvrl_tf", "tools")
MODELS = "cvrl_tf/models/"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Sources = Mapping[str, str]  # text by path, such as "tools/demo.py"


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      name: what is measured.
      value: the measured number.
      bound: the largest accepted number; None for a row that is only printed.
      places: where it was found; one place for a maximum, every offender for a count.
    """

    name: str
    value: float
    bound: float | None
    places: list[str]

    @property
    def is_over(self) -> bool:
        return self.bound is not None and self.value > self.bound


@dataclasses.dataclass(frozen=True)
class Definition:
    """A function or method, nested ones included.

    Attributes:
      name: with its path and class, such as "cvrl_tf/train.py:15 main".
      node: its syntax tree.
      is_public: whether neither it nor what surrounds it has a leading underscore.
      is_method: whether its first parameter is the object or class.
      is_configuration: whether it makes a Keras model or layer of cvrl_tf/models, whose parameters
        are the configuration that Keras saves.
    """

    name: str
    node: Function
    is_public: bool
    is_method: bool
    is_configuration: bool

    @property
    def lines(self) -> int:
        """The number of lines, without docstrings and decorators."""
        end = self.node.end_lineno or self.node.lineno
        docstrings = [_docstring_lines(node) for node in ast.walk(self.node)]
        return end - self.node.lineno + 1 - sum(docstrings)

    @property
    def parameters(self) -> list[ast.arg]:
        """All parameters but `self` and `cls`; *args and **kwargs are one each."""
        args = self.node.args
        named = [*args.posonlyargs, *args.args][self.is_method :] + args.kwonlyargs
        return named + [arg for arg in (args.vararg, args.kwarg) if arg]

    @property
    def is_hinted(self) -> bool:
        """Whether all parameters and the result have types; the result of __init__ needs none."""
        has_result = self.node.returns is not None or self.node.name == "__init__"
        return has_result and all(arg.annotation for arg in self.parameters)


def read_folder() -> dict[str, str]:
    """Return the sources as they are."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def read_revision(revision: str) -> dict[str, str]:
    """Return the sources of a commit.

    Raises:
      subprocess.CalledProcessError: git does not know it.
    """
    command = ["git", "-C", str(ROOT), "archive", revision, *FOLDERS]
    archive = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    sources = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            file = files.extractfile(member)
            if file and member.name.endswith(".py"):
                sources[member.name] = file.read().decode()
    return sources


def measure(sources: Sources) -> list[Row]:
    """Return the rows of the table."""
    trees = {path: ast.parse(text, path) for path, text in sources.items()}
    lines = {path: len(text.splitlines()) for path, text in sources.items()}
    definitions = [each for path, tree in trees.items() for each in _definitions(path, tree, trees)]
    sizes = {each.name: each.lines for each in definitions}
    parameters = {e.name: len(e.parameters) for e in definitions if not e.is_configuration}
    unhinted = [each.name for each in definitions if each.is_public and not each.is_hinted]
    cycles = _cycles(_imports(trees))
    fields = dict(_fields_of_dataclasses(trees))
    # The smallest size that 90 % of the functions do not exceed.
    ninth = sorted(sizes.values())[math.ceil(0.9 * len(sizes)) - 1] if sizes else 0
    return [
        _largest("lines of a file, maximum", lines, 350),
        dataclasses.replace(
            _largest("lines of a function, 90th percentile", sizes, 32), value=ninth
        ),
        _largest("lines of a function, maximum", sizes, 70),
        _largest("parameters of a function, maximum", parameters, 9),
        Row("public functions without all type hints", len(unhinted), 0, unhinted),
        Row("import cycles", len(cycles), 0, cycles),
        _largest("fields of a dataclass, maximum", fields, None),
    ]


def show(rows: list[Row]) -> str:
    """Return the table as text, with the offenders under it."""
    table = [f"{'':<42}{'found':>7}{'bound':>7}"]
    for row in rows:
        bound = "" if row.bound is None else f"{row.bound:g}"
        example = row.places[0] if len(row.places) == 1 and not row.is_over else ""
        table.append(f"{row.name:<42}{row.value:>7g}{bound:>7}  {example}".rstrip())
    for row in rows:
        if row.is_over:
            table.append(f"Over the bound, {row.name}:")
            table += [f"  {place}" for place in row.places]
    return "\n".join(table)


def _largest(name: str, numbers: Mapping[str, int], bound: int | None) -> Row:
    """Return a row of the maximum, which names every place over the bound, the worst first."""
    ranked = sorted(numbers.items(), key=lambda item: -item[1])
    over = [item for item in ranked if bound is not None and item[1] > bound]
    places = [f"{place}: {number}" for place, number in over or ranked[:1]]
    return Row(name, ranked[0][1] if ranked else 0, bound, places)


def _docstring_lines(node: ast.AST) -> int:
    if not isinstance(node, Function | ast.ClassDef) or ast.get_docstring(node) is None:
        return 0
    docstring = node.body[0]
    return (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1


def _definitions(path: str, tree: ast.Module, trees: Mapping[str, ast.Module]) -> list[Definition]:
    """Return all functions of a module."""
    layers = _layer_classes(trees) if path.startswith(MODELS) else set()
    found: list[Definition] = []

    def visit(node: ast.AST, names: tuple[str, ...], is_public: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, Function | ast.ClassDef):
                visit(child, names, is_public)
                continue
            name = child.name
            is_dunder = name.startswith("__") and name.endswith("__")
            public = is_public and (is_dunder or not name.startswith("_"))
            if isinstance(child, Function):
                static = any("staticmethod" in ast.dump(each) for each in child.decorator_list)
                is_init = name == "__init__" and bool(names) and names[-1] in layers
                method = isinstance(node, ast.ClassDef) and not static
                full = f"{path}:{child.lineno} {'.'.join([*names, name])}"
                found.append(Definition(full, child, public, method, is_init))
                public = False  # what is defined inside is not public
            visit(child, (*names, name), public)

    visit(tree, (), True)
    return found


def _layer_classes(trees: Mapping[str, ast.Module]) -> set[str]:
    """Return the names of the classes in cvrl_tf/models that derive from Keras's."""
    bases = {
        node.name: [ast.unparse(base) for base in node.bases]
        for path, tree in trees.items()
        if path.startswith(MODELS)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }

    def derives(name: str) -> bool:
        is_keras = name.startswith(("keras.", "tf_keras.", "tf.keras."))
        last = name.rpartition(".")[2]
        return is_keras or any(derives(base) for base in bases.get(last, []) if base != name)

    return {name for name in bases if derives(name)}


def _imports(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return which of our modules each imports, inside functions too."""
    modules = {_module_name(path): tree for path, tree in trees.items()}
    imports: dict[str, set[str]] = {}
    for name, tree in modules.items():
        wanted = [each for node in ast.walk(tree) for each in _imported_names(node)]
        # `from a import b` is the module a.b, or something in the module a.
        exact = {each for each in wanted if each in modules}
        inside = {e.rpartition(".")[0] for e in wanted if e not in modules}
        imports[name] = (exact | (inside & modules.keys())) - {name}
    return imports


def _imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _cycles(imports: Mapping[str, set[str]]) -> list[str]:
    """Return the groups of modules that import each other, over others or at once."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = imports[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reached = {name: reach(name) for name in imports}
    groups = {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in imports
        if name in reached[name]
    }
    return sorted(", ".join(sorted(group)) for group in groups)


def _fields_of_dataclasses(trees: Mapping[str, ast.Module]) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of fields of each dataclass."""
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            if not any("dataclass" in ast.unparse(each) for each in node.decorator_list):
                continue
            fields = [s for s in node.body if isinstance(s, ast.AnnAssign)]
            fields = [s for s in fields if "ClassVar" not in ast.unparse(s.annotation)]
            yield f"{path}:{node.lineno} {node.name}", len(fields)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", nargs="?", help="commit to measure instead of the files here")
    revision = parser.parse_args().revision
    rows = measure(read_revision(revision) if revision else read_folder())
    print(show(rows))
    sys.exit(any(row.is_over for row in rows))


if __name__ == "__main__":
    main()
