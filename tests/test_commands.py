"""Mistakes of the user end in a sentence, bugs in a traceback."""

import logging
from pathlib import Path

import gin
import pytest

from cvrl_tf import commands
from cvrl_tf.data import clips

HEAD = "from __gin__ import dynamic_registration\nfrom cvrl_tf.data import clips\n"


@pytest.fixture(autouse=True)
def fresh_gin() -> None:
    gin.clear_config()


def build(config: str) -> None:
    gin.parse_config(HEAD + config)
    gin.get_configurable(clips.EvenClips)()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("clips.EvenClips.stride = 2", "TypeError: .*missing .*'num_frames'"),
        ("clips.EvenClips.strides = 2", "ValueError: .*no parameter|doesn't have a parameter"),
        ("clips.EvenClips.stride = %NOT_THERE", "missing"),
        ("clips.EvenClips.stride = = 2", "SyntaxError: Unable to parse"),
        ("clips.NoClips.stride = 2", "AttributeError: .*no attribute NoClips"),
        ("from cvrl_tf.data import no_such", "no_such"),
        ("include 'no_such.gin'", "no_such.gin"),
    ],
)
def test_mistakes_in_a_recipe(config: str, said: str) -> None:
    with pytest.raises(SystemExit, match=said), commands.explained():
        build(config)


def test_wrong_values_and_files() -> None:
    with pytest.raises(SystemExit, match="ValueError: batch=3"), commands.explained():
        raise ValueError("batch=3 is odd.")
    with pytest.raises(SystemExit, match="FileNotFoundError: .*nowhere"), commands.explained():
        Path("nowhere").read_text()


@pytest.mark.parametrize(
    "bug", [TypeError, KeyError, AttributeError, AssertionError, IndexError, RuntimeError]
)
def test_bugs_keep_their_traceback(bug: type[Exception]) -> None:
    with pytest.raises(bug, match="a bug"), commands.explained():
        raise bug("a bug")


def test_a_bug_in_what_gin_builds_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        {}["key"]

    monkeypatch.setattr(clips.EvenClips, "__init__", broken)
    with pytest.raises(KeyError), commands.explained():
        build("clips.EvenClips.stride = 2")


def test_one_type_alone() -> None:
    class Stopped(RuntimeError):
        pass

    with pytest.raises(SystemExit, match="Stopped: done"), commands.explained(Stopped):
        raise Stopped("done")
    with pytest.raises(ValueError, match="wrong"), commands.explained(Stopped):
        raise ValueError("wrong")


def test_the_traceback_is_a_flag_away(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("absl").setLevel(logging.DEBUG)
    with caplog.at_level(logging.DEBUG), pytest.raises(SystemExit), commands.explained():
        raise ValueError("wrong")
    assert "Traceback" in caplog.text
