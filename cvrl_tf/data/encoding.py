"""A video file to JPEG frames, and to a record."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from cvrl_tf.data import schema
from cvrl_tf.data.annotations import Video

_MAX_RECORD_BYTES = 2**31 - 2**20  # a protocol buffer ends at 2 GiB
_FRAME_RATES = (1.0, 500.0)  # containers without a rate give 0, NaN, 1,000 or 90,000


class UnusableVideo(Exception):
    """A video that is not written; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class FrameOptions:
    """How frames are stored.

    Attributes:
      short_side: pixels; smaller videos are enlarged, so that crops of a given size mean the same
        in all of them.
      jpeg_quality: 1 to 100.
      fps: frames per second to store, by dropping or repeating frames by their time; None for the
        rate of the video.
      max_seconds: what comes later is left out; None for no limit.
    """

    short_side: int = 256
    jpeg_quality: int = 95
    fps: float | None = None
    max_seconds: float | None = None


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
    # By name of the backend, or OpenCV would take "clip_01.avi" for a sequence of images. Rotation
    # metadata is applied by default.
    capture = cv2.VideoCapture(
        os.path.abspath(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, cv2.getNumThreads()]
    )
    if not capture.isOpened():
        raise UnusableVideo("not a video, or no video stream in it that can be decoded")
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if _FRAME_RATES[0] <= rate <= _FRAME_RATES[1] else 0.0  # NaN as well
    start = start or 0.0
    if options.max_seconds is not None:
        end = min(start + options.max_seconds, end or float("inf"))
    timed_frames = _decode(capture, start, end)
    frames: Iterator[np.ndarray] = (frame for _, frame in timed_frames)
    if options.fps is not None:
        if not rate:
            raise UnusableVideo("its frame rate is unknown, so it can't be changed")
        frames = _resample(timed_frames, 1 / rate, options.fps)
    jpegs: list[bytes] = []
    size, num_bytes, last = None, 0, None
    for frame in frames:
        if size is None:
            scale = options.short_side / min(frame.shape[:2])
            size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
            filtering = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        if frame is not last:  # a repeated frame has its JPEG already
            resized = frame
            if size != frame.shape[1::-1]:
                resized = cv2.resize(frame, size, interpolation=filtering)
            jpeg = _to_jpeg(resized, options.jpeg_quality)
        jpegs.append(jpeg)
        last = frame
        num_bytes += len(jpeg)
        if num_bytes > _MAX_RECORD_BYTES:
            raise UnusableVideo(f"over 2 GiB of JPEGs after {len(jpegs)} frames: cut it in pieces")
    if size is None:
        raise UnusableVideo(f"no frame from {start:g} s on" if start else "no frame decodes")
    return EncodedVideo(jpegs, options.fps or rate, height=size[1], width=size[0])


def _decode(
    capture: cv2.VideoCapture, start: float, end: float | None
) -> Iterator[tuple[float, np.ndarray]]:
    """Times in seconds and frames, uint8 [H, W, 3], BGR, of the seconds [start, end).

    Raises:
      UnusableVideo: fewer frames decode than the container announces.
    """
    num_decoded = 0
    while (frame := capture.read()[1]) is not None:
        num_decoded += 1
        seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if end is not None and seconds >= end:
            return
        if not start or seconds >= start:
            yield seconds, frame
    _check_length(num_decoded, capture.get(cv2.CAP_PROP_FRAME_COUNT))


def _resample(
    timed_frames: Iterator[tuple[float, np.ndarray]], duration: float, fps: float
) -> Iterator[np.ndarray]:
    """What is on the screen at every 1/fps of a second; `duration` is that of the last frame."""
    slack = 1e-4  # seconds, for times that are rounded
    first = shown_at = 0.0
    shown, count = None, 0
    for seconds, frame in timed_frames:
        if shown is None:
            first = seconds
        while shown is not None and first + count / fps < seconds - slack:
            yield shown
            count += 1
        shown, shown_at = frame, seconds
    while shown is not None and first + count / fps < shown_at + duration - slack:
        yield shown
        count += 1


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
    start = round(1e6 * (video.start or 0))
    context = {
        schema.FILENAME: _bytes(os.fsencode(video.name)),
        schema.VIDEO_ID: _bytes(os.fsencode(video_id)),
        schema.START: _int64(start),
        schema.END: _int64(start + round(1e6 * length / rate) if rate else 0),
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
