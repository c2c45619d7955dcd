"""Preparation and embedding: processes killed, two at a time, disks that are full or refuse.

Kills of a worker, of the command and of all its processes, at random moments. Two commands that
begin one folder, share its tasks or embed into one file. A rename that fails half way, and a disk
that is full while records are written. Whatever happens, the same command called again ends with
the bytes of an undisturbed one, and every video is accounted for.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, write_noise_video
from tally import Tally

from cvrl_tf.data import records, schema
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.preparation import manifest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

TOOL = ROOT / "tools" / "make_tfrecords.py"
NUM_SHARDS = 4
PRIVATE = ["unshare", "--user", "--map-root-user", "--mount"]  # with disks of its own
PATIENCE = 120  # seconds, for what takes one or two

# Waits where all is imported, so that two begin at the same moment.
AT_ONCE = """
import sys
from cvrl_tf import commands, prepare
print("ready", flush=True)
sys.stdin.readline()
commands.run(prepare.main)
"""

EMBEDDER = """
import sys
from cvrl_tf.inference import embedder, embedding
model, *videos = sys.argv[1:]
model = embedder.Embedder(model)
print("ready", flush=True)
for line in sys.stdin:
    try:
        embedding.embed_videos(model, videos, line.strip(), workers=1, show=False)
        print("written", flush=True)
    except OSError as error:
        print(f"refused: {error}", flush=True)
"""


def write_videos(folder: Path, labels: str, count: int) -> Path:
    """Noise, which takes its time to be encoded; a folder a label."""
    for label in labels:
        for number in range(count):
            write_noise_video(folder / label / f"{label}{number}.mp4", 30, number)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 videos that can be used and one that can't."""
    folder = tmp_path_factory.mktemp("input") / "videos"
    for number in range(12):
        path = folder / f"{number:02d}.mp4"
        path.parent.mkdir(exist_ok=True)
        code = cv2.VideoWriter.fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25, (320, 240))
        rng = np.random.default_rng(number)
        for _ in range(25):
            writer.write(rng.integers(0, 256, (240, 320, 3), np.uint8))
        writer.release()
    (folder / "text.mp4").write_text("no video")
    return folder


def start(environment: dict[str, str], *command: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )


def flags(videos: Path, output: Path, *more: str) -> list[str]:
    shards = f"--num_shards={NUM_SHARDS}"
    given = [f"--input={videos}", f"--output={output}", shards, "--short_side=480", "--workers=2"]
    return [*given, "--name=noise", *more]


def contents(folder: Path) -> dict[str, bytes]:
    """Files by name, but for hidden ones, which a killed process may leave."""
    files = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def undisturbed(
    videos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, bytes], float]:
    """What the command writes, and the seconds that it takes."""
    output = tmp_path_factory.mktemp("undisturbed") / "records"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begin = time.monotonic()
    prepare(environment, videos, output)
    seconds = time.monotonic() - begin
    found = contents(output)
    assert len(manifest.read(output / "train_manifest.jsonl")) == 13
    assert schema.DatasetInfo.load(output).split("train").num_examples == 12
    return found, seconds


def prepare(environment: dict[str, str], videos: Path, output: Path) -> None:
    run = start(environment, str(TOOL), *flags(videos, output))
    said = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, said


