"""The health check: whether the thread that follows the files is alive and not stuck."""

from __future__ import annotations

import asyncio
import functools
import logging

from exporter.ops.threads import call_in_thread
from exporter.ops.transitions import Transitions
from fstat_cache import FStatCache

_log = logging.getLogger(__name__)

TIMEOUT_S = 5.0
"""How long the thread may take to answer, seconds."""


class Health:
    """Checks whether a cache still follows changes. To be used in one event loop, which it never blocks.

    Args:
        cache: the cache.
    """

    def __init__(self, cache: FStatCache) -> None:
        self._cache = cache
        self._probe: asyncio.Task[bool] | None = None
        self._faults = Transitions()

    async def find_fault(self, *, is_starting: bool = False) -> str | None:
        """Return the fault, within little more than :data:`TIMEOUT_S`; None when healthy.

        Args:
            is_starting: whether to check only that the thread is alive. The first scan may block it for long, and a
                restart for that would begin the scan again.
        """
        fault = None
        if not self._cache.alive:
            fault = "The thread that follows the files is dead; restart the agent."
        elif not is_starting and not await self._responds():
            fault = (
                f"The thread that follows the files has not answered for {TIMEOUT_S:.0f} seconds; restart the agent."
            )
        changed = self._faults.update(() if fault is None else ("it",))
        if changed.begun:
            _log.error("not healthy: %s", fault)
        if changed.ended:
            _log.info("healthy again")
        return fault

    async def _responds(self) -> bool:
        """Wait for the thread's answer; concurrent callers share one probe."""
        if self._probe is None or self._probe.done():
            ask = functools.partial(self._cache.responds, TIMEOUT_S)
            self._probe = asyncio.create_task(call_in_thread(ask, "health"))
        return await asyncio.shield(self._probe)
