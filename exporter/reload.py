"""Reloads the configuration, one reload at a time, and logs and exports the outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily

from exporter.config.errors import ConfigError
from exporter.ops.log import fields

_log = logging.getLogger(__name__)

_STOPPING = "the agent is stopping"


class ReloadError(Exception):
    """The configuration was not reloaded; the message says why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of the latest attempts to load the configuration; times are unix time.

    Attributes:
        loaded_at_s: when the configuration in use was loaded; the start of the agent is the first success.
        failed_at_s: when the latest attempt failed; None after a success.
        error: why it failed, one line for each mistake; empty after a success.
    """

    loaded_at_s: float
    failed_at_s: float | None = None
    error: str = ""


class Reloader:
    """Reloads the configuration on request. To be used in one event loop.

    Requests during a reload share the next one, so a reload always reads what was there before its requests.

    Args:
        apply: reloads; its argument says whether a user asked for it. Returns whether anything was different. Raises
            ConfigError or ReloadError for faults that a user can correct.

    Attributes:
        outcome: of the latest attempts.
    """

    def __init__(self, apply: Callable[[bool], Awaitable[bool]]) -> None:
        self._apply = apply
        self.outcome = Outcome(time.time())
        self._waiting: list[tuple[str, bool]] = []  # reasons for the next reload, and whether a user asked
        self._next: asyncio.Task[str | None] | None = None  # the next reload, which has not begun
        self._tasks: set[asyncio.Task[str | None]] = set()
        self._turn = asyncio.Lock()
        self._is_closed = False

    async def reload(self, reason: str, *, is_asked_for: bool) -> str | None:
        """Reload.

        Args:
            reason: the trigger, for the log.
            is_asked_for: whether a user asked. Else a success is logged only if something was different, or after a
                failure.

        Returns:
            None after success, else the reason of the failure.
        """
        if self._is_closed:
            return _STOPPING
        self._waiting.append((reason, is_asked_for))
        if self._next is None:
            self._next = asyncio.create_task(self._work())
            self._tasks.add(self._next)
            self._next.add_done_callback(self._tasks.discard)
        task = self._next
        await asyncio.wait([task])
        return _STOPPING if task.cancelled() else task.result()

    def close(self) -> None:
        """Cancel what is under way; each request returns an error."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; the start of the agent is the first success."""
        return (
            GaugeMetricFamily(
                "fstat_exporter_config_last_reload_successful",
                "1 if the latest load succeeded, 0 if it failed and the previous configuration stays in use.",
                int(self.outcome.failed_at_s is None),
            ),
            GaugeMetricFamily(
                "fstat_exporter_config_last_reload_success_timestamp_seconds",
                "Last successful load of the configuration, seconds since the epoch.",
                self.outcome.loaded_at_s,
            ),
        )

    async def _work(self) -> str | None:
        async with self._turn:
            requests, self._waiting, self._next = self._waiting, [], None
            return await self._attempt(requests)

    async def _attempt(self, requests: Sequence[tuple[str, bool]]) -> str | None:
        reasons = ",".join(dict.fromkeys(reason for reason, _ in requests))
        is_asked_for = any(is_asked_for for _, is_asked_for in requests)
        began_s = time.monotonic()
        try:
            is_different = await self._apply(is_asked_for)
        except (ConfigError, ReloadError) as failure:
            error = str(failure)
            for line in error.splitlines():
                _log.error("the configuration cannot be used", extra=fields(error=line))
        except Exception as failure:  # noqa: BLE001 - the agent still follows the old configuration
            error = f"unexpected: {failure!r}"
            _log.exception("the reload failed")
        else:
            is_worth_a_line = is_different or is_asked_for or self.outcome.failed_at_s is not None
            self.outcome = Outcome(time.time())
            seconds = round(time.monotonic() - began_s, 3)
            _log.log(
                logging.INFO if is_worth_a_line else logging.DEBUG,
                "configuration reloaded",
                extra=fields(by=reasons, changed=str(is_different).lower(), seconds=seconds),
            )
            return None
        self.outcome = Outcome(self.outcome.loaded_at_s, time.time(), error)
        _log.error("configuration not reloaded, the old one stays", extra=fields(by=reasons))
        return error
