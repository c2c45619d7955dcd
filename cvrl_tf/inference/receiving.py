"""Limits of the server, and how it receives a request within them."""

import asyncio
import dataclasses
from pathlib import Path

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
      max_megabytes: Largest accepted upload, in MB.
      max_seconds: Longest accepted video, in seconds.
      max_pixels: Most pixels of a frame of an accepted video.
      timeout: Seconds for an upload, and again for its decoding.
      rate: Requests of one client, such as "10/second", in the notation of the package `limits`.
      max_waiting: Requests that are worked on at a time; of one client, half of them.
    """

    max_megabytes: float
    max_seconds: float
    max_pixels: int
    timeout: float
    rate: str
    max_waiting: int


async def receive(request: Request, path: Path, limits: Limits) -> None:
    """Writes the body of a request to a file.

    Raises:
      HTTPException: 400, nothing was sent, or the client has gone; 408, it was sent too slowly;
        413, it is too large.
    """
    most = limits.max_megabytes * 2**20
    too_large = HTTPException(413, f"More than {limits.max_megabytes:g} MB.")
    if int(request.headers.get("content-length", 0)) > most:
        raise too_large
    size = 0
    try:
        with path.open("wb") as file:
            async with asyncio.timeout(limits.timeout):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    file.write(chunk)
    except TimeoutError:
        raise HTTPException(408, f"Not received in {limits.timeout:g} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The client has gone.") from None
    if not size:
        raise HTTPException(400, "Nothing was sent: send the video file as the body.")
