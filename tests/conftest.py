"""Records that the tests make: ramp videos, whose gray value tells the frame index."""

import cvrl_tf  # noqa: F401  (before TensorFlow: it chooses the Keras)

# isort: split
import contextlib
import importlib.util
import io
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tally import pytest_terminal_summary, tally  # noqa: F401

from cvrl_tf.data import schema, shard_index
from cvrl_tf.data.sampling import Sampling
from cvrl_tf.preparation import decoding

ROOT = Path(__file__).parents[1]

# A shell starts what runs in its background with Ctrl-C ignored, and nohup with SIGHUP ignored. The
# processes that tests start and interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# What is installed on one leg alone: that of the latest TensorFlow, or that of the extra [addons],
# whose tests `make addons-test` runs.
_NEEDS = {
    "attacks/attack_server.py": "fastapi",
    "inference/test_index.py": "faiss",
    "test_addons.py": "tensorflow_addons",
    "test_documentation.py": "nbclient",
    "inference/test_clients.py": "fastapi",
    "inference/test_server.py": "fastapi",
    "inference/test_tensorflow_serving.py": "tensorflow_serving",
}
collect_ignore = [file for file, needed in _NEEDS.items() if not importlib.util.find_spec(needed)]


# Behind a recipe: the same in seconds.
TINY_GIN = """
from __gin__ import dynamic_registration
from cvrl_tf.training import run
from cvrl_tf.training import settings
from cvrl_tf.models import heads
from cvrl_tf.models import resnet3d
from cvrl_tf.evaluation import probe
from cvrl_tf.optim import schedules
NUM_FRAMES = 4
SIZE = 16
EVAL_SPLIT = 'test'
resnet3d.ResNet3D.depth = 10
resnet3d.ResNet3D.width = 0.125
resnet3d.ResNet3D.stem_pool = False
heads.ProjectionHead.hidden_dim = 16
heads.ProjectionHead.output_dim = 8
run.Run.global_batch = 2
settings.Validation.batch = 2
run.Run.epochs = 1
schedules.warmup_cosine.warmup_epochs = 0
probe.Probe.epochs = 3
"""


def sampling(num_frames: int, size: int, **others: Any) -> Sampling:
    """What a clip is, as in the paper where nothing else is said."""
    usual = {"stride": 2, "fps": None, "short_side": 256, "record_fps": None}
    return Sampling(**{**usual, "num_frames": num_frames, "size": size, **others})


def ramp_video(length: int, height: int, width: int) -> np.ndarray:
    """uint8 [length, height, width, 3]; frame i has the gray value 4 * i."""
    values = (4 * np.arange(length)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (length, height, width, 3)).copy()


