"""Decodes video files into JPEG frames."""

import dataclasses
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cvrl_tf.preparation import tfrecord_writer

_FRAME_RATES = (1.0, 500.0)  # containers without a rate give 0, NaN, 1,000 or 90,000
_MOST_SECONDS = 1e9  # 31 years; damaged time stamps may be beyond what int64 microseconds hold

TimedFrames = Iterator[tuple[float, np.ndarray]]  # seconds into the source; uint8 [H, W, 3], BGR


class UnusableVideo(Exception):
    """Says why a video is not written."""


@dataclasses.dataclass(frozen=True)
class FrameOptions:
    """Says how frames are stored.

    Attributes:
      short_side: pixels. Smaller videos are enlarged, so that crops of a given size mean the same
        in all of them.
      jpeg_quality: 1 to 100.
      fps: frames per second to store, by dropping or repeating frames by their time; None for the
        rate of the video.
      max_seconds: what comes later is left out; None for no limit.
      keep_truncated: whether to keep what decodes of a video that ends before its container says.
        If not, the video is skipped.
    """

    short_side: int = 256
    jpeg_quality: int = 95
    fps: float | None = None
    max_seconds: float | None = None
    keep_truncated: bool = False


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """Holds frames as JPEGs in presentation order, and the facts about them.

    Attributes:
      jpegs: one per frame.
      times: one per frame, microseconds into the source. Counted by the frame rate where the
        container gives no usable times; empty where the frame rate is unknown, too.
      frame_rate: frames per second; 0 where the container gives none that can be true.
      height: of the stored frames, pixels.
      width: of the stored frames, pixels.
      warning: that fewer frames decode than the container announces; else empty.
      goes_on: whether the video has frames behind the last one wanted.
    """

    jpegs: tfrecord_writer.Jpegs
    times: list[int]
    frame_rate: float
    height: int
    width: int
    warning: str
    goes_on: bool


def quiet() -> None:
    """Makes OpenCV use one thread and print nothing.

    Call this in a process that decodes beside others. What is wrong with a video is said once, by
    name.
    """
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def encode_video(
    path: str | Path,
    options: FrameOptions,
    start: float | None = None,
    end: float | None = None,
) -> EncodedVideo:
    """Decodes a video, upright, and encodes its frames one by one.

    Args:
      path: of the video.
      options: how the frames are stored.
      start: seconds; frames before it are left out.
      end: seconds; so are those at it and after it.

    Raises:
      UnusableVideo: it can't be decoded, ends early, is too long for a record, or has no frame
        between `start` and `end`.
    """
    if not Path(path).is_file():
        raise UnusableVideo("no such file")
    decoder = _Decoder(path)
    start = start or 0.0
    if options.max_seconds is not None:
        end = min(start + options.max_seconds, end or float("inf"))
    frames = decoder.decode(start, end)
    if options.fps is not None:
        if not decoder.rate:
            raise UnusableVideo("its frame rate is unknown, so it can't be changed")
        frames = _resample(frames, 1 / decoder.rate, options.fps)
    jpegs, times, size = _encode(frames, options)
    if decoder.is_truncated and not options.keep_truncated:
        raise UnusableVideo(f"cut short or damaged: {decoder.shortfall}")
    if size is None:
        raise UnusableVideo(f"no frame from {start:g} s on" if start else "no frame decodes")
    rate = options.fps or decoder.rate
    return EncodedVideo(
        jpegs,
        _usable(times, rate),
        rate,
        height=size[1],
        width=size[0],
        warning=decoder.shortfall,
        goes_on=decoder.goes_on,
    )


def _encode(
    frames: TimedFrames, options: FrameOptions
) -> tuple[tfrecord_writer.Jpegs, list[float], tuple[int, int] | None]:
    """Resizes frames and encodes them.

    Returns:
      The frames; their times, seconds; and their (width, height), None if there is no frame.

    Raises:
      UnusableVideo: they are too many for a record, or can't be encoded.
    """
    jpegs, size, last = tfrecord_writer.Jpegs(), None, None
    times = []
    for seconds, frame in frames:
        if size is None:
            scale = options.short_side / min(frame.shape[:2])
            size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        if frame is not last:  # a repeated frame has its JPEG already
            jpeg = _to_jpeg(_resize(frame, size), options.jpeg_quality)
        jpegs.append(jpeg)
        times.append(seconds)
        last = frame
        if jpegs.num_bytes > tfrecord_writer.MAX_RECORD_BYTES:
            raise UnusableVideo(f"over 2 GiB after {jpegs.num_frames} frames: cut it in pieces")
    return jpegs, times, size


