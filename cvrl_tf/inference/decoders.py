"""The processes that decode uploads, replaced whatever becomes of them."""

import asyncio
import signal
import time
from types import TracebackType
from typing import Self

from cvrl_tf.inference import upload
from cvrl_tf.preparation.decoding import FrameOptions
from cvrl_tf.preparation.workers import WorkerDied, WorkerPool

PAUSE = 5  # seconds, at least, from the start of a worker pool to the start of the next
_TASKS_A_WORKER = 200  # after which a new process, with memory of its own, takes its place
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)  # by an operator, or where memory runs out


class Decoders:
    """A worker pool that decodes; once it has given up, the next request gets a new one.

    Use it as a context manager: leaving it kills the processes.
    """

    def __init__(self, num_workers: int) -> None:
        """Args:
        num_workers: Number of processes.
        """
        self._num_workers = num_workers
        self._start()

    def _start(self) -> None:
        self._pool = WorkerPool(
            self._num_workers, upload.prepare_process, max_tasks=_TASKS_A_WORKER
        )
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    @property
    def have_given_up(self) -> bool:
        """Whether no decoder could be started; the next request tries again."""
        return self._pool.error is not None

    async def record_of(self, path: str, options: FrameOptions, timeout: float) -> bytes:
        """Decodes a video; see `upload.record_of`.

        Args:
          path: Path of the video.
          options: How its frames are stored.
          timeout: Seconds after which its decoder is killed.

        Raises:
          UnusableVideo: It can't be decoded.
          TooLong: It is too long.
          TaskTimeout: It takes too long.
          WorkerDied: It kills its decoder.
          WorkerStartError: No decoder can be started; try again after a pause.
        """
        try:
            return await self._try(path, options, timeout)
        except WorkerDied as death:
            if death.exit_code not in _FROM_OUTSIDE:
                raise
        return await self._try(path, options, timeout)

    async def _try(self, path: str, options: FrameOptions, timeout: float) -> bytes:
        # A pool that has given up ends by itself, after the tasks that still run.
        if self._pool.error and time.monotonic() >= self._started + PAUSE:
            self._start()
        record = self._pool.submit(upload.record_of, path, options, timeout=timeout)
        return await asyncio.wrap_future(record)
