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
from cvrl_tf.evaluation import features, monitor, probe
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


@pytest.mark.parametrize(
    ("count", "counts", "complaint"),
    [
        (2, {"even": 1}, r"1 of 2 videos of split 'train' of 'clips' are unlabeled; .*=skip"),
        (2, {}, "2 of 2 videos .* are unlabeled"),
        (1, {"even": 1}, "The training split has 1 videos of 1 class: evaluation needs two"),
        (2, {"even": 2}, "The training split has 2 videos of 1 class: evaluation needs two"),
    ],
)
def test_data_that_has_too_few_classes_is_refused(
    tmp_path: Path, count: int, counts: dict[str, int], complaint: str
) -> None:
    videos = [noise_video(8, 16, 16, 0)] * count
    folder = write_records(tmp_path / "clips", videos, num_shards=1)
    info = schema.DatasetInfo.load(folder)
    info.splits["train"].class_counts = counts
    info.save(folder)
    data = pipeline.Pipeline(folder, clips.EvenClips(4, 2, 1), views.EvenCrops(16, 16, 1))
    with pytest.raises(ValueError, match=complaint):
        FrozenEvaluation(tmp_path / "run", data, data, 5, probe.Probe(), Knn())
    if sum(counts.values()) < count:
        with pytest.raises(ValueError, match=complaint):
            monitor.KnnMonitor(data, data, 2, 5)


def test_no_class_is_no_index() -> None:
    features_of, labels = np.eye(3, dtype=np.float32), np.array([0, 1, -1])
    with pytest.raises(ValueError, match="1 of 3 videos have no class of the 2: .* number 2, .*-1"):
        metrics.classification(features_of[:, :2], labels)
    with pytest.raises(ValueError, match="1 of 3 videos have no class"):
        Knn().votes((features_of, labels), features_of, 2)
    with pytest.raises(ValueError, match="1 of 3 videos have no class"):
        probe.linear_probe((features_of[:, None], labels), features_of[:, None], 2)
    with pytest.raises(ValueError, match="1 training videos: the probe holds one out"):
        probe.linear_probe((features_of[:1, None], labels[:1]), features_of[:, None], 2)
