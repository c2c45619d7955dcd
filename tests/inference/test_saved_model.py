"""What is exported loads with TensorFlow alone and gives the encoder's features."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from conftest import sampling

from cvrl_tf import checkpoints, distribution
from cvrl_tf.augment.chain import Chain, ViewChains
from cvrl_tf.data import clips, pipeline, schema, views
from cvrl_tf.data import records as data_records
from cvrl_tf.evaluation import features
from cvrl_tf.inference.saved_model import export_encoder
from cvrl_tf.models.heads import ProjectionHead
from cvrl_tf.models.resnet3d import ResNet3D
from cvrl_tf.tasks.classify import Classifier
from cvrl_tf.tasks.pretext.contrastive import ContrastiveLearner
from cvrl_tf.training.run import Run
from cvrl_tf.training.settings import Checkpointing, Execution, Optimization, Validation

SIZE = 32
FRAMES = 4

# (B, T, H, W): the training size, others, and other numbers of clips and frames.
SHAPES = {
    "as_trained": (2, FRAMES, SIZE, SIZE),
    "one_clip": (1, 3, SIZE, SIZE),
    "many": (5, 7, SIZE, SIZE),
    "wide": (2, FRAMES, 48, 81),
    "tall": (2, FRAMES, 77, 40),
    "small": (1, FRAMES, 20, 27),
}

# Runs where neither this project nor its Keras can be found.
CLIENT = """
import sys
import numpy as np
import tensorflow as tf

model = tf.saved_model.load(sys.argv[1])
inputs, outputs = np.load(sys.argv[2], allow_pickle=True), {}
for name in inputs.files:
    kind, _, _ = name.partition("/")
    outputs[name] = model.signatures[kind](tf.constant(inputs[name].tolist())
        if kind in ("jpegs", "records") else tf.constant(inputs[name]))["feature"]
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"cvrl_tf", "tf_keras", "official"}, loaded
np.savez(sys.argv[3], **outputs)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with an encoder whose every tensor matters."""
    keras.utils.set_random_seed(0)
    encoder = ResNet3D(10, 0.125)
    encoder.build()
    rng = np.random.default_rng(0)
    for variable in encoder.variables:
        if "batch_normalization" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    folder = tmp_path_factory.mktemp("export") / "run"
    folder.mkdir()
    checkpoints.save_encoder_config(encoder, sampling(FRAMES, SIZE), folder)
    manager = tf.train.CheckpointManager(
        tf.train.Checkpoint(encoder=encoder),
        str(folder / "checkpoints"),
        max_to_keep=3,
        checkpoint_name="ckpt",
    )
    manager.save(7)
    return folder


def smooth_clips(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """uint8 [B, T, H, W, 3]."""
    batch, time, height, width = shape
    coarse = np.random.default_rng(seed).uniform(0, 255, (batch * time, 6, 6, 3))
    return tf.reshape(tf.image.resize(coarse, [height, width]), [*shape, 3]).numpy().astype("u1")


def bilinear(frames: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Resizes an axis: pixels are areas, so centers lie at halves; no antialiasing."""
    old = frames.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, old - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(frames.ndim)])
    return np.take(frames, low, axis) * (1 - share) + np.take(frames, high, axis) * share


def prepared(clips: np.ndarray, side: int) -> np.ndarray:
    """The square in the middle, scaled to `side`; float32 in [0, 1]."""
    height, width = clips.shape[2:4]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    square = clips[:, :, top : top + short, left : left + short].astype(np.float64)
    return (bilinear(bilinear(square, side, 2), side, 3) / 255).astype(np.float32)