def noise_video(length: int, height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [length, height, width, 3]; smooth colored noise, another in every frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (length, height // 8, width // 8, 3))
    return tf.cast(tf.image.resize(coarse, [height, width]), tf.uint8).numpy()


def jpegs_of(encoded: decoding.EncodedVideo) -> list[bytes]:
    """The frames of an encoded video, out of the record that it makes."""
    shard = io.BytesIO()
    size = encoded.jpegs.write_record(shard, {}).length
    example = tf.train.SequenceExample.FromString(shard.getvalue()[12 : 12 + size])
    frames = example.feature_lists.feature_list[schema.FRAMES].feature
    return [frame.bytes_list.value[0] for frame in frames]


def write_records(
    folder: Path, videos: list[np.ndarray], split: str = "train", num_shards: int = 2
) -> Path:
    """Writes videos, dealt out to the shards, with labels 0, 1, 0, 1, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: dict[str, int] = {}
    for shard in range(num_shards):
        name = f"{split}-{shard:05d}-of-{num_shards:05d}"
        members = list(range(shard, len(videos), num_shards))
        shards[name] = len(members)
        with tf.io.TFRecordWriter(str(folder / name)) as writer:
            for number in members:
                example = tf.train.SequenceExample()
                features = example.context.feature
                features[schema.LABEL_INDEX].int64_list.value.append(number % 2)
                features[schema.VIDEO_ID].bytes_list.value.append(f"video_{number}".encode())
                frames = example.feature_lists.feature_list[schema.FRAMES].feature
                for frame in videos[number]:
                    jpeg = tf.io.encode_jpeg(frame, quality=95).numpy()
                    frames.add().bytes_list.value.append(jpeg)
                writer.write(example.SerializeToString())
        shard_index.scan(folder / name).save(shard_index.path_of(folder / name))
    info = schema.DatasetInfo(["even", "odd"], min(videos[0].shape[1:3]), {})
    if (folder / schema.INFO_FILE).exists():
        info = schema.DatasetInfo.load(folder)
    counts = {"even": -(-len(videos) // 2), "odd": len(videos) // 2}
    counts = {label: count for label, count in counts.items() if count}
    info.splits[split] = schema.SplitInfo(shards, sum(map(len, videos)), {}, counts, {})
    info.save(folder)
    return folder


@pytest.fixture(scope="session")
def noise_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 training and 5 test videos of 24 frames of 48x64."""
    folder = tmp_path_factory.mktemp("noise")
    write_records(folder, [noise_video(24, 48, 64, i) for i in range(17)])
    return write_records(folder, [noise_video(24, 48, 64, 100 + i) for i in range(5)], "test")


def write_noise_video(path: Path, length: int, seed: int, rate: float = 25.0) -> Path:
    """`noise_video` of 48x64 as an mp4 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, rate, (64, 48))
    for frame in noise_video(length, 48, 64, seed):
        writer.write(frame[:, :, ::-1])
    writer.release()
    return path


@pytest.fixture(scope="session")
def exported_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder with its head as `cvrl_tf.export` writes it: 2 clips of 4 frames of 16x16, 3
    crops. Beside it stands its run."""
    from cvrl_tf import checkpoints
    from cvrl_tf.inference import saved_model
    from cvrl_tf.models.heads import ProjectionHead
    from cvrl_tf.models.resnet3d import ResNet3D

    keras.utils.set_random_seed(3)
    encoder = ResNet3D(depth=10, width=0.125, stem_pool=False)
    encoder.build()
    head = ProjectionHead(16, 1, 8)
    head.build((None, encoder.feature_dim))
    folder = tmp_path_factory.mktemp("exported")
    run = folder / "run"
    run.mkdir()
    checkpoints.save_encoder_config(
        encoder, sampling(4, 16), run, head=keras.saving.serialize_keras_object(head)
    )
    tf.train.Checkpoint(encoder=encoder, head=head).save(str(run / "checkpoints" / "ckpt"))
    saved_model.export_encoder(run, folder / "model", num_clips=2, num_crops=3)
    return folder / "model"


@pytest.fixture
def child_environment() -> dict[str, str]:
    """For the processes that tests start: they find the package, and TensorFlow says little."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"}


def cluster_environments(environment: dict[str, str], workers: int) -> list[dict[str, str]]:
    """Environments of the processes of a cluster on loopback, on ports that were free just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    cluster = {"worker": addresses}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(workers)]
    return [{**environment, "TF_CONFIG": json.dumps(task)} for task in tasks]


def logged_steps(folder: Path) -> dict[str, list[int]]:
    """Steps by tag, as TensorBoard reads a folder of events."""
    from tensorboard.backend.event_processing import plugin_event_accumulator as accumulator

    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()[accumulator.TENSORS]
    return {tag: [event.step for event in events.Tensors(tag)] for tag in tags}


@pytest.fixture
def one_worker() -> Callable[[int], tf.distribute.InputContext]:
    """Input context of a single worker with so many replicas."""
    return lambda replicas: tf.distribute.InputContext(num_replicas_in_sync=replicas)
