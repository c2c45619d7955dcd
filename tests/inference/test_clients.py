"""Quotas and turns of the server's clients."""

import asyncio
import collections

import pytest
from fastapi import HTTPException, Request

from cvrl_tf.inference import clients
from cvrl_tf.inference.clients import Admission, FairQueue


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("unix", "unix"),
    ],
)
def test_client_of(host: str, wanted: str) -> None:
    assert clients.client_of(Request({"type": "http", "client": (host, 80)})) == wanted


def test_admission_leaves_others_half() -> None:
    admission = Admission(5)
    with admission.admitted("a"), admission.admitted("a"), admission.admitted("a"):
        with pytest.raises(HTTPException, match="3 requests of one") as refusal:
            admission.admitted("a").__enter__()
        assert refusal.value.status_code == 429
        with admission.admitted("b"), admission.admitted("c"):
            with pytest.raises(HTTPException, match="5 requests at a time") as refusal:
                admission.admitted("d").__enter__()
            assert refusal.value.status_code == 503
    with admission.admitted("a"):
        pass


def order_of(
    queue: FairQueue, requests: list[tuple[str, float]], until: float = 30.0
) -> list[tuple[str, float]]:
    """Clients in the order in which their requests end, with the time; all begin together."""
    ended = []

    async def work(client: str, seconds: float) -> None:
        async with queue.place(client):
            await asyncio.sleep(seconds)
        ended.append((client, asyncio.get_running_loop().time() - begin))

    async def all_of_them() -> None:
        nonlocal begin
        begin = asyncio.get_running_loop().time()
        await asyncio.wait_for(asyncio.gather(*(work(*request) for request in requests)), until)

    begin = 0.0
    asyncio.run(all_of_them())
    return ended


def test_clients_take_turns() -> None:
    requests = [("greedy", 0.05)] * 10 + [(f"good {i}", 0.05) for i in range(4)]
    ended = [client for client, _ in order_of(FairQueue(2), requests)]
    # The greedy one has both places before the others are there, and one from then on.
    assert set(ended[:8]) == {"greedy", "good 0", "good 1", "good 2", "good 3"}


def test_who_is_alone_has_all_places() -> None:
    ended = order_of(FairQueue(4), [("alone", 0.2)] * 8)
    assert ended[-1][1] < 8 * 0.2 * 0.75


def test_turns_are_by_time() -> None:
    requests = [("long", 0.3)] * 6 + [("short", 0.03)] * 30
    ended = [client for client, _ in order_of(FairQueue(1), requests)]
    # One long request takes as long as ten short ones.
    counts = collections.Counter(ended[:18])
    assert 1 <= counts["long"] <= 3


def test_long_requests_move_to_extra_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_LONG", 0.1)
    requests = [("long", 2.0)] * 2 + [("short", 0.01)] * 10
    ended = [client for client, _ in order_of(FairQueue(1, 1), requests)]
    assert ended[:10] == ["short"] * 10


def test_requests_that_go_leave_their_places() -> None:
    queue = FairQueue(1)

    async def hold() -> None:
        async with queue.place("a"):
            await asyncio.sleep(100)

    async def check() -> None:
        tasks = [asyncio.create_task(hold()) for _ in range(5)]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        async with asyncio.timeout(10), queue.place("b"):
            pass

    asyncio.run(check())
