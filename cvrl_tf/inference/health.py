"""Whether a server works, by trying what it is there for."""

import asyncio
import struct
import time
from collections.abc import Awaitable, Callable

import numpy as np
import tensorflow as tf

_GLANCE = 1.0  # seconds for which a caller waits for a trial if there has been one before
_SHARE, _MAX_REST = 0.1, 10.0  # of the time goes into trials; seconds, at most, between them


class Health:
    """The outcome of the latest trial. A trial begins when somebody asks, and not too often."""

    def __init__(self, trial: Callable[[], Awaitable[object]], limit: float) -> None:
        """Args:
        trial: Does what the server is there for; raises if it can't.
        limit: Seconds for a trial.
        """
        self._trial = trial
        self._limit = limit
        self._task: asyncio.Task[str] | None = None
        self._begun = self._ended = self._rest = 0.0
        self._latest: str | None = None  # outcome: what is wrong, or ""; None before the first one

    async def fault(self, in_doubt: bool) -> str:
        """Returns what is wrong; empty if nothing is.

        Args:
          in_doubt: Whether the outcome of the latest trial counts for one second only.
        """
        now = time.monotonic()
        rest = _GLANCE if in_doubt else self._rest
        if self._task is None or (self._task.done() and now >= self._ended + rest):
            self._begun = now
            self._task = asyncio.create_task(self._try())
        left = max(0.0, self._begun + self._limit - time.monotonic())
        patience = left if self._latest is None else min(left, _GLANCE)
        await asyncio.wait([self._task], timeout=patience)
        if self._task.done():
            return self._task.result()
        if patience == left:  # and it may hang for ever
            return f"A trial takes more than {self._limit:g} s."
        return self._latest or ""

    async def _try(self) -> str:
        try:
            await self._trial()
            self._latest = ""
        except Exception as error:
            self._latest = f"{type(error).__name__}: {error}"
        self._ended = time.monotonic()
        self._rest = min(max(_GLANCE, (self._ended - self._begun) / _SHARE), _MAX_REST)
        return self._latest


def tiny_video() -> bytes:
    """Makes a video file: AVI, 8 frames of 32x32 with noise, as JPEGs, 25 frames/s."""
    count, side, rate = 8, 32, 25
    noise = np.random.default_rng(0).integers(0, 256, [count, side, side, 3], np.uint8)
    jpegs = [tf.io.encode_jpeg(frame).numpy() for frame in noise]
    size = max(map(len, jpegs))
    main = struct.pack("<14I", 10**6 // rate, 0, 0, 0, count, 0, 1, size, side, side, 0, 0, 0, 0)
    stream = struct.pack("<4s4s12x9I", b"vids", b"MJPG", 1, rate, 0, count, size, 0, 0, 0, 0)
    bitmap = struct.pack("<IIIHH4sIIIII", 40, side, side, 1, 24, b"MJPG", size, 0, 0, 0, 0)
    headers = _chunk(b"strh", stream) + _chunk(b"strf", bitmap)
    headers = _chunk(b"avih", main) + _list(b"strl", headers)
    frames = b"".join(_chunk(b"00dc", jpeg) for jpeg in jpegs)
    return _chunk(b"RIFF", b"AVI " + _list(b"hdrl", headers) + _list(b"movi", frames))


def _chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def _list(name: bytes, chunks: bytes) -> bytes:
    return _chunk(b"LIST", name + chunks)
