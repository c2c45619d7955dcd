"""A server of features: a video in, its features out.

Routes::

    POST /embed   The body is a video file. Answers {"feature": [...], ...}: means over the video's
                  test views.
    GET  /health  200 while the server can decode videos and run the model, else 503.
    GET  /        The model's views and classes, and the server's limits.

Status codes of /embed: 400 nothing was sent; 408 it was sent too slowly; 413 the file is too large
or the video too long; 422 the video can't be decoded; 429 the client sends too many requests; 503
too many requests at a time, or the server can't decode.

Worker processes decode the videos: a video that kills or hangs its decoder fails alone. The model
runs on the videos of all requests that wait as one batch.
"""

import asyncio
import contextlib
import dataclasses
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from cvrl_tf.inference import upload
from cvrl_tf.inference.batching import Batches
from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.inference.receiving import Limits, RateLimiter, receive
from cvrl_tf.preparation.decoding import UnusableVideo
from cvrl_tf.preparation.workers import TaskTimeout, WorkerDied, WorkerPool, WorkerStartError

_TASKS_A_WORKER = 200  # after which a new process, with memory of its own, takes its place


def application(embedder: Embedder, limits: Limits, num_workers: int) -> FastAPI:
    """Returns the server as an ASGI application, for uvicorn and others.

    Args:
      embedder: The model and its views.
      limits: Limits of the server.
      num_workers: Number of processes that decode.
    """
    server = _Server(embedder, limits, num_workers)
    app = FastAPI(title="cvrl_tf", description=__doc__, lifespan=server.lifespan)
    app.get("/health")(server.health)
    app.get("/")(server.facts)
    app.post("/embed")(server.embed)
    return app


class _Server:
    """The endpoints, and the parts of the server that they share."""

    _pool: WorkerPool  # while the application runs
    _batches: Batches

    def __init__(self, embedder: Embedder, limits: Limits, num_workers: int) -> None:
        self._embedder = embedder
        self._limits = limits
        self._num_workers = num_workers
        self._rates = RateLimiter(limits.rate)
        self._frames = dataclasses.replace(embedder.frames, max_seconds=limits.max_seconds)
        self._num_requests = 0

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Starts what decodes and what runs the model; ends them after the last request."""
        with (
            WorkerPool(
                self._num_workers, upload.prepare_process, max_tasks=_TASKS_A_WORKER
            ) as self._pool,
            Batches(self._embedder) as self._batches,
        ):
            yield

    def health(self) -> dict[str, str]:
        """Returns 200 while the server works, else 503."""
        if self._pool.error:
            raise HTTPException(503, f"Restart the server. {self._pool.error}")
        if not self._batches.is_alive():
            raise HTTPException(503, "Restart the server. The model's thread has ended.")
        return {"status": "ok"}

    def facts(self) -> dict[str, Any]:
        """Returns the model's views and classes, and the server's limits."""
        return {
            "views": self._embedder.views,
            "classes": self._embedder.classes,
            "limits": dataclasses.asdict(self._limits),
        }

    async def embed(self, request: Request) -> dict[str, list[float]]:
        """Returns the features of the video in the request's body."""
        self._rates.check(request.client.host if request.client else "")
        if self._num_requests >= self._limits.max_waiting:
            reason = f"{self._num_requests} requests at a time."
            raise HTTPException(503, reason, {"Retry-After": "1"})
        self._num_requests += 1
        try:
            # In a folder of its own, where the upload can't open other files.
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "video"
                await receive(request, path, self._limits)
                record = await self._decode(path)
            views = await asyncio.to_thread(self._embedder.views_of, record)
            results = await asyncio.wrap_future(self._batches.submit(views))
        finally:
            self._num_requests -= 1
        return {name: values.tolist() for name, values in results.items()}

    async def _decode(self, path: Path) -> bytes:
        """Decodes a video in a worker process.

        Returns:
          A serialized `tf.train.SequenceExample`.

        Raises:
          HTTPException: 413, the video is too long; 422, it can't be decoded; 503, no video can.
        """
        timeout, seconds = self._limits.timeout, self._limits.max_seconds
        try:
            record = self._pool.submit(upload.record_of, str(path), self._frames, timeout=timeout)
            return await asyncio.wrap_future(record)
        except UnusableVideo as error:
            raise HTTPException(422, f"This can't be embedded: {error}.") from None
        except upload.TooLong:
            raise HTTPException(413, f"Longer than {seconds:g} s, or too much.") from None
        except TaskTimeout:
            raise HTTPException(422, f"Not decoded in {timeout:g} s.") from None
        except WorkerDied:
            raise HTTPException(422, "This can't be embedded: it kills its decoder.") from None
        except WorkerStartError as error:
            raise HTTPException(503, f"No video can be decoded. {error}") from None
