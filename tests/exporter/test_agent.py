"""The agent in this process."""

import asyncio
import logging

import pytest

from exporter.agent import Agent
from exporter.config import CacheConfig, Config, LogGroup
from fstat_cache import FStatCache


def test_an_audit_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever went wrong, it is told, and the next one comes after the interval."""
    caplog.set_level(logging.ERROR)
    config = Config(logs=(LogGroup("g", ("/no/such.log",)),), cache=CacheConfig(audit_interval_s=0.02))
    agent = Agent(config, [])
    tried = 0

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def fail(cache: FStatCache) -> None:
            nonlocal tried
            tried += 1
            if tried == 3:
                loop.call_soon_threadsafe(stop.set)
            raise RuntimeError("unexpected")

        monkeypatch.setattr(FStatCache, "sync", fail)
        await asyncio.wait_for(agent.run(stop), 10)

    asyncio.run(run())
    assert tried >= 3
    assert {record.getMessage() for record in caplog.records} == {
        "the audit failed and is tried again after the interval"
    }
    assert "unexpected" in caplog.text
