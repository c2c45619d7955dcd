"""Worker processes that write shards: a video that kills or hangs one costs only itself."""

import collections
import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import cv2
import tensorflow as tf
from tqdm import tqdm

from cvrl_tf.data import manifest
from cvrl_tf.data.annotations import Video
from cvrl_tf.data.encoding import FrameOptions, UnusableVideo, encode_video, to_example
from cvrl_tf.data.manifest import Outcome


@dataclasses.dataclass(frozen=True)
class Task:
    """All that a worker needs to know; the same for every shard.

    Attributes:
      output: folder of the shards.
      labels: sorted class names.
      video_ids: by name of the video.
      frames: how they are stored.
    """

    output: Path
    labels: list[str]
    video_ids: dict[str, str]
    frames: FrameOptions


def manifest_of(output: Path, shard: str) -> Path:
    """Where a worker tells what became of a shard's videos, before the shard takes its name."""
    return output / f".{shard}.jsonl"


def is_done(output: Path, shard: str) -> bool:
    """Whether a shard is whole: its manifest is there, and so is the shard if it has records."""
    path = manifest_of(output, shard)
    if not path.exists():
        return False
    return (output / shard).exists() or all(outcome.reason for outcome in manifest.read(path))


class Crew:
    """The workers, seen from the process that hands out the shards.

    A worker asks for a shard by sending None, sends an outcome a video, and asks again. When one
    dies its pipe ends: the video it was at is given up, and another worker begins the shard anew.
    So it goes with one that has been silent for too long.
    """

    def __init__(self, shards: dict[str, list[Video]], task: Task, patience: float) -> None:
        """Args:
        shards: the videos of each, in the order of its records.
        task: what to do with them.
        patience: seconds for one video.
        """
        self._shards = shards
        self._task = task
        self._patience = patience
        self._todo = collections.deque(shards)
        self._done: dict[str, list[Outcome]] = {name: [] for name in shards}
        self._given_up: dict[str, list[Outcome]] = {name: [] for name in shards}
        self._processes: dict[Connection, BaseProcess] = {}
        self._at_work: dict[Connection, str] = {}
        self._heard: dict[Connection, float] = {}
        self._frames = 0
        self._bar = tqdm(total=sum(len(videos) for videos in shards.values()), unit=" videos")

    def run(self, workers: int) -> None:
        """Writes all shards."""
        try:
            for _ in range(min(workers, len(self._shards))):
                self._hire()
            while self._processes:
                for connection in wait(list(self._processes), timeout=1.0):
                    self._hear(cast(Connection, connection))
                self._dismiss_the_silent()
        finally:
            for process in self._processes.values():
                process.terminate()
                process.join()
            self._bar.close()

    def _hire(self) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self._task), daemon=True)
        # Blocked signals are inherited: Ctrl-C reaches this process alone, which ends the others.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
            self._processes[here] = process
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        there.close()  # or the pipe would not end with the worker

    def _hear(self, connection: Connection) -> None:
        self._heard[connection] = time.monotonic()
        try:
            message = connection.recv()
            if isinstance(message, Outcome):
                self._done[self._at_work[connection]].append(message)
                self._show(message)
            elif message is not None:
                raise RuntimeError(message)
            elif self._todo:
                name = self._at_work[connection] = self._todo.popleft()
                connection.send((name, self._shards[name], self._given_up[name]))
            else:
                connection.close()
                self._at_work.pop(connection, None)
                self._processes.pop(connection).join()
        except (EOFError, ConnectionError):
            exit_code = self._replace(connection)
            self._give_up(connection, f"the process that read it died, exit code {exit_code}")

    def _dismiss_the_silent(self) -> None:
        for connection in list(self._at_work):
            if time.monotonic() - self._heard[connection] > self._patience:
                self._processes[connection].kill()
                self._replace(connection)
                self._give_up(connection, f"not decoded within {self._patience:g} s")

    def _replace(self, connection: Connection) -> int | None:
        """Buries a worker and hires another; returns the exit code."""
        process = self._processes.pop(connection)
        process.join()
        self._hire()
        return process.exitcode

    def _give_up(self, connection: Connection, reason: str) -> None:
        """Takes the video at which a worker was out of its shard, which is begun anew."""
        name = self._at_work.pop(connection, None)
        if name is None or len(self._done[name]) == len(self._shards[name]):
            raise RuntimeError(f"A worker failed outside any video: {reason}.")
        video = self._shards[name].pop(len(self._done[name]))
        self._given_up[name].append(Outcome(video.name, video.label, name, reason))
        self._bar.update(1 - len(self._done[name]))
        self._done[name].clear()
        self._todo.appendleft(name)

    def _show(self, outcome: Outcome) -> None:
        self._frames += outcome.num_frames
        rate = self._frames / max(self._bar.format_dict["elapsed"], 1e-3)
        self._bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
        self._bar.update()


def _work(connection: Connection, task: Task) -> None:
    """The life of a worker."""
    cv2.setNumThreads(1)
    # What is wrong with a video is said once, by name.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        while True:
            connection.send(None)
            name, videos, given_up = connection.recv()
            _write_shard(name, videos, given_up, task, connection.send)
    except (EOFError, ConnectionError):
        return  # no more shards, or nobody left who wants them
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        connection.send(f"A shard could not be written to {str(task.output)!r}: {what}")


def _write_shard(
    name: str,
    videos: list[Video],
    given_up: list[Outcome],
    task: Task,
    report: Callable[[Outcome], None],
) -> None:
    """Writes a shard aside, then its manifest, and then gives the shard its name."""
    aside = task.output / f".{name}.{os.getpid()}.tmp"
    outcomes = []
    with tf.io.TFRecordWriter(str(aside)) as writer:
        for video in videos:
            outcome, record = _encode(video, name, task)
            if not outcome.reason:
                writer.write(record)
            outcomes.append(outcome)
            report(outcome)
    with aside.open("rb") as whole:
        os.fsync(whole.fileno())
    manifest.write(manifest_of(task.output, name), [*outcomes, *given_up])
    if all(outcome.reason for outcome in outcomes):
        aside.unlink()
    else:
        aside.rename(task.output / name)


def _encode(video: Video, shard: str, task: Task) -> tuple[Outcome, bytes]:
    """A video's outcome and, unless that is a reason to skip it, its record."""
    try:
        encoded = encode_video(video.path, task.frames, video.start, video.end)
    except Exception as error:  # whatever it is, the other videos are none the worse
        reason = str(error) if isinstance(error, UnusableVideo) else repr(error)
        return Outcome(video.name, video.label, shard, reason), b""
    label_index = None if video.label is None else task.labels.index(video.label)
    example = to_example(video, task.video_ids[video.name], label_index, encoded)
    record = example.SerializeToString(deterministic=True)
    outcome = Outcome(
        video.name,
        video.label,
        shard,
        num_frames=len(encoded.jpegs),
        frame_rate=encoded.frame_rate,
        height=encoded.height,
        width=encoded.width,
        num_bytes=len(record),
    )
    return outcome, record
