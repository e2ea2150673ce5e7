"""Calls that are shared, and what becomes of them when those who asked give up."""

import asyncio
import logging

import pytest

from exporter.web.sharing import SharedCalls


def test_what_nobody_waits_for_is_not_begun(caplog: pytest.LogCaptureFixture) -> None:
    """Of those who gave up while they waited for their turn nothing is left; the one under way goes on, unheard."""
    made: list[int] = []

    async def scenario() -> None:
        shared: SharedCalls[int] = SharedCalls()
        go_on = asyncio.Event()

        async def slow() -> int:
            made.append(0)
            await go_on.wait()
            raise ValueError("nobody hears of it")

        async def quick(number: int) -> int:
            made.append(number)
            return number

        def ask(key: int) -> asyncio.Task[int | None]:
            return asyncio.create_task(shared.call(key, (lambda: quick(key)) if key else slow, lambda: True))

        first = ask(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        impatient, patient, alone = ask(1), ask(1), ask(2)
        await asyncio.sleep(0)
        for task in (first, impatient, alone):
            task.cancel()
        await asyncio.sleep(0)
        later = ask(2)
        go_on.set()
        assert (await patient, await later) == (1, 2)
        assert not shared._calls

    with caplog.at_level(logging.DEBUG, "asyncio"):
        asyncio.run(scenario())
    assert made == [0, 1, 2]
    assert "never retrieved" not in caplog.text
