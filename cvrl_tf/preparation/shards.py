"""Writes shards of records with worker processes.

A video that kills or hangs its decoder is skipped; the videos beside it are written. What looks so
is tried again, alone: the machine may have been short of memory, or somebody may have killed the
worker. A video whose file can't be read leaves its shard unwritten.
"""

import collections
import concurrent.futures
import dataclasses
import errno
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import BinaryIO

import joblib
from etils import epath

from cvrl_tf import files
from cvrl_tf.data import schema, shard_index
from cvrl_tf.data.shard_index import ShardIndex
from cvrl_tf.preparation import manifest, resources, tfrecord_writer
from cvrl_tf.preparation.annotations import Video
from cvrl_tf.preparation.decoding import (
    EncodedVideo,
    FrameOptions,
    UnusableVideo,
    encode_video,
    quiet,
)
from cvrl_tf.preparation.manifest import Outcome
from cvrl_tf.preparation.progress import Bar
from cvrl_tf.preparation.workers import TaskTimeout, WorkerDied, WorkerPool, WorkerStartError

_OUT_OF_MEMORY = os.EX_OSERR  # exit code of a worker
_SHOWN = 5  # videos that can't be read


class NotWritten(RuntimeError):
    """Shards aren't written, for a reason that lies in no video. The message says what to do."""


class UnreadableVideo(Exception):
    """A video's file is there and can't be read now; its name and the reason."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What the workers must know; the same for every shard.

    Attributes:
      output: Folder of the shards.
      labels: Class names, sorted.
      frames: How frames are stored.
    """

    output: epath.Path
    labels: list[str]
    frames: FrameOptions


def manifest_of(output: epath.Path, shard: str) -> epath.Path:
    """Returns the path of a shard's manifest, which is written before the shard gets its name."""
    return output / f".{shard}.jsonl"


def is_done(output: epath.Path, shard: str) -> bool:
    """Returns whether a shard is complete: its manifest exists, and the shard if it has records."""
    path = manifest_of(output, shard)
    if not path.exists():
        return False
    return (output / shard).is_file() or all(outcome.reason for outcome in manifest.read(path))


def write_shards(
    shards: dict[str, list[Video]],
    job: Job,
    workers: int | None = None,
    timeout: float = 600.0,
    stop: threading.Event | None = None,
) -> None:
    """Writes shards with worker processes of this machine.

    Args:
      shards: The videos of each shard, in the order of its records.
      job: How they are written.
      workers: Number of processes; by default one for each core that this process may use.
      timeout: Seconds for one video, after which it is skipped.
      stop: Ends the work when it is set. If it is given, no progress bar is shown.

    Raises:
      NotWritten: A shard can't be written, for a reason that lies in no video.
    """
    if shards:
        _ShardWriter(shards, job, timeout, stop).run(workers or joblib.cpu_count())


class _ShardWriter:
    """Hands shards to worker pools, and begins a shard again whose worker failed.

    It is begun again after all others, with nothing else at work, in a new process. The video that
    fails there a second time is taken out of it.
    """

    def __init__(
        self,
        shards: dict[str, list[Video]],
        job: Job,
        timeout: float,
        stop: threading.Event | None,
    ) -> None:
        self._shards = {name: list(videos) for name, videos in shards.items()}
        self._job = job
        self._timeout = timeout
        self._todo = collections.deque(shards)
        self._again: collections.deque[str] = collections.deque()
        self._failures: collections.Counter[tuple[str, str]] = collections.Counter()
        self._unreadable: list[str] = []
        self._done: dict[str, list[Outcome]] = {name: [] for name in shards}
        self._given_up: dict[str, list[Outcome]] = {name: [] for name in shards}
        self._unshown: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self._frames = 0
        total = sum(len(videos) for videos in shards.values())
        self._bar = Bar(total=total, unit=" videos", disable=stop is not None)
        self._stop = stop or threading.Event()

    def run(self, num_workers: int) -> None:
        """Writes all shards."""
        with self._bar:
            self._write(min(num_workers, len(self._shards)))
            while self._again and not self._stop.is_set():
                self._todo.append(self._again.popleft())
                self._write(1)
        if self._unreadable:
            raise NotWritten(
                f"{len(self._unreadable)} videos can't be read, and their shards are not written: "
                f"{'; '.join(self._unreadable[:_SHOWN])}. Remove the cause, or leave the videos "
                "out in another folder, and rerun the same command to resume."
            )

    def _write(self, num_workers: int) -> None:
        """Writes the shards to do, but for those whose worker fails."""
        running: dict[Future[None], str] = {}
        with WorkerPool(num_workers, _prepare_process) as pool:
            while (self._todo or running) and not self._stop.is_set():
                while self._todo and len(running) < num_workers:
                    name = self._todo.popleft()
                    running[self._submit(pool, name)] = name
                done, _ = concurrent.futures.wait(
                    running, timeout=0.2, return_when=concurrent.futures.FIRST_COMPLETED
                )
                self._show()
                for future in done:
                    self._finish(running.pop(future), future)

    def _submit(self, pool: WorkerPool, name: str) -> Future[None]:
        def on_outcome(outcome: Outcome) -> None:
            self._done[name].append(outcome)
            self._unshown.put(outcome)

        arguments = name, self._shards[name], self._given_up[name], self._job
        return pool.submit(_write_shard, *arguments, timeout=self._timeout, on_message=on_outcome)

    def _finish(self, name: str, future: Future[None]) -> None:
        """Looks at how a shard ended."""
        try:
            future.result()
        except WorkerDied as error:
            code = error.exit_code
            died = f"the process that read it died, exit code {code}"
            self._fail(name, resources.OUT_OF_MEMORY if code == _OUT_OF_MEMORY else died)
        except TaskTimeout:
            self._fail(name, f"not decoded within {self._timeout:g} s")
        except UnreadableVideo as error:
            self._unreadable.append(str(error))
        except WorkerStartError as error:
            raise NotWritten(f"A worker failed outside any video: {error}") from error
        except Exception as error:
            raise NotWritten(
                f"A shard can't be written to {os.fspath(self._job.output)!r}: "
                f"{type(error).__name__}: {error}. Interrupted runs resume: remove the cause and "
                "rerun the same command."
            ) from error

    def _fail(self, name: str, reason: str) -> None:
        """Begins a shard again, the second time without the video that its worker was at."""
        done, videos = self._done[name], self._shards[name]
        video = videos[len(done)] if len(done) < len(videos) else None
        self._bar.update(-len(done))
        failed = name, video.name if video else ""
        self._failures[failed] += 1
        if self._failures[failed] > 1:
            if video is None:
                raise NotWritten(f"A worker failed outside any video: {reason}. Try it again.")
            videos.remove(video)
            self._given_up[name].append(Outcome(video.name, video.label, name, reason))
            self._bar.update()
        done.clear()
        self._again.append(name)

    def _show(self) -> None:
        """Brings the bar up to date; in the main thread, which hears if nobody reads any more."""
        while not self._unshown.empty():
            self._frames += self._unshown.get().num_frames
            if not self._bar.disable:
                rate = self._frames / max(self._bar.format_dict["elapsed"], 1e-3)
                self._bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
            self._bar.update()


