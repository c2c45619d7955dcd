"""Limits of the server, and how it receives a request within them."""

import asyncio
import dataclasses
import re
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


# Not application/x-www-form-urlencoded, which `curl --data-binary` says of every body.
_WRAPPED = re.compile("multipart/.*|application/(.*[+])?json")


def _check_is_a_file(request: Request) -> None:
    """Raises HTTPException: 415, the body is encoded, or wraps the video in something else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        sent = f"Content-Encoding: {encoding}"
    elif _WRAPPED.fullmatch(kind):
        sent = f"Content-Type: {kind}"
    else:
        return
    command = f"curl --data-binary @video.mp4 {request.url}"
    reason = f"{sent} isn't read. Send the video file itself as the body: {command}"
    raise HTTPException(415, reason, {"Accept-Encoding": "identity", "Accept": "video/*"})


async def receive(request: Request, path: Path, limits: Limits) -> None:
    """Writes the body of a request to a file.

    Raises:
      HTTPException: 400, nothing was sent, or the client has gone; 408, it was sent too slowly;
        413, it is too large; 415, the body is no plain file.
    """
    _check_is_a_file(request)
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
