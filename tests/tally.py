"""Counts what each attack tried and what survived it.

Every attack is a slow test with a short form, which `make test-slow` runs, and a long one, which
`make attack` runs. docs/reliability.md holds the figures of the long ones.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

LONG = bool(os.environ.get("CVRL_TF_LONG_ATTACKS"))  # reaches the workers of pytest-xdist as well


class Tally:
    """What an attack tried, and what did not survive."""

    def __init__(self) -> None:
        self.tried = 0
        self.lost: list[str] = []

    def attempts(self, short: int, long: int) -> range:
        """Returns the numbers of the attempts: so many in CI, so many in `make attack`."""
        return range(long if LONG else short)

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Counts an attempt, which is lost if its block raises; the attack goes on.

        Args:
          what: Name of the attempt, with what it takes to repeat it, such as a seed.
        """
        self.tried += 1
        try:
            yield
        except Exception as error:
            self.lost.append(f"{what}: {type(error).__name__}: {error}")


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Iterator[Tally]:
    """Counts attempts; the test fails at its end if one was lost or none was made."""
    counts = Tally()
    yield counts
    record_property("attack", [counts.tried, counts.tried - len(counts.lost)])
    assert counts.tried
    assert not counts.lost, "\n".join(counts.lost)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures as the table of docs/reliability.md."""
    reports = [
        report
        for key in ("", "failed", "error")
        for report in terminalreporter.getreports(key)
        if isinstance(report, pytest.TestReport)  # not one of a file that can't be imported
    ]
    rows = {
        report.nodeid: dict(report.user_properties)["attack"]
        for report in reports
        if "attack" in dict(report.user_properties)
    }
    if rows:
        terminalreporter.section("attacks: tried, survived")
        for name, (tried, survived) in sorted(rows.items()):
            terminalreporter.write_line(f"| {name.rpartition('/')[2]} | {tried} | {survived} |")
