"""A server of features: videos in, features out.

    POST /embed   a video file as the body -> {"feature": [...], ...}, the mean over its test views
    GET  /health  200 while the model's thread and the decoders are there
    GET  /        the model's views, its classes, and limits

What can't be embedded is the caller's to mend: 400 nothing was sent, 408 too slowly, 413 too much
of it, 422 no video that decodes, 429 too often, 503 too many at a time. Videos are decoded by
processes of their own, so that one which takes its decoder down costs only itself; the model sees
the videos of all requests that wait as one batch.
"""

import asyncio
import contextlib
import dataclasses
import math
import queue
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import limits
import pebble
import tensorflow as tf
from fastapi import FastAPI, HTTPException, Request
from starlette.requests import ClientDisconnect

from cvrl_tf.inference import upload
from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.preparation import decoding

_TASKS_OF_A_WORKER = 200  # then another takes its place, with memory of its own
_VIDEOS_A_BATCH = 4  # their views stand in memory
_HANG_UP = {"Connection": "close"}  # or a client that does not listen may go on sending


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the server bears.

    Attributes:
      max_megabytes: of an upload.
      max_seconds: of a video.
      timeout: seconds for an upload, and again for its decoding.
      rate: requests of one client, such as "10/second", as the package `limits` writes it.
      max_waiting: requests at a time.
    """

    max_megabytes: float
    max_seconds: float
    timeout: float
    rate: str
    max_waiting: int


def application(embedder: Embedder, bounds: Limits, workers: int) -> FastAPI:
    """The server, for uvicorn or any other that speaks ASGI.

    Args:
      embedder: of the model.
      bounds: what it bears.
      workers: processes that decode.
    """
    batches = _Batches(embedder)
    pool = pebble.ProcessPool(
        workers, _TASKS_OF_A_WORKER, upload.prepare_process, context=get_context("spawn")
    )
    rates = limits.strategies.MovingWindowRateLimiter(limits.storage.MemoryStorage())
    rate = limits.parse(bounds.rate)
    frames = dataclasses.replace(embedder.frames, max_seconds=bounds.max_seconds)
    waiting = 0

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batches.start()
        yield
        batches.stop()
        pool.stop()
        pool.join()

    app = FastAPI(title="cvrl_tf", description=__doc__, lifespan=lifespan)

    @app.get("/health")
    def health() -> dict[str, str]:
        if not batches.is_alive() or not pool.active:
            raise HTTPException(503, "A part of the server has ended; start it anew.")
        return {"status": "ok"}

    @app.get("/")
    def facts() -> dict[str, Any]:
        return {
            "views": embedder.views,
            "classes": embedder.classes,
            "limits": dataclasses.asdict(bounds),
        }

    @app.post("/embed")
    async def embed(request: Request) -> dict[str, list[float]]:
        nonlocal waiting
        client = request.client.host if request.client else ""
        if not rates.hit(rate, client):
            left = rates.get_window_stats(rate, client).reset_time - time.time()
            again = {"Retry-After": str(math.ceil(max(left, 0)))}
            raise HTTPException(429, f"More than {bounds.rate}.", again)
        if waiting >= bounds.max_waiting:
            raise HTTPException(503, f"{waiting} requests at a time.", {"Retry-After": "1"})
        waiting += 1
        try:
            # A folder of its own, in which there is nothing else to be opened by what was sent.
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "video"
                await _receive(request, path, bounds)
                arguments = str(path), frames
                task = pool.schedule(upload.record_of, arguments, timeout=bounds.timeout)
                record = await _decoded(task, bounds)
            views = await asyncio.to_thread(embedder.views_of, record)
            results = await asyncio.wrap_future(batches.submit(views))
        finally:
            waiting -= 1
        return {name: rows.tolist() for name, rows in results.items()}

    return app


async def _receive(request: Request, path: Path, bounds: Limits) -> None:
    """Writes the body of a request into a file."""
    most = bounds.max_megabytes * 2**20
    size = 0
    try:
        with path.open("wb") as file:
            async with asyncio.timeout(bounds.timeout):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > most:
                        raise HTTPException(
                            413, f"More than {bounds.max_megabytes:g} MB.", _HANG_UP
                        )
                    file.write(chunk)
    except TimeoutError:
        raise HTTPException(408, f"Not received in {bounds.timeout:g} s.", _HANG_UP) from None
    except ClientDisconnect:
        raise HTTPException(400, "The client has gone.") from None
    if not size:
        raise HTTPException(400, "Nothing was sent: give the video file as the body.")


async def _decoded(task: pebble.ProcessFuture, bounds: Limits) -> bytes:
    try:
        return await asyncio.wrap_future(task)
    except decoding.UnusableVideo as error:
        raise HTTPException(422, f"This can't be embedded: {error}.") from None
    except upload.TooLong:
        raise HTTPException(413, f"Longer than {bounds.max_seconds:g} s, or too much.") from None
    except TimeoutError:
        raise HTTPException(422, f"Not decoded in {bounds.timeout:g} s.") from None
    except pebble.ProcessExpired:
        raise HTTPException(422, "This can't be embedded: it takes its decoder down.") from None


class _Batches(threading.Thread):
    """The model at work, on all videos that wait at a time."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(daemon=True)
        self._embedder = embedder
        self._waiting: queue.Queue[tuple[tf.Tensor, Future] | None] = queue.Queue()

    def submit(self, views: tf.Tensor) -> Future:
        """Of the results of a video's views, by name, float32 [D]."""
        future: Future = Future()
        self._waiting.put((views, future))
        return future

    def stop(self) -> None:
        self._waiting.put(None)
        self.join()

    def run(self) -> None:
        while (first := self._waiting.get()) is not None:
            some = [first]
            with contextlib.suppress(queue.Empty):
                while len(some) < _VIDEOS_A_BATCH:
                    if (more := self._waiting.get_nowait()) is None:
                        self._waiting.put(None)  # to end after these
                        break
                    some.append(more)
            self._answer(some)

    def _answer(self, some: list[tuple[tf.Tensor, Future]]) -> None:
        wanted = [
            (views, future) for views, future in some if future.set_running_or_notify_cancel()
        ]
        if not wanted:
            return
        try:
            views = tf.concat([views for views, _ in wanted], axis=0)
            means = self._embedder.results_of(views, self._embedder.num_views)
            for number, (_, future) in enumerate(wanted):
                future.set_result({name: rows[number] for name, rows in means.items()})
        except Exception as error:  # no fault of a video's: these have been decoded before
            for _, future in wanted:
                if not future.done():
                    future.set_exception(error)
