"""All measures of an encoder beside its baselines, out of one call."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import noise_video, sampling, write_records

from cvrl_tf import checkpoints
from cvrl_tf.data import clips, pipeline, schema, views
from cvrl_tf.evaluation import features, probe
from cvrl_tf.evaluation.frozen import FrozenEvaluation
from cvrl_tf.measures import metrics
from cvrl_tf.measures.neighbors import Knn
from cvrl_tf.models.resnet3d import ResNet3D


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of a run whose encoder has weights of its own."""
    keras.utils.set_random_seed(5)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    encoder.build()
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    checkpoints.save_encoder_config(encoder, sampling(4, 16), folder)
    tf.train.Checkpoint(encoder=encoder).write(str(folder / "checkpoints" / "ckpt-1"))
    return folder


def test_measures(
    run: Path, noise_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = (
        pipeline.Pipeline(
            noise_records, clips.EvenClips(4, 2, 2), views.EvenCrops(16, 16, 1), split
        )
        for split in ("train", "test")
    )
    checkpoint = run / "checkpoints" / "ckpt-1"

    def evaluation() -> FrozenEvaluation:
        return FrozenEvaluation(checkpoint, train, test, 5, probe.Probe(epochs=5), Knn(k=3))

    evaluated = evaluation().run(tmp_path / "features")
    found = evaluated.results
    assert json.loads(json.dumps(found)) == found
    assert list(found["encoders"]) == ["trained", "random", "random_calibrated", "mean_color"]
    for measures in found["encoders"].values():
        assert set(measures["linear_probe"]) == {
            *("top1", "top5", "mean_per_class", "learning_rate", "weight_decay")
        }
        assert measures["knn"]["top1"]["count"] == 5
        assert list(measures["retrieval"]) == ["R@1", "R@5", "R@10", "R@20"]
    assert found["version"] == 2 and found["protocol"]["train"]["videos"] == 17
    assert found["protocol"]["checkpoint"] == str(checkpoint)

    encoder = checkpoints.load_encoder(checkpoint)
    made, tested = (features.extract(encoder, data, 5) for data in (train, test))
    np.testing.assert_array_equal(evaluated.train.views, made.views)
    np.testing.assert_array_equal(evaluated.test.labels, tested.labels)
    probed = probe.linear_probe((made.views, made.labels), tested.views, 2, probe.Probe(epochs=5))
    expected = metrics.classification(probed.scores, tested.labels)["top1"].value
    assert found["encoders"]["trained"]["linear_probe"]["top1"]["value"] == expected
    stored = [np.load(path)["views"] for path in sorted((tmp_path / "features").glob("*-train-*"))]
    assert len(stored) == 4  # four encoders, of which none has the features of another
    for one in range(3):
        assert stored[one].shape != stored[one + 1].shape or np.any(stored[one] != stored[one + 1])

    top1 = {name: of["linear_probe"]["top1"]["value"] for name, of in found["encoders"].items()}
    gain = found["gain_over_baselines"]
    assert gain["points"] == pytest.approx(100 * (expected - top1[gain["baseline"]]))
    assert top1[gain["baseline"]] == max(v for name, v in top1.items() if name != "trained")

    confusion = np.array(found["confusion"])
    assert confusion.shape == (2, 2) and np.trace(confusion) / 5 == pytest.approx(expected)
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(tested.labels))
    np.testing.assert_array_equal(np.load(found["test_features"])["views"], tested.views)

    # The second time nothing passes the encoder, not even to calibrate it.
    monkeypatch.setattr(features, "extract", None)
    monkeypatch.setattr("cvrl_tf.evaluation.frozen.calibrate", None)
    assert evaluation().run(tmp_path / "features").results == found


def test_unlabeled_data_is_refused(run: Path, tmp_path: Path) -> None:
    folder = write_records(tmp_path / "clips", [noise_video(8, 16, 16, 0)], num_shards=1)
    info = schema.DatasetInfo.load(folder)
    info.labels.clear()
    info.save(folder)
    data = pipeline.Pipeline(folder, clips.EvenClips(4, 2, 1), views.EvenCrops(16, 16, 1))
    with pytest.raises(ValueError, match=r"'clips' is unlabeled"):
        FrozenEvaluation(run, data, data, 5, probe.Probe(), Knn())
