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
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import tensorflow as tf
from absl import logging
from tqdm import tqdm

from cvrl_tf.data import schema

# What FFmpeg knows under these names; other files in an input folder are no videos.
VIDEO_ENDINGS = frozenset(
    [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts"]
    + [".webm", ".wmv"]
)

_VIDEOS_PER_SHARD = 32  # 10 s each at 256 pixels make 150 MB, the size TensorFlow's guide advises
_MAX_SHARDS = 1024
_MAX_RECORD_BYTES = 2**31 - 2**20  # a protocol buffer ends at 2 GiB
_FRAME_RATES = (1.0, 500.0)  # containers without a rate give 0, NaN, 1,000 or 90,000


@dataclasses.dataclass(frozen=True)
class Video:
    """A video to be written.

    Attributes:
      path: of the file.
      name: the path as the input has it; with it the video is reported.
      label: name of its class; None in unlabelled data.
    """

    path: Path
    name: str
    label: str | None


class UnusableVideo(Exception):
    """A video that is not written; the message is the reason."""


def find_videos(source: str | Path, root: str | Path | None = None) -> list[Video]:
    """Lists the videos of a data set, sorted by name.

    Args:
      source: a folder of folders, one a class; or a folder of unlabelled videos; or a text file of
        `path label` lines. There the label is what follows the last white space, so that paths may
        hold spaces and labels may not; integers are labels like any other name.
      root: folder that the paths of a text file are relative to; by default the file's own.

    Raises:
      FileNotFoundError: `source` or `root` is not there, or none of its videos is.
      ValueError: it is not one of the three, or a line of it can't be read.
    """
    source = Path(source)
    if source.is_dir():
        if root is not None:
            raise ValueError(f"A root ({str(root)!r}) goes with a text file; {source} is a folder.")
        videos = list(_in_folder(source))
        where = f"in {str(source)!r} or in its direct subfolders; known are {sorted(VIDEO_ENDINGS)}"
    elif not source.exists():
        raise FileNotFoundError(f"No file or folder {str(source)!r}: correct the input's path.")
    elif source.suffix.lower() in VIDEO_ENDINGS:
        raise ValueError(f"{str(source)!r} is a video: give its folder, or a text file of videos.")
    else:
        root = source.parent if root is None else Path(root)
        videos = list(_in_list(source, root))
        where = f"under {str(root)!r} of those that {str(source)!r} lists: correct the root"
    if not any(video.path.is_file() for video in videos):
        raise FileNotFoundError(f"No videos {where}.")
    return sorted(videos, key=lambda video: video.name)


def _in_folder(folder: Path) -> Iterator[Video]:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    classes = {entry: list(entry.iterdir()) for entry in entries if entry.is_dir()}
    files = {path: None for path in entries if path.is_file()}
    flat = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
    labelled = {
        path: parent.name for parent, paths in classes.items() for path in paths if path.is_file()
    }
    if flat and any(path.suffix.lower() in VIDEO_ENDINGS for path in labelled):
        raise ValueError(
            f"{str(folder)!r} holds videos ({flat[0].name!r}) and folders of videos: "
            "either one folder a class, or unlabelled videos alone."
        )
    ignored = []
    for path, label in (files | labelled).items():
        if path.suffix.lower() in VIDEO_ENDINGS:
            yield Video(path, path.relative_to(folder).as_posix(), label)
        else:
            ignored.append(path.name)
    if ignored:
        logging.warning("%d files have no video's ending, as %r.", len(ignored), ignored[0])


def _in_list(file: Path, root: Path) -> Iterator[Video]:
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {str(root)!r}, which the paths in {file} start from.")
    seen: dict[str, int] = {}
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        fields = line.rsplit(maxsplit=1)
        if len(fields) != 2:
            raise ValueError(f"{file}:{number}: {line!r} is not `path label`.")
        name, label = fields[0].strip(), fields[1]
        if name in seen:
            raise ValueError(f"{file}:{number}: {name!r} stands in line {seen[name]} already.")
        seen[name] = number
        yield Video(root / name, name, label)


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """Frames as JPEGs in presentation order, and the facts about them.

    Attributes:
      jpegs: one a frame.
      frame_rate: frames per second; 0 where the container gives none that can be true.
      height: of the stored frames, pixels.
      width: of the stored frames, pixels.
    """

    jpegs: list[bytes]
    frame_rate: float
    height: int
    width: int


def encode_video(path: str | Path, short_side: int, jpeg_quality: int) -> EncodedVideo:
    """Decodes a video, upright, and encodes its frames one by one.

    Args:
      path: of the video.
      short_side: of the stored frames, pixels; smaller videos are enlarged, so that crops of a
        given size mean the same in all of them.
      jpeg_quality: 1 to 100.

    Raises:
      UnusableVideo: it can't be decoded, ends early, or is too long for a record.
    """
    if not Path(path).is_file():
        raise UnusableVideo("no such file")
    # By name of the backend, or OpenCV would take "clip_01.avi" for a sequence of images. Rotation
    # metadata is applied by default.
    capture = cv2.VideoCapture(
        os.path.abspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, cv2.getNumThreads()]
    )
    if not capture.isOpened():
        raise UnusableVideo("not a video, or no video stream in it that can be decoded")
    jpegs: list[bytes] = []
    size = None
    num_bytes = 0
    while (frame := capture.read()[1]) is not None:
        if size is None:
            scale = short_side / min(frame.shape[:2])
            size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
            filtering = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        if size != frame.shape[1::-1]:
            frame = cv2.resize(frame, size, interpolation=filtering)
        jpegs.append(_to_jpeg(frame, jpeg_quality))
        num_bytes += len(jpegs[-1])
        if num_bytes > _MAX_RECORD_BYTES:
            raise UnusableVideo(f"over 2 GiB of JPEGs after {len(jpegs)} frames: cut it in pieces")
    if size is None:
        raise UnusableVideo("no frame decodes")
    _check_length(len(jpegs), capture.get(cv2.CAP_PROP_FRAME_COUNT))
    rate = capture.get(cv2.CAP_PROP_FPS)
    known = _FRAME_RATES[0] <= rate <= _FRAME_RATES[1]  # false for NaN
    return EncodedVideo(jpegs, rate if known else 0.0, height=size[1], width=size[0])


