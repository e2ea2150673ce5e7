"""The composition root: the whole agent from a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
from collections.abc import Callable, Sequence

from exporter import __version__
from exporter.checkpoint import Checkpoint, GroupState, Restored
from exporter.config import Config
from exporter.growth import Labels
from exporter.log import fields
from exporter.overview import Overview
from exporter.patterns import Match
from exporter.saver import Saver
from exporter.scrape import Scraper
from exporter.threads import call_in_thread
from exporter.tracker import Tracker
from exporter.web.handlers import Site, make_application
from exporter.web.server import Server
from exporter.web.web_config_file import WebConfigFile

_log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 0.4  # each for the connections and for the cache: together below the second that a stop may take


class Agent:
    """Follows the files of one configuration and serves their metrics.

    Args:
        config: what to do.
        sockets: where to serve, listening already; closed at the end of `run`.
        web_config: how that is protected; by default not at all.

    Raises:
        StateError: the state file can not be used.
    """

    def __init__(
        self, config: Config, sockets: Sequence[socket.socket], web_config: WebConfigFile | None = None
    ) -> None:
        self._config = config
        self._web_config = web_config or WebConfigFile(None)
        self._sockets = sockets
        self._saver: Saver | None = None
        self._tracker = Tracker(config, on_change=self._tell_saver)
        self._checkpoint = self._restore(config.state.path) if config.state.path is not None else None

    def _restore(self, path: str) -> Checkpoint:
        """Have the ledger go on where it was when it was saved last."""
        tracker, groups = self._tracker, self._config.logs
        states = [GroupState(group.group, group.aggregate_by, group.paths, group.exclude) for group in groups]
        checkpoint = Checkpoint(path, tracker.ledger, states)

        def label(path: str) -> Labels | None:
            match = tracker.matcher.match(path)
            return None if match is None else tracker.labels(path, match)

        restored = checkpoint.load(label)
        if restored.saved_at_ns:
            tracker.since_ns = self._since_ns(restored, tracker.since_ns)
        self._saver = Saver(self._save, lambda: checkpoint.is_urgent)
        return checkpoint

    def _since_ns(self, restored: Restored, otherwise: Callable[[str, Match], int]) -> Callable[[str, Match], int]:
        """Since when unknown files are new: since the latest checkpoint, where their pattern was configured then."""
        were_configured = [
            restored.was_configured(text, self._config.logs[group].exclude)
            for group, text in self._tracker.matcher.patterns
        ]

        def since_ns(path: str, match: Match) -> int:
            if any(were_configured[pattern] for pattern in match.patterns):
                return restored.saved_at_ns
            return otherwise(path, match)

        return since_ns

    def _save(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(self._tracker.as_of_ns)

    def _tell_saver(self) -> None:
        if self._saver is not None and self._tracker.is_ready:
            self._saver.tell()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then end within a second whatever is under way. To be called once."""
        tracker = self._tracker
        scraper = Scraper(tracker, self._config.logs, self._save, self._checkpoint, [self._web_config])
        site = Site(
            scraper=scraper,
            overview=Overview(tracker, self._config.logs, scraper),
            telemetry_path=self._config.web.telemetry_path,
            is_healthy=lambda: tracker.cache.alive,
            is_ready=lambda: tracker.is_ready,
            headers=lambda: self._web_config.current().headers,
        )
        server = Server(make_application(site), self._web_config)
        server.add_sockets(self._sockets)
        for bound in self._sockets:
            host, port = bound.getsockname()[:2]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            _log.info("listening", extra=fields(address=address, version=__version__))
        tasks = [asyncio.create_task(self._scan_for_ever(scraper)), asyncio.create_task(self._audit_for_ever(scraper))]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await server.shut_down(_STOP_TIMEOUT_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call_in_thread(self._close, "close"), _STOP_TIMEOUT_S)

    def _close(self) -> None:
        self._tracker.cache.close()
        if self._saver is not None and self._checkpoint is not None:
            self._saver.stop()
            if self._tracker.is_ready:
                self._save()
            self._checkpoint.close()

    async def _scan_for_ever(self, scraper: Scraper) -> None:
        is_first = True
        while True:
            try:
                await call_in_thread(self._tracker.scan, "scan")
                if is_first:
                    await call_in_thread(scraper.history.update, "history")
                    if self._saver is not None:
                        self._saver.start()
                is_first = False
            except Exception:  # noqa: BLE001 - whatever it was, the files known go on being served
                _log.exception("the scan failed and is tried again after the interval")
            await asyncio.sleep(self._config.rescan_interval_s)

    async def _audit_for_ever(self, scraper: Scraper) -> None:
        """Keep everything true while nobody scrapes; each scrape does the same by itself."""
        tracker = self._tracker
        while True:
            checks = tracker.cache.status().audit_checks
            await asyncio.sleep(self._config.cache.audit_interval_s)
            if tracker.cache.status().audit_checks == checks and tracker.is_ready:
                try:
                    await call_in_thread(functools.partial(scraper.look, is_scrape=False), "audit")
                except Exception:  # noqa: BLE001 - whatever it was, the next one may find what this one missed
                    _log.exception("the audit failed and is tried again after the interval")
