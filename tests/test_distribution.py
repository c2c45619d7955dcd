"""The same numbers on one replica, on several, and in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, cluster_environments

from cvrl_tf import distribution

WORKER = str(ROOT / "tests" / "replica_worker.py")


def run(environment: dict[str, str], output: Path, strategy: str, cpus: int) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, WORKER, str(output), strategy, str(cpus)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        try:
            text, _ = process.communicate(timeout=180)
        finally:
            process.kill()
        assert process.returncode == 0, text


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory: pytest.TempPathFactory) -> dict:
    output = tmp_path_factory.mktemp("one") / "result.npz"
    finish([run({**os.environ, "PYTHONPATH": str(ROOT)}, output, "one_device", 0)])
    return dict(np.load(output))


def assert_same_numbers(ours: dict, expected: dict) -> None:
    """Several replicas recompute, or cache gradients where statistics are frozen; one does not."""
    for variant in ("", "frozen_"):
        loss, gradient = f"{variant}loss", f"{variant}gradient"
        np.testing.assert_allclose(ours[loss], expected[loss], rtol=1e-5)
        # Relative to the gradient's size: entries near zero are rounding.
        scale = np.abs(expected[gradient]).max()
        assert expected[loss] > 1 and scale > 1e-2  # a real loss, and gradients of some size
        np.testing.assert_allclose(ours[gradient], expected[gradient], rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(ours["logged_loss"], expected["logged_loss"], rtol=1e-4)
    np.testing.assert_allclose(ours["weights"], expected["weights"], rtol=1e-4, atol=1e-5)
    gathered, by_row = ours["gathered"], ours["gathered_gradient"]
    assert gathered.shape[1] == 6 * ours["replicas"] and by_row.shape[1] == 6
    np.testing.assert_allclose(gathered, ours["all_gathered"], rtol=1e-6)
    np.testing.assert_allclose(by_row, ours["all_gathered_gradient"], rtol=1e-6, atol=1e-6)


@pytest.mark.addons
@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_mirrored_equals_one_replica(
    replicas: int, one_replica: dict, tmp_path: Path, child_environment: dict
) -> None:
    output = tmp_path / "result.npz"
    finish([run(child_environment, output, "mirrored", replicas)])
    result = dict(np.load(output))
    assert result["replicas"] == replicas and one_replica["replicas"] == 1
    assert_same_numbers(result, one_replica)


@pytest.mark.slow
def test_two_processes_equal_one_replica(
    one_replica: dict, tmp_path: Path, child_environment: dict
) -> None:
    output = tmp_path / "result.npz"
    workers = cluster_environments(child_environment, 2)
    finish([run(worker, output, "multi_worker_mirrored", 0) for worker in workers])
    result = dict(np.load(output))
    assert result["replicas"] == 2
    assert_same_numbers(result, one_replica)


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(ValueError, match="'mirorred'.*mirrored"):
        distribution.strategy("mirorred")
    with pytest.raises(ValueError, match="logical_cpus=2 needs 'mirrored'"):
        distribution.strategy("one_device", logical_cpus=2)


@pytest.mark.parametrize("name", ["local", "no-such-tpu"])
def test_a_tpu_that_is_not_there_is_an_error_with_a_remedy(name: str) -> None:
    with pytest.raises(ValueError, match=rf"No TPU '{name}' .*cvrl_tf\[tpu\].*tpu_zone"):
        distribution.strategy("tpu", tpu=name, tpu_zone="europe-west4-a", tpu_project="mine")
