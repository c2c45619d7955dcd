"""Reads videos with FFmpeg: which frames there are, when they are shown, and what is damaged."""

import dataclasses
import math
import os
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from types import TracebackType
from typing import Self

import av
import av.error
from av.container import InputContainer
from av.packet import Packet

from cvrl_tf.preparation.clock import Clock
from cvrl_tf.preparation.container import (
    UNOPENED,
    UnusableVideo,
    VideoFile,
    first_that_moves,
    frame_rate,
    may_join_recordings,
    open_container,
    origin,
    video_streams,
)
from cvrl_tf.preparation.damage import Damage, announced_size, has_gap, impossible_count
from cvrl_tf.preparation.pictures import Display, deinterlaced

_MAX_ASPECT = 16.0
_MAX_HELD = 2**26  # bytes of packets from a key frame on
_UNHURRIED = Fraction(1, 2)  # second


@dataclasses.dataclass(frozen=True, slots=True)
class TimedPicture:
    """A picture of a video, not yet converted to pixels.

    Attributes:
      seconds: Into the video, as players count.
      duration: Seconds; 0 if unknown.
      picture: What was decoded.
    """

    seconds: float
    duration: float
    picture: av.VideoFrame


class VideoReader:
    """Reads the pictures of a video in the order in which they are shown.

    The file is read through a Python file. So FFmpeg opens this file alone, its name means nothing,
    and an error of the disk is an OSError rather than a damaged video.

    Attributes:
      rate: Frames per second, on average where they vary; 0 if unknown.
      damage: What is missing or damaged, of what was read so far.
    """

    def __init__(self, path: str | os.PathLike[str], max_pixels: int) -> None:
        """Opens a video.

        Args:
          path: Of the file.
          max_pixels: Most pixels of a picture.

        Raises:
          UnusableVideo: It has no video stream that can be decoded, or its pictures are too large.
          OSError: The file can't be read.
        """
        self._max_pixels = max_pixels
        self._file = VideoFile(path)
        try:
            self._size = announced_size(self._file)
            if count := impossible_count(self._file):
                raise UnusableVideo(f"damaged: its index has {count} frames for so few bytes")
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        """Opens the container at its beginning."""
        self._container = self._opened()
        streams = video_streams(self._container)
        if not streams:
            raise UnusableVideo(UNOPENED)
        if len(streams) > 1:
            index = first_that_moves(self._container)
            self._container.close()
            self._container = self._opened()
            streams = [s for s in self._container.streams.video if s.index == index]
        self._stream = stream = streams[0]
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        self._unit = Fraction(stream.time_base or 1)  # of time stamps, seconds
        self.rate = frame_rate(stream)
        self.damage = Damage()
        self._origin = origin(self._container)
        self._may_restart = may_join_recordings(self._container)
        self._clock = self._new_clock()
        context = stream.codec_context
        context.thread_count = 1  # beside other processes
        context.options = {"max_pixels": str(self._max_pixels)}
        self._tolerant: av.VideoCodecContext | None = None
        if context.name == "mjpeg":  # which says nothing of errors, unless it gives up
            context.options = {**context.options, "err_detect": "explode"}
            self._tolerant = av.VideoCodecContext.create("mjpeg", "r")
        self._is_interlaced = self._is_drained = self._is_partial = False

    def _opened(self) -> InputContainer:
        self._file.seek(0)
        return open_container(self._file, self._max_pixels)

    def close(self) -> None:
        """Closes the file."""
        self._container.close()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def pictures(self, start: float = 0.0) -> Iterator[TimedPicture]:
        """Yields the pictures from a time on, or from a little before it.

        Args:
          start: Seconds. Decoding begins at the key frame before it.

        Raises:
          UnusableVideo: A picture is too large.
        """
        if start > 0:
            timed = self._timed(self._from_key_frame(start))
            first = next(timed, None)
            if first is not None and first.seconds <= start:
                self._is_partial = True
                yield first
                yield from timed
                return
            self._container.close()
            self._open()
        yield from self._timed(self._packets())

    def display(self, picture: av.VideoFrame) -> Display:
        """Returns how the pictures are to be shown, by the first of them.

        Raises:
          UnusableVideo: They would be too wide or too high.
        """
        aspect = self._stream.sample_aspect_ratio
        display = Display(picture, float(aspect) if aspect else 1.0)
        self._check_size(display.width, display.height)
        return display

    def warning(self) -> str:
        """Says what was mended, and what is missing or damaged; empty if nothing is."""
        found = [self.damage.in_words()]
        if self._clock.mended:
            found.append(f"mended time stamps: {self._clock.mended}")
        if self._is_interlaced:
            found.append("deinterlaced")
        return ", ".join(filter(None, found))

    @property
    def times_are_known(self) -> bool:
        """Whether the times so far can be true."""
        return self._clock.is_known

    def _new_clock(self) -> Clock:
        return Clock(1 / self.rate if self.rate else 0.0, self._may_restart)

    def _check_size(self, width: float, height: float) -> None:
        """Raises UnusableVideo if a picture would take too much memory."""
        if width * height > self._max_pixels:
            raise UnusableVideo(
                f"{width:.0f}x{height:.0f} pixels are more than {self._max_pixels}: raise "
                "--max_pixels"
            )
        if max(width, height) > _MAX_ASPECT * max(1, min(width, height)):
            raise UnusableVideo(
                f"{width:.0f}x{height:.0f} pixels: one side is over {_MAX_ASPECT:g} times the other"
            )

    def _timed(self, packets: Iterable[Packet]) -> Iterator[TimedPicture]:
        """Decodes packets and gives each picture its time."""
        for picture in deinterlaced(self._decoded(packets)):
            self._check_size(picture.width, picture.height)
            base = picture.time_base or self._unit
            stamp = picture.dts if picture.pts is None else picture.pts
            duration = max(0.0, float(picture.duration * base))
            seconds = self._clock.time(
                None if stamp is None else float(stamp * base - self._origin),
                duration,
                # The last frames of an AVI file with frames out of order have no stamps.
                is_usual=stamp is None and self._is_drained,
            )
            self.damage.damaged += picture.is_corrupt
            yield TimedPicture(seconds, duration or self._last_resort(), picture)

    def _last_resort(self) -> float:
        return 1 / self.rate if self.rate else 0.0

    def _packets(self) -> Iterator[Packet]:
        """Yields the packets of the stream from where it is; the last one is empty."""
        last = None
        try:
            for packet in self._container.demux(self._stream):
                if not packet.size:  # "shown as before", or the end
                    continue
                last = packet
                yield packet
        except IndexError:
            pass  # PyAV at the end, if streams appeared on the way
        except av.error.MemoryError:
            raise
        except av.FFmpegError:
            self.damage.ends_early = True
        if not self._is_partial:
            self.damage.announced = self._stream.frames
            if last and self._container.format.name == "avi":  # which counts ticks without a frame
                self.damage.announced -= (last.dts or 0) + 1 - self.damage.packets
        end = self._file.seek(0, os.SEEK_END)
        self.damage.ends_early |= self._size > end or (last is not None and last.is_corrupt)
        self.damage.ends_early |= any(
            entry.pos + entry.size > end for entry in self._stream.index_entries
        )
        if last is not None and not self._is_partial:
            self.damage.has_gap = has_gap(self._file, self._stream.id, last.pos or 0)
        yield Packet()

    def _decoded(self, packets: Iterable[Packet]) -> Iterator[av.VideoFrame]:
        for packet in packets:
            self.damage.packets += packet.size > 0
            self._is_drained = not packet.size
            try:
                found = self._stream.decode(packet if packet.size else None)
            except av.error.MemoryError:
                raise
            except av.FFmpegError:
                found = self._tolerated(packet)
            self._is_interlaced |= any(picture.interlaced_frame for picture in found)
            yield from found

    def _tolerated(self, packet: Packet) -> list[av.VideoFrame]:
        """Decodes as much of a damaged picture as there is."""
        if self._tolerant and packet.size:
            try:
                found = self._tolerant.decode(packet)
            except av.FFmpegError:
                found = []
            if found:
                self.damage.damaged += len(found)
                return found
        self.damage.undecoded += packet.size > 0
        return []

    def _from_key_frame(self, start: float) -> Iterator[Packet]:
        """Yields the packets from the last key frame before a time on; none if there is no way.

        Where the container has an index, it is used. Where clocks may start anew, stamps say where
        a frame is only if one has seen all before it: there the file is read, but not decoded.
        """
        stamp = math.floor((Fraction(start) + self._origin) / self._unit)
        if not self._may_restart:
            try:
                self._container.seek(stamp, stream=self._stream)
            except av.FFmpegError:
                return
        packets = self._packets()
        held: list[Packet] = []
        num_bytes = 0
        clock = self._new_clock()
        for packet in packets:
            if not packet.size or packet.dts is None:
                held.append(packet)
                break
            clock.time(float(packet.dts * self._unit - self._origin), 0.0)
            if clock.mended or packet.is_corrupt:
                return
            if packet.is_keyframe and _shown(packet) <= stamp:
                held.clear()
                num_bytes = 0
            held.append(packet)
            num_bytes += packet.size
            if packet.dts >= stamp or num_bytes > _MAX_HELD:
                break
        if held and held[0].is_keyframe:
            yield from self._hurried(held, stamp)
            yield from packets

    def _hurried(self, packets: list[Packet], stamp: int) -> Iterator[Packet]:
        """Yields packets; the decoder leaves out frames before a time that no other frame needs.

        But not those that are just before it, which a deinterlacer looks at.
        """
        context = self._stream.codec_context
        until = stamp - math.ceil(_UNHURRIED / self._unit)
        for packet in packets:
            context.skip_frame = "NONREF" if _shown(packet) < until else "DEFAULT"
            yield packet
        context.skip_frame = "DEFAULT"


def _shown(packet: Packet) -> int:
    """Returns the time stamp of a packet; any large number if it has none."""
    stamp = packet.dts if packet.pts is None else packet.pts
    return sys.maxsize if stamp is None else stamp
