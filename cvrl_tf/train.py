"""Trains by a recipe: `python -m cvrl_tf.train --gin_file=... --model_dir=...`."""

import os
import signal
from pathlib import Path
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
_EXTEND_TO = flags.DEFINE_integer(
    "extend_to",
    None,
    "Epochs in all, for a run that is to go on for longer than it was started with.",
    lower_bound=1,
)


def _end(number: int, _: FrameType | None) -> None:
    """End at once: before the first step there is nothing to save, nor after the second Ctrl-C."""
    os.write(2, f"\n{signal.Signals(number).name}: ended at once. Rerun to resume.\n".encode())
    # Not an exception, which an import of TensorFlow might catch.
    os._exit(128 + number if number == signal.SIGINT else os.EX_TEMPFAIL)


def main(argv: list[str]) -> None:
    commands.start(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _end)
    _train()


def _train() -> None:
    with commands.explained():
        tf_config.check()
        # Not needed for --help, and it brings TensorFlow.
        from cvrl_tf import checkpoint_files
        from cvrl_tf.training import failures
        from cvrl_tf.training.run import Run

        more: list[str] = []
        if _EXTEND_TO.value is not None:
            if checkpoint_files.newest(Path(_MODEL_DIR.value) / "checkpoints") is None:
                raise ValueError(
                    f"--extend_to={_EXTEND_TO.value}: {_MODEL_DIR.value!r} holds no checkpoint of "
                    "a run. Correct --model_dir, or leave the flag out to begin a run."
                )
            more = [f"run.Run.epochs={_EXTEND_TO.value}", "settings.Checkpointing.extend=True"]
        commands.parse_gin(more)
        run = gin.get_configurable(Run)(model_dir=_MODEL_DIR.value)
    with commands.explained(failures.Stopped):
        run.fit(gin.operative_config_str())


if __name__ == "__main__":
    commands.run(main)