def workers_of(parent: int) -> list[int]:
    """Children that run; those that are just being made still have their parent's command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, ppid = (folder / "stat").read_text().rsplit(")", 1)[1].split()[:2]
            if int(ppid) == parent and state != "Z":
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def in_session(leader: int) -> list[str]:
    """Processes of a session that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(folder.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def assert_no_process_left(leader: int) -> None:
    deadline = time.monotonic() + 30
    while left := in_session(leader):
        assert time.monotonic() < deadline, f"processes {left} are left"
        time.sleep(0.05)


def kill(run: subprocess.Popen[str], victim: str, generator: random.Random) -> None:
    if victim == "group":
        os.killpg(run.pid, signal.SIGKILL)
    elif victim == "parent":
        run.kill()
    elif workers := workers_of(run.pid):
        try:
            os.kill(generator.choice(workers), signal.SIGKILL)
        except ProcessLookupError:  # it was done
            return


def test_kills(
    tally: Tally,
    videos: Path,
    undisturbed: tuple[dict[str, bytes], float],
    tmp_path: Path,
    child_environment: dict[str, str],
) -> None:
    wanted, seconds = undisturbed
    for number in tally.attempts(short=4, long=40):
        generator = random.Random(number)
        victim = ("worker", "parent", "worker", "group")[number % 4]
        moment = generator.uniform(0, 0.8) * seconds
        output = tmp_path / str(number)
        with tally.attempt(f"{victim} killed after {moment:.2f} s"):
            run = start(child_environment, str(TOOL), *flags(videos, output))
            while not workers_of(run.pid) and run.poll() is None:
                time.sleep(0.01)
            time.sleep(moment)
            kill(run, victim, generator)
            said = run.communicate(timeout=PATIENCE)
            assert_no_process_left(run.pid)
            if victim == "worker":
                assert run.returncode == 0, said
            prepare(child_environment, videos, output)
            assert contents(output) == wanted
        shutil.rmtree(output)


def both(runs: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Lets commands go that wait in `AT_ONCE`; returns their exit codes and what they said."""
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    said = ["".join(run.communicate(timeout=PATIENCE)) for run in runs]
    return [(run.returncode, words) for run, words in zip(runs, said, strict=True)]


def test_two_splits_begin_a_folder(
    tally: Tally, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """With other classes in each: one is refused, and the labels of all records are right."""
    first = write_videos(tmp_path / "first", "ab", 2)
    second = write_videos(tmp_path / "second", "bc", 2)
    for number in tally.attempts(short=2, long=20):
        output = tmp_path / str(number)
        with tally.attempt(f"race {number}"):
            given = f"--output={output}", "--num_shards=1", "--short_side=32", "--workers=1"
            splits = (first, "train"), (second, "test")
            outcomes = both(
                [
                    start(child_environment, "-c", AT_ONCE, f"--input={i}", f"--split={s}", *given)
                    for i, s in splits
                ]
            )
            assert sorted(code for code, _ in outcomes) == [0, 1], outcomes
            refusal = next(words for code, words in outcomes if code)
            assert "are not among those of" in refusal and "Traceback" not in refusal
            assert_labels_are_right(output)
        shutil.rmtree(output)


def assert_labels_are_right(output: Path) -> None:
    info = schema.DatasetInfo.load(output)
    assert len(info.splits) == 1
    for split in info.splits.values():
        count = 0
        for record in records.in_order(records.shard_paths(output, split)):
            parsed = records.parse(record)
            label = info.labels[int(parsed["label"])]
            assert parsed["video_id"].numpy().decode().startswith(f"{label}/")
            count += 1
        assert count == split.num_examples == 4


def test_tasks_at_the_same_time(
    tally: Tally,
    videos: Path,
    undisturbed: tuple[dict[str, bytes], float],
    tmp_path: Path,
    child_environment: dict[str, str],
) -> None:
    """Two tasks beside a command that does all of the work; or a task twice, which is refused."""
    for number in tally.attempts(short=2, long=20):
        output = tmp_path / str(number)
        tasks = ("0", "1", None) if number % 2 else ("0", "0", "1")
        with tally.attempt(f"race {number} of tasks {tasks}"):
            shares = [[f"--task={task}", "--num_tasks=2"] if task else [] for task in tasks]
            runs = [
                start(child_environment, "-c", AT_ONCE, *flags(videos, output, *share))
                for share in shares
            ]
            outcomes = both(runs)
            for code, words in outcomes:
                assert code == 0 or "is in use by" in words, outcomes
            refused = sum(code != 0 for code, _ in outcomes)
            assert refused <= (number % 2 == 0), outcomes
            prepare(child_environment, videos, output)
            assert contents(output) == undisturbed[0]
            assert not list(output.rglob(".*")), list(output.rglob(".*"))
        shutil.rmtree(output)


def test_two_embed_into_one_file(
    tally: Tally, exported_model: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    names = [str(write_noise_video(tmp_path / f"{i}.mp4", 20, i)) for i in range(3)]
    command = "-c", EMBEDDER, str(exported_model), *names
    runs = [start(child_environment, *command) for _ in range(2)]
    try:
        for run in runs:
            assert run.stdout.readline() == "ready\n"
        for number in tally.attempts(short=2, long=20):
            output = tmp_path / f"{number}.npz"
            with tally.attempt(f"race {number}"):
                for run in runs:
                    run.stdin.write(f"{output}\n")
                    run.stdin.flush()
                said = sorted(run.stdout.readline() for run in runs)
                assert said[1] == "written\n", said
                assert "is in use by" in said[0] or "is there already" in said[0], said
                found = ClipFeatures.load(output)
                assert list(found.videos) == [name for name in names for _ in range(2)]
                left = [p.name for p in tmp_path.iterdir() if p.name.startswith(f"{number}.npz.")]
                assert not left and not list(tmp_path.glob(".*")), left
    finally:
        for run in runs:
            run.kill()
            run.communicate()


def test_a_rename_fails_half_way(
    tally: Tally,
    videos: Path,
    undisturbed: tuple[dict[str, bytes], float],
    tmp_path: Path,
    child_environment: dict[str, str],
) -> None:
    """A folder stands where a file is to get its name."""
    last = f"train-{NUM_SHARDS - 1:05d}-of-{NUM_SHARDS:05d}"
    places = [last, f".{last}.jsonl", "train_manifest.jsonl", "train_options.json"]
    for number in tally.attempts(short=2, long=4):
        output = tmp_path / str(number)
        with tally.attempt(places[number]):
            blocked = output / places[number]
            (blocked / "full").mkdir(parents=True)
            run = start(child_environment, str(TOOL), *flags(videos, output))
            complained = run.communicate(timeout=PATIENCE)[1]
            assert run.returncode == 1 and "directory" in complained, complained
            assert "Traceback" not in complained, complained
            assert not list(output.rglob(".*.tmp"))
            shutil.rmtree(blocked)
            prepare(child_environment, videos, output)
            assert contents(output) == undisturbed[0]


@pytest.mark.skipif(
    not shutil.which("unshare")
    or bool(subprocess.run([*PRIVATE, "true"], capture_output=True).returncode),
    reason="no user namespaces here",
)
def test_the_disk_is_full(
    tally: Tally,
    videos: Path,
    undisturbed: tuple[dict[str, bytes], float],
    tmp_path: Path,
    child_environment: dict[str, str],
) -> None:
    """A disk in memory, of some MB, that is then made larger."""
    needed = sum(map(len, undisturbed[0].values()))
    for number in tally.attempts(short=1, long=5):
        size = int(random.Random(number).uniform(0.05, 0.95) * needed)
        output, copy = tmp_path / f"disk{number}", tmp_path / f"copy{number}"
        output.mkdir()
        with tally.attempt(f"{size} of {needed} bytes"):
            script = f"""
                mount -t tmpfs -o size={size} none {output}
                "$@"; test $? = 1 || exit 3
                mount -o remount,size={10 * needed} {output}
                "$@" || exit 4
                cp -a {output}/. {copy}
            """
            command = [sys.executable, str(TOOL), *flags(videos, output)]
            shell = [*PRIVATE, "sh", "-c", script, "sh", *command]
            done = subprocess.run(
                shell, env=child_environment, capture_output=True, text=True, timeout=PATIENCE
            )
            assert done.returncode == 0, done
            assert "No space left" in done.stderr and "Traceback" not in done.stderr, done.stderr
            assert contents(copy) == undisturbed[0]
