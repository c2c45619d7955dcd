"""A decoder that dies or hangs, for worker processes; without TensorFlow, as these are."""

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from memory import peak_kib

from cvrl_tf.preparation import decoding, manifest, shards

_write_shard = shards._write_shard
_write_manifest = manifest.write


def write_shard(*arguments: Any) -> None:
    """Writes a shard as `shards` does, but for some videos.

    It dies of "killer", hangs at "endless", takes too much memory for "hungry", and is killed once
    at "victim".
    """
    shards.encode_video = _encode_video
    _write_shard(*arguments)


def write_shard_killed_late(*arguments: Any) -> None:
    """Writes a shard as `shards` does, but is killed once when all videos are written."""
    shards.manifest.write = _write_manifest_killed
    _write_shard(*arguments)


def _write_manifest_killed(path: Path, *arguments: Any) -> None:
    _be_killed_once(path.with_name("killed"))
    _write_manifest(path, *arguments)


def _be_killed_once(marker: Path) -> None:
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def open_no_more_files() -> None:
    """Initializes a worker so; standard input, output and error are open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))


def _encode_video(path: Path, *arguments: Any) -> decoding.EncodedVideo:
    if path.stem == "killer":
        os._exit(9)
    if path.stem == "victim":
        _be_killed_once(path.with_suffix(".killed"))
    if path.stem == "hungry":
        try:
            np.ones(2**30, np.uint8)
        finally:
            path.with_suffix(".peak").write_text(str(peak_kib()))
    if path.stem == "endless":
        time.sleep(1000)
    return decoding.encode_video(path, *arguments)
