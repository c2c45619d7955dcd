"""What `.ci/structure.py` counts, on modules of known sizes."""

import importlib.util
import re
import sys
from types import ModuleType

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def structure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("structure", ROOT / ".ci" / "structure.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["structure"] = module  # where dataclasses look for the types of their fields
    spec.loader.exec_module(module)
    return module


def found(structure: ModuleType, name: str, **modules: str) -> tuple[float, list[str], bool]:
    """The value, the places and the verdict of a row, for modules of cvrl_tf by their names."""
    sources = {f"cvrl_tf/{path.replace('__', '/')}.py": text for path, text in modules.items()}
    (row,) = (row for row in structure.measure(sources) if name in row.name)
    return row.value, row.places, row.is_over


def function(lines: int) -> str:
    return "\n".join(["def f() -> None:", '    """Do it.', "", '    Long."""', *["    1"] * lines])


def test_lines_do_not_count_docstrings(structure: ModuleType) -> None:
    name = "lines of a function, maximum"
    assert found(structure, name, a=function(69))[::2] == (70, False)
    assert found(structure, name, a=function(70))[1:] == (["cvrl_tf/a.py:1 f: 71"], True)
    assert found(structure, name, a=f"class C:\n    @d\n    {function(1)[:16]}\n        1") == (
        2, ["cvrl_tf/a.py:3 C.f: 2"], False
    )  # fmt: skip
    assert found(structure, "lines of a file", a=function(347))[1:] == (["cvrl_tf/a.py: 351"], True)


def test_nested_functions_count_to_their_parents_too(structure: ModuleType) -> None:
    source = function(3) + "\n    " + function(2).replace("\n", "\n    ")
    name = "lines of a function, maximum"
    assert found(structure, name, a=source)[:2] == (7, ["cvrl_tf/a.py:1 f: 7"])


def test_90_percent_of_the_functions_are_not_longer(structure: ModuleType) -> None:
    source = "\n".join(function(lines) for lines in range(1, 21))
    assert found(structure, "90th percentile", a=source)[0] == 19  # functions have 2 to 21 lines


def test_parameters(structure: ModuleType) -> None:
    many = "a, b, c, /, d, e, f, *args, g, h, **kwargs"  # 10
    name = "parameters of a function"
    assert found(structure, name, a=f"def f({many}): 1")[::2] == (10, True)
    assert found(structure, name, a=f"class C:\n    def f(self, {many}): 1")[0] == 10
    assert found(structure, name, a="class C:\n    @staticmethod\n    def f(a): 1")[0] == 1


def test_constructors_of_models_are_configurations(structure: ModuleType) -> None:
    many = ", ".join(f"a{i}" for i in range(12))
    base = "class B(keras.Model):\n    def f(self, a): 1"
    model = f"from cvrl_tf.models.base import B\nclass C(B):\n    def __init__(self, {many}): 1"
    name = "parameters of a function"
    assert found(structure, name, models__base=base, models__net=model)[0] == 1
    assert found(structure, name, models__base=base, tasks__net=model)[0] == 12
    assert found(structure, name, models__net=f"class C:\n    def f(self, {many}): 1")[0] == 12


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(a: int) -> int: 1", 0),
        ("def f(a) -> int: 1", 1),
        ("def f(a: int): 1", 1),
        ("def f(*a, **b: int) -> int: 1", 1),
        ("def _f(a): 1", 0),
        ("def f() -> None:\n    def g(a): 1", 0),
        ("class C:\n    def __init__(self, a: int): 1\n    def g(self, a: int): 1", 1),
        ("class _C:\n    def f(self, a): 1", 0),
    ],
)
def test_type_hints_of_public_functions(structure: ModuleType, source: str, count: int) -> None:
    value, places, is_over = found(structure, "type hints", a=source)
    assert value == len(places) == count and is_over == bool(count)


def test_import_cycles(structure: ModuleType) -> None:
    modules = {
        "a": "from cvrl_tf import b",
        "b": "import cvrl_tf.c.d",
        "c__d": "def f():\n    from cvrl_tf.a import x",
        "e": "from cvrl_tf.a import x",
    }
    cycle = ["cvrl_tf.a, cvrl_tf.b, cvrl_tf.c.d"]
    assert found(structure, "import cycles", **modules) == (1, cycle, True)
    assert found(structure, "import cycles", **{**modules, "b": ""}) == (0, [], False)


def test_fields_of_dataclasses(structure: ModuleType) -> None:
    source = (
        "@dataclasses.dataclass\nclass C:\n    a: int\n    b: int = 1\n    c: ClassVar[int] = 2"
    )
    assert found(structure, "fields", a=source) == (2, ["cvrl_tf/a.py:2 C: 2"], False)


def test_the_table_names_the_offenders(structure: ModuleType) -> None:
    text = structure.show(structure.measure({"cvrl_tf/a.py": function(70)}))
    assert re.search(r"\nlines of a function, maximum +71 +70\n", text)
    assert "Over the bound, lines of a function, maximum:\n  cvrl_tf/a.py:1 f: 71" in text


def test_a_revision_can_be_measured(structure: ModuleType) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    assert "cvrl_tf/__init__.py" in structure.read_revision("HEAD")
