"""Steps of a plan, where nobody reads what they write."""

import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

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
