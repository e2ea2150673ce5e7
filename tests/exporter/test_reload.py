"""Reloads one after the other."""

import asyncio
import logging

import pytest

from exporter.config.errors import ConfigError, Mistake
from exporter.reload import Reloader, ReloadError


def values(reloader: Reloader) -> list[float]:
    """Of both metrics."""
    return [family.samples[0].value for family in reloader.collect()]


def test_outcomes(caplog: pytest.LogCaptureFixture) -> None:
    """Each is returned, logged without a traceback if a user can put it right, and in the metrics."""
    caplog.set_level(logging.INFO)
    outcome: Exception | bool = True

    async def apply(is_asked_for: bool) -> bool:
        assert is_asked_for
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def scenario() -> None:
        nonlocal outcome
        reloader = Reloader(apply)
        (success, started_at) = values(reloader)
        assert success == 1
        assert await reloader.reload("x", is_asked_for=True) is None
        success, succeeded_at = values(reloader)
        assert success == 1
        assert succeeded_at > started_at
        for failure, told in (
            (ConfigError([Mistake("f", "one"), Mistake("f", "two")]), "f: one\nf: two"),
            (ReloadError("no"), "no"),
            (RuntimeError("strange"), "unexpected: RuntimeError('strange')"),
        ):
            outcome = failure
            assert await reloader.reload("x", is_asked_for=True) == told
            assert values(reloader) == [0, succeeded_at]
        outcome = False
        assert await reloader.reload("x", is_asked_for=True) is None
        assert values(reloader)[0] == 1

    asyncio.run(scenario())
    lines = [(record.getMessage(), getattr(record, "fields", {}).get("error", "")) for record in caplog.records]
    stays = ("configuration not reloaded, the old one stays", "")
    assert lines == [
        ("configuration reloaded", ""),
        ("the configuration cannot be used", "f: one"),
        ("the configuration cannot be used", "f: two"),
        stays,
        ("the configuration cannot be used", "no"),
        stays,
        ("the reload failed", ""),
        stays,
        ("configuration reloaded", ""),
    ]


def test_a_success_after_a_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Once, also where the file is again what is in use already and nobody asked for the reload."""
    caplog.set_level(logging.INFO)
    outcomes = iter([False, ReloadError("no"), False, False])

    async def apply(is_asked_for: bool) -> bool:
        assert not is_asked_for
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def scenario() -> None:
        reloader = Reloader(apply)
        told = [await reloader.reload("file", is_asked_for=False) for _ in range(4)]
        assert told == [None, "no", None, None]

    asyncio.run(scenario())
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert lines[-1:] == [("INFO", "configuration reloaded")]
    assert [level for level, _ in lines] == ["ERROR", "ERROR", "INFO"]


def test_many_at_once() -> None:
    """Who asks during a reload gets one that began later, together with all others who did."""
    began = 0
    go_on = asyncio.Event()

    async def apply(is_asked_for: bool) -> bool:
        nonlocal began
        del is_asked_for
        began += 1
        await go_on.wait()
        return True

    async def scenario() -> None:
        reloader = Reloader(apply)
        first = asyncio.create_task(reloader.reload("first", is_asked_for=True))
        while not began:
            await asyncio.sleep(0)
        others = [asyncio.create_task(reloader.reload("other", is_asked_for=True)) for _ in range(50)]
        while len(reloader._waiting) < len(others):
            await asyncio.sleep(0)
        assert began == 1
        go_on.set()
        assert await asyncio.gather(first, *others) == [None] * 51
        assert began == 2

    asyncio.run(scenario())


def test_who_has_left() -> None:
    """Who does not wait for the end is no hindrance to others."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def apply(is_asked_for: bool) -> bool:
        del is_asked_for
        began.set()
        await go_on.wait()
        return True

    async def scenario() -> None:
        reloader = Reloader(apply)
        left, stays = (asyncio.create_task(reloader.reload("x", is_asked_for=True)) for _ in range(2))
        await began.wait()  # with what both have asked for
        left.cancel()
        go_on.set()
        assert await stays is None

    asyncio.run(scenario())


def test_the_end() -> None:
    """Who waits, or asks later, is told."""
    began = asyncio.Event()

    async def apply(is_asked_for: bool) -> bool:
        del is_asked_for
        began.set()
        await asyncio.Event().wait()  # for ever
        return True

    async def scenario() -> None:
        reloader = Reloader(apply)
        asked = asyncio.create_task(reloader.reload("x", is_asked_for=True))
        await began.wait()
        later = asyncio.create_task(reloader.reload("x", is_asked_for=True))
        while not reloader._waiting:
            await asyncio.sleep(0)
        reloader.close()
        assert await asyncio.wait_for(asyncio.gather(asked, later), 5) == ["the agent is stopping"] * 2
        assert await reloader.reload("x", is_asked_for=True) == "the agent is stopping"

    asyncio.run(scenario())
