"""Workers that are preempted or die, and go on together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, cluster_environments

from cvrl_tf import checkpoints

PARAMETERS = [
    "STRATEGY='multi_worker_mirrored'",
    "run.Run.global_batch=4",  # of 17 videos: 4 steps an epoch
    "run.Run.epochs=11",
    "settings.Execution.log_every=1",
    "resnet3d.ResNet3D.width=0.125",
    "clips.UniformClips.num_frames=4",
    "views.RandomResizedCrop.size=16",
]

Workers = list[subprocess.Popen]


def start(environment: dict[str, str], records: Path, model_dir: Path) -> Workers:
    command = [sys.executable, "-m", "cvrl_tf.train", "--gin_file=gin/demo/pretrain.gin"]
    parameters = [f"DATA_DIR='{records}'", *PARAMETERS]
    command += [f"--model_dir={model_dir}", *(f"--gin_param={p}" for p in parameters)]
    return [
        subprocess.Popen(
            command,
            env=worker,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for worker in cluster_environments(environment, 2)
    ]


def finish(workers: Workers) -> list[str]:
    """What each has said."""
    try:
        return [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


def wait_for_lines(run: Path, count: int, workers: Workers) -> None:
    """Until the log has so many more lines than when it was called first."""
    log = run / "metrics.jsonl"

    def lines() -> int:
        return log.read_text().count("\n") if log.exists() else 0

    begin = lines()
    while lines() < begin + count:
        assert all(worker.poll() is None for worker in workers), finish(workers)
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_workers_stop_and_go_on_together(
    noise_records: Path, tmp_path: Path, child_environment: dict
) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    texts = finish(start(child_environment, noise_records, undisturbed))
    assert (undisturbed / "checkpoints" / "ckpt-44.index").exists(), texts

    for victim, number in enumerate((signal.SIGTERM, signal.SIGINT)):
        # Preempted: only one of them gets the signal.
        workers = start(child_environment, noise_records, run)
        wait_for_lines(run, 5, workers)
        workers[victim].send_signal(number)
        texts = finish(workers)
        codes = [worker.returncode for worker in workers]
        assert codes[victim] == (130 if number == signal.SIGINT else 75), texts
        assert codes[1 - victim] == 75, texts
        (said,) = {line for text in texts for line in text.splitlines() if "Stopped; " in line}
        step = int(checkpoints.resolve(run).rpartition("-")[2])
        assert f"saved at step {step}." in said and 4 <= step < 44

        # One dies: the other ends and says what to do.
        workers = start(child_environment, noise_records, run)
        wait_for_lines(run, 5, workers)
        os.kill(workers[victim].pid, signal.SIGKILL)
        text = finish(workers)[1 - victim]
        assert workers[1 - victim].returncode == 1
        last_words = text[text.index("Stopped: ") :]
        assert "Another of the 2 workers has stopped" in last_words
        assert f"resume from {checkpoints.resolve(run)}" in last_words
        assert "Traceback" not in text

    workers = start(child_environment, noise_records, run)
    texts = finish(workers)
    assert [worker.returncode for worker in workers] == [0, 0], texts
    weights = [checkpoints.load_encoder(each).get_weights() for each in (run, undisturbed)]
    for ours, expected in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, expected)
