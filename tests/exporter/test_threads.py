"""Blocking work beside the event loop."""

import asyncio
import threading
import time

import pytest

from exporter.threads import call_in_thread


def test_result_and_error() -> None:
    """The caller gets what was returned or raised; the loop goes on meanwhile."""

    async def scenario() -> None:
        go_on = threading.Event()
        call = asyncio.create_task(call_in_thread(lambda: go_on.wait(10), "x"))
        await asyncio.sleep(0)
        go_on.set()
        assert await call is True
        assert await call_in_thread(lambda: threading.current_thread().name, "name") == "name"
        with pytest.raises(ZeroDivisionError):
            await call_in_thread(lambda: 1 / 0, "x")

    asyncio.run(scenario())


def test_the_end_waits_for_no_call() -> None:
    """A call under way keeps neither its caller's cancellation nor the loop from ending, and disturbs nobody later."""
    go_on = threading.Event()

    async def scenario() -> None:
        await asyncio.wait_for(call_in_thread(lambda: go_on.wait(30), "slow"), 0.1)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(scenario())
    assert time.monotonic() - began < 5
    (slow,) = [thread for thread in threading.enumerate() if thread.name == "slow"]
    go_on.set()
    slow.join(10)
    assert not slow.is_alive()
