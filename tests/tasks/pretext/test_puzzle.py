"""Cubic puzzles: which pieces are cut, the draws, the loss at chance, and what can be learned."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import replicated
import tensorflow as tf
import tf_keras as keras
from conftest import ramp_video, write_records
from scipy import stats

from cvrl_tf.augment import presets
from cvrl_tf.augment.chain import Chain
from cvrl_tf.augment.photometric import ReplicateChannel
from cvrl_tf.data import clips, pipeline, views
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.pretext import puzzle
from cvrl_tf.tasks.pretext.orders import order_labels, permutations
from cvrl_tf.tasks.pretext.puzzle import PuzzleHead, PuzzlePrediction

CHANCE = 2 * (math.log(24) + 0.5 * math.log(2))


def puzzles(piece_size: int = 6, **kwargs: Any) -> PuzzlePrediction:
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    return PuzzlePrediction(
        encoder, lambda: PuzzleHead(32, 0.5), piece_size, augment=presets.none(), **kwargs
    )


def batch_of(frames: np.ndarray, first: int = 0) -> dict[str, tf.Tensor]:
    seeds = np.arange(first * 8, (first + len(frames)) * 8, dtype=np.int32).reshape(-1, 4, 2)
    return {"frames": tf.constant(frames), "seeds": tf.constant(seeds)}


def task_and_batch() -> tuple[PuzzlePrediction, dict[str, np.ndarray]]:
    """What `replicated` computes."""
    model = puzzles(weight_decay=1e-3)
    model.compile(keras.optimizers.SGD(0.01))
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 16, 16, 3), np.uint8)
    return model, {name: rows.numpy() for name, rows in batch_of(noise).items()}


def numbered(videos: int) -> np.ndarray:
    """Clips whose pixels say where they are, 8 * quadrant + clip: uint8 [V, 4, 2, 16, 16, 3]."""
    quadrants = np.arange(4).reshape(2, 2).repeat(8, 0).repeat(8, 1)
    values = 8 * quadrants + np.arange(4)[:, None, None]
    return np.broadcast_to(values[None, :, None, ..., None], (videos, 4, 2, 16, 16, 3)).astype(
        np.uint8
    )


def test_pieces_are_those_of_one_clip_and_of_one_quadrant() -> None:
    model, batch = puzzles(), batch_of(numbered(200))
    found = 255 * model.pieces(model.views(batch), batch).numpy()
    assert found.shape == (200, 8, 2, 6, 6, 3)
    values = np.round(found.mean(axis=(2, 3, 4, 5))).astype(int)
    np.testing.assert_allclose(found, values[..., None, None, None, None] * np.ones_like(found))
    is_down = puzzle.upside_down(batch).numpy()
    clip, quadrant = puzzle.chosen_cells(batch).numpy().T
    for row, down, of_clip, of_quadrant in zip(values, is_down, clip, quadrant, strict=True):
        spatial = 8 * np.arange(4) + of_clip
        np.testing.assert_array_equal(row[:4], spatial[::-1] if down else spatial)
        place = 3 - of_quadrant if down else of_quadrant
        np.testing.assert_array_equal(row[4:], 8 * place + np.arange(4))


def test_pictures_tell_where_each_piece_belongs() -> None:
    model, batch = puzzles(), batch_of(numbered(30))
    clips, captions = model.shown(batch)
    is_down = puzzle.upside_down(batch).numpy()
    values = np.round(255 * clips.numpy().mean(axis=(2, 3, 4, 5))).astype(int)
    for video, down in enumerate(is_down):
        suffix = ", upside down" if down else ""
        quadrants = 3 - values[video, :4] // 8 if down else values[video, :4] // 8
        expected = [f"quadrant {place + 1}{suffix}" for place in quadrants]
        expected += [f"time {place + 1}{suffix}" for place in values[video, 4:] % 8]
        assert captions[8 * video : 8 * video + 8] == expected
    assert 5 < is_down.sum() < 25


def test_a_piece_is_anywhere_in_its_cell() -> None:
    rows, columns = np.indices((16, 16))
    values = np.stack([rows, columns, 0 * rows], axis=-1)
    frames = np.broadcast_to(values, (100, 4, 2, 16, 16, 3)).astype(np.uint8)
    model, batch = puzzles(), batch_of(frames)
    corners = np.round(255 * model.pieces(model.views(batch), batch).numpy()[:, :4, 0, 0, 0, :2])
    upright = corners[~puzzle.upside_down(batch).numpy()]
    offsets = upright - 8 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    counts = np.stack(
        [np.bincount(each.astype(int), minlength=3) for each in offsets.reshape(-1, 2).T]
    )
    assert counts.shape == (2, 3) and all(stats.chisquare(each).pvalue > 1e-3 for each in counts)


def test_orders_and_turns_are_uniform_and_independent() -> None:
    batch = batch_of(np.zeros([6000, 4, 1, 1, 1, 3], np.uint8))
    draw = tf.function(lambda batch, purpose: order_labels(batch, 4, purpose))
    spatial, temporal = (draw(batch, purpose).numpy() for purpose in (0, 1))
    for labels in (spatial, temporal, (spatial + temporal) % 24):
        assert stats.chisquare(np.bincount(labels, minlength=24)).pvalue > 1e-3
    down = tf.function(puzzle.upside_down)(batch).numpy()
    assert abs(down.mean() - 0.5) < 4 * 0.5 / math.sqrt(6000)
    table = [tuple(row) for row in permutations(4)]
    assert [table.index(order) for order in ((0, 1, 2, 3), (1, 0, 2, 3), (3, 2, 1, 0))] == [
        0,
        6,
        23,
    ]


def test_loss_at_chance() -> None:
    batch = batch_of(np.zeros([3, 4, 1, 1, 1, 3], np.uint8))
    outputs = {f"{name}_head": tf.zeros([3, 25]) for name in puzzle.PUZZLES}
    result = puzzles().losses(outputs, batch)
    np.testing.assert_allclose(result.losses, np.full(3, CHANCE), rtol=1e-6)
    whole = puzzles(upright=1.0).losses(outputs, batch)
    np.testing.assert_allclose(whole.losses, np.full(3, 2 * 3.871201), rtol=1e-6)


def test_replicated_channels_are_alike() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (64, 2, 4, 4, 3), np.uint8)
    seeds = tf.constant(np.arange(128).reshape(64, 2), tf.int32)
    found = Chain([ReplicateChannel(probability=0.5)])(tf.constant(frames), seeds).numpy()
    replicated_ = (found == found[..., :1]).all(axis=(1, 2, 3, 4))
    assert 16 < replicated_.sum() < 48
    np.testing.assert_allclose(found[~replicated_], frames[~replicated_] / 255, rtol=1e-6)
    which = [
        [np.allclose(ours[..., 0], theirs[..., c] / 255) for c in range(3)].index(True)
        for ours, theirs in zip(found[replicated_], frames[replicated_], strict=True)
    ]
    assert set(which) == {0, 1, 2}


def test_clips_are_of_the_quarters_of_a_video(tmp_path: Path) -> None:
    folder = write_records(tmp_path, [ramp_video(60, 32, 32) for _ in range(24)])
    sampler = clips.SegmentClips(num_frames=4, stride=2, num_clips=4)
    data = pipeline.Pipeline(folder, sampler, views.RandomResizedCrop(16))
    (batch,) = data.train_batches(24).take(1)
    gray = np.round(batch["frames"].numpy().mean(axis=(3, 4, 5)) / 4)
    np.testing.assert_array_equal(np.diff(gray, axis=2), 2)
    starts = gray[:, :, 0] - 15 * np.arange(4)
    assert starts.min() >= 0 and starts.max() <= 15 - 7 and len(np.unique(starts)) > 6
    short = sampler(tf.constant(9), tf.constant([1, 2])).numpy()  # parts of two frames
    assert (np.diff(short[:, 0]) > 0).all() and short[0, 0] < 2


def test_views_that_make_no_puzzle_are_refused() -> None:
    batch = batch_of(np.zeros([1, 4, 2, 16, 16, 3], np.uint8))
    with pytest.raises(ValueError, match=r"4 clips of 16 .*piece_size to 8 or less"):
        puzzles(piece_size=9).pieces(tf.zeros([1, 4, 2, 16, 16, 3]), batch)
    with pytest.raises(ValueError, match=r"2 clips of 16 .*num_clips to 4"):
        puzzles().pieces(tf.zeros([1, 2, 2, 16, 16, 3]), batch)


@pytest.mark.slow
def test_puzzles_of_numbered_cells_can_be_learned() -> None:
    """Their gray value says where pieces belong; upside down, the quadrants change places."""
    model = puzzles(upright=0.0)
    model.compile(keras.optimizers.Adam(0.003))
    frames = 6 * numbered(32)
    data = tf.data.Dataset.from_tensors(frames).repeat(150)
    losses = [model.fit(data, verbose=0).history["loss"][0] for _ in range(2)]
    assert losses[1] < 0.7 * 2 * math.log(24)


@pytest.mark.slow
def test_two_replicas_equal_one(tmp_path: Path) -> None:
    replicated.assert_replicas_equal_one(__file__, task_and_batch, tmp_path)


def test_heads_are_rebuilt() -> None:
    head = PuzzleHead(8, 0.5)
    assert PuzzleHead.from_config(head.get_config())(tf.zeros([2, 4, 5])).shape == (2, 25)