def jpegs_of(clips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Strings [B, T], and the pixels that they decode to."""
    coded = [[tf.io.encode_jpeg(frame, quality=90).numpy() for frame in clip] for clip in clips]
    decoded = [[tf.io.decode_jpeg(one).numpy() for one in clip] for clip in coded]
    return np.array(coded, object), np.array(decoded)


def assert_features(ours: np.ndarray, wanted: np.ndarray) -> None:
    assert ours.dtype == np.float32 and ours.shape == wanted.shape
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert np.ptp(wanted, axis=1).min() > 0  # features that say nothing would prove nothing


@pytest.fixture(scope="module")
def client_features(
    run: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Clips by name, and the features that a process with TensorFlow alone has of them."""
    folder = tmp_path_factory.mktemp("client")
    export_encoder(run, folder / "model", 2, 1)
    clips = {f"clips/{name}": smooth_clips(shape) for name, shape in SHAPES.items()}
    clips["serving_default/wide"] = clips["clips/wide"]
    inputs = dict(clips)
    for name in ("as_trained", "wide", "many"):
        inputs[f"jpegs/{name}"], clips[f"jpegs/{name}"] = jpegs_of(smooth_clips(SHAPES[name], 1))
    np.savez(folder / "in.npz", **inputs)
    client = folder / "client.py"
    client.write_text(CLIENT)
    command = [sys.executable, client, folder / "model", folder / "in.npz", folder / "out.npz"]
    # Neither PYTHONPATH nor this folder, and no word on which Keras to use.
    done = subprocess.run(
        command, env={"TF_CPP_MIN_LOG_LEVEL": "2"}, cwd=folder, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert "custom gradients" not in done.stderr  # nothing of Keras was saved along
    return clips, dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize(
    "name",
    [f"clips/{name}" for name in SHAPES]
    + ["serving_default/wide", "jpegs/as_trained", "jpegs/wide", "jpegs/many"],
)
def test_features_are_the_encoders(run: Path, client_features: tuple, name: str) -> None:
    clips, features = (values[name] for values in client_features)
    encoder = checkpoints.load_encoder(run)
    assert_features(features, encoder(prepared(clips, SIZE), training=False).numpy())


def test_the_training_size_is_not_resampled() -> None:
    clips = smooth_clips(SHAPES["as_trained"])
    np.testing.assert_allclose(prepared(clips, SIZE), clips / 255, atol=1e-7)


def test_another_size(run: Path, tmp_path: Path) -> None:
    export_encoder(run, tmp_path / "model", 2, 1, size=48)
    clips = smooth_clips(SHAPES["wide"])
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    encoder = checkpoints.load_encoder(run)
    wanted = encoder(prepared(clips, 48), training=False).numpy()
    assert_features(loaded.clips(clips)["feature"].numpy(), wanted)


def serialized(records: Path, split: str = "train") -> list[bytes]:
    """The records in the order of their ids, as `Pipeline.eval_batches` has them."""
    info = schema.DatasetInfo.load(records)
    found = data_records.in_order(data_records.shard_paths(records, info.split(split)))
    return sorted(
        found.as_numpy_iterator(), key=lambda each: data_records.parse(each)["video_id"].numpy()
    )


def test_records_are_averaged_as_in_evaluation(
    run: Path, noise_records: Path, tmp_path: Path
) -> None:
    export_encoder(run, tmp_path / "model", num_clips=2, num_crops=3, num_frames=3)
    videos = tf.constant(serialized(noise_records)[:4])
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    ours = loaded.signatures["records"](records=videos)["feature"].numpy()
    data = pipeline.Pipeline(
        noise_records, clips.EvenClips(3, 2, 2), views.EvenCrops(SIZE, SIZE, 3), "train"
    )
    wanted, _ = features.extract(checkpoints.load_encoder(run), data, 32).of_videos
    assert_features(ours, wanted[:4])


def trained(task: Callable[[], keras.Model], num_clips: int, records: Path, folder: Path) -> Path:
    """A run of one epoch."""
    Run(
        model_dir=folder,
        train_data=pipeline.Pipeline(
            records, clips.UniformClips(FRAMES, 3, num_clips), views.RandomResizedCrop(SIZE)
        ),
        task=task,
        optimization=Optimization(
            optimizer=lambda learning_rate: keras.optimizers.SGD(learning_rate),
            learning_rate=lambda **facts: 0.1,
        ),
        global_batch=8,
        epochs=1,
        validation=Validation(),
        checkpointing=Checkpointing(),
        execution=Execution(distribution.strategy()),
    ).fit()
    return folder


def seen(folder: Path, model: keras.Model, name: str, num_crops: int) -> tuple:
    """Exports a run beside itself. The loaded model, and of clips the outputs of the trained one
    and what the loaded one says by that name."""
    export_encoder(folder, folder.parent / "model", num_clips=2, num_crops=num_crops)
    loaded = tf.saved_model.load(str(folder.parent / "model"))
    frames = smooth_clips(SHAPES["as_trained"])
    found = loaded.clips(frames)
    assert set(found) == {"feature", name}
    return loaded, model(frames / np.float32(255), training=False).numpy(), found[name].numpy()


@pytest.mark.slow
def test_embedding(noise_records: Path, tmp_path: Path) -> None:
    models: list[ContrastiveLearner] = []

    def learner() -> ContrastiveLearner:
        head = ProjectionHead(hidden_dim=24, num_hidden=2, output_dim=10)
        models.append(ContrastiveLearner(ResNet3D(10, 0.125), head, ViewChains([Chain()])))
        return models[0]

    folder = trained(learner, 2, noise_records, tmp_path / "run")
    loaded, wanted, found = seen(folder, models[0], "embedding", num_crops=1)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    assert_features(found, wanted)

    # Of a video the mean of its views', of length 1 again.
    videos = loaded.records(tf.constant(serialized(noise_records)[:2]))["embedding"].numpy()
    data = pipeline.Pipeline(
        noise_records, clips.EvenClips(FRAMES, 3, 2), views.EvenCrops(SIZE, SIZE, 1)
    )
    for number in range(2):
        of_views = models[0](data.views_at(number) / 255, training=False).numpy()
        of_views /= np.linalg.norm(of_views, axis=1, keepdims=True)
        mean = of_views.mean(axis=0)
        np.testing.assert_allclose(
            videos[number], mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-5
        )
    facts = json.loads((tmp_path / "model" / checkpoints.EXPORT_FILE).read_text())
    assert facts["views"] == {
        **{"size": SIZE, "num_frames": FRAMES, "stride": 3, "fps": None},
        **{"num_clips": 2, "num_crops": 1, "short_side": 48, "record_fps": None},
    }
    assert facts["classes"] is None and facts["run"]["global_batch"] == 8
    trained_on = sampling(FRAMES, SIZE, stride=3, short_side=48)
    assert facts["trained_on"] == dataclasses.asdict(trained_on)


@pytest.mark.parametrize("normalize_features", [False, True])
def test_probability(normalize_features: bool, noise_records: Path, tmp_path: Path) -> None:
    models: list[Classifier] = []

    def classifier() -> Classifier:
        encoder, augment = ResNet3D(10, 0.125), ViewChains([Chain()])
        models.append(Classifier(encoder, 2, False, augment, normalize_features))
        return models[0]

    folder = trained(classifier, 1, noise_records, tmp_path / "run")
    loaded, logits, found = seen(folder, models[0], "probability", num_crops=3)
    assert_features(found, tf.nn.softmax(logits).numpy())
    assert json.loads((tmp_path / "model" / checkpoints.EXPORT_FILE).read_text())["classes"] == [
        "even",
        "odd",
    ]

    # Of a video the mean of its views' softmaxes, as in the test of a run.
    video = serialized(noise_records)[0]
    data = pipeline.Pipeline(
        noise_records, clips.EvenClips(FRAMES, 3, 2), views.EvenCrops(SIZE, SIZE, 3)
    )
    of_views = tf.nn.softmax(models[0](data.views_at(0) / 255, training=False)).numpy()
    probability = loaded.records(tf.constant([video]))["probability"].numpy()
    assert_features(probability, of_views.mean(axis=0, keepdims=True))


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_encoder(run, folder, 2, 1)
    return folder


@pytest.mark.parametrize(
    ("signature", "value", "said"),
    [
        ("clips", np.zeros([1, 0, 8, 8, 3], "u1"), "at least one frame"),
        ("clips", np.zeros([1, 2, 0, 8, 3], "u1"), "at least one frame"),
        ("clips", np.zeros([0, 2, 8, 8, 3], "u1"), "must be a clip"),
        ("clips", np.zeros([2, 8, 8, 3], "u1"), "rank|shape"),
        ("clips", np.zeros([1, 2, 8, 8, 4], "u1"), "shape"),
        ("jpegs", np.array([[b"no jpeg"]]), "Unknown image file format"),
        ("jpegs", np.zeros([1, 0], object).astype(bytes), "at least one frame"),
        ("records", np.array([b"no record"]), "Invalid protocol message"),
        (
            "records",
            np.array([tf.train.SequenceExample().SerializeToString()]),
            "at least one frame|image/encoded",
        ),
    ],
)
def test_bad_input_is_an_error(
    exported: Path, signature: str, value: np.ndarray, said: str
) -> None:
    loaded = tf.saved_model.load(str(exported)).signatures[signature]
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError, TypeError), match=said):
        loaded(tf.constant(value))


