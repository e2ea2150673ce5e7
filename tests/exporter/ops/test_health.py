"""What keeps an agent from being healthy."""

import asyncio
import logging
import threading
import time
from pathlib import Path

import pytest

from exporter.ops import health
from exporter.ops.health import Health
from fstat_cache import FStatCache


@pytest.mark.alone
def test_stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A thread that does not answer is told after the time-out, to all who ask, by one thread that asks; and it is told
    once in the log that it began, and once that it ended. The loop goes on meanwhile.
    """
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(health, "TIMEOUT_S", 0.5)
    (tmp_path / "file").touch()
    asked: list[str] = []
    real = FStatCache.responds

    def responds(cache: FStatCache, timeout_s: float) -> bool:
        asked.append(threading.current_thread().name)
        return real(cache, timeout_s)

    monkeypatch.setattr(FStatCache, "responds", responds)

    async def scenario(cache: FStatCache) -> None:
        checked = Health(cache)
        assert await checked.find_fault() is None
        asked.clear()
        with cache._life.lock:
            began = time.monotonic()
            asking = [asyncio.create_task(checked.find_fault()) for _ in range(20)]
            while not asked:
                await asyncio.sleep(0.01)
            assert not any(task.done() for task in asking)  # the loop goes on meanwhile
            faults = await asyncio.gather(*asking)
            assert asked == ["health"]
            assert 0.5 <= time.monotonic() - began < 5
            assert all(fault is not None and "has not answered" in fault for fault in faults)
            assert await checked.find_fault(is_starting=True) is None
            assert await checked.find_fault() is not None
        assert await checked.find_fault() is None

    with FStatCache() as cache:
        cache.get_file_stats(tmp_path / "file")
        asyncio.run(scenario(cache))
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO", "ERROR", "INFO"]


def test_dead(tmp_path: Path) -> None:
    """Told at once, during the start too."""
    (tmp_path / "file").touch()

    async def scenario() -> None:
        with FStatCache() as cache:
            cache.get_file_stats(tmp_path / "file")
        checked = Health(cache)
        for is_starting in (False, True):
            fault = await checked.find_fault(is_starting=is_starting)
            assert fault is not None
            assert "dead" in fault

    asyncio.run(scenario())
