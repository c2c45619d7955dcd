"""What each client of the server may use: its rate, its share of the requests, its turn."""

import asyncio
import collections
import contextlib
import dataclasses
import ipaddress
import math
import time
from collections.abc import AsyncIterator, Iterator

import limits as rate_limits
from fastapi import HTTPException, Request

_REMEMBERED = 10.0  # seconds after its last request for which a client counts as present
_LONG = 1.0  # seconds after which a request has taken long


def client_of(request: Request) -> str:
    """Returns the address that stands for a client.

    A client usually has a whole /64 of IPv6 addresses, so these count as one.
    """
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


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


class Admission:
    """Counts the requests at a time, of all clients and of each; one has at most half of them."""

    def __init__(self, most: int) -> None:
        """Args:
        most: Requests of all clients at a time.
        """
        self._most = most
        self._most_of_one = math.ceil(most / 2)
        self._counts: collections.Counter[str] = collections.Counter()

    @contextlib.contextmanager
    def admitted(self, client: str) -> Iterator[None]:
        """Counts a request while it is at work.

        Raises:
          HTTPException: 429, the client has too many requests; 503, all of them together have.
        """
        retry = {"Retry-After": "1"}
        if self._counts[client] >= self._most_of_one:
            reason = f"{self._most_of_one} requests of one client at a time."
            raise HTTPException(429, reason, retry)
        if self._counts.total() >= self._most:
            raise HTTPException(503, f"{self._most} requests at a time.", retry)
        self._counts[client] += 1
        try:
            yield
        finally:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]


class FairQueue:
    """Lets some requests work at a time, and the clients take turns.

    The next place goes to the client that has the fewest places; among those, to the one whose
    requests have held places for the shortest time. While several clients are present, none has
    more than half of the places, and a request that takes long moves to an extra place, if one is
    free. So a few long requests don't keep the short ones of others waiting.
    """

    def __init__(self, places: int, extra_places: int = 0) -> None:
        """Args:
        places: Requests that work at a time.
        extra_places: Further ones, for requests that take longer than a second.
        """
        self._places = places
        self._extra_places = extra_places
        self._clients: dict[str, _Client] = {}

    @contextlib.asynccontextmanager
    async def place(self, client: str) -> AsyncIterator[None]:
        """Waits for a place and holds it."""
        state = self._present(client)
        turn: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        state.waiting.append(turn)
        self._admit()
        try:
            await turn
            yield
        finally:
            state.seen = time.monotonic()
            if not turn.cancelled():
                state.at_work.remove(turn.result())
                state.used += state.seen - turn.result()
            elif turn in state.waiting:
                state.waiting.remove(turn)
            self._admit()

    def _present(self, name: str) -> "_Client":
        """Returns the state of a client that has a request."""
        now = time.monotonic()
        for other, state in list(self._clients.items()):
            if not state.is_busy and now - state.seen > _REMEMBERED:
                del self._clients[other]
        busy = [state.used for state in self._clients.values() if state.is_busy]
        state = self._clients.setdefault(name, _Client())
        if not state.is_busy:  # who was away has saved nothing up
            state.used = max(state.used, min(busy, default=0.0))
        return state

    def _admit(self) -> None:
        """Gives free places to requests that wait."""
        states = self._clients.values()
        is_shared = len(states) > 1
        most = max(1, self._places // 2) if is_shared else self._places
        while self._num_taken(is_shared) < self._places:
            ready = [state for state in states if state.waiting and len(state.at_work) < most]
            if not ready:
                return
            chosen = min(ready, key=lambda state: (len(state.at_work), state.used))
            turn = chosen.waiting.popleft()
            if turn.cancelled():  # its request has gone
                continue
            now = time.monotonic()
            turn.set_result(now)
            chosen.at_work.append(now)
            if self._extra_places:
                asyncio.get_running_loop().call_later(_LONG, self._admit)

    def _num_taken(self, is_shared: bool) -> int:
        """Returns the number of requests at work, without those in the extra places."""
        begins = [begin for state in self._clients.values() for begin in state.at_work]
        now = time.monotonic()
        num_long = sum(now - begin >= _LONG for begin in begins) if is_shared else 0
        return len(begins) - min(num_long, self._extra_places)


@dataclasses.dataclass
class _Client:
    """A client of a `FairQueue`.

    Attributes:
      waiting: Its requests without a place; the result is the time at which one gets its place.
      at_work: Times at which its requests got their places.
      used: Seconds for which its requests have held places.
      seen: Time of its last request's end.
    """

    waiting: collections.deque[asyncio.Future[float]] = dataclasses.field(
        default_factory=collections.deque
    )
    at_work: list[float] = dataclasses.field(default_factory=list)
    used: float = 0.0
    seen: float = 0.0

    @property
    def is_busy(self) -> bool:
        return bool(self.waiting or self.at_work)
