"""Decodes video files into JPEG frames."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np

from cvrl_tf.preparation import tfrecord_writer
from cvrl_tf.preparation.pictures import Display
from cvrl_tf.preparation.video_reader import TimedPicture, UnusableVideo, VideoReader

__all__ = ["EncodedVideo", "FrameOptions", "UnusableVideo", "encode_video", "glimpse", "quiet"]

MAX_PIXELS = 2**24  # 4096x4096; of these a decoder holds up to 17 at a time

TimedPictures = Iterator[tuple[float, av.VideoFrame]]  # seconds into the source


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
      max_pixels: of a picture of the video, and of a stored one. A video with larger ones is
        skipped before it is decoded.
    """

    short_side: int = 256
    jpeg_quality: int = 95
    fps: float | None = None
    max_seconds: float | None = None
    keep_truncated: bool = False
    max_pixels: int = MAX_PIXELS


@dataclasses.dataclass(frozen=True)
class EncodedVideo:
    """Holds frames as JPEGs in presentation order, and the facts about them.

    Attributes:
      jpegs: one per frame.
      times: one per frame, microseconds into the source, as players count. Where time stamps
        can't be true, by the duration of the frames; empty where that is unknown, too.
      frame_rate: frames per second; 0 where the container gives none that can be true.
      height: of the stored frames, pixels.
      width: of the stored frames, pixels.
      warning: what is missing, damaged or mended; else empty.
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
    """Makes OpenCV, which resizes and writes JPEGs, use one thread.

    Call this in a process that decodes beside others.
    """
    cv2.setNumThreads(1)


def encode_video(
    path: str | Path,
    options: FrameOptions,
    start: float | None = None,
    end: float | None = None,
) -> EncodedVideo:
    """Decodes a video and encodes its frames one by one, as a player shows them.

    Args:
      path: of the video.
      options: how the frames are stored.
      start: seconds; frames before it are left out.
      end: seconds; so are those at it and after it.

    Raises:
      UnusableVideo: it can't be decoded, ends early, is too large or too long for a record, or has
        no frame between `start` and `end`.
    """
    if not Path(path).is_file():
        raise UnusableVideo("no such file")
    start = start or 0.0
    if options.max_seconds is not None:
        end = min(start + options.max_seconds, end or float("inf"))
    with VideoReader(path, options.max_pixels) as reader:
        segment = _Segment(reader, start, end)
        if options.fps is not None and not reader.rate:
            raise UnusableVideo("its frame rate is unknown, so it can't be changed")
        frames = segment.resampled(options.fps) if options.fps else segment.frames()
        jpegs, times, size = _encode(frames, reader, options)
        warning = reader.warning()
        if reader.damage.is_truncated and not segment.goes_on and not options.keep_truncated:
            raise UnusableVideo(f"cut short or damaged: {warning}")
    if size is None:
        raise UnusableVideo(f"no frame from {start:g} s on" if start else "no frame decodes")
    return EncodedVideo(
        jpegs,
        [round(1e6 * seconds) for seconds in times] if reader.times_are_known else [],
        options.fps or reader.rate,
        height=size[1],
        width=size[0],
        warning=warning,
        goes_on=segment.goes_on,
    )


def _encode(
    frames: TimedPictures, reader: VideoReader, options: FrameOptions
) -> tuple[tfrecord_writer.Jpegs, list[float], tuple[int, int] | None]:
    """Converts, resizes and encodes pictures.

    Returns:
      The frames; their times, seconds; and their (width, height), None if there is no frame.

    Raises:
      UnusableVideo: they are too many for a record, or can't be encoded.
    """
    jpegs, last = tfrecord_writer.Jpegs(), None
    display: Display | None = None
    size: tuple[int, int] | None = None
    times = []
    for seconds, picture in frames:
        if display is None or size is None:
            display = reader.display(picture)
            size = _scaled(display, options)
        if picture is not last:  # a repeated frame has its JPEG already
            jpeg = _to_jpeg(display.shown(picture, size), options.jpeg_quality)
        jpegs.append(jpeg)
        times.append(seconds)
        last = picture
        if jpegs.num_bytes > tfrecord_writer.MAX_RECORD_BYTES:
            raise UnusableVideo(f"over 2 GiB after {jpegs.num_frames} frames: cut it in pieces")
    return jpegs, times, size


def _scaled(display: Display, options: FrameOptions) -> tuple[int, int]:
    """Returns (width, height) of the stored frames.

    Raises:
      UnusableVideo: they would be too large.
    """
    scale = options.short_side / min(display.width, display.height)
    size = (round(display.width * scale), round(display.height * scale))
    if size[0] * size[1] > options.max_pixels:
        raise UnusableVideo(
            f"{size[0]}x{size[1]} pixels to store are more than {options.max_pixels}: lower "
            "--short_side"
        )
    return size


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
    options = FrameOptions(short_side)
    frames: list[np.ndarray] = []
    try:
        with VideoReader(path, options.max_pixels) as reader:
            for _, picture in _Segment(reader, start, end).frames():
                display = reader.display(picture)
                frames.append(display.shown(picture, _scaled(display, options))[:, :, ::-1])
                if len(frames) == _MOST_FRAMES:
                    break
    except (OSError, UnusableVideo, av.FFmpegError):
        return None
    if not frames:
        return None
    chosen = np.linspace(0, len(frames) - 1, min(num_frames, len(frames))).round().astype(int)
    return np.stack([frames[i] for i in chosen])


_MOST_FRAMES = 500  # of a clip, in videos whose times don't tell where it ends


class _Segment:
    """The frames of the seconds [start, end) of a video, read once.

    Attributes:
      goes_on: whether there was a frame at the end that was asked for, or after it.
    """

    def __init__(self, reader: VideoReader, start: float, end: float | None) -> None:
        self._reader = reader
        self._start = start
        self._end = end
        self.goes_on = False

    def frames(self) -> TimedPictures:
        """Yields the frames as they are."""
        return ((each.seconds, each.picture) for each in self._inside())

    def resampled(self, fps: float) -> TimedPictures:
        """Yields what is on the screen at every 1/fps of a second, from the first frame on."""
        slack = 1e-4  # seconds, for times that are rounded
        first, count = 0.0, 0
        shown: TimedPicture | None = None
        for each in self._inside():
            first = first if shown else each.seconds
            while shown and first + count / fps < each.seconds - slack:
                yield first + count / fps, shown.picture
                count += 1
            shown = each
        while shown and first + count / fps < shown.seconds + shown.duration - slack:
            yield first + count / fps, shown.picture
            count += 1

    def _inside(self) -> Iterator[TimedPicture]:
        for each in self._reader.pictures(self._start):
            if self._end is not None and each.seconds >= self._end:
                self.goes_on = True
                return
            if not self._start or each.seconds >= self._start:
                yield each


def _to_jpeg(frame: np.ndarray, quality: int) -> bytes:
    ok, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise UnusableVideo(f"a frame of shape {frame.shape} can't be made a JPEG")
    return jpeg.tobytes()
