"""Trains by a recipe: `python -m cvrl_tf.train --gin_file=... --model_dir=...`."""

from pathlib import Path

import gin
from absl import flags

from cvrl_tf import commands

commands.define_gin_flags()
_MODEL_DIR = flags.DEFINE_string(
    "model_dir",
    None,
    "Folder of the run. If it holds a checkpoint, the run resumes from it.",
    required=True,
)


def main(argv: list[str]) -> None:
    commands.start(argv)
    # Not needed for --help, and it brings TensorFlow.
    from cvrl_tf.training import failures
    from cvrl_tf.training.run import Run

    with commands.explained():
        commands.parse_gin()
        run = gin.get_configurable(Run)(model_dir=_MODEL_DIR.value)
    folder = Path(_MODEL_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.gin").write_text(gin.operative_config_str())
    with commands.explained(failures.Stopped):
        run.fit()


if __name__ == "__main__":
    commands.run(main)
