"""R(2+1)D against its tables and equations, and that all commands take it."""

import json
import subprocess
import sys
from pathlib import Path

import gin
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import ROOT, TINY_GIN, sampling, write_noise_video

from cvrl_tf import checkpoints
from cvrl_tf.checkpoints import SavedRun
from cvrl_tf.inference.feature_file import ClipFeatures
from cvrl_tf.models.r2plus1d import FactorizedConv, R2Plus1D

OVERLAY = "gin/common/r2plus1d.gin"
SMALL = ["r2plus1d.R2Plus1D.depth=10", "r2plus1d.R2Plus1D.width=0.125"]
CLIPS = np.random.default_rng(0).uniform(size=(4, 4, 24, 24, 3)).astype(np.float32)
# Frames, height and width of a clip, and of its map in each stage.
SIZES = {
    (16, 112, 112): [(16, 56, 56), (16, 56, 56), (8, 28, 28), (4, 14, 14), (2, 7, 7)],
    (5, 33, 47): [(5, 17, 24), (5, 17, 24), (3, 9, 12), (2, 5, 6), (1, 3, 3)],
    (1, 16, 16): [(1, 8, 8), (1, 8, 8), (1, 4, 4), (1, 2, 2), (1, 1, 1)],
}


def small_encoder(recompute: bool = False) -> R2Plus1D:
    keras.utils.set_random_seed(0)
    encoder = R2Plus1D(10, 0.125, recompute)
    encoder.build()
    return encoder


def test_parameters_are_those_of_torchvision() -> None:
    encoder = R2Plus1D()
    encoder.build()
    count = sum(v.shape.num_elements() for v in encoder.trainable_variables)
    assert count + 512 * 400 + 400 == 31_505_325  # with its linear layer of 400 classes
    assert encoder.feature_dim == 512


def test_one_map_a_stage() -> None:
    encoder = R2Plus1D(18, 0.125)
    assert [len(stage) for stage in encoder.stages] == [1, 2, 2, 2, 2]
    channels = [8, 8, 16, 32, 64]
    for clip, sizes in SIZES.items():
        frames = tf.random.stateless_uniform([2, *clip, 3], [0, 0])
        maps = encoder.feature_maps(frames)
        shapes = [(2, *size, width) for size, width in zip(sizes, channels, strict=True)]
        assert [each.shape for each in maps] == shapes
        features = encoder(frames)
        assert features.shape == (2, encoder.feature_dim) and features.dtype == tf.float32
        expected = maps[-1].numpy().mean((1, 2, 3))
        np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_stages_hold_each_weight_once() -> None:
    encoder = small_encoder()
    found = [v.ref() for stage in encoder.stages for layer in stage for v in layer.variables]
    assert len(found) == len(set(found))
    assert set(found) == {v.ref() for v in encoder.variables}


