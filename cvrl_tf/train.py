"""Trains by a recipe: `python -m cvrl_tf.train --gin_file=... --model_dir=...`."""

import os
import signal
import sys
from types import FrameType

import gin
from absl import flags

from cvrl_tf import commands, tf_config

commands.define_gin_flags()
_MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    None,
    "Folder of the run. If it holds a checkpoint, the run resumes from it.",
    required=True,
)


def _end(number: int, _: FrameType | None) -> None:
    """End at once. Before the first step there is nothing to save."""
    os.write(2, f"{signal.Signals(number).name} before the first step. Rerun.\n".encode())
    # Not an exception, which an import of TensorFlow might catch.
    os._exit(os.EX_TEMPFAIL)


def main(argv: list[str]) -> None:
    commands.start(argv)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _end)
    try:
        _train()
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. Rerun the same command to resume.")
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # another Ctrl-C need not wait for the exit


def _train() -> None:
    with commands.explained():
        tf_config.check()
        # Not needed for --help, and it brings TensorFlow.
        from cvrl_tf.training import failures
        from cvrl_tf.training.run import Run

        commands.parse_gin()
        run = gin.get_configurable(Run)(model_dir=_MODEL_DIR.value)
    with commands.explained(failures.Stopped):
        run.fit(gin.operative_config_str())


if __name__ == "__main__":
    commands.run(main)
