"""Runs a model on the videos of several requests at a time."""

import contextlib
import queue
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Self

import numpy as np
import tensorflow as tf

from cvrl_tf.inference.embedder import Embedder

VIDEOS_A_BATCH = 4  # their views must fit into memory
_END_TIMEOUT = 10.0  # seconds for what waits; a thread that hangs does not keep the process

VideoResults = dict[str, np.ndarray]


class Batches:
    """A thread that runs the model on all videos that wait, up to four at a time.

    Use it as a context manager: it starts on entering, and on leaving ends after the videos that
    wait.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._waiting: queue.Queue[tuple[tf.Tensor, Future[VideoResults]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.put(None)
        self._thread.join(_END_TIMEOUT)

    def is_alive(self) -> bool:
        """Returns whether the thread runs."""
        return self._thread.is_alive()

    def submit(self, views: tf.Tensor) -> Future[VideoResults]:
        """Schedules the views of a video; see `Embedder.views_of`.

        Returns:
          The future means over the views, by name, float32 [D].
        """
        future: Future[VideoResults] = Future()
        self._waiting.put((views, future))
        return future

    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            with contextlib.suppress(queue.Empty):
                while len(batch) < VIDEOS_A_BATCH:
                    if (another := self._waiting.get_nowait()) is None:
                        self._waiting.put(None)  # to end after this batch
                        break
                    batch.append(another)
            self._answer(batch)

    def _answer(self, batch: list[tuple[tf.Tensor, Future[VideoResults]]]) -> None:
        wanted = [
            (views, future) for views, future in batch if future.set_running_or_notify_cancel()
        ]
        if not wanted:
            return
        try:
            views = tf.concat([views for views, _ in wanted], axis=0)
            means = self._embedder.results_of(views, self._embedder.num_views)
            for number, (_, future) in enumerate(wanted):
                future.set_result({name: rows[number] for name, rows in means.items()})
        except Exception as error:  # not the fault of one video: all of them have been decoded
            for _, future in wanted:
                if not future.done():
                    future.set_exception(error)
