"""Trials of what a server is there for."""

import asyncio

from cvrl_tf.inference.health import Health


def test_trials_are_few_and_shared() -> None:
    trials = 0

    async def trial() -> None:
        nonlocal trials
        trials += 1
        await asyncio.sleep(0.05)

    async def check() -> None:
        health = Health(trial, 30)
        assert await asyncio.gather(*(health.fault(False) for _ in range(50))) == [""] * 50
        assert await health.fault(True) == "" and trials == 1
        await asyncio.sleep(1.1)
        assert await health.fault(True) == "" and trials == 2

    asyncio.run(check())


def test_a_trial_that_fails_or_hangs() -> None:
    hangs = False

    async def trial() -> None:
        if hangs:
            await asyncio.sleep(1000)
        raise RuntimeError("no decoder")

    async def check() -> None:
        nonlocal hangs
        health = Health(trial, 2.0)
        assert await health.fault(False) == "RuntimeError: no decoder"
        hangs = True
        await asyncio.sleep(1.1)
        assert "no decoder" in await health.fault(False)  # as before, for a while
        hung = Health(trial, 0.2)
        assert "more than 0.2 s" in await hung.fault(False)
        assert "more than 0.2 s" in await hung.fault(False)

    asyncio.run(check())
