"""The composition root: the whole agent from a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Sequence

from exporter import __version__
from exporter.collector import DeclaredFile, DeclaredFiles, FileCollector, audit_share, make_registry
from exporter.config import Config
from exporter.discovery import Scan, Scanner
from exporter.growth import Ledger
from exporter.log import fields
from exporter.patterns import Labeller, LabelRule, PathMatcher
from exporter.threads import call_in_thread
from exporter.web.handlers import Site, make_application
from exporter.web.server import Server
from fstat_cache import FStatCache

_log = logging.getLogger(__name__)

_STOP_TIMEOUT_S = 0.4  # each for the connections and for the cache: together below the second that a stop may take


class Agent:
    """Follows the files of one configuration and serves their metrics.

    Args:
        config: what to do.
        sockets: where to serve, listening already; closed at the end of `run`.
    """

    def __init__(self, config: Config, sockets: Sequence[socket.socket]) -> None:
        self._config = config
        self._sockets = sockets
        self._ledger = Ledger()
        self._cache = FStatCache(
            max_files=config.cache.max_files, cpu_budget=config.cache.cpu_budget, on_change=self._ledger.replaced
        )
        self._scanner = Scanner(
            PathMatcher((group.paths, group.exclude) for group in config.logs), [group.group for group in config.logs]
        )
        self._labeller = Labeller([LabelRule(group.group, group.labels, group.path_regex) for group in config.logs])
        self._declared: DeclaredFiles | None = None
        self._by_path: dict[str, tuple[int, DeclaredFile]] = {}
        self._full = False

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then end within a second whatever is under way. To be called once."""
        registry = make_registry(FileCollector(self._cache, self._ledger, lambda: self._declared))
        site = Site(
            registry=registry,
            telemetry_path=self._config.web.telemetry_path,
            is_healthy=lambda: self._cache.alive,
            is_ready=lambda: self._declared is not None,
        )
        server = Server(make_application(site))
        server.add_sockets(self._sockets)
        for bound in self._sockets:
            host, port = bound.getsockname()[:2]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            _log.info("listening", extra=fields(address=address, version=__version__))
        tasks = [asyncio.create_task(self._scan_for_ever()), asyncio.create_task(self._audit_for_ever())]
        try:
            await stop.wait()
        finally:
            for task in tasks:
                task.cancel()
            await server.shut_down(_STOP_TIMEOUT_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call_in_thread(self._cache.close, "close"), _STOP_TIMEOUT_S)

    async def _scan_for_ever(self) -> None:
        while True:
            try:
                await call_in_thread(self.scan, "scan")
            except Exception:  # noqa: BLE001 - whatever it was, the files known go on being served
                _log.exception("the scan failed and is tried again after the interval")
            await asyncio.sleep(self._config.rescan_interval_s)

    async def _audit_for_ever(self) -> None:
        """Keep the cache true while nobody scrapes it; each scrape does the same by itself."""
        while True:
            checks = self._cache.status().audit_checks
            await asyncio.sleep(self._config.cache.audit_interval_s)
            if self._cache.status().audit_checks == checks and self._declared is not None:
                try:
                    await call_in_thread(self._look, "audit")
                except Exception:  # noqa: BLE001 - whatever it was, the next one may find what this one missed
                    _log.exception("the audit failed and is tried again after the interval")

    def _look(self) -> None:
        self._cache.sync()
        self._cache.audit(audit_share(self._cache.cache_info().files))

    def scan(self) -> None:
        """Look for files: new ones enter the cache and the scrape, vanished ones leave both. One call at a time."""
        started = time.monotonic()
        found = self._scanner.scan((path, group) for path, (group, _) in self._by_path.items())
        self._publish(found)
        built = self._follow(found)
        first = self._declared is None
        self._declared = DeclaredFiles(self._labeller.names, [file for _, file in self._by_path.values()])
        _log.log(
            logging.INFO if first else logging.DEBUG,
            "scan done",
            extra=fields(
                files=len(found.files),
                new=built,
                unreadable=found.unreadable,
                seconds=round(time.monotonic() - started, 3),
            ),
        )

    def _publish(self, found: Scan) -> None:
        known, self._by_path = self._by_path, {}
        for path in sorted(found.files):
            group = found.files[path]
            entry = known.get(path)
            if entry is None or entry[0] != group:
                entry = group, DeclaredFile(path, self._labeller.values(group, path))
            self._by_path[path] = entry

    def _follow(self, found: Scan) -> int:
        """Make cache and ledger hold the files found and no others; return how many entered the cache."""
        cached = set(self._cache.list_files_in_cache())
        for path in cached - found.files.keys():
            with contextlib.suppress(KeyError):  # it left by itself meanwhile
                self._cache.remove_from_watch(path)
        for path in self._ledger.paths() - found.files.keys():
            self._ledger.forget(path)
        new = [path for path in self._by_path if path not in cached]
        # Never more than there is room for: the LRU would drop one file for the next.
        room = self._config.cache.max_files - len(cached & found.files.keys())
        if new:
            self._cache.build(new[:room])
        self._tell_full(len(found.files))
        return min(len(new), room)

    def _tell_full(self, declared: int) -> None:
        full = declared > self._config.cache.max_files
        if full and not self._full:
            _log.warning(
                "more files than cache.max_files, the others cost an os.stat each scrape",
                extra=fields(files=declared, max_files=self._config.cache.max_files),
            )
        self._full = full
