"""The locks: a hash for each file, no index, and the versions of the constraints."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

CONSTRAINTS = {"addons": "constraints-addons.txt"}
EXTRAS = {
    "runtime": ("search", "serve"),
    "gpu": ("search", "serve", "gpu"),
    "dev": ("test", "dev", "docs", "search", "serve", "beam"),
    "addons": ("addons", "test"),
}
PIN = re.compile(r"^([\w.-]+)(?:\[[\w,-]+\])?==([\w.!+-]+)(?: ; ([^\\]+))? \\$", re.MULTILINE)


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str) -> dict[str, str]:
    """Versions by package, without those for other systems than Linux."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    pins = PIN.findall(text)
    other = re.compile(r"sys_platform == '(?!linux)")
    return {normalized(n): v for n, v, marker in pins if not other.search(marker)}


def constrained(name: str) -> dict[str, str]:
    lines = (ROOT / CONSTRAINTS.get(name, "constraints.txt")).read_text().split()
    return {normalized(n): v for n, v in (line.split("==") for line in lines)}


@pytest.mark.parametrize("name", EXTRAS)
def test_each_package_has_hashes_and_nothing_else(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    for part in re.split(r"\n(?=\S)", text.strip()):
        head, *hashes = part.split("\n")
        assert PIN.match(f"{head}\n"), head
        assert hashes and all(re.fullmatch(r"    --hash=sha256:\w{64}( \\)?", h) for h in hashes)


@pytest.mark.parametrize("name", EXTRAS)
def test_locks_and_constraints_agree(name: str) -> None:
    """Or make one of them again: `make lock`."""
    found, wanted = locked(name), constrained(name)
    assert {n: v for n, v in found.items() if wanted.get(n, v) != v} == {}
    unbound = {n for n in found.keys() - wanted.keys() if not n.startswith("nvidia-")}
    assert unbound == set()
    if name == "dev":
        assert wanted.keys() - found.keys() == set()


@pytest.mark.parametrize("name", EXTRAS)
def test_every_dependency_is_locked(name: str) -> None:
    """What setup.cfg asks for; if one is new, `make lock`."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"]]
    lists += [config["options.extras_require"][extra] for extra in EXTRAS[name]]
    asked = re.findall(r"^([\w.-]+)", "\n".join(lists).replace(" ", ""), re.MULTILINE)
    assert {normalized(each) for each in asked} - locked(name).keys() == set()


def test_the_image_holds_what_it_copies(tmp_path: Path) -> None:
    dockerfile, ignored = ((ROOT / n).read_text() for n in ("Dockerfile", ".dockerignore"))
    sources = [p for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.M) for p in line.split()]
    assert len(sources) > 5
    for source in sources:
        assert (ROOT / source).exists() and f"!{source}\n" in ignored, source
    assert re.search(r"^FROM \S+@sha256:\w{64}$", dockerfile, re.MULTILINE)
    built = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/installed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--require-hashes -r requirements/dev.lock" in built.stdout