def _to_jpeg(frame: np.ndarray, quality: int) -> bytes:
    ok, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise UnusableVideo(f"a frame of shape {frame.shape} can't be made a JPEG")
    return jpeg.tobytes()


def _check_length(decoded: int, announced: float) -> None:
    """OpenCV ends a damaged file without a word; only the container's count betrays it.

    That count is often an estimate from the duration, hence the slack of 2 % or 2 frames.
    """
    if announced > 0 and decoded < announced - max(2, 0.02 * announced):
        raise UnusableVideo(f"cut short or damaged: {decoded} of {announced:.0f} frames decode")


def to_example(
    video: Video, video_id: str, label_index: int | None, encoded: EncodedVideo
) -> tf.train.SequenceExample:
    """A record in the layout of `schema`. Its end is 0 where the frame rate is unknown."""
    rate, length = encoded.frame_rate, len(encoded.jpegs)
    context = {
        schema.FILENAME: _bytes(os.fsencode(video.name)),
        schema.VIDEO_ID: _bytes(os.fsencode(video_id)),
        schema.START: _int64(0),
        schema.END: _int64(round(1e6 * length / rate) if rate else 0),
        schema.FRAME_RATE: tf.train.Feature(float_list=tf.train.FloatList(value=[rate])),
        schema.NUM_FRAMES: _int64(length),
        schema.HEIGHT: _int64(encoded.height),
        schema.WIDTH: _int64(encoded.width),
    }
    if video.label is not None and label_index is not None:
        context[schema.LABEL_INDEX] = _int64(label_index)
        context[schema.LABEL_TEXT] = _bytes(os.fsencode(video.label))
    frames = tf.train.FeatureList(feature=[_bytes(jpeg) for jpeg in encoded.jpegs])
    return tf.train.SequenceExample(
        context=tf.train.Features(feature=context),
        feature_lists=tf.train.FeatureLists(feature_list={schema.FRAMES: frames}),
    )


def _bytes(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def _int64(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


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
    # Workers import TensorFlow, which would tell each terminal about its instruction sets.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
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
                encoded = encode_video(video.path, task.short_side, task.jpeg_quality)
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
