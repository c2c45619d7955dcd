"""Measure the linear probe on cached features, against one that encodes in every epoch.

    python benchmarks/probe.py

Both train for 100 epochs on 960 synthetic videos and test on 120, with a random R3D-18 and without
augmentation. One uses `Classifier` in the training loop, as the paper does (there augmentation
makes it necessary to encode in every epoch). The other encodes each video once. Both start at zero,
and a step is over the whole training set, so they must end with the same accuracy.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
import tf_keras as keras

from cvrl_tf import checkpoints, distribution
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.evaluation.features import FeatureStore, calibrate
from cvrl_tf.evaluation.probe import Probe, linear_probe
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.optim.schedules import warmup_cosine
from cvrl_tf.reports import runs
from cvrl_tf.tasks.classify import Classifier
from cvrl_tf.training.run import Run
from cvrl_tf.training.settings import Checkpointing, Execution, Optimization, Validation

TOOLS = Path(__file__).parents[1] / "tools"
TRAIN, TEST, EPOCHS, LEARNING_RATE, CLASSES = 960, 120, 100, 2.0, 12


def make_records(folder: Path) -> Path:
    """Make records of the demo videos and return their folder."""
    videos, records = folder / "videos", folder / "records"

    def call(tool: str, *flags: str) -> None:
        subprocess.run(
            [sys.executable, TOOLS / tool, *flags], check=True, stdout=subprocess.DEVNULL
        )

    counts = f"--train_videos={TRAIN}", f"--test_videos={TEST}"
    call("make_demo_videos.py", f"--output={videos}", *counts)
    for split in ("train", "test"):
        flags = f"--output={records}", f"--split={split}", "--short_side=64"
        call("make_tfrecords.py", f"--input={videos / split}", *flags)
    return records


def views_of(records: Path, split: str) -> pipeline.Pipeline:
    return pipeline.Pipeline(records, clips.EvenClips(8, 2, 1), views.EvenCrops(56, 56, 1), split)


def encoder(records: Path) -> keras.Model:
    """Return a random encoder with the batch normalization statistics of the data."""
    weights = records / "encoder.npz"
    keras.utils.set_random_seed(0)
    model = ResNet3D(depth=18, width=0.5)
    model.build()
    if weights.exists():
        model.set_weights(list(np.load(weights).values()))
    else:
        calibrate(model, views_of(records, "train"), 40)
        np.savez(weights, *model.get_weights())
    return model


def re_encoded(records: Path, folder: Path) -> float:
    """Return top-1 of the probe that encodes in every epoch."""
    run = Run(
        model_dir=folder,
        train_data=views_of(records, "train"),
        task=lambda: Classifier(
            encoder(records), CLASSES, True, ViewChains([Chain()]), normalize_features=True
        ),
        optimization=Optimization(
            optimizer=lambda learning_rate: keras.optimizers.SGD(learning_rate, momentum=0.9),
            learning_rate=lambda **facts: warmup_cosine(
                **facts, learning_rate=LEARNING_RATE, base_batch=TRAIN, warmup_epochs=EPOCHS // 20
            ),
        ),
        global_batch=TRAIN,
        epochs=EPOCHS,
        validation=Validation(views_of(records, "test"), batch=TEST, every=EPOCHS),
        checkpointing=Checkpointing(),
        execution=Execution(distribution.strategy()),
    )
    kernel = run.model.classifier.kernel
    kernel.assign(np.zeros(kernel.shape))
    run.fit()
    return runs.Run.read(folder).curve("test/top1")[-1][1]


def cached(
    records: Path,
    folder: Path,
    learning_rates: tuple[float, ...] = (LEARNING_RATE,),
    weight_decays: tuple[float, ...] = (0.0,),
) -> float:
    """Return top-1 of the probe on cached features, with the same settings or with a sweep."""
    store, model = FeatureStore(folder), encoder(records)
    made_of = checkpoints.fingerprint(model)
    train, test = (
        store.get("r3d18", made_of, lambda: model, views_of(records, s), 16)
        for s in ("train", "test")
    )
    probed = linear_probe(
        (train.views, train.labels),
        test.views,
        CLASSES,
        Probe(learning_rates, weight_decays, epochs=EPOCHS, batch=TRAIN, standardize=False),
    )
    return float(np.mean(probed.scores.argmax(axis=1) == test.labels))


def main() -> None:
    accuracies: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = make_records(folder)
        encoder(records)

        def probe_again() -> None:
            sweep = (1.0, 3.0, 10.0, 30.0), (0.0, 1e-4, 1e-3)
            accuracies["sweep"] = cached(records, folder / "features", *sweep)

        def probe_cached() -> None:
            accuracies["cached"] = cached(records, folder / "features")

        def probe_re_encoded() -> None:
            accuracies["re_encoded"] = re_encoded(records, folder / "run")

        contenders = {"cached": probe_cached, "sweep": probe_again, "re_encoded": probe_re_encoded}
        seconds = measure.alternate(contenders, rounds=1)
    assert abs(accuracies["cached"] - accuracies["re_encoded"]) < 1e-6, accuracies
    measure.report(
        __file__,
        {"cached_vs_reencode": measure.speed_up(seconds, "cached", "re_encoded")},
        seconds={name: round(times[0], 1) for name, times in seconds.items()},
        sweep="12 settings, features cached before",
        top1={name: round(value, 4) for name, value in accuracies.items()},
        chance=round(1 / CLASSES, 4),
    )


if __name__ == "__main__":
    main()
