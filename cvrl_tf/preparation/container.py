"""Opens containers of videos with FFmpeg, and says what they hold."""

import errno
import io
import os
from fractions import Fraction
from typing import BinaryIO

import av
import av.container
import av.error
import av.format
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

# Not among them: lists of other files, addresses and pictures, which FFmpeg opens by content.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,ogg,asf,gif,mxf,dv"
)
UNOPENED = "not a video, or no video stream in it that can be decoded"
_FRAME_RATES = (0.1, 1000.0)
_NEARLY_EQUAL = 0.05  # of two frame rates
_SURELY_MOVING = 100  # packets of another stream, before the second of the first
_MICROSECONDS = 1_000_000  # of a container's times
_TS_DISCONT = int(av.format.Flags.ts_discont.value)  # type: ignore[call-overload]
_GEN_PTS = int(av.container.Flags.gen_pts.value)  # type: ignore[call-overload]
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


class UnusableVideo(Exception):
    """Says why a video is not written."""


class VideoFile(io.FileIO):
    """A file in which damaged videos may jump to before its beginning."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Returns the new position; a negative number if there is no such."""
        try:
            return super().seek(offset, whence)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return -1


def open_container(file: BinaryIO, max_pixels: int) -> InputContainer:
    """Opens a container.

    Raises:
      UnusableVideo: It is none that holds videos.
    """
    try:
        container: InputContainer = av.open(
            file,
            "r",
            # Also of what FFmpeg decodes to learn the format of the pictures.
            options={"max_pixels": str(max_pixels)},
            container_options={"protocol_whitelist": "none", "format_whitelist": _CONTAINERS},
            metadata_errors="replace",
        )
    except av.error.MemoryError:
        raise
    except av.FFmpegError:
        raise UnusableVideo(UNOPENED) from None
    container.flags &= ~_GEN_PTS  # wrong where AVI has frames out of order
    return container


def video_streams(container: InputContainer) -> list[VideoStream]:
    """Returns the streams that may be more than a picture, of those that can be decoded."""
    streams = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & _PICTURES
    ]
    return [stream for stream in streams if stream.frames != 1] or streams[:1]


def first_that_moves(container: InputContainer) -> int:
    """Returns the index of the stream that a player shows, the first that is more than a picture.

    A Matroska file doesn't say which of its streams are pictures, so packets are read.
    """
    streams = video_streams(container)
    counts = dict.fromkeys((stream.index for stream in streams), 0)
    try:
        for packet in container.demux(streams):
            counts[packet.stream_index] += packet.size > 0
            if counts[streams[0].index] > 1 or max(counts.values()) == _SURELY_MOVING:
                break
    except av.error.MemoryError:
        raise
    except (av.FFmpegError, IndexError):
        pass  # damage is told where the video is read
    return min(counts, key=lambda index: counts[index] < 2)


def origin(container: InputContainer) -> Fraction:
    """Returns the time stamp at which a player begins, the first of any stream, in seconds.

    Exactly: it is subtracted from stamps that are compared with the ends of segments.
    """
    start = Fraction(container.start_time or 0, _MICROSECONDS)
    for stream in container.streams:
        exact = Fraction(stream.start_time or 0) * Fraction(stream.time_base or 1)
        if abs(exact - start) < Fraction(2, _MICROSECONDS):
            return exact
    return start


def frame_rate(stream: VideoStream) -> float:
    """Returns frames per second; 0 if none can be true.

    FFmpeg's guess is exact for constant rates, the average is right for variable ones.
    """
    guess, average = float(stream.guessed_rate or 0), float(stream.average_rate or 0)
    rate = guess if not average or abs(guess - average) < _NEARLY_EQUAL * average else average
    return rate if _FRAME_RATES[0] <= rate <= _FRAME_RATES[1] else 0.0


def may_join_recordings(container: InputContainer) -> bool:
    """Returns whether clocks may start anew within such a container, as in MPEG streams."""
    return bool(container.format.flags & _TS_DISCONT)