def convolved(x: np.ndarray, kernel: np.ndarray, strides: tuple) -> np.ndarray:
    """[T, H, W, C] by [t, h, w, C, F], padded alike on both sides."""
    taps = kernel.shape[:3]
    padded = np.pad(x, [*[((each - 1) // 2,) * 2 for each in taps], (0, 0)])
    places = [
        range(0, length - each + 1, stride)
        for length, each, stride in zip(padded.shape, taps, strides, strict=False)
    ]
    y = np.zeros([*map(len, places), kernel.shape[-1]])
    for a, i in enumerate(places[0]):
        for b, j in enumerate(places[1]):
            for c, k in enumerate(places[2]):
                seen = padded[i : i + taps[0], j : j + taps[1], k : k + taps[2]]
                y[a, b, c] = np.tensordot(seen, kernel, axes=4)
    return y


@pytest.mark.parametrize("strides", [(1, 1), (1, 2), (2, 2)])
def test_factorized_convolution(strides: tuple[int, int]) -> None:
    """Space, batch normalization, ReLU, time, batch normalization, in NumPy."""
    rng = np.random.default_rng(1)
    layer = FactorizedConv(middle=3, filters=4, strides=strides)
    x = rng.normal(size=(1, 4, 6, 5, 2)).astype(np.float32)
    layer(x)
    layer.set_weights([rng.uniform(0.5, 1.5, size=v.shape) - 0.7 for v in layer.weights])
    expected = x[0].astype(np.float64)
    time, space = strides
    for part, stride in ((layer.spatial, (1, space, space)), (layer.temporal, (time, 1, 1))):
        norm = part.norm
        norm.moving_variance.assign(rng.uniform(0.5, 1.5, size=norm.moving_variance.shape))
        if part is layer.temporal:
            expected = np.maximum(expected, 0)
        expected = convolved(expected, part.conv.kernel.numpy(), stride)
        expected = (expected - norm.moving_mean) / np.sqrt(norm.moving_variance + 1e-5)
        expected = expected * norm.gamma + norm.beta
    assert layer.spatial.conv.kernel.shape == (1, 3, 3, 2, 3)
    assert layer.temporal.conv.kernel.shape == (3, 1, 1, 3, 4)
    np.testing.assert_allclose(layer(x, training=False)[0], expected, rtol=1e-4, atol=1e-5)


def outcome(recompute: bool, under_xla: bool) -> dict[str, list[np.ndarray]]:
    """Features, gradients, and batch normalization's statistics after a step on CLIPS."""
    encoder = small_encoder(recompute)

    @tf.function(jit_compile=under_xla)
    def step(frames: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            features = encoder(frames, training=True)
            loss = tf.reduce_sum(tf.sin(features))
        return features, tape.gradient(loss, encoder.trainable_variables)

    features, gradients = step(tf.constant(CLIPS))
    return {
        "features": [features.numpy()],
        "gradients": [gradient.numpy() for gradient in gradients],
        "statistics": [v.numpy() for v in encoder.non_trainable_variables],
    }


@pytest.mark.slow
@pytest.mark.parametrize(("recompute", "under_xla"), [(True, False), (False, True)])
def test_the_same_step_recomputed_and_under_xla(recompute: bool, under_xla: bool) -> None:
    expected = outcome(recompute=False, under_xla=False)
    assert all(np.abs(gradient).max() > 0 for gradient in expected["gradients"])
    found = outcome(recompute, under_xla)
    for name, values in expected.items():
        scale = max(np.abs(value).max() for value in values)
        for ours, value in zip(found[name], values, strict=True):
            np.testing.assert_allclose(ours, value, atol=1e-4 * scale, err_msg=name)


def test_a_run_keeps_it(tmp_path: Path) -> None:
    encoder = small_encoder(recompute=True)
    checkpoints.save_as_run(encoder, sampling(4, 24), tmp_path / "run")
    run = SavedRun.open(tmp_path / "run")
    again = run.load_encoder()
    assert again.get_config() == {"depth": 10, "width": 0.125, "recompute": False}
    np.testing.assert_array_equal(again(CLIPS), encoder(CLIPS))
    run.check(encoder)
    with pytest.raises(ValueError, match=r"built with depth=10 \(here 18\)"):
        run.check(R2Plus1D(18, 0.125))


def test_unknown_depth_is_refused() -> None:
    with pytest.raises(ValueError, match=r"depth 50; choose one of \[10, 18, 34\]"):
        R2Plus1D(50)


def test_overlay_sets_the_encoder() -> None:
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))
    bindings = ["DATA_DIR='never'", *SMALL]
    gin.parse_config_files_and_bindings(["gin/demo/pretrain.gin", OVERLAY], bindings)
    encoder = gin.get_configurable(checkpoints.encoder_of)()
    assert isinstance(encoder, R2Plus1D) and encoder.feature_dim == 64


@pytest.mark.slow
def test_all_commands_take_it(
    noise_records: Path, tmp_path: Path, child_environment: dict[str, str]
) -> None:
    """Pretraining, probe, fine-tuning, export and embedding, each in a process of its own."""
    tiny = tmp_path / "tiny.gin"
    tiny.write_text(TINY_GIN)
    video = write_noise_video(tmp_path / "video.mp4", 40, seed=0)
    pretrained, tuned, model = (tmp_path / name for name in ("pretrained", "tuned", "model"))
    probed, embedded = tmp_path / "probed.json", tmp_path / "features.npz"

    def command(module: str, *arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, "-m", f"cvrl_tf.{module}", *map(str, arguments)],
            env=child_environment,
            cwd=ROOT,
            text=True,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr

    def recipe(*files: object, bindings: list[str]) -> list[str]:
        bindings = [f"DATA_DIR='{noise_records}'", *bindings]
        flags = [f"--gin_file={file}" for file in (*files, tiny)]
        return [*flags, *(f"--gin_param={binding}" for binding in bindings)]

    labeled = [f"CHECKPOINT='{pretrained}'", "clips.EvenClips.num_clips=1"]
    no_warmup = "schedules.warmup_cosine.warmup_epochs=0"  # longer than this training
    pretraining = recipe("gin/demo/pretrain.gin", OVERLAY, bindings=[no_warmup, *SMALL])
    command("train", *pretraining, f"--model_dir={pretrained}")
    command("evaluate", *recipe("gin/probe/cached.gin", bindings=labeled), "--output", probed)
    tuning = [*labeled, no_warmup, "classify.Classifier.layer_decay=0.5"]
    command("train", *recipe("gin/finetune/ucf101.gin", bindings=tuning), f"--model_dir={tuned}")
    command("export", f"--checkpoint={tuned}", f"--output={model}", "--num_clips=2")
    command("embed", f"--model={model}", video, f"--output={embedded}", "--workers=1")

    assert "trained" in json.loads(probed.read_text())["encoders"]
    encoders = [checkpoints.load_encoder(run) for run in (pretrained, tuned)]
    assert all(isinstance(encoder, R2Plus1D) for encoder in encoders)
    moved = [
        np.abs(after - before).max()
        for before, after in zip(*(encoder.get_weights() for encoder in encoders), strict=True)
    ]
    assert min(moved) > 0
    clips = np.random.default_rng(0).integers(0, 256, [2, 4, 16, 16, 3], np.uint8)
    expected = encoders[1](clips / np.float32(255), training=False)
    feature = tf.saved_model.load(str(model)).signatures["clips"](tf.constant(clips))["feature"]
    np.testing.assert_allclose(feature, expected, rtol=1e-4, atol=1e-5)
    found = ClipFeatures.load(embedded).results
    assert found["feature"].shape == (2, 64) and found["probability"].shape == (2, 2)
    assert np.isfinite(found["feature"]).all() and found["feature"].std() > 0
