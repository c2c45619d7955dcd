"""How a run ends on Ctrl-C, and when nobody reads its output any more."""

import signal
import sys
from pathlib import Path
from typing import NoReturn

from cvrl_tf import checkpoint_files, output
from cvrl_tf.checkpoint_files import Saver
from cvrl_tf.training import callbacks


def at_once(
    saver: Saver, step: int, steps_per_epoch: int, num_workers: int, folder: Path
) -> NoReturn:
    """Save if that can be done here, and exit. Another Ctrl-C ends that, too.

    Args:
      saver: of the run.
      step: where the run stands.
      steps_per_epoch, num_workers: of the run.
      folder: with the run's checkpoints.
    """
    if num_workers > 1:  # all would have to save together
        sys.exit(f"\nStopped at step {step}; the workers resume from the last checkpoint.")
    if step % steps_per_epoch == 0:  # see `callbacks.Checkpoints`
        sys.exit(
            f"\nStopped at step {step}, at the end of an epoch, before its test was done. Rerun "
            f"the same command to resume from {checkpoint_files.latest(folder) or 'the start'}."
        )
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        saved = saver.save(step)
    finally:
        signal.signal(signal.SIGINT, before)
    sys.exit(f"\nStopped at step {step}; saved {saved}. Rerun the same command to resume.")


def unread(saver: Saver, step: int, steps_per_epoch: int, num_workers: int) -> NoReturn:
    """Save if that can be done here, and exit as after SIGTERM.

    Args: as `at_once`.
    """
    if num_workers == 1 and step % steps_per_epoch:
        saver.save(step)
    output.say("")
    sys.exit(callbacks.PREEMPTED)
