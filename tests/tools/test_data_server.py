"""A pool of data servers on loopback gives the same batches as this machine."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.augment.photometric import ColorJitter
from cvrl_tf.data import views
from cvrl_tf.data.clips import UniformClips
from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.data.views import RandomResizedCrop

TOOL = Path(__file__).parents[2] / "tools" / "data_server.py"


@pytest.fixture
def servers(child_environment: dict[str, str]) -> Iterator[list[str]]:
    """Start two servers for a test, and return their addresses."""
    command = [sys.executable, str(TOOL), "--port=0"]
    processes = [
        subprocess.Popen(command, env=child_environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        lines = [process.stdout.readline() for process in processes if process.stdout]
        yield [line.removeprefix("Serving on ").split(". ")[0] for line in lines]
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def test_batches_are_those_that_one_machine_prepares(
    noise_records: Path,
    servers: list[str],
    one_worker: Callable[[int], tf.distribute.InputContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit by bit where both resize alike; they don't, which shifts pixels by 1."""

    def batches(**arguments: object) -> list[dict[str, np.ndarray]]:
        pipeline = Pipeline(
            noise_records, UniformClips(4, 2, 2), RandomResizedCrop(32), **arguments
        )  # type: ignore[arg-type]
        # From the fourth step into the second epoch; an epoch has 5 steps.
        stream = pipeline.train_batches(3, seed=1, first_step=3, context=one_worker(1))
        return list(stream.take(7).as_numpy_iterator())

    augment = ViewChains([Chain([ColorJitter(probability=1.0)])])
    plain = batches()
    monkeypatch.setattr(views, "by_opencv", views.by_tensorflow)
    for arguments in ({}, {"augment": augment}):
        here = batches(**arguments)
        there = batches(servers=servers, **arguments)
        assert len(here) == len(there) == 7
        for ours, theirs in zip(here, there, strict=True):
            assert ours.keys() == theirs.keys()
            for key in ours:
                np.testing.assert_array_equal(ours[key], theirs[key])
        if not arguments:
            for ours, theirs in zip(plain, there, strict=True):
                assert np.abs(ours["frames"].astype(int) - theirs["frames"]).max() <= 1


def test_a_taken_port_is_an_error_with_a_remedy(
    servers: list[str], child_environment: dict[str, str]
) -> None:
    port = servers[0].split(":")[1]
    run = subprocess.run(
        [sys.executable, str(TOOL), f"--port={port}"],
        env=child_environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 1
    assert f"can't listen on port {port}" in run.stderr and "another --port" in run.stderr


@pytest.fixture
def neighbor() -> Iterator[tuple[str, list[str]]]:
    """A network of this machine and another, which is a namespace: our address in it, and the
    beginning of a command that runs there."""
    name, ours, theirs = f"cvrl{os.getpid()}", f"va{os.getpid()}", f"vb{os.getpid()}"
    inside = ["ip", "netns", "exec", name]
    steps = [
        f"ip netns add {name}",
        f"ip link add {ours} type veth peer name {theirs} netns {name}",
        f"ip addr add 10.231.7.1/24 dev {ours}",
        f"ip link set {ours} up",
        f"{' '.join(inside)} ip addr add 10.231.7.2/24 dev {theirs}",
        f"{' '.join(inside)} ip link set {theirs} up",
    ]
    try:
        for step in steps:
            try:
                subprocess.run(step.split(), check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"no network namespaces here: {error}")
        yield "10.231.7.1", inside
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["", "--open_to_network"])
def test_other_machines_are_served_only_where_a_flag_says_so(
    flag: str, neighbor: tuple[str, list[str]], child_environment: dict[str, str]
) -> None:
    address, inside = neighbor
    command = [sys.executable, str(TOOL), "--port=0", "--host=localhost", *filter(None, [flag])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    server = subprocess.Popen(command, env=child_environment, **pipes)  # type: ignore[call-overload]
    try:
        port = server.stdout.readline().removeprefix("Serving on localhost:").split(".")[0]
        reach = ["timeout", "10", "bash", "-c", f"echo > /dev/tcp/{address}/{port}"]
        done = subprocess.run([*inside, *reach], capture_output=True, text=True)
        assert (done.returncode == 0) == bool(flag), done.stderr
        assert flag or "refused" in done.stderr
        here = [*reach[:-1], f"echo > /dev/tcp/127.0.0.1/{port}"]
        subprocess.run(here, check=True)
    finally:
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=60)
    assert ("Warning: whoever reaches this machine" in errors) == bool(flag)