def test_the_command_line_tool_shows_what_there_is(exported: Path) -> None:
    tool = ["-m", "tensorflow.python.tools.saved_model_cli", "show", "--dir", exported, "--all"]
    shown = subprocess.run([sys.executable, *tool], capture_output=True, text=True, check=True)
    for name, shape in (
        ("clips", "(-1, -1, -1, -1, 3)"),
        ("jpegs", "(-1, -1)"),
        ("records", "(-1)"),
    ):
        after = shown.stdout.partition(f"signature_def['{name}']:")[2]
        assert f"inputs['{name}'] tensor_info" in after and f"shape: {shape}" in after
        assert "outputs['feature'] tensor_info" in after and "shape: (-1, 64)" in after


@pytest.mark.slow
def test_the_export_converts_to_tensorflow_lite(exported: Path) -> None:
    """With TensorFlow Lite's own operations alone, where the shape is known."""
    loaded = tf.saved_model.load(str(exported))
    clips = smooth_clips((1, FRAMES, 48, 64))
    of_clips = tf.function(
        lambda clips: loaded.signatures["clips"](clips)["feature"],
        input_signature=[tf.TensorSpec(clips.shape, tf.uint8)],
    ).get_concrete_function()
    lite = tf.lite.TFLiteConverter.from_concrete_functions([of_clips], loaded).convert()
    interpreter = tf.lite.Interpreter(model_content=lite)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], clips)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert_features(found, of_clips(tf.constant(clips)).numpy())