def _usable(times: list[float], rate: float) -> list[int]:
    """Rounds the times of frames to microseconds, or counts them anew where they can't be true.

    Args:
      times: seconds. OpenCV gives 0 for a frame whose time it does not know.
      rate: frames per second, 0 where unknown.

    Returns:
      One per frame, microseconds, which do not decrease; or none where the times can't be true and
      the rate is unknown.
    """
    possible = [abs(seconds) < _MOST_SECONDS for seconds in times]  # NaN is not
    is_sound = (
        all(possible)
        and all(one <= other for one, other in itertools.pairwise(times))
        and (len(times) < 2 or times[0] < times[-1])
    )
    if not is_sound:
        first = times[0] if possible[0] else 0.0
        times = [first + number / rate for number in range(len(times))] if rate else []
    return [round(1e6 * seconds) for seconds in times]


def glimpse(
    path: str | Path, start: float, end: float, num_frames: int, short_side: int
) -> np.ndarray | None:
    """Decodes some frames of a video to look at, about where they should be.

    Args:
      path: of the video.
      start, end: seconds, between which the frames are spread.
      num_frames: at most so many.
      short_side: of the frames, pixels.

    Returns:
      uint8 [L, H, W, 3], RGB; None if the video can't be read.
    """
    capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        return None
    capture.set(cv2.CAP_PROP_POS_MSEC, 1000 * start)
    frames: list[np.ndarray] = []
    while len(frames) < _MOST_FRAMES and (frame := capture.read()[1]) is not None:
        scale = short_side / min(frame.shape[:2])
        size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        frames.append(_resize(frame, size)[:, :, ::-1])
        if capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 >= end:
            break
    if not frames:
        return None
    chosen = np.linspace(0, len(frames) - 1, min(num_frames, len(frames))).round().astype(int)
    return np.stack([frames[i] for i in chosen])


_MOST_FRAMES = 500  # of a clip, in videos whose times don't tell where it ends


class _Decoder:
    """Reads a video once.

    OpenCV ends a damaged file without a word. Only the container's count of frames shows it.

    Attributes:
      rate: frames per second, 0 where the container gives none that can be true.
      shortfall: in words, that fewer frames decode than the container announces; known at the end.
      is_truncated: whether that is more than a wrong count. The count is often an estimate from the
        duration, hence a slack of 2 % or 2 frames.
      goes_on: whether there was a frame at the end that was asked for, or after it.
    """

    def __init__(self, path: str | Path) -> None:
        # By name of the backend, or OpenCV would take "clip_01.avi" for a sequence of images.
        # Rotation metadata is applied by default.
        threads = [cv2.CAP_PROP_N_THREADS, cv2.getNumThreads()]
        self._capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG, threads)
        if not self._capture.isOpened():
            raise UnusableVideo("not a video, or no video stream in it that can be decoded")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if _FRAME_RATES[0] <= rate <= _FRAME_RATES[1] else 0.0  # NaN as well
        self.shortfall = ""
        self.is_truncated = self.goes_on = False

    def decode(self, start: float, end: float | None) -> TimedFrames:
        """Yields the frames of the seconds [start, end)."""
        decoded = 0
        while (frame := self._capture.read()[1]) is not None:
            decoded += 1
            seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if end is not None and seconds >= end:
                self.goes_on = True
                return
            if not start or seconds >= start:
                yield seconds, frame
        announced = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if announced > 0 and decoded < announced:
            self.shortfall = f"{decoded} of {announced:.0f} frames decode"
            self.is_truncated = decoded < announced - max(2, 0.02 * announced)


def _resample(timed_frames: TimedFrames, duration: float, fps: float) -> TimedFrames:
    """Yields what is on the screen at every 1/fps of a second, from the first frame on.

    Args:
      timed_frames: of the video.
      duration: of the last frame, seconds.
      fps: frames per second.
    """
    slack = 1e-4  # seconds, for times that are rounded
    first = shown_at = 0.0
    shown, count = None, 0
    for seconds, frame in timed_frames:
        if shown is None:
            first = seconds
        while shown is not None and first + count / fps < seconds - slack:
            yield first + count / fps, shown
            count += 1
        shown, shown_at = frame, seconds
    while shown is not None and first + count / fps < shown_at + duration - slack:
        yield first + count / fps, shown
        count += 1


def _resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a frame to (width, height): halves it by averaging, then interpolates bilinearly.

    So every pixel counts. It takes a sixth of the time of OpenCV's INTER_AREA from 720 to 256
    pixels; on average the results differ by 0.4 of 255.
    """
    while frame.shape[0] >= 2 * size[1] and frame.shape[1] >= 2 * size[0]:
        half = (frame.shape[1] // 2, frame.shape[0] // 2)
        frame = cv2.resize(frame, half, interpolation=cv2.INTER_AREA)
    if size == frame.shape[1::-1]:
        return frame
    return cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)


def _to_jpeg(frame: np.ndarray, quality: int) -> bytes:
    ok, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise UnusableVideo(f"a frame of shape {frame.shape} can't be made a JPEG")
    return jpeg.tobytes()
