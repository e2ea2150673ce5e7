"""What a cache holds of the system, from its first look at a file to its end: descriptors, and the pump's thread."""

from __future__ import annotations

import contextlib
import functools
import select
from collections.abc import Callable, Mapping

from fstat_cache.kernel import Inotify
from fstat_cache.mounts import MountMonitor
from fstat_cache.pump import Pump


class Session:
    """The inotify instance, the monitors of the mounts, and the pump; opened step by step, closed together.

    Args:
        make_pump: makes a pump, not started yet, of the descriptors to wait for and their events of poll(2).
    """

    def __init__(self, make_pump: Callable[[Mapping[int, int]], Pump]) -> None:
        self.make_pump = make_pump
        self._poll = select.poll()
        # Bound once: sync() asks this each time, and one system call for both descriptors is most of what it costs.
        self.news: Callable[[], list[tuple[int, int]]] = functools.partial(self._poll.poll, 0)
        """Which of the descriptors have something to tell, with their events, as poll(2) gives it. A change of mounts
        is told once."""
        self._pumps_monitor: MountMonitor | None = None
        self.monitor: MountMonitor | None = None
        self.inotify: Inotify | None = None
        self.pump: Pump | None = None
        self.is_closed = False

    def open_monitor(self) -> MountMonitor:
        """Open the monitor of the mounts, if it is not open yet.

        Raises:
            FileNotFoundError: there is no /proc.
            OSError: no descriptor is left.
        """
        if self.monitor is None:
            self.monitor = MountMonitor()
            self._poll.register(self.monitor.fd, select.POLLPRI)
        return self.monitor

    def open_inotify(self) -> Inotify:
        """Open the inotify instance and make the pump that waits for it.

        Raises:
            OSError: no descriptor or no inotify instance is left; then nothing was opened.
        """
        inotify = Inotify()
        awaited = {inotify.fd: select.POLLIN}
        try:
            if self.monitor is not None:
                # One more, because a change of mounts is told once to each descriptor: here to the pump, which wakes
                # up, and on the other to whoever then looks.
                self._pumps_monitor = MountMonitor()
                awaited[self._pumps_monitor.fd] = select.POLLPRI
            self.pump = self.make_pump(awaited)
        except BaseException:
            inotify.close()
            if self._pumps_monitor is not None:
                self._pumps_monitor.close()
                self._pumps_monitor = None
            raise
        self.inotify = inotify
        self._poll.register(inotify.fd, select.POLLIN)
        return inotify

    def close(self) -> None:
        """Stop the thread and close the descriptors; nothing of the session may be used afterwards."""
        self._close(Pump.close)

    def abandon(self) -> None:
        """Close the descriptors in a forked child, where the thread does not exist."""
        self._close(Pump.abandon)

    def _close(self, end: Callable[[Pump], None]) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        if self.pump is not None:
            end(self.pump)
        for descriptor in (self.inotify, self.monitor, self._pumps_monitor):
            if descriptor is not None:
                with contextlib.suppress(KeyError):
                    self._poll.unregister(descriptor.fd)
                descriptor.close()