def _prepare_process() -> None:
    """Initializes a worker; that this module is imported then takes no time from a video."""
    quiet()
    resources.limit_memory()


def _write_shard(
    name: str,
    videos: list[Video],
    given_up: list[Outcome],
    job: Job,
    report: Callable[[Outcome], None],
) -> None:
    """Writes a shard under another name, then its manifest and index, and then renames it.

    Args:
      name: Name of the shard.
      videos: Its videos, in the order of its records.
      given_up: What became of the videos that were taken out of it.
      job: How it is written.
      report: Called with what became of each video.
    """
    shard = job.output / name
    outcomes, entries = [], []
    with files.aside(shard) as aside:
        with aside.open("wb") as file:
            for video in videos:
                outcome, entry = _write_video(video, name, job, file)
                outcomes.append(outcome)
                entries += [entry] if entry else []
                report(outcome)
            size = file.tell()
        manifest.write(manifest_of(job.output, name), [*outcomes, *given_up])
        if not all(outcome.reason for outcome in outcomes):
            ShardIndex.of(entries, size).save(shard_index.path_of(shard))
            files.publish(aside, shard)


def _write_video(
    video: Video, shard: str, job: Job, file: BinaryIO
) -> tuple[Outcome, shard_index.Entry | None]:
    """Appends a video to its shard, or gives the reason why it is skipped.

    Raises:
      UnreadableVideo: The machine can't read it.
      SystemExit: There is not enough memory. A new process has more.
    """
    try:
        with files.on_disk(video.path) as path:
            encoded = encode_video(path, job.frames, video.start, video.end)
    except Exception as error:  # whatever it is, the other videos are none the worse
        if resources.is_out_of_memory(error):
            sys.exit(_OUT_OF_MEMORY)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # no fault of the video's
        _check_readable(video, error)
        reason = str(error) if isinstance(error, UnusableVideo) else repr(error)
        return Outcome(video.name, video.label, shard, reason), None
    entry = encoded.jpegs.write_record(file, _context(video, job.labels, encoded))
    outcome = Outcome(
        video.name,
        video.label,
        shard,
        warning=encoded.warning,
        num_frames=encoded.jpegs.num_frames,
        frame_rate=encoded.frame_rate,
        height=encoded.height,
        width=encoded.width,
        num_bytes=entry.length,
        offset=entry.offset - shard_index.HEAD_BYTES,
    )
    return outcome, entry


def _check_readable(video: Video, error: Exception) -> None:
    """Tells a video that can't be used from one that can't be read.

    Args:
      video: That could not be decoded.
      error: Why.

    Raises:
      UnreadableVideo: The machine can't read it.
    """
    try:
        if resources.is_of_the_machine(error):
            raise error
        if video.path.is_file():
            with files.on_disk(video.path) as path:
                resources.check_readable(path)
    except Exception as found:
        raise UnreadableVideo(f"{video.name}: {type(found).__name__}: {found}") from None


def _context(video: Video, labels: list[str], encoded: EncodedVideo) -> tfrecord_writer.Context:
    """Makes the context of a record, as `schema` has it."""
    rate, times = encoded.frame_rate, encoded.times
    context: dict[str, tfrecord_writer.Value] = {
        schema.RECORD_VERSION: schema.VERSION,
        schema.FILENAME: os.fsencode(video.name),
        schema.VIDEO_ID: os.fsencode(video.id),
        schema.START: round(1e6 * (video.start or 0)),
        schema.END: times[-1] + round(1e6 / rate) if rate else 0,
        schema.FRAME_RATE: rate,
        schema.NUM_FRAMES: encoded.jpegs.num_frames,
        schema.HEIGHT: encoded.height,
        schema.WIDTH: encoded.width,
    }
    if times:
        context[schema.TIMES] = times
    if video.label is not None:
        context[schema.LABEL_INDEX] = labels.index(video.label)
        context[schema.LABEL_TEXT] = os.fsencode(video.label)
    return context
