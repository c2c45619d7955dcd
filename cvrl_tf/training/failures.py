"""Errors of a run that have a remedy, in words."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator

import tensorflow as tf

# What TensorFlow raises in a worker when it does not hear from another.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
# What `data.reading` says of a record, as TensorFlow quotes it.
_UNREADABLE = r"(record \d+ of .+?)(?: can\\?'t be read|: (?:its context|frame \d+) is damaged)"
# What TensorFlow quotes when the system refuses to write.
_OF_DISK = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOENT, errno.ESTALE, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY),
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
      Stopped: a record is damaged, another worker is gone, or a file can't be written.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = damage()
        if found is None and (unreadable := re.search(_UNREADABLE, error.message)):
            raise Stopped(
                f"At step {step()}, {unreadable[1]} could not be read, although it can be now. Was "
                "the shard being written, or the disk away? Then rerun the same command to resume "
                f"from {latest() or 'the beginning'}."
            ) from error
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
    except OSError as error:
        raise _of_disk(str(error), latest()) from error
    except tf.errors.OpError as error:
        if not any(os.strerror(code) in error.message for code in _OF_DISK):
            raise
        raise _of_disk(error.message.partition("\n")[0], latest()) from error


def _of_disk(reason: str, latest: str | None) -> Stopped:
    return Stopped(
        f"Can't write: {reason}\nMake room or mend the disk, then rerun the same command to resume "
        f"from {latest or 'the beginning'}."
    )
