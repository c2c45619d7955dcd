"""A task on several replicas against the same on one.

usage: replicated.py TEST_FILE FUNCTION OUTPUT LOGICAL_CPUS

Devices are set up once a process, so the replicas have one of their own. It imports the test file,
whose function says what is computed.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from cvrl_tf import distribution
from cvrl_tf.checkpoints import keys_of
from cvrl_tf.tasks.pretext.base import PretextTask

STEPS = 2

# A compiled task, and a global batch as `data.pipeline` has it.
Make = Callable[[], tuple[PretextTask, dict[str, np.ndarray]]]


def results(make: Make, strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Compute a task on the replicas of a strategy.

    Returns:
      loss [], gradient [P]: of the first step.
      variables: [R, Q], what each replica holds under the checkpoint's roots after `STEPS` steps.
    """
    replicas = strategy.num_replicas_in_sync
    keras.utils.set_random_seed(0)
    with strategy.scope():
        task, batch = make()
        task.total_steps = STEPS
        task.optimizer.build(task.trainable_variables)

    def part(context: tf.distribute.experimental.ValueContext) -> dict[str, np.ndarray]:
        number = context.replica_id_in_sync_group
        return {name: np.array_split(rows, replicas)[number] for name, rows in batch.items()}

    def step(batch: dict) -> list[tf.Tensor]:
        """As `Task.train_step`, for what it computed."""
        objective, gradients, _ = task.gradients(batch)
        context = tf.distribute.get_replica_context()
        summed = context.all_reduce("sum", [objective, *gradients])
        task.optimizer.apply_gradients(
            zip(summed[1:], task.trainable_variables, strict=True),
            experimental_aggregate_gradients=False,
        )
        task.after_step(task.optimizer.iterations, task.total_steps)
        return summed

    data = strategy.experimental_distribute_values_from_function(part)
    train = tf.function(lambda: strategy.run(step, args=(data,)))
    loss, *slopes = (strategy.experimental_local_results(each)[0] for each in train())
    for _ in range(STEPS - 1):
        train()
    roots = task.checkpoint_roots
    held = [
        np.stack([np.ravel(each) for each in strategy.experimental_local_results(variable)])
        for root in roots.values()
        for variable in keys_of(root, "").values()
    ]
    return {
        "loss": loss.numpy(),
        "gradient": np.concatenate([np.ravel(each) for each in slopes]),
        "variables": np.concatenate(held, axis=1),
    }


def assert_replicas_equal_one(test_file: str, make: Make, folder: Path, replicas: int = 2) -> None:
    """Assert the same loss, gradient, and variables after some steps, equal on all replicas.

    Args:
      test_file: the caller's.
      make: a function of that file.
      folder: for the results.
    """
    output = folder / "replicated.npz"
    done = subprocess.run(
        [
            *(sys.executable, "-X", "faulthandler", __file__),
            *(test_file, make.__name__, str(output), str(replicas)),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"Exit code {done.returncode}: {done.stdout}{done.stderr}"
    ours, expected = np.load(output), results(make, tf.distribute.get_strategy())
    np.testing.assert_allclose(ours["loss"], expected["loss"], rtol=1e-5)
    # Relative to the gradient's size: entries near zero are rounding.
    scale = np.abs(expected["gradient"]).max()
    assert scale > 1e-3
    np.testing.assert_allclose(ours["gradient"], expected["gradient"], rtol=0, atol=1e-5 * scale)
    assert ours["variables"].shape == (replicas, expected["variables"].shape[1])
    for held in ours["variables"]:
        np.testing.assert_allclose(held, ours["variables"][0], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(held, expected["variables"][0], rtol=1e-4, atol=1e-5)


def main(test_file: str, make: str, output: str, logical_cpus: int) -> None:
    spec = importlib.util.spec_from_file_location("replicated_test", test_file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    strategy = distribution.strategy("mirrored", logical_cpus=logical_cpus)
    np.savez(output, **results(getattr(module, make), strategy))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
