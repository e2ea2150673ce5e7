"""The agent in this process."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.agent import Agent
from exporter.config import CacheConfig, Config, LogGroup
from exporter.tracker import Tracker
from fstat_cache import FStatCache


def run_until(config: Config, condition: Callable[[Agent], bool]) -> Agent:
    """Run an agent that serves nowhere until a condition is true, which is asked again and again."""
    agent = Agent(config, [])

    async def run() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        while not condition(agent):
            await asyncio.sleep(0.01)
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(run(), 10))
    return agent


@pytest.mark.parametrize(
    ("owner", "name", "message"),
    [
        (FStatCache, "audit", "the audit failed and is tried again after the interval"),
        (Tracker, "scan", "the scan failed and is tried again after the interval"),
    ],
)
def test_what_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: type, name: str, message: str
) -> None:
    """Whatever went wrong, it is told, and the next one comes after the interval."""
    caplog.set_level(logging.ERROR)
    tried = 0

    def fail(*_arguments: object) -> None:
        nonlocal tried
        tried += 1
        raise RuntimeError("unexpected")

    monkeypatch.setattr(owner, name, fail)
    config = Config(
        logs=(LogGroup("g", ("/no/such.log",)),), cache=CacheConfig(audit_interval_s=0.02), rescan_interval_s=0.02
    )
    run_until(config, lambda _: tried >= 3)
    assert {record.getMessage() for record in caplog.records} == {message}
    assert "unexpected" in caplog.text


def test_while_nobody_scrapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits keep everything true, and the series of files that have gone end."""
    monkeypatch.setattr("exporter.growth.NOBODY_SCRAPES_S", 0)
    path = tmp_path / "a.log"
    path.touch()
    config = Config(
        logs=(LogGroup("g", (f"{tmp_path}/*.log",)),), cache=CacheConfig(audit_interval_s=0.02), stale_grace_s=0
    )

    def gone(agent: Agent) -> bool:
        if agent._tracker.is_ready:
            path.unlink(missing_ok=True)
        return agent._tracker.is_ready and len(agent._tracker.ledger) == 0

    run_until(config, gone)
