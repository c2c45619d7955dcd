"""HTTP connections with limits that uvicorn lacks: of their number, of headers, of unread bodies.

uvicorn waits for the rest of a header for ever, and when a request is answered before all of its
body has come, it reads on for ever. Its `limit_concurrency` counts connections that wait for
headers too: who opens many of them would shut out all others.
"""

import asyncio
import contextlib
import ipaddress
import math
from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_MAX_CONNECTIONS = 400  # with _BACKLOG, below the usual limit of 1,024 open files
_BACKLOG = 128  # accepted in one go
_HEADER_TIMEOUT = 10.0  # seconds for the headers of a request, and to take an answer
_GRACE = 5.0  # seconds, beyond the time for an upload, until all requests end with the server
_LINGER = 2.0, 2**24  # seconds and bytes for which the rest of a body is read and dropped


def config(
    application: ASGIApp, host: str, port: int, trusted_proxies: Sequence[str], timeout: float
) -> uvicorn.Config:
    """Returns the configuration of a server with these limits.

    Args:
      application: What answers.
      host: Address to listen on.
      port: Port to listen on.
      trusted_proxies: Addresses or networks whose X-Forwarded-For is believed.
      timeout: Seconds for the requests that are at work when the server is told to stop.

    Raises:
      ValueError: One of `trusted_proxies` is neither an address nor a network.
    """
    for proxy in trusted_proxies:
        ipaddress.ip_network(proxy)  # uvicorn would take anything else for a name
    return uvicorn.Config(
        EarlyAnswers(application),
        host,
        port,
        http=_Connection,
        ws="none",
        log_level="error",  # a warning for each malformed request would fill the log
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=list(trusted_proxies),
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(timeout + _GRACE),
    )


class _Connection(H11Protocol):
    """A connection that is closed when it takes too long, or when others need its place."""

    _timer: asyncio.TimerHandle | None = None
    _idle_since = 0.0

    @property
    def _is_idle(self) -> bool:
        """Whether no request is at work: headers are awaited, or the answer is on its way."""
        return self.cycle is None or self.cycle.response_started

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > _MAX_CONNECTIONS:
            # The new one is idle as well, and the last to go.
            idle = [
                other
                for other in self.connections
                if isinstance(other, _Connection)
                and other._is_idle
                and not other.transport.is_closing()
            ]
            min(idle, key=lambda other: other._idle_since).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._timer:
            self._timer.cancel()

    def _watch(self) -> None:
        """Starts or stops the timer."""
        if not self._is_idle and self._timer:
            self._timer.cancel()
            self._timer = None
        elif self._is_idle and not self._timer:
            self._idle_since = self.loop.time()
            self._timer = self.loop.call_later(_HEADER_TIMEOUT, self.transport.abort)


class EarlyAnswers:
    """Closes connections whose request is answered before its body has come.

    For a moment the rest is read and dropped: a client that still sends to a closed connection
    gets an error before it has seen the answer.
    """

    def __init__(self, application: ASGIApp) -> None:
        """Args:
        application: What answers.
        """
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return await self._application(scope, receive, send)
        exchange = _Exchange(scope, receive, send)
        await self._application(scope, exchange.receive, exchange.send)


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        self._is_unread = b"transfer-encoding" in headers or int(length) > 0
        self._hangs_up = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._is_unread = message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._is_unread:
            self._hangs_up = True
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        is_last = message["type"] == "http.response.body" and not message.get("more_body")
        if self._hangs_up and is_last:
            await self._send({**message, "more_body": True})
            await self._drop_rest()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _drop_rest(self) -> None:
        seconds, most = _LINGER
        size = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._is_unread and size < most:
                    size += len((await self.receive()).get("body", b""))
