"""Probes encoders as a gin file says: `python -m cvrl_tf.evaluate --gin_file=... --output=...`."""

import dataclasses
import json
from pathlib import Path

import gin
from absl import app, flags

from cvrl_tf import commands

commands.define_gin_flags()
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.", required=True)


def main(argv: list[str]) -> None:
    commands.start(argv)
    from cvrl_tf.evaluation import probe  # not needed for --help, and it brings TensorFlow

    with commands.explained():
        commands.parse_gin()
        comparison = gin.get_configurable(probe.ProbeComparison)()
    accuracies = comparison.run()
    for name, accuracy in accuracies.items():
        low, high = 100 * accuracy.low, 100 * accuracy.high
        print(f"{name:<20} {100 * accuracy.value:5.1f} %  (95 % interval {low:.1f} to {high:.1f})")
    output = Path(_OUTPUT.value)
    output.parent.mkdir(parents=True, exist_ok=True)
    results = {
        "num_classes": comparison.num_classes,
        "top1": {name: dataclasses.asdict(accuracy) for name, accuracy in accuracies.items()},
    }
    output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
