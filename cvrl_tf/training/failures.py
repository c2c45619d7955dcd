"""Errors of a run that have a remedy, in words."""

import contextlib
from collections.abc import Callable, Iterator

import tensorflow as tf

# What TensorFlow raises in a worker when it does not hear from another.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Stopped(RuntimeError):
    """A run that has to stop. The message says why, and what to do."""


@contextlib.contextmanager
def explained(
    step: Callable[[], int],
    damage: Callable[[], str | None],
    num_workers: int,
    latest: Callable[[], str | None],
) -> Iterator[None]:
    """Turn errors of TensorFlow that have a remedy into `Stopped`.

    Args:
      step: of the run.
      damage: which record of the present step can't be used, and why; None for none.
      num_workers: of the run.
      latest: checkpoint; None for none.

    Raises:
      Stopped: a record is damaged, or another worker is gone.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = damage()
        if found is None:
            raise
        raise Stopped(
            f"Damaged data at step {step()}: {found}\nCheck all records with "
            "tools/check_tfrecords.py and write the shard again, or skip what is damaged: "
            "--gin_param='pipeline.Pipeline.skip_damaged=True'. Then rerun the same command to "
            "resume from the last checkpoint."
        ) from error
    except _LOST as error:
        if num_workers == 1:
            raise
        reason = error.message.partition("aborted by: ")[2] or error.message
        raise Stopped(
            f"Another of the {num_workers} workers has stopped; see its log. "
            + " ".join(reason.splitlines()[:2])
            + "\nRerun the same command on all workers to resume from "
            f"{latest() or 'the beginning'}."
        ) from error