@pytest.mark.slow
def test_the_export_converts_to_onnx(exported: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    output = tmp_path / "encoder.onnx"
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", exported]
    flags = ["--signature_def=clips", "--tag=serve", "--opset=17", f"--output={output}"]
    subprocess.run([*command, *flags], check=True)
    session = onnxruntime.InferenceSession(output)
    clips = smooth_clips(SHAPES["wide"])
    (found,) = session.run(["feature"], {"clips": clips})
    wanted = tf.saved_model.load(str(exported)).signatures["clips"](tf.constant(clips))
    assert_features(found, wanted["feature"].numpy())


def test_existing_output_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(FileExistsError, match="exists; delete it or choose another"):
        export_encoder(run, tmp_path / "model", 2, 1)
    assert not list((tmp_path / "model").iterdir())


def test_a_run_that_does_not_say_its_sampling_is_refused(run: Path, tmp_path: Path) -> None:
    old = shutil.copytree(run, tmp_path / "old")
    facts = json.loads((old / checkpoints.ENCODER_FILE).read_text())
    del facts["version"]
    facts |= {"input_shape": [4, 32, 32, 3], "fps": None, "short_side": 256}  # as in version 1
    (old / checkpoints.ENCODER_FILE).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="earlier version and lacks stride, record_fps"):
        export_encoder(old, tmp_path / "model", num_clips=2, num_crops=1)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        export_encoder(tmp_path / "nothing", tmp_path / "model", 2, 1)
    assert not (tmp_path / "model").exists()


