"""Steps of a plan: side by side, in order, failing, and where nobody reads what they write."""

import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from cvrl_tf.reports import steps
from cvrl_tf.reports.steps import Step

# Waits until another step has begun, and says which cores it may use.
MEET = """
import os, pathlib, sys, time
own, other = map(pathlib.Path, sys.argv[1:])
own.write_text(" ".join(map(str, sorted(os.sched_getaffinity(0)))))
end = time.monotonic() + 60
while not other.exists() and time.monotonic() < end:
    time.sleep(0.01)
time.sleep(0.5)
sys.exit(not other.exists())
"""

PLAN = """
import sys
from pathlib import Path
from cvrl_tf import commands
from cvrl_tf.reports.steps import Step, run

step = \"\"\"
import sys, time
try:
    while True:
        print("more", flush=True)
        time.sleep(0.01)
except BrokenPipeError:
    sys.stdout = None
    sys.exit(75)  # as a run that has saved where it stands
\"\"\"
commands.run(lambda argv: run([Step("talk", ("-c", step))], Path(argv[1])))
"""


def test_a_plan_ends_where_nobody_reads(tmp_path: Path, child_environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", PLAN, str(tmp_path)]
    plan = subprocess.Popen(command, env=child_environment, stdout=PIPE, stderr=PIPE, text=True)
    while "more" not in plan.stdout.readline():
        assert plan.poll() is None, plan.stderr.read()
    plan.stdout.close()
    assert plan.stderr.read() == ""
    assert plan.wait(timeout=60) == 141
    plan.stderr.close()


def test_steps_run_side_by_side_on_their_cores(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    both = [
        Step("a/one", ("-c", MEET, str(one), str(other))),
        Step("other", ("-c", MEET, str(other), str(one))),
    ]
    steps.run(both, tmp_path / "done", jobs=2)
    assert steps.remaining(both, tmp_path / "done") == []
    cores = [set(path.read_text().split()) for path in (one, other)]
    if len(cores[0] | cores[1]) > 1:
        assert not cores[0] & cores[1]


def test_a_step_waits_for_those_that_it_needs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "made"
    slow = f"import pathlib, time; time.sleep(1); pathlib.Path({str(made)!r}).touch()"
    check = f"import pathlib, sys; sys.exit(not pathlib.Path({str(made)!r}).exists())"
    plan = [
        Step("slow", ("-c", slow)),
        Step("after", ("-c", check), frozenset({"slow"})),
        Step("free", ("-c", "print('said')")),
        Step("again", ("-c", check), frozenset({"slow", "done before"})),
    ]
    steps.run(plan, tmp_path / "done", jobs=3)
    shown = capfd.readouterr().out
    names = [line.split()[1] for line in shown.splitlines() if line.startswith("==")]
    assert names == ["slow:", "free:", "after:", "again:"]
    assert "said" not in shown.splitlines()
    assert (tmp_path / "done" / "free.log").read_text() == "said\n"


def test_a_failing_step_ends_the_others_and_is_quoted(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    endless = (
        "import pathlib, signal, sys, time\n"
        f"ended = pathlib.Path({str(ended)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(ended.touch()))\n"
        f"pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "time.sleep(60)"
    )
    fail = (
        "import pathlib, sys, time\n"
        f"while not pathlib.Path({str(tmp_path / 'begun')!r}).exists(): time.sleep(0.01)\n"
        "sys.exit('no luck')"
    )
    plan = [Step("endless", ("-c", endless)), Step("fail", ("-c", fail)), Step("never", ("-c", ""))]
    with pytest.raises(steps.StepFailed, match="no luck\nStopped at fail .exit status 1.") as told:
        steps.run(plan, tmp_path / "done", jobs=2)
    assert ended.exists() and "Rerun the same command" in str(told.value)
    assert steps.remaining(plan, tmp_path / "done") == plan
