"""Limits of the server, and how it receives a request within them."""

import asyncio
import dataclasses
import math
import time
from pathlib import Path

import limits as rate_limits
from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

# A client that does not listen could go on sending.
_HANG_UP = {"Connection": "close"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
      max_megabytes: Largest accepted upload, in MB.
      max_seconds: Longest accepted video, in seconds.
      timeout: Seconds for an upload, and again for its decoding.
      rate: Requests of one client, such as "10/second", in the notation of the package `limits`.
      max_waiting: Requests that are worked on at a time.
    """

    max_megabytes: float
    max_seconds: float
    timeout: float
    rate: str
    max_waiting: int


class RateLimiter:
    """Counts the requests of each client."""

    def __init__(self, rate: str) -> None:
        """Args:
          rate: Requests of one client; see `Limits`.

        Raises:
          ValueError: `rate` can't be parsed.
        """
        self._text = rate
        self._rate = rate_limits.parse(rate)
        storage = rate_limits.storage.MemoryStorage()
        self._limiter = rate_limits.strategies.MovingWindowRateLimiter(storage)

    def check(self, client: str) -> None:
        """Counts a request.

        Raises:
          HTTPException: 429, the client has sent too many requests.
        """
        if not self._limiter.hit(self._rate, client):
            seconds = self._limiter.get_window_stats(self._rate, client).reset_time - time.time()
            retry = {"Retry-After": str(math.ceil(max(seconds, 0)))}
            raise HTTPException(429, f"More than {self._text}.", retry)


async def receive(request: Request, path: Path, limits: Limits) -> None:
    """Writes the body of a request to a file.

    Raises:
      HTTPException: 400, nothing was sent, or the client has gone; 408, it was sent too slowly;
        413, it is too large.
    """
    most = limits.max_megabytes * 2**20
    size = 0
    try:
        with path.open("wb") as file:
            async with asyncio.timeout(limits.timeout):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > most:
                        raise HTTPException(
                            413, f"More than {limits.max_megabytes:g} MB.", _HANG_UP
                        )
                    file.write(chunk)
    except TimeoutError:
        raise HTTPException(408, f"Not received in {limits.timeout:g} s.", _HANG_UP) from None
    except ClientDisconnect:
        raise HTTPException(400, "The client has gone.") from None
    if not size:
        raise HTTPException(400, "Nothing was sent: send the video file as the body.")
