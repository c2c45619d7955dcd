"""Mistakes of the user end in a sentence, bugs in a traceback."""

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
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


COMMAND = """
import sys, time
from cvrl_tf import commands

def main(argv):
    try:
        print("begun", flush=True)
        while True:
            time.sleep(0.01)
            if argv[1:] == ["talk"]:
                print("more", flush=True)
    finally:
        print("closed", file=sys.stderr)
        while argv[1:] == ["hang"]:
            time.sleep(0.01)

commands.run(main)
"""


@pytest.fixture
def begun(child_environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    def begin(*arguments: str) -> subprocess.Popen[str]:
        command = [*arguments[1:], sys.executable, "-c", COMMAND, arguments[0]]
        pipe = subprocess.PIPE
        run = subprocess.Popen(
            command, env=child_environment, stdout=pipe, stderr=pipe, text=True, bufsize=1
        )
        assert run.stdout.readline() == "begun\n"
        return run

    return begin


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_signals_end_a_command_in_a_sentence(
    name: str, begun: Callable[..., subprocess.Popen[str]]
) -> None:
    run = begun("wait")
    run.send_signal(signal.Signals[name])
    said = run.communicate(timeout=60)[1]
    assert said == f"closed\n\nStopped by {name}. Rerun the same command to resume.\n"
    assert run.returncode == 128 + signal.Signals[name]


def test_the_second_signal_ends_a_command_at_once(
    begun: Callable[..., subprocess.Popen[str]],
) -> None:
    run = begun("hang")
    run.send_signal(signal.SIGTERM)
    assert run.stderr.readline() == "closed\n"
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert "Stopped at once. Rerun" in said and run.returncode == 128 + signal.SIGINT


def test_a_command_ends_where_nobody_reads(begun: Callable[..., subprocess.Popen[str]]) -> None:
    run = begun("talk")
    run.stdout.close()
    assert run.stderr.read() == "closed\n"
    assert run.wait(timeout=60) == 128 + signal.SIGPIPE
    run.stderr.close()


def test_nohup_is_obeyed(begun: Callable[..., subprocess.Popen[str]]) -> None:
    run = begun("talk", "env", "--ignore-signal=HUP")
    run.send_signal(signal.SIGHUP)
    assert run.stdout.readline() == "more\n"
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
