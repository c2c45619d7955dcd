"""Damages the files of a run and resumes it: it falls back to what is whole, and loses nothing.

Every attempt copies one trained run, whose checkpoints are of the steps 4, 6 and 8, damages the
copy, and goes on to step 12.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tally import LONG, Tally
from tiny_run import assert_same, contents, logged, tensors, tiny_run

from cvrl_tf import checkpoints
from cvrl_tf.reports import measurements, runs
from cvrl_tf.training import run_folder

pytestmark = pytest.mark.slow

NEWEST = "checkpoints/ckpt-8"
INDEX, DATA, STATE = f"{NEWEST}.index", f"{NEWEST}.data-00000-of-00001", "checkpoints/checkpoint"

Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def trained(noise_records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    tiny_run(folder, noise_records, epochs=2).fit("# parameters\n")
    return folder


@pytest.fixture(scope="module")
def undisturbed(noise_records: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    tiny_run(folder, noise_records, epochs=3).fit()
    return tensors(folder)


def rewritten(change: Callable[[bytes], bytes]) -> Damage:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def flipped(content: bytes) -> bytes:
    place = random.randrange(len(content))
    return (
        content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]
    )


EMPTY = rewritten(lambda content: b"")
HALF = rewritten(lambda content: content[: len(content) // 2])
FLIPPED = rewritten(flipped)
GARBAGE = rewritten(lambda content: bytes(random.randrange(256) for _ in range(200)))
GONE: Damage = Path.unlink


def half_saved(path: Path) -> None:
    """As if the run were killed in its save of step 10."""
    folder = path.parent
    (folder / "ckpt-10_temp").mkdir()
    (folder / "ckpt-10_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    shutil.copy(folder / "ckpt-8.data-00000-of-00001", folder / "ckpt-10.data-00000-of-00001")


# name: (file, what happens to it, step at which the run resumes)
KINDS: dict[str, tuple[str, Damage, int]] = {
    "state empty": (STATE, EMPTY, 8),
    "state garbage": (STATE, GARBAGE, 8),
    "state gone": (STATE, GONE, 8),
    "state names a missing checkpoint": (
        STATE,
        rewritten(lambda content: b'model_checkpoint_path: "ckpt-9"\n'),
        8,
    ),
    "index truncated": (INDEX, HALF, 6),
    "index flipped": (INDEX, FLIPPED, 6),
    "index gone": (INDEX, GONE, 6),
    "index empty": (INDEX, EMPTY, 6),
    "data truncated": (DATA, HALF, 6),
    "data flipped": (DATA, FLIPPED, 6),
    "data gone": (DATA, GONE, 6),
    "half-written newer one": (STATE, half_saved, 8),
}


def test_damaged_checkpoints(
    trained: Path, undisturbed: dict, noise_records: Path, tmp_path: Path, tally: Tally
) -> None:
    for number in tally.attempts(short=len(KINDS), long=4 * len(KINDS)):
        name = list(KINDS)[number % len(KINDS)]
        file, damage, step = KINDS[name]
        random.seed(number)
        with tally.attempt(f"{name}, seed {number}"):
            folder = tmp_path / str(number)
            shutil.copytree(trained, folder)
            damage(folder / file)
            before = contents(folder)
            assert checkpoints.resolve(folder).endswith(f"ckpt-{step}")
            run = tiny_run(folder, noise_records, epochs=3)
            assert run.step == step
            assert contents(folder) == before, "a run that only begins has changed something"
            if LONG or number % 4 == 1:
                run.fit()
                assert_same(folder, undisturbed)
                assert logged(folder) == list(range(1, 13))
                kept = set(contents(folder).values())
                lost = [file for file, data in before.items() if DATA in file and data not in kept]
                assert not lost


def test_nothing_readable_is_refused(
    trained: Path, noise_records: Path, tmp_path: Path, tally: Tally
) -> None:
    for name, damage in {"truncated": HALF, "empty": EMPTY, "gone": GONE}.items():
        with tally.attempt(f"all indices {name}"):
            folder = tmp_path / name
            shutil.copytree(trained, folder)
            for index in (folder / "checkpoints").glob("*.index"):
                damage(index)
            before = contents(folder)
            with pytest.raises(ValueError, match="can be read:(.|\n)*Restore the folder"):
                tiny_run(folder, noise_records, epochs=3)
            assert contents(folder) == before


def test_the_logs_of_others_are_set_aside(
    trained: Path, noise_records: Path, tmp_path: Path, tally: Tally
) -> None:
    for names in (["metrics.jsonl", "tensorboard"], ["run.json", "views.png", "best"]):
        with tally.attempt(f"a folder with the {names} of another run"):
            folder = tmp_path / names[0]
            for name in names:
                copy = shutil.copytree if (trained / name).is_dir() else shutil.copy
                folder.mkdir(exist_ok=True)
                copy(trained / name, folder / name)
            before = contents(folder)
            run = tiny_run(folder, noise_records, epochs=1)
            assert run.step == 0
            run_folder.set_aside(folder, 0)
            assert contents(folder / "aside" / "1") == before


LOGS: dict[str, tuple[str, Damage]] = {
    "half a line": ("metrics.jsonl", rewritten(lambda content: content[:-20])),
    "a line of zeros": ("metrics.jsonl", rewritten(lambda content: content + bytes(512))),
    "garbage in the log": ("metrics.jsonl", rewritten(lambda content: content + b"\xff\xfe{\n")),
    "lines of another program": (
        "metrics.jsonl",
        rewritten(lambda content: b'[1]\n3\nnull\n{"loss": 1}\n{"step": "x"}\n' + content),
    ),
    "log empty": ("metrics.jsonl", EMPTY),
    "log gone": ("metrics.jsonl", GONE),
    "run.json half": ("run.json", HALF),
    "run.json garbage": ("run.json", GARBAGE),
    "run.json of another program": ("run.json", rewritten(lambda content: b"[]")),
    "encoder.json half": ("encoder.json", HALF),
    "lock garbage": (".lock", lambda path: path.write_bytes(b"\xff\xfe{")),
    "config.gin garbage": ("config.gin", GARBAGE),
}


def test_damaged_logs(
    trained: Path, undisturbed: dict, noise_records: Path, tmp_path: Path, tally: Tally
) -> None:
    for number, (name, (file, damage)) in enumerate(LOGS.items()):
        random.seed(number)
        with tally.attempt(name):
            folder = tmp_path / str(number)
            shutil.copytree(trained, folder)
            damage(folder / file)
            read_as_a_report(folder)
            with run_folder.locked(folder):
                run_folder.facts(folder)
                run_folder.set_aside(folder, 8)
            steps = [line["step"] for line in runs.Run(folder, {}).log]
            assert all(step <= 8 for step in steps)
            if LONG or number in (1, 6):
                run = tiny_run(folder, noise_records, epochs=3)
                run.fit("# parameters\n")
                assert_same(folder, undisturbed)
                assert runs.Run.read(folder).facts["epochs"] == 3
                assert (folder / "config.gin").read_text() == "# parameters\n"


def read_as_a_report(folder: Path) -> None:
    """What a report reads of a run: values, or a sentence."""
    try:
        assert all(isinstance(line, dict) for line in runs.Run.read(folder).log)
        measurements.gather([folder])
        checkpoints.load_encoder(folder)
    except ValueError as error:
        assert "is damaged" in str(error) and str(folder) in str(error)


class FailingRename:
    """Renames so many times; later ones fail."""

    def __init__(self, count: int) -> None:
        self.left, self.rename = count, Path.rename

    def __call__(self, path: Path, target: Path) -> Path:
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "Input/output error", str(path))
        return self.rename(path, target)


def test_a_rename_that_fails(
    trained: Path, tmp_path: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in tally.attempts(short=8, long=8):
        count, step = number // 2, number % 2 * 4
        with tally.attempt(f"rename {count}, step {step}"):
            folder = tmp_path / str(number)
            shutil.copytree(trained, folder)
            before = sorted(contents(folder).values())
            failing = FailingRename(count)
            with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
                patch.setattr(Path, "rename", lambda *paths: failing(*paths))  # noqa: B023
                run_folder.set_aside(folder, step)
            run_folder.set_aside(folder, step)
            after = sorted(contents(folder).values())
            missing = [content for content in before if content not in after]
            # The log is divided.
            assert all(content.startswith(b'{"step"') for content in missing)


def test_two_runs_in_turn(
    trained: Path, undisturbed: dict, noise_records: Path, tmp_path: Path, tally: Tally
) -> None:
    """Both have begun before either has locked the folder."""
    for seed in (0, 1):
        with tally.attempt(f"second run of seed {seed}"):
            folder = tmp_path / str(seed)
            first = tiny_run(folder, noise_records, epochs=1)
            second = tiny_run(folder, noise_records, epochs=1, seed=seed)
            first.fit("# first\n")
            before = contents(folder)
            if seed:
                with pytest.raises(run_folder.Stopped, match="seed was 0 and is 1"):
                    second.fit("# second\n")
            else:
                second.fit("# second\n")
                for ours, theirs in zip(
                    second.model.get_weights(), first.model.get_weights(), strict=True
                ):
                    np.testing.assert_array_equal(ours, theirs)
            after = contents(folder)
            assert {**after, ".lock": b""} == {**before, ".lock": b""}
