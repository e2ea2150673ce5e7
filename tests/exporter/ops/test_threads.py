"""Blocking work beside the event loop."""

import asyncio
import threading
import time

import pytest

from exporter.ops.threads import KeptThread, call_in_thread
from tests.support import wait_until


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


def test_a_kept_thread_is_used_again() -> None:
    """Calls one after the other, failing ones too, have the same thread; those at once have others, and wait not."""

    async def scenario() -> None:
        kept = KeptThread("kept")
        first = await kept.call(threading.get_ident)
        with pytest.raises(ZeroDivisionError):
            await kept.call(lambda: 1 / 0)
        assert await kept.call(threading.get_ident) == first
        go_on = threading.Event()
        waiting = asyncio.create_task(kept.call(lambda: go_on.wait(10)))
        await asyncio.sleep(0)
        assert await kept.call(threading.get_ident) != first
        waiting.cancel()  # which ends the waiting, not the call
        assert await kept.call(threading.get_ident) != first
        go_on.set()

    asyncio.run(scenario())


def test_a_kept_thread_ends_with_its_owner() -> None:
    """Nobody has to end it."""

    async def scenario() -> None:
        await KeptThread("forsaken").call(int)

    asyncio.run(scenario())
    wait_until(lambda: all(thread.name != "forsaken" for thread in threading.enumerate()))
