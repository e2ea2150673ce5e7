"""The composition root: builds and runs the whole agent from a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import operator
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace

from exporter import __version__
from exporter.advice import Advice
from exporter.changeover import Changeover
from exporter.config.dates import last_midnight_s, next_midnight_s
from exporter.config.errors import ConfigError
from exporter.config.model import Config
from exporter.config_watch import ConfigWatch
from exporter.content.contents import Contents
from exporter.exposition.render import Exposition
from exporter.ops.health import Health
from exporter.ops.log import fields
from exporter.ops.systemd import Notifier
from exporter.ops.threads import call_in_thread
from exporter.overview import Overview
from exporter.reload import Reloader, ReloadError
from exporter.scrape import Scraper
from exporter.shippers.shippers import Shippers
from exporter.state.checkpoint import Checkpoint
from exporter.state.saver import Saver
from exporter.tracker import Tracker
from exporter.web.handlers import Application, Site
from exporter.web.security.kubernetes import TokenAuthorizer
from exporter.web.security.web_config_file import WebConfigFile
from exporter.web.server import Server, url_of
from fstat_cache import CacheClosedError

_log = logging.getLogger(__name__)

FIRST_SCAN_GC_THRESHOLD = 50_000
"""Number of new objects between garbage collections in the first scan, nearly all of whose objects stay."""
PROGRESS_S = 10.0
"""How often a long scan reports its progress, seconds."""
_STOP_TIMEOUT_S = 0.4  # for the connections, and again for the cache: together less than the second for a stop


class Agent:
    """Follows the files of a configuration, which a reload replaces, and serves their metrics.

    Args:
        config: the configuration.
        sockets: listening sockets to serve on; closed at the end of `run`.
        web_config: TLS and authentication; by default none.
        tokens: checks bearer tokens; None: requests need none.
        rootfs: the directory where the paths of all log files begin.
        read_config: reads the configuration for a reload; raises ConfigError. By default it does not change.
        config_path: the file whose change causes a reload, absolute; None: none.
        has_lifecycle: whether HTTP requests may cause a reload.
        notifier: notifies systemd.
        now_s: gives the unix time of the dates in patterns.

    Raises:
        StateError: the state file cannot be used.
    """

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        web_config: WebConfigFile | None = None,
        *,
        tokens: TokenAuthorizer | None = None,
        rootfs: str = "/",
        read_config: Callable[[], Config] | None = None,
        config_path: str | None = None,
        has_lifecycle: bool = False,
        notifier: Notifier | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._config = config = config.at(now_s())
        self._now_s = now_s
        self._web_config = web_config or WebConfigFile(None)
        self._tokens = tokens
        self._sockets = sockets
        self._read_config = read_config or (lambda: config)
        self._config_path = config_path
        self._has_lifecycle = has_lifecycle
        self._notifier = notifier or Notifier({})
        self._reloader = Reloader(self._reload)
        self._requests: set[asyncio.Task[str | None]] = set()  # reloads in progress that nothing awaits
        self._scanning = asyncio.Lock()
        self._ready = asyncio.Event()
        self._is_stopping = False
        self._status = Notifier.FOLLOWING  # the latest that systemd was sent after a reload
        self._saver: Saver | None = None
        self._tracker = Tracker(config, rootfs=rootfs)
        self._advice = Advice(self._tracker)
        self._health = Health(self._tracker.cache)
        state = config.state.path
        self._shippers = Shippers(self._tracker, config.shippers, os.path.dirname(state) if state is not None else "")
        self._contents = Contents(self._tracker, config)
        self._checkpoint = self._restore(state) if state is not None else None
        more = {"config": self._reloader.collect, "web_config": self._web_config.collect}
        self._scraper = Scraper(self._tracker, self._save, self._checkpoint, more, self._shippers, self._contents)

    def _restore(self, path: str) -> Checkpoint:
        """Restore the facts from the state file."""
        tracker, matcher = self._tracker, self._tracker.matcher
        checkpoint = Checkpoint(
            path, tracker.publication, tracker.realms, tracker.clock, self._shippers, self._contents
        )
        restored = checkpoint.load(matcher.groups_of)
        if restored.saved_at_ns:
            tracker.cache.inodes.restore(tracker.facts.inodes.handles, restored.saved_at_ns)
            # Unknown files are new since the latest save if their pattern was configured then.
            since_ns = tracker.clock.restored(restored.saved_at_ns, restored.saved_at_boottime_ns, restored.boot_id)
            for number, (group, pattern) in matcher.patterns.items():
                if restored.was_configured(pattern.written, self._config.logs[group].written_exclude):
                    tracker.since_ns[number] = since_ns
        self._saver = Saver(self._save, tracker.booked, tracker.urgent)
        return checkpoint

    def _save(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.save(self._tracker.as_of_ns)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then end within a second. To be called once."""
        tracker = self._tracker
        site = Site(
            scraper=self._scraper,
            overview=Overview(tracker, self._scraper, self._reloader),
            telemetry_path=self._config.web.telemetry_path,
            find_fault=self._find_fault,
            progress=lambda: None if self._ready.is_set() else f"The first scan is not done yet: {_progress(tracker)}.",
            web_config=self._web_config,
            reload=functools.partial(self.reload, "HTTP") if self._has_lifecycle else None,
            tokens=self._tokens,
        )
        server = Server(Application(site), self._web_config)
        server.add_sockets(self._sockets)
        is_tls = self._web_config.current().tls is not None
        for bound in self._sockets:
            host, port = bound.getsockname()[:2]
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            url = url_of(bound, is_tls=is_tls)
            _log.info("listening", extra=fields(url=url, address=address, version=__version__))
        tracker.start()
        self._begin_tasks(is_first=True)
        others = [
            asyncio.create_task(each) for each in (self._feed_watchdog(), self._watch_config(), self._watch_dates())
        ]
        try:
            await stop.wait()
        finally:
            self._is_stopping = True
            self._notifier.stopping()
            self._reloader.close()
            for task in (*self._tasks, *others):
                task.cancel()
            await server.shut_down(_STOP_TIMEOUT_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(call_in_thread(self._close, "close"), _STOP_TIMEOUT_S)
            gc.unfreeze()

    async def reload(self, reason: str, *, is_asked_for: bool = True) -> str | None:
        """Read the configuration again and follow it.

        Args:
            reason, is_asked_for: see :meth:`Reloader.reload`.

        Returns:
            None on success, or why it failed.
        """
        if is_asked_for and not self._ready.is_set():
            _log.info("the reload of the configuration waits for the first scan", extra=fields(by=reason))
        return await self._reloader.reload(reason, is_asked_for=is_asked_for)

    def ask_to_reload(self, reason: str, *, is_asked_for: bool = True) -> None:
        """Begin a reload, and return at once; see :meth:`reload`."""
        request = asyncio.create_task(self.reload(reason, is_asked_for=is_asked_for))
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)

    async def _watch_config(self) -> None:
        if self._config_path is not None:
            async for _ in ConfigWatch(self._config_path).changes():
                self.ask_to_reload("file", is_asked_for=False)

    async def _watch_dates(self) -> None:
        while True:
            now_s = self._now_s()
            await asyncio.sleep(next_midnight_s(now_s) - now_s)
            self._check_dates()

    def _check_dates(self) -> None:
        if self._config.at(self._now_s()) != self._config:
            self.ask_to_reload("date", is_asked_for=False)

    def _close(self) -> None:
        self._shippers.close()
        self._contents.close()
        self._tracker.close()
        if self._saver is not None and self._checkpoint is not None:
            self._saver.stop()
            if self._tracker.is_ready:
                self._save()
            self._checkpoint.close()

    # -- repeated tasks -----------------------------------------------------------------------------------------------

    def _begin_tasks(self, *, is_first: bool) -> None:
        self._tasks = [
            asyncio.create_task(self._scan_for_ever(is_first=is_first)),
            asyncio.create_task(self._audit_for_ever()),
        ]

    async def _scan_for_ever(self, *, is_first: bool) -> None:
        while True:
            if not is_first:
                await asyncio.sleep(self._config.rescan_interval_s)
                self._check_dates()  # the clock may have stepped, or the machine was suspended
            try:
                async with self._scanning:
                    async with self._reporting_progress() if is_first else contextlib.nullcontext():
                        with _rare_collections() if is_first else contextlib.nullcontext():
                            is_first = False
                            await call_in_thread(self._tracker.scan, "scan")
                    if not self._ready.is_set():
                        await call_in_thread(functools.partial(self._scraper.history.update, ()), "history")
                        self._ready.set()
                        self._notifier.ready()
                        if self._saver is not None:
                            self._saver.start()
                    await call_in_thread(self._advice.log, "advice")
            except Exception:  # noqa: BLE001 - known files are still served
                _log.exception("the scan failed; the next one runs after rescan_interval")

    async def _audit_for_ever(self) -> None:
        """Refresh and audit at intervals without scrapes; a scrape does both by itself."""
        tracker = self._tracker
        while True:
            checks = tracker.cache.status().audit_checks
            await asyncio.sleep(self._config.cache.audit_interval_s)
            if tracker.cache.status().audit_checks == checks and tracker.is_ready:
                try:
                    await call_in_thread(functools.partial(self._scraper.look, is_scrape=False), "audit")
                except Exception:  # noqa: BLE001 - the next audit may succeed
                    _log.exception("the audit failed; the next one runs after cache.audit_interval")

    @contextlib.asynccontextmanager
    async def _reporting_progress(self) -> AsyncIterator[None]:
        """Report the progress of a scan at intervals."""
        reporting = asyncio.create_task(self._report_progress())
        try:
            yield
        finally:
            reporting.cancel()

    async def _report_progress(self) -> None:
        tracker, began_s = self._tracker, time.monotonic()
        while True:
            self._notifier.progress(f"Scanning: {_progress(tracker)}.")
            await asyncio.sleep(PROGRESS_S)
            seconds = round(time.monotonic() - began_s)
            found = fields(files=tracker.files, directories=len(tracker.discovery), seconds=seconds)
            _log.info("scanning", extra=found)

    async def _feed_watchdog(self) -> None:
        while self._notifier.watchdog_s is not None:
            await asyncio.sleep(self._notifier.watchdog_s / 2)
            if await self._find_fault() is None:
                self._notifier.alive()

    async def _find_fault(self) -> str | None:
        return await self._health.find_fault(is_starting=not self._tracker.is_ready)

    # -- another configuration ----------------------------------------------------------------------------------------

    async def _reload(self, is_asked_for: bool) -> bool:
        await self._ready.wait()
        if is_asked_for:
            self._notifier.reloading()
        is_different, status = False, "Following the old configuration; the new one cannot be used."
        mistakes = None
        try:
            try:
                config = _reloadable(await call_in_thread(self._read_config, "reload"), self._config)
            except ConfigError as error:
                mistakes, config = error, self._config  # whose dates still change
            config = config.at(self._now_s())
            is_different = config != self._config
            if is_different:
                if not is_asked_for:
                    self._notifier.reloading()
                await self._follow(config)
            if mistakes is not None:
                raise mistakes
            status = Notifier.FOLLOWING
        except CacheClosedError:
            raise ReloadError("the agent is stopping") from None
        finally:
            if (is_asked_for or is_different or status != self._status) and not self._is_stopping:
                self._notifier.ready(status)
            self._status = status
        return is_different

    async def _follow(self, config: Config) -> None:
        """Follow another configuration."""
        async with self._scanning:
            is_same = config.published == self._config.published
            self._tracker.max_files = config.cache.max_files
            if not is_same:
                await self._change_over(config)
            await call_in_thread(functools.partial(self._shippers.configure, config.shippers), "reload")
            await call_in_thread(functools.partial(self._contents.configure, config), "reload")
            files, budget = config.cache.max_files, config.cache.cpu_budget
            await call_in_thread(lambda: self._tracker.cache.limit(max_files=files, cpu_budget=budget), "reload")
            self._config = config
        for task in self._tasks:
            task.cancel()
        self._begin_tasks(is_first=False)

    async def _change_over(self, config: Config) -> None:
        changeover = Changeover(self._tracker, config, last_midnight_s(self._now_s()))
        gc.unfreeze()

        def prepare() -> Exposition:
            exposition = Exposition(changeover.prepare())
            exposition.update()
            exposition.render(bytes, is_openmetrics=False, is_compressed=True)  # ahead of the first scrape
            return exposition

        def finish(exposition: Exposition) -> None:
            def show() -> None:
                self._scraper.show(exposition)
                self._config = config
                if self._checkpoint is not None:
                    self._checkpoint.switch_to(exposition.publication)

            changeover.finish(show)
            self._save()
            changeover.drop_old()
            self._advice.log()

        try:
            async with self._reporting_progress():
                exposition = await call_in_thread(prepare, "reload")
            await call_in_thread(functools.partial(finish, exposition), "reload")
        except Exception:
            if self._config is not config:
                await call_in_thread(changeover.abandon, "reload")
            raise
        finally:
            gc.collect()
            gc.freeze()


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Collect garbage seldom while very many lasting objects are made, and exclude these from later collections."""
    thresholds = gc.get_threshold()
    gc.set_threshold(FIRST_SCAN_GC_THRESHOLD)
    try:
        yield
    finally:
        gc.collect(1)  # gc.freeze() would keep young garbage for ever
        gc.freeze()
        gc.set_threshold(*thresholds)


def _progress(tracker: Tracker) -> str:
    return f"{tracker.files} files in {len(tracker.discovery)} directories so far"


def _reloadable(config: Config, running: Config) -> Config:
    """Return a configuration with the running values of keys that only a restart can change; log these keys."""
    for key in ("web.listen_address", "web.telemetry_path", "web.authorization", "state.path"):
        wanted, used = map(operator.attrgetter(key), (config, running))
        if wanted != used:
            text = "this change of the configuration takes effect at the next start: restart the agent"
            _log.warning(text, extra=fields(key=key, wanted=wanted, used=used))
    return replace(config, web=running.web, state=running.state)
