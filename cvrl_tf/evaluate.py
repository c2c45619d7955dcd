"""Measures frozen features: `python -m cvrl_tf.evaluate --gin_file=... --output=...`.

Features are kept in the folder `features` beside the output, so that a second call takes seconds.
Moving pictures for the report go into a folder named after the output.
"""

import json
from pathlib import Path

import gin
from absl import flags

from cvrl_tf import commands

commands.define_gin_flags()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.", required=True)


def main(argv: list[str]) -> None:
    commands.start(argv)
    # Imported here because TensorFlow is slow to import, and --help does not need it.
    from cvrl_tf.evaluation import frozen
    from cvrl_tf.reports import gallery

    output = Path(_OUTPUT.value)
    with commands.explained():
        commands.parse_gin()
        evaluation = gin.get_configurable(frozen.FrozenEvaluation)()
    found = evaluation.run(output.parent / "features")
    pictures = gallery.nearest_videos(
        (evaluation.train_data, found.train),
        (evaluation.test_data, found.test),
        output.with_name(f"{output.stem}_pictures"),
    )
    results = {**found.results, "gallery": pictures}
    output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    commands.run(main)
