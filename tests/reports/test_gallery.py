"""The gallery shows the videos that the neighbors' indices mean."""

import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import write_noise_video
from PIL import Image

from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.evaluation.features import Features
from cvrl_tf.reports import gallery


@pytest.fixture
def data(noise_records: Path) -> tuple[pipeline.Pipeline, pipeline.Pipeline]:
    train, test = (
        pipeline.Pipeline(
            noise_records, clips.EvenClips(4, 2, 2), views.EvenCrops(16, 16, 1), split
        )
        for split in ("train", "test")
    )
    return train, test


def all_views(data: pipeline.Pipeline) -> dict[str, np.ndarray]:
    context = tf.distribute.InputContext(num_replicas_in_sync=1)
    batch = next(iter(data.eval_batches(data.num_examples, context)))
    return {name: value.numpy() for name, value in batch.items()}


def test_one_example_is_that_of_the_whole_split(data: tuple) -> None:
    for split in data:
        expected = all_views(split)["frames"]
        for position in range(split.num_examples):
            np.testing.assert_array_equal(split.views_at(position), expected[position])
        with pytest.raises(IndexError, match=f"No example {split.num_examples}"):
            split.views_at(split.num_examples)


def test_what_is_no_video_has_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    odd = os.path.join(os.fsencode(tmp_path), b"\xff.mp4")
    os.rename(write_noise_video(tmp_path / "a.mp4", 10, 0), odd)
    for name in (str(tmp_path), str(tmp_path / "pipe.mp4"), os.fsdecode(odd), "x\0", "gone.mp4"):
        assert gallery.picture_of_clip(name, 0.0, 1.0) is None


def test_nearest_videos(data: tuple, noise_records: Path, tmp_path: Path) -> None:
    train, test = data
    examples = [all_views(split) for split in data]
    # Features whose neighbors are known: the test videos' are those of training videos 3, 4, ...
    of_train = np.random.default_rng(0).normal(size=(train.num_examples, 2, 8))
    of_test = of_train[3 : 3 + test.num_examples]
    found = gallery.nearest_videos(
        (train, Features(of_train, examples[0]["label"])),
        (test, Features(of_test, examples[1]["label"])),
        tmp_path,
        num_nearest=3,
    )
    skipping = pipeline.Pipeline(
        noise_records, clips.EvenClips(4, 2, 2), views.EvenCrops(16, 16, 1), skip_damaged=True
    )
    nothing = Features(np.zeros([0, 1, 8]), np.zeros(0, int))
    assert gallery.nearest_videos((skipping, nothing), (test, nothing), tmp_path) == []
    labels = examples[1]["label"]
    assert [query["class"] for query in found] == test.labels
    for label, query in enumerate(found):
        position = int(np.flatnonzero(labels == label)[0])
        assert Path(query["picture"]).name == f"test-{position}.webp"
        first = query["nearest"][0]
        assert Path(first["picture"]).name == f"train-{3 + position}.webp"
        assert first["class"] == train.labels[examples[0]["label"][3 + position]]
        assert first["cosine"] == pytest.approx(1, abs=1e-3)
        assert len(query["nearest"]) == 3
        with Image.open(query["picture"]) as picture:
            assert picture.n_frames == 4 and picture.size == (16, 16)
