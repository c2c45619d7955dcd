"""One page about a pretraining run: `python -m cvrl_tf.report --run=... --probe=... --output=...`.

Writes OUTPUT/report.json and OUTPUT/report.html: loss curve, probe accuracies with their 95 %
intervals, and pictures of what training sees.
"""

import json
from pathlib import Path

import gin
import numpy as np
import tensorflow as tf
from absl import app, flags

from cvrl_tf import commands
from cvrl_tf.augment.chain import ViewChains
from cvrl_tf.data.pipeline import Pipeline
from cvrl_tf.evaluation import reports
from cvrl_tf.evaluation.metrics import Estimate

_RUN = flags.DEFINE_string("run", None, "Folder of the pretraining run.", required=True)
_PROBE = flags.DEFINE_string("probe", None, "What cvrl_tf.evaluate wrote.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder to write into.", required=True)
_NOTE = flags.DEFINE_string("note", "", "What a reader must know about the data; stands on top.")

_NAMES = {
    "trained": "pretrained",
    "random": "random, fresh BN statistics",
    "random_calibrated": "random, calibrated BN statistics",
    "mean_colour": "mean colour of the clip",
}


def _example_views(run: Path, count: int) -> np.ndarray:
    """What the run's recipe makes of its first videos, float [count, 2, T, H, W, 3]."""
    gin.parse_config_file(str(run / "config.gin"))
    with gin.config_scope("train"):
        data = gin.get_configurable(Pipeline)()
    augment = gin.get_configurable(ViewChains)()
    context = tf.distribute.InputContext(num_replicas_in_sync=1)
    batch = next(iter(data.stream(count, seed=0, first_step=0, context=context)))
    frames = augment(batch["frames"], batch["seeds"])
    return frames.numpy().reshape(batch["frames"].shape)


def write_report(run: Path, probe: Path, output: Path, note: str) -> None:
    """Writes report.json and report.html into `output`; see the module."""
    probed = json.loads(probe.read_text())
    accuracies = {
        name: Estimate(**found["linear_probe"]["top1"])
        for name, found in probed["encoders"].items()
    }
    facts = json.loads((run / "run.json").read_text())
    _, losses = reports.read_metrics(run, "epoch/loss")
    best_random = max(accuracies["random"].value, accuracies["random_calibrated"].value)
    gain = 100 * (accuracies["trained"].value - best_random)
    content = {
        "note": note,
        "run": facts,
        "pretraining_loss": {"first_epoch": losses[0], "last_epoch": losses[-1]},
        "probe": probed,
        "points_over_better_random": round(gain, 2),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "report.json").write_text(json.dumps(content, indent=2) + "\n")

    chance = 1 / probed["num_classes"]
    named = {_NAMES[name]: accuracy for name, accuracy in accuracies.items()}
    curves = {
        "train/loss": "InfoNCE loss, nats",
        "train/contrastive_accuracy": "contrastive accuracy",
    }
    summary = (
        f"A linear probe on the pretrained encoder is right in "
        f"{100 * accuracies['trained'].value:.1f} % of {accuracies['trained'].count} held-out "
        f"videos: <b>{gain:+.1f} points</b> over the better of the same encoder at random. "
        "Intervals are 95 %, over test videos; they say nothing about other seeds."
    )
    training = (
        f"{facts['epochs']} epochs of {facts['training_examples']} videos, batch "
        f"{facts['global_batch']}, {facts['replicas']} replica(s). A low loss and a high "
        "contrastive accuracy do not by themselves mean good features: the probe does."
    )
    seen = "Two views of each of four videos, as the loss sees them; every second frame."
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    sections = [
        ("What the encoder learnt", summary, reports.accuracy_bars(named, chance)),
        ("Pretraining", training, reports.curve(run, curves)),
        ("Views", seen, reports.view_sheet(_example_views(run, 4))),
        ("Versions", f"{versions}; seed {facts['seed']}.", None),
    ]
    if note:
        sections.insert(0, ("Read this first", note, None))
    (output / "report.html").write_text(reports.page("CVRL pretraining report", sections))


def main(argv: list[str]) -> None:
    commands.start(argv)
    with commands.explained():
        write_report(Path(_RUN.value), Path(_PROBE.value), Path(_OUTPUT.value), _NOTE.value)
    print(f"Wrote {_OUTPUT.value}/report.html and report.json.")


if __name__ == "__main__":
    app.run(main)
