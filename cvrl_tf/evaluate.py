"""Measures frozen features: `python -m cvrl_tf.evaluate --gin_file=... --output=...`.

Features are kept in the folder `features` beside the output, so that a second call takes seconds.
Moving pictures for the report go into a folder named after the output.
"""

import json
from pathlib import Path

import gin
from absl import app, flags

from cvrl_tf import commands

commands.define_gin_flags()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.", required=True)


def main(argv: list[str]) -> None:
    commands.start(argv)
    from cvrl_tf.evaluation import frozen

    output = Path(_OUTPUT.value)
    with commands.explained():
        commands.parse_gin()
        measures = gin.get_configurable(frozen.FrozenEvaluation)()
    pictures = output.with_name(f"{output.stem}_pictures")
    results = measures.run(output.parent / "features", pictures)
    output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
