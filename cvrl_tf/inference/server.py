"""A server of features: a video in, its features out.

Routes::

    POST /embed   The body is a video file. Answers {"feature": [...], ...}: means over the video's
                  test views, and "clips": their start and end, in seconds, or null if unknown.
    GET  /health  200 while the server can decode a video and run the model, which it tries, else
                  503.
    GET  /        The model's views and classes, and the server's limits.

Status codes of /embed: 400 nothing was sent; 408 it was sent too slowly; 413 the file is too large
or the video too long; 415 the body isn't a plain file; 422 the video can't be decoded; 429 the
client sends too many requests; 500 the model's results aren't finite; 503 too many requests at a
time, or the server can't decode now.

Worker processes decode the videos: a video that kills or hangs its decoder fails alone. The model
runs on the videos of all requests that wait as one batch. Clients take turns in both.
"""

import asyncio
import contextlib
import dataclasses
import math
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware

from cvrl_tf.data.sampling import Sampling
from cvrl_tf.inference import decoders, health, upload
from cvrl_tf.inference.batching import VIDEOS_A_BATCH, Batches, VideoResults
from cvrl_tf.inference.clients import Admission, FairQueue, RateLimiter, client_of
from cvrl_tf.inference.decoders import Decoders
from cvrl_tf.inference.embedder import Embedder
from cvrl_tf.inference.receiving import Limits, receive
from cvrl_tf.preparation.decoding import UnusableVideo
from cvrl_tf.preparation.workers import TaskTimeout, WorkerDied, WorkerStartError

T = TypeVar("T")


def application(
    embedder: Embedder, limits: Limits, num_workers: int, cors_origins: Sequence[str] = ()
) -> FastAPI:
    """Returns the server as an ASGI application, for uvicorn and others.

    Args:
      embedder: The model and its views.
      limits: Limits of the server.
      num_workers: Number of processes that decode; half as many again stand by for long videos.
      cors_origins: Origins whose web pages may read the answers, or "*" for all.

    Raises:
      ValueError: One of `cors_origins` is no origin.
    """
    for origin in cors_origins:
        if origin != "*" and not re.fullmatch("https?://[^/?#]+", origin):
            raise ValueError(f"{origin!r} is no origin, such as https://example.org.")
    server = _Server(embedder, limits, num_workers)
    app = FastAPI(title="cvrl_tf", description=__doc__, lifespan=server.lifespan)
    for path, answer in (("/health", server.health), ("/", server.facts)):
        app.get(path)(answer)
        app.head(path, include_in_schema=False)(answer)
    app.post("/embed")(server.embed)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=["GET", "POST"],
            expose_headers=["Retry-After"],
        )
    return app


class _Server:
    """The endpoints, and the parts of the server that they share."""

    _decoders: Decoders  # while the application runs
    _batches: Batches

    def __init__(self, embedder: Embedder, limits: Limits, num_workers: int) -> None:
        self._embedder = embedder
        self._limits = limits
        extra_workers = math.ceil(num_workers / 2)
        self._num_workers = num_workers + extra_workers
        self._rates = RateLimiter(limits.rate)
        self._admission = Admission(limits.max_waiting)
        self._decoding = FairQueue(num_workers, extra_workers)
        self._embedding = FairQueue(2 * VIDEOS_A_BATCH)  # one batch at work, one ready
        self._frames = dataclasses.replace(
            embedder.frames, max_seconds=limits.max_seconds, max_pixels=limits.max_pixels
        )
        # All decoders may be at work for `timeout` before one is free for the trial.
        self._health = health.Health(self._trial, 2 * limits.timeout)

    @contextlib.asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Starts what decodes and what runs the model; ends them after the last request."""
        with (
            Decoders(self._num_workers) as self._decoders,
            Batches(self._embedder) as self._batches,
        ):
            yield

    async def health(self) -> dict[str, str]:
        """Returns 200 while the server works, else 503."""
        if fault := await self._health.fault(in_doubt=self._decoders.have_given_up):
            raise HTTPException(503, fault)
        return {"status": "ok"}

    async def _trial(self) -> None:
        """Decodes a tiny video and runs the model on one clip; raises if that fails."""
        if not self._batches.is_alive():
            raise RuntimeError("The model's thread has ended: restart the server.")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video"
            path.write_bytes(health.tiny_video())
            await self._decoders.record_of(str(path), self._frames, self._limits.timeout)
        shape = 1, *Sampling.of(self._embedder.views).clip_shape
        clip = tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        # Not behind the batches, of which each may take minutes on a slow machine.
        _check_finite(await _in_thread(lambda: self._embedder.results_of(clip, 1)))

    def facts(self) -> dict[str, Any]:
        """Returns the model's views and classes, and the server's limits."""
        return {
            "views": self._embedder.views,
            "classes": self._embedder.classes,
            "limits": dataclasses.asdict(self._limits),
        }

    async def embed(self, request: Request) -> dict[str, list[Any]]:
        """Returns the features of the video in the request's body, and the times of its clips."""
        client = client_of(request)
        self._rates.check(client)
        with self._admission.admitted(client):
            try:
                # In a folder of its own, where the upload can't open other files.
                with tempfile.TemporaryDirectory() as folder:
                    path = Path(folder) / "video"
                    await receive(request, path, self._limits)
                    async with self._decoding.place(client):
                        record = await self._decode(path)
            except OSError as error:  # such as a full disk
                raise _unavailable(f"No room for the video: {error.strerror}.") from None
            async with self._embedding.place(client):
                views = await asyncio.to_thread(self._embedder.views_of, record)
                spans = await asyncio.to_thread(self._embedder.spans_of, record)
                results = await asyncio.wrap_future(self._batches.submit(views))
        _check_finite(results)
        clips = [{"start": _known(start), "end": _known(end)} for start, end in spans.tolist()]
        return {**{name: values.tolist() for name, values in results.items()}, "clips": clips}

    async def _decode(self, path: Path) -> bytes:
        """Decodes a video in a worker process.

        Returns:
          A serialized `tf.train.SequenceExample`.

        Raises:
          HTTPException: 413, the video is too long; 422, it can't be decoded; 503, no video can.
        """
        timeout, seconds = self._limits.timeout, self._limits.max_seconds
        try:
            return await self._decoders.record_of(str(path), self._frames, timeout)
        except UnusableVideo as error:
            raise HTTPException(422, f"This can't be embedded: {error}.") from None
        except upload.TooLong:
            raise HTTPException(413, f"Longer than {seconds:g} s, or too much.") from None
        except TaskTimeout:
            raise HTTPException(422, f"Not decoded in {timeout:g} s.") from None
        except WorkerDied:
            raise HTTPException(422, "This can't be embedded: it kills its decoder.") from None
        except WorkerStartError as error:
            raise _unavailable(f"No video can be decoded. {error}") from None


def _unavailable(reason: str) -> HTTPException:
    return HTTPException(503, reason, {"Retry-After": str(decoders.PAUSE)})


def _known(seconds: float) -> float | None:
    """Returns None for NaN, which JSON can't say."""
    return None if math.isnan(seconds) else seconds


def _check_finite(results: VideoResults) -> None:
    """Raises HTTPException: 500, the results hold NaN or infinity, which JSON can't say."""
    for name, values in results.items():
        if not np.isfinite(values).all():
            reason = f"The model's {name} isn't finite: export a model whose weights are."
            raise HTTPException(500, reason)


def _in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """Runs a function in a thread that doesn't keep the process from ending, should it hang."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(future)
