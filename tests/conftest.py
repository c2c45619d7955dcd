"""Records that the tests make: ramp videos, whose grey value tells the frame index."""

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

import numpy as np
import pytest
import tensorflow as tf

from cvrl_tf.data import encoding, schema

ROOT = Path(__file__).parents[1]

# A shell starts what runs in its background with Ctrl-C ignored, which the processes that tests
# start and interrupt would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Installed on one leg alone, by the extra [addons], whose tests `make addons-test` runs.
collect_ignore = [] if importlib.util.find_spec("tensorflow_addons") else ["test_addons.py"]


def ramp_video(length: int, height: int, width: int) -> np.ndarray:
    """uint8 [length, height, width, 3]; frame i has the grey value 4 * i."""
    values = (4 * np.arange(length)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (length, height, width, 3)).copy()


def noise_video(length: int, height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [length, height, width, 3]; smooth coloured noise, another in every frame."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (length, height // 8, width // 8, 3))
    return tf.cast(tf.image.resize(coarse, [height, width]), tf.uint8).numpy()


def jpegs_of(encoded: encoding.EncodedVideo) -> list[bytes]:
    """The frames of an encoded video, out of the record that it makes."""
    shard = io.BytesIO()
    size = encoded.jpegs.write_record(shard, {})
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
    info = schema.DatasetInfo(["even", "odd"], min(videos[0].shape[1:3]), {})
    if (folder / schema.INFO_FILE).exists():
        info = schema.DatasetInfo.load(folder)
    info.splits[split] = schema.SplitInfo(shards, sum(map(len, videos)), {}, {}, {})
    info.save(folder)
    return folder


@pytest.fixture(scope="session")
def noise_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 training and 5 test videos of 24 frames of 48x64."""
    folder = tmp_path_factory.mktemp("noise")
    write_records(folder, [noise_video(24, 48, 64, i) for i in range(17)])
    return write_records(folder, [noise_video(24, 48, 64, 100 + i) for i in range(5)], "test")


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


@pytest.fixture
def one_worker() -> Callable[[int], tf.distribute.InputContext]:
    """Input context of a single worker with so many replicas."""
    return lambda replicas: tf.distribute.InputContext(num_replicas_in_sync=replicas)