def command(environment: dict[str, str], cwd: Path, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cvrl_tf.export", *flags],
        env=environment,
        cwd=cwd,
        text=True,
        capture_output=True,
    )


@pytest.mark.slow
def test_command(run: Path, tmp_path: Path, child_environment: dict[str, str]) -> None:
    """In a process that has not imported the encoder's class yet."""
    output = tmp_path / "model"
    done = command(child_environment, tmp_path, f"--checkpoint={run}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert f"Wrote {output}." in done.stdout
    clips = smooth_clips(SHAPES["as_trained"])
    loaded = tf.saved_model.load(str(output))
    features = loaded.clips(clips)["feature"].numpy()
    encoder = checkpoints.load_encoder(run)
    assert_features(features, encoder(prepared(clips, SIZE), training=False).numpy())


def test_command_with_a_wrong_path(tmp_path: Path, child_environment: dict[str, str]) -> None:
    wrong = tmp_path / "rnu"
    done = command(child_environment, tmp_path, f"--checkpoint={wrong}", "--output=model")
    assert done.returncode == 1
    assert f"FileNotFoundError: No checkpoint at {str(wrong)!r}: give a run's folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value: float, run: Path, tmp_path: Path) -> None:
    encoder = checkpoints.load_encoder(run)
    norm = encoder.blocks[1].convs[0].norm
    norm.gamma.assign(tf.tensor_scatter_nd_update(norm.gamma, [[2]], [value]))
    prefix = checkpoints.save_as_run(encoder, sampling(FRAMES, SIZE), tmp_path / "run")
    with pytest.raises(ValueError, match="encoder/blocks/1/convs/0/norm/gamma") as refused:
        export_encoder(tmp_path / "run", tmp_path / "model", 2, 1)
    assert prefix in str(refused.value) and not (tmp_path / "model").exists()


def test_features_that_are_not_finite_are_refused(run: Path, tmp_path: Path) -> None:
    """All weights are finite, and a variance is less than zero."""
    encoder = checkpoints.load_encoder(run)
    variance = encoder.stem.norm.moving_variance
    variance.assign(-tf.ones_like(variance))
    checkpoints.save_as_run(encoder, sampling(FRAMES, SIZE), tmp_path / "run")
    with pytest.raises(ValueError, match="The feature by .* of a clip is not finite"):
        export_encoder(tmp_path / "run", tmp_path / "model", 2, 1)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_an_encoder_of_a_module_that_the_user_names(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "import tf_keras as keras\nfrom cvrl_tf.models.resnet3d import ResNet3D\n"
        "@keras.saving.register_keras_serializable('mine')\nclass Mine(ResNet3D):\n    pass\n"
    )
    encoder = ResNet3D(10, 0.125)
    encoder.build()
    checkpoints.save_as_run(encoder, sampling(FRAMES, SIZE), tmp_path / "run")
    file = tmp_path / "run" / "encoder.json"
    text = file.read_text().replace("cvrl_tf>ResNet3D", "mine>Mine")
    file.write_text(text.replace("cvrl_tf.models.resnet3d", "mine"))
    command = [sys.executable, "-m", "cvrl_tf.export", "--checkpoint=run", "--output=model"]
    for flags, status in ([], 1), (["--module=mne"], 1), (["--module=mine"], 0):
        done = subprocess.run(
            [*command, *flags], cwd=tmp_path, env=child_environment, capture_output=True, text=True
        )
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        assert (tmp_path / "model").exists() == (status == 0)
