"""What a run says when it can't go on."""

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
    """The run can't go on; the message says why, and what to do."""


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
            f"Damaged data at step {step()}: {found}\nThe same command goes on from the last "
            "checkpoint. Look for more with tools/check_tfrecords.py and make the shard again, or "
            "pass over what is damaged: --gin_param='pipeline.Pipeline.skip_damaged=True'."
        ) from error
    except _LOST as error:
        if num_workers == 1:
            raise
        reason = error.message.partition("aborted by: ")[2] or error.message
        raise Stopped(
            f"Another of the {num_workers} workers is gone; look into its log. "
            + " ".join(reason.splitlines()[:2])
            + "\nStarted again with the same command, all workers go on from "
            f"{latest() or 'the beginning'}."
        ) from error
