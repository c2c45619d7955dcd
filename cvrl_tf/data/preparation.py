"""Videos in, records out: shards of `tf.train.SequenceExample` and their `dataset_info.json`.

A shard is the work of one process, which streams it to a hidden file that takes its name when it
is whole. What stands in a shard is a function of the videos, the seed and the number of shards;
the number of workers changes nothing. A video that can't be used is reported, and stops nothing.
"""

import collections
import dataclasses
import multiprocessing
import os
import random
import re
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import cv2
import tensorflow as tf
from tqdm import tqdm

from cvrl_tf.data import schema
from cvrl_tf.data.annotations import Video
from cvrl_tf.data.encoding import UnusableVideo, encode_video, to_example

_VIDEOS_PER_SHARD = 32  # 10 s each at 256 pixels make 150 MB, the size TensorFlow's guide advises
_MAX_SHARDS = 1024


@dataclasses.dataclass(frozen=True)
class _Task:
    """All that a worker needs to know; the same for every shard."""

    output: Path
    labels: list[str]
    video_ids: dict[str, str]
    short_side: int
    jpeg_quality: int


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What became of a video. One without frames was skipped, for the reason given."""

    video: Video
    num_frames: int = 0
    frame_rate: float = 0.0
    reason: str = ""


def prepare(
    videos: list[Video],
    output: str | Path,
    split: str = "train",
    short_side: int = 256,
    num_shards: int | None = None,
    jpeg_quality: int = 95,
    workers: int | None = None,
    seed: int = 0,
) -> schema.SplitInfo:
    """Writes the videos as the shards of a split and enters it in `dataset_info.json`.

    The first split of a folder settles the labels and the short side for those that follow.

    Args:
      videos: with distinct names.
      output: folder, which may hold other splits.
      split: its name, with which the shards' names begin.
      short_side: of the stored frames, pixels.
      num_shards: by default one for every 32 videos, at most 1,024.
      jpeg_quality: 1 to 100.
      workers: processes; by default one for every core that this process may use.
      seed: of the shuffle of the videos over the shards.

    Returns:
      What was written and what was skipped.

    Raises:
      ValueError: an argument doesn't fit the others or the folder, or no video could be used.
      FileExistsError: the split is there already, in whole or in part.
      OSError: `output` can't be written to.
      RuntimeError: a worker failed for a reason that lies in no video.
    """
    output = Path(output)
    if num_shards is None:
        num_shards = min(_MAX_SHARDS, -(-len(videos) // _VIDEOS_PER_SHARD))
    if not 1 <= num_shards <= len(videos):
        raise ValueError(f"{num_shards} shards for {len(videos)} videos: give at most as many.")
    _check_output(output, split)
    info = _open_info(output, short_side, videos)
    task = _Task(output, info.labels, _video_ids(videos), short_side, jpeg_quality)

    videos = sorted(videos, key=lambda video: video.name)
    random.Random(seed).shuffle(videos)
    shards = {
        f"{split}-{i:05d}-of-{num_shards:05d}": videos[i::num_shards] for i in range(num_shards)
    }
    outcomes = _Crew(shards, task).run(workers or len(os.sched_getaffinity(0)))
    written = _summarise(outcomes)
    if not written.num_examples:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(written.skipped.items())[:5])
        raise ValueError(f"None of {len(videos)} videos can be used, nothing written. {reasons}")
    info = schema.DatasetInfo.load(output)  # another split may have been made in the meantime
    info.splits[split] = written
    info.save(output)
    return written


def _check_output(output: Path, split: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", split):
        raise ValueError(f"The split {split!r} must be a word: it begins the shards' names.")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output):
        pass  # an error, if there is one, names the folder
    shards = sorted(output.glob(f"{split}-[0-9]*-of-[0-9]*"))
    if shards:
        raise FileExistsError(
            f"{str(output)!r} holds {len(shards)} shards of split {split!r}, the first is "
            f"{shards[0].name!r}: delete them, or choose another folder or split."
        )


def _open_info(output: Path, short_side: int, videos: list[Video]) -> schema.DatasetInfo:
    """The folder's `dataset_info.json`, saved before any work if it is new.

    So that a second split, even one that is made at the same time, finds the same labels.
    """
    names = {video.label for video in videos if video.label is not None}
    numbers = all(name.isdecimal() for name in names)
    labels = sorted(names, key=lambda name: (int(name) if numbers else 0, name))
    if not (output / schema.INFO_FILE).exists():
        info = schema.DatasetInfo(labels=labels, short_side=short_side, splits={})
        info.save(output)
        return info
    info = schema.DatasetInfo.load(output)
    if info.short_side != short_side:
        raise ValueError(
            f"short_side is {short_side} but the records in {str(output)!r} have "
            f"{info.short_side}: take that, or choose another folder."
        )
    if unknown := [label for label in labels if label not in info.labels]:
        raise ValueError(
            f"Classes {unknown} are not among those of {str(output / schema.INFO_FILE)!r}, "
            f"{info.labels}: correct the input, choose another folder, or, if no split there is "
            "wanted any more, delete it."
        )
    return info


def _video_ids(videos: list[Video]) -> dict[str, str]:
    """Names without their endings, except where two would become the same."""
    stems = {video.name: os.path.splitext(video.name)[0] for video in videos}
    count = collections.Counter(stems.values())
    return {name: stem if count[stem] == 1 else name for name, stem in stems.items()}


def _summarise(outcomes: dict[str, list[_Outcome]]) -> schema.SplitInfo:
    written = {name: [o for o in of if not o.reason] for name, of in outcomes.items()}
    every = [outcome for of in written.values() for outcome in of]
    rates = collections.Counter(f"{outcome.frame_rate:g}" for outcome in every)
    labels = collections.Counter(o.video.label for o in every if o.video.label is not None)
    return schema.SplitInfo(
        shards={name: len(of) for name, of in sorted(written.items()) if of},
        num_frames=sum(outcome.num_frames for outcome in every),
        frame_rates=dict(sorted(rates.items(), key=lambda item: float(item[0]))),
        class_counts=dict(sorted(labels.items())),
        skipped={o.video.name: o.reason for of in outcomes.values() for o in of if o.reason},
    )


class _Crew:
    """The workers, seen from the process that hands out the shards.

    A worker asks for a shard by sending None, sends an outcome a video, and asks again. When one
    dies its pipe ends: the video it was at is given up, and another worker begins the shard anew.
    """

    def __init__(self, shards: dict[str, list[Video]], task: _Task) -> None:
        self._shards = shards
        self._task = task
        self._todo = collections.deque(shards)
        self._outcomes: dict[str, list[_Outcome]] = {name: [] for name in shards}
        self._killers: dict[str, list[_Outcome]] = {name: [] for name in shards}
        self._processes: dict[Connection, BaseProcess] = {}
        self._at_work: dict[Connection, str] = {}
        self._frames = 0
        self._bar = tqdm(total=sum(len(videos) for videos in shards.values()), unit=" videos")

    def run(self, workers: int) -> dict[str, list[_Outcome]]:
        """What became of the videos, by shard."""
        try:
            for _ in range(min(workers, len(self._shards))):
                self._hire()
            while self._processes:
                for connection in wait(list(self._processes)):
                    self._hear(cast(Connection, connection))
        finally:
            for process in self._processes.values():
                process.terminate()
                process.join()
            for name in self._shards:
                _aside(self._task.output, name).unlink(missing_ok=True)
            self._bar.close()
        return {name: self._outcomes[name] + self._killers[name] for name in self._shards}

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
        try:
            message = connection.recv()
            if isinstance(message, _Outcome):
                self._outcomes[self._at_work[connection]].append(message)
                self._show(message)
            elif message is not None:
                raise RuntimeError(message)
            elif self._todo:
                name = self._at_work[connection] = self._todo.popleft()
                connection.send((name, self._shards[name]))
            else:
                connection.close()
                self._processes.pop(connection).join()
        except (EOFError, ConnectionError):
            self._replace(connection)

    def _replace(self, connection: Connection) -> None:
        process, name = self._processes.pop(connection), self._at_work.pop(connection, None)
        process.join()
        if name is None or len(self._outcomes[name]) == len(self._shards[name]):
            raise RuntimeError(f"A worker died outside any video, exit code {process.exitcode}.")
        killer = self._shards[name].pop(len(self._outcomes[name]))
        reason = f"the process that read it for {name} died, exit code {process.exitcode}"
        self._killers[name].append(_Outcome(killer, reason=reason))
        self._bar.update(1 - len(self._outcomes[name]))
        self._outcomes[name].clear()
        self._todo.appendleft(name)
        self._hire()

    def _show(self, outcome: _Outcome) -> None:
        self._frames += outcome.num_frames
        rate = self._frames / max(self._bar.format_dict["elapsed"], 1e-3)
        self._bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
        self._bar.update()


def _work(connection: Connection, task: _Task) -> None:
    """The life of a worker."""
    cv2.setNumThreads(1)
    # What is wrong with a video is said once, by name.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        while True:
            connection.send(None)
            name, videos = connection.recv()
            _write_shard(name, videos, task, connection.send)
    except (EOFError, ConnectionError):
        return  # no more shards, or nobody left who wants them
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        connection.send(f"A shard could not be written to {str(task.output)!r}: {what}")


def _write_shard(
    name: str, videos: list[Video], task: _Task, report: Callable[[_Outcome], None]
) -> None:
    aside = _aside(task.output, name)
    num_written = 0
    with tf.io.TFRecordWriter(str(aside)) as writer:
        for video in videos:
            try:
                encoded = encode_video(
                    video.path, task.short_side, task.jpeg_quality, video.start, video.end
                )
            except Exception as error:  # whatever it is, the other videos are none the worse
                reason = str(error) if isinstance(error, UnusableVideo) else repr(error)
                report(_Outcome(video, reason=reason))
                continue
            label_index = None if video.label is None else task.labels.index(video.label)
            example = to_example(video, task.video_ids[video.name], label_index, encoded)
            writer.write(example.SerializeToString(deterministic=True))
            num_written += 1
            report(_Outcome(video, len(encoded.jpegs), encoded.frame_rate))
    if num_written:
        aside.rename(task.output / name)
    else:
        aside.unlink()


def _aside(output: Path, shard: str) -> Path:
    """Where a shard is written; its name is its own only when it is whole."""
    return output / f".{shard}.tmp"
