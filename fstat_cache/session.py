"""The descriptors and the thread of a cache, from its first stat of a file to its end."""

from __future__ import annotations

import contextlib
import functools
import logging
import select
import threading
from collections.abc import Callable

from fstat_cache.inotify import Inotify
from fstat_cache.mounts import MountMonitor
from fstat_cache.paths import Root
from fstat_cache.sleeper import STOP_TIMEOUT_S, Sleeper

log = logging.getLogger(__name__)


class Session:
    """The inotify instance, the mount monitors, the sleeper and its thread; opened when needed, closed together.

    Args:
        root: the directory where paths begin.
        gather_s, cpu_budget: see :class:`Sleeper`.
        work: the thread runs it until the session is closed; None: no thread, the owner drives the cache.
    """

    def __init__(
        self, root: Root, *, gather_s: float, cpu_budget: float | None, work: Callable[[Session], object] | None
    ) -> None:
        self.root = root
        self._gather_s = gather_s
        self.cpu_budget = cpu_budget
        self._work = work
        self._poll = select.poll()
        # Bound once, because every sync() calls it: one system call for both descriptors is most of the cost of a sync.
        self.news: Callable[[], list[tuple[int, int]]] = functools.partial(self._poll.poll, 0)
        """Return the descriptors that have something to read, with their poll(2) events. A change of mounts is reported
        once."""
        self._sleepers_monitor: MountMonitor | None = None
        self.monitor: MountMonitor | None = None
        self.inotify: Inotify | None = None
        self.closes: Inotify | None = None
        self.sleeper: Sleeper | None = None
        self.is_closed = False
        self.has_failed = False
        """Whether events are no longer processed in time: the thread has ended by an exception, or cannot start."""
        self.needs_thread = work is not None
        """Whether the thread must still be started."""
        self._thread: threading.Thread | None = None

    def open_monitor(self) -> MountMonitor:
        """Return the mount monitor; open it the first time.

        Raises:
            FileNotFoundError: there is no /proc.
            OSError: no descriptor is left.
        """
        if self.monitor is None:
            self.monitor = MountMonitor()
            self._poll.register(self.monitor.fd, select.POLLPRI)
        return self.monitor

    def open_sleeper(self) -> Sleeper:
        """Return the sleeper; make it the first time.

        Raises:
            OSError: no descriptor is left.
        """
        if self.sleeper is None:
            self.sleeper = Sleeper(gather_s=self._gather_s, cpu_budget=self.cpu_budget)
        return self.sleeper

    def limit(self, cpu_budget: float | None) -> None:
        """Change the share of one core that following changes may take."""
        self.cpu_budget = cpu_budget
        if self.sleeper is not None:
            self.sleeper.cpu_budget = cpu_budget

    def open_inotify(self) -> Inotify:
        """Open the inotify instance, whose events then wake the sleeper.

        Raises:
            OSError: no descriptor or no inotify instance is left; then nothing was opened.
        """
        inotify = Inotify()
        inotify.add_watch = self.root.beneath(inotify.add_watch)
        try:
            if self.monitor is not None and self._sleepers_monitor is None:
                # A second monitor, because the kernel reports a change of mounts once to each descriptor: this one
                # wakes the sleeper, the other one is read by news().
                self._sleepers_monitor = MountMonitor()
            sleeper = self.open_sleeper()
        except BaseException:
            inotify.close()
            raise
        if self._sleepers_monitor is not None:
            sleeper.watch(self._sleepers_monitor.fd, select.POLLPRI)
        sleeper.watch(inotify.fd, select.POLLIN)
        self.inotify = inotify
        self._poll.register(inotify.fd, select.POLLIN)
        if self._work is None:  # only for an owner who takes changes inodes are held
            with contextlib.suppress(OSError):
                self.open_closes()
        return inotify

    def open_closes(self) -> Inotify:
        """Return the instance that watches for the closes of held inodes; open it the first time.

        It has no other events, so these can end the thread's rest: as long as an inode is held, its filesystem cannot
        be unmounted.

        Raises:
            OSError: no descriptor or no inotify instance is left.
        """
        if self.closes is None:
            closes = Inotify()
            try:
                self.open_sleeper().watch(closes.fd, select.POLLIN, ends_rest=True)
            except BaseException:
                closes.close()
                raise
            self.closes = closes
            self._poll.register(closes.fd, select.POLLIN)
        return self.closes

    def start_thread(self) -> None:
        """Start the thread, unless it runs or there is no work for one."""
        if self.needs_thread:
            self._thread = threading.Thread(target=self._run, name="fstat-cache", daemon=True)
            try:
                self._thread.start()
                self.needs_thread = False
            except RuntimeError as error:  # the system allows no more threads
                log.warning("%s", error)
                self._thread, self.has_failed = None, True

    def _run(self) -> None:
        try:
            if self._work is not None:
                self._work(self)
        except Exception:
            if not self.is_closed:
                self.has_failed = True
                log.exception("the thread that follows file changes has failed; its cache answers by os.stat now")
        finally:
            if self.sleeper is not None:
                self.sleeper.close()

    def close(self, *, in_child: bool = False) -> None:
        """Stop the thread and close the descriptors; the session must not be used afterwards.

        Args:
            in_child: whether this is a forked child, where the thread does not exist.
        """
        if self.is_closed:
            return
        self.is_closed = True
        if self.sleeper is not None:
            self.sleeper.abandon() if in_child else self.sleeper.close()
        if self._thread is not None and not in_child and threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT_S)  # with a timeout, because it may be stuck on a dead filesystem
        for descriptor in (self.inotify, self.closes, self.monitor, self._sleepers_monitor):
            if descriptor is not None:
                with contextlib.suppress(KeyError):
                    self._poll.unregister(descriptor.fd)
                descriptor.close()
