"""Worker processes that write shards: a video that kills or hangs one costs only itself.

The workers do without TensorFlow, which takes seconds and 300 MB to load.
"""

import collections
import dataclasses
import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import BinaryIO, cast

from etils import epath
from tqdm import tqdm

from cvrl_tf import files
from cvrl_tf.data import schema
from cvrl_tf.preparation import manifest, tfrecord_writer
from cvrl_tf.preparation.annotations import Video
from cvrl_tf.preparation.decoding import (
    EncodedVideo,
    FrameOptions,
    UnusableVideo,
    encode_video,
    quiet,
)
from cvrl_tf.preparation.manifest import Outcome


@dataclasses.dataclass(frozen=True)
class Job:
    """All that a worker needs to know; the same for every shard.

    Attributes:
      output: folder of the shards.
      labels: sorted class names.
      frames: how they are stored.
    """

    output: epath.Path
    labels: list[str]
    frames: FrameOptions


def manifest_of(output: epath.Path, shard: str) -> epath.Path:
    """Where a worker tells what became of a shard's videos, before the shard takes its name."""
    return output / f".{shard}.jsonl"


def is_done(output: epath.Path, shard: str) -> bool:
    """Whether a shard is whole: its manifest is there, and so is the shard if it has records."""
    path = manifest_of(output, shard)
    if not path.exists():
        return False
    return (output / shard).exists() or all(outcome.reason for outcome in manifest.read(path))


def write_shards(
    shards: dict[str, list[Video]],
    job: Job,
    workers: int | None = None,
    timeout: float = 600.0,
    stop: threading.Event | None = None,
) -> None:
    """Writes shards with the processes of this machine.

    Args:
      shards: the videos of each, in the order of its records.
      job: what to do with them.
      workers: processes; by default one for every core that this process may use.
      timeout: seconds for one video, after which its decoder is taken to hang.
      stop: ends the work when it is set; for callers that show progress themselves.

    Raises:
      RuntimeError: a worker failed for a reason that lies in no video.
    """
    WorkerPool(shards, job, timeout, stop).run(workers or len(os.sched_getaffinity(0)))


class WorkerPool:
    """The workers, seen from the process that hands out the shards.

    A worker asks for a shard by sending None, sends an outcome a video, and asks again. When one
    dies its pipe ends: the video it was at is given up, and another worker begins the shard anew.
    So it goes with one that has been silent for too long.
    """

    def __init__(
        self,
        shards: dict[str, list[Video]],
        job: Job,
        timeout: float,
        stop: threading.Event | None = None,
    ) -> None:
        """Args:
        shards: the videos of each, in the order of its records.
        job: what to do with them.
        timeout: seconds for one video.
        stop: see `write_shards`; without it there is a progress bar.
        """
        self._shards = shards
        self._job = job
        self._timeout = timeout
        self._todo = collections.deque(shards)
        self._done: dict[str, list[Outcome]] = {name: [] for name in shards}
        self._given_up: dict[str, list[Outcome]] = {name: [] for name in shards}
        self._processes: dict[Connection, BaseProcess] = {}
        self._at_work: dict[Connection, str] = {}
        self._heard: dict[Connection, float] = {}
        self._frames = 0
        total = sum(len(videos) for videos in shards.values())
        self._bar = tqdm(total=total, unit=" videos", disable=stop is not None)
        self._stop = stop or threading.Event()

    def run(self, workers: int) -> None:
        """Writes all shards."""
        try:
            for _ in range(min(workers, len(self._shards))):
                self._hire()
            while self._processes and not self._stop.is_set():
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
        process = context.Process(target=_work, args=(there, self._job), daemon=True)
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
            if time.monotonic() - self._heard[connection] > self._timeout:
                self._processes[connection].kill()
                self._replace(connection)
                self._give_up(connection, f"not decoded within {self._timeout:g} s")

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
        if not self._bar.disable:
            rate = self._frames / max(self._bar.format_dict["elapsed"], 1e-3)
            self._bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
        self._bar.update()


def _work(connection: Connection, job: Job) -> None:
    """The life of a worker."""
    quiet()
    try:
        while True:
            connection.send(None)
            name, videos, given_up = connection.recv()
            _write_shard(name, videos, given_up, job, connection.send)
    except (EOFError, ConnectionError):
        return  # no more shards, or nobody left who wants them
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        connection.send(
            f"A shard could not be written to {os.fspath(job.output)!r}: {what}. "
            "Whole shards stay, and the same command goes on when that is put right."
        )


def _write_shard(
    name: str,
    videos: list[Video],
    given_up: list[Outcome],
    job: Job,
    report: Callable[[Outcome], None],
) -> None:
    """Writes a shard aside, then its manifest, and then gives the shard its name."""
    shard = job.output / name
    aside = files.aside_of(shard)
    outcomes = []
    with aside.open("wb") as file:
        for video in videos:
            outcomes.append(_write_video(video, name, job, file))
            report(outcomes[-1])
    manifest.write(manifest_of(job.output, name), [*outcomes, *given_up])
    if all(outcome.reason for outcome in outcomes):
        aside.unlink()
    else:
        files.publish(aside, shard)


def _write_video(video: Video, shard: str, job: Job, file: BinaryIO) -> Outcome:
    """Appends a video to its shard, or gives the reason why it is skipped."""
    try:
        with files.on_disk(video.path) as path:
            encoded = encode_video(path, job.frames, video.start, video.end)
    except Exception as error:  # whatever it is, the other videos are none the worse
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # no fault of the video's
        reason = str(error) if isinstance(error, UnusableVideo) else repr(error)
        return Outcome(video.name, video.label, shard, reason)
    return Outcome(
        video.name,
        video.label,
        shard,
        warning=encoded.warning,
        num_frames=encoded.jpegs.num_frames,
        frame_rate=encoded.frame_rate,
        height=encoded.height,
        width=encoded.width,
        num_bytes=encoded.jpegs.write_record(file, _context(video, job.labels, encoded)),
    )


def _context(video: Video, labels: list[str], encoded: EncodedVideo) -> tfrecord_writer.Context:
    """The context of a record, as `schema` has it. Its end is 0 where the frame rate is unknown."""
    rate, length = encoded.frame_rate, encoded.jpegs.num_frames
    start = round(1e6 * (video.start or 0))
    context: dict[str, bytes | int | float] = {
        schema.FILENAME: os.fsencode(video.name),
        schema.VIDEO_ID: os.fsencode(video.id),
        schema.START: start,
        schema.END: start + round(1e6 * length / rate) if rate else 0,
        schema.FRAME_RATE: rate,
        schema.NUM_FRAMES: length,
        schema.HEIGHT: encoded.height,
        schema.WIDTH: encoded.width,
    }
    if video.label is not None:
        context[schema.LABEL_INDEX] = labels.index(video.label)
        context[schema.LABEL_TEXT] = os.fsencode(video.label)
    return context
