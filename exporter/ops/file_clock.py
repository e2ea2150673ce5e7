"""The clock of files, CLOCK_REALTIME, which steps, and moments of CLOCK_BOOTTIME, which never do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from time import CLOCK_BOOTTIME

from fstat_cache.stats import CLOCK_REALTIME_COARSE

TOLERANCE_NS = 1_000_000
"""The most by which the two clocks seem to differ between two readings without a step."""
AHEAD_NS = 20_000_000
"""The most by which a file's time may be later than now, because a filesystem rounds it."""
_TRIES = 5
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FileClock:
    """Converts times of files to moments: CLOCK_BOOTTIME in nanoseconds, negative before the boot.

    A moment stays right when CLOCK_REALTIME steps, because each conversion uses the present difference of both clocks.
    Safe to call from several threads.

    Args:
        read: reads a clock by its number: :func:`time.clock_gettime_ns`.
        boot_id: differs for each boot; "" if unknown. By default the kernel's.
    """

    def __init__(self, read: Callable[[int], int] = time.clock_gettime_ns, boot_id: str | None = None) -> None:
        self._read = read
        self._offset_ns = self._measure()[1]
        self._checked_ns = 0
        if boot_id is None:
            boot_id = ""
            with contextlib.suppress(OSError):
                boot_id = _BOOT_ID.read_text().strip()
        self.boot_id = boot_id

    def check(self) -> int:
        """Notice a step of CLOCK_REALTIME; return how far it is ahead of CLOCK_BOOTTIME now. Call it now and then."""
        return self._offset()[1]

    def now_ns(self) -> int:
        """Return the present moment."""
        return self._read(CLOCK_BOOTTIME)

    def file_now_ns(self) -> int:
        """Return the moment of the time that the kernel would give to a change made now, see `file_time_ns`."""
        while True:
            offset_ns = self._offset()[1]
            now_ns = self._read(CLOCK_REALTIME_COARSE) - offset_ns
            if self._offset()[1] == offset_ns:  # else the clock has stepped in between
                return now_ns

    def moment_of(self, file_time_ns: int) -> int | None:
        """Return the moment of a file's time; None if that is later than now, so that it shows nothing.

        The first scan asks a million times, so the clock is read only for a time after the latest :meth:`check`.

        Args:
            file_time_ns: nanoseconds since the epoch.
        """
        moment_ns = file_time_ns - self._offset_ns
        if moment_ns > self._checked_ns:
            moment_ns = file_time_ns - self.check()
            return moment_ns if moment_ns <= self._checked_ns + AHEAD_NS else None
        return moment_ns

    def saved(self, moment_ns: int) -> tuple[int, int, str]:
        """Return what to save of a moment: nanoseconds since the epoch, the moment, and the boot."""
        return moment_ns + self._offset()[1], moment_ns, self.boot_id

    def restored(self, epoch_ns: int, moment_ns: int | None = None, boot_id: str = "") -> int:
        """Return a saved moment as one of this boot.

        Args:
            epoch_ns, moment_ns, boot_id: as :meth:`saved` returned them; the epoch's time decides after another boot,
                or if the boot is unknown.
        """
        now_ns, offset_ns = self._offset()
        if boot_id and boot_id == self.boot_id and moment_ns is not None and moment_ns <= now_ns:
            return moment_ns - TOLERANCE_NS  # the clock that gave it has measured another difference
        # The clock may be wrong until it is set after the boot, but everything saved before is older than the boot.
        return min(epoch_ns - offset_ns, 0 if boot_id and boot_id != self.boot_id else now_ns)

    def _offset(self) -> tuple[int, int]:
        """Return the present moment, and CLOCK_REALTIME minus CLOCK_BOOTTIME, after noticing a step."""
        realtime_ns, now_ns = self._read(time.CLOCK_REALTIME), self._read(CLOCK_BOOTTIME)
        self._checked_ns = now_ns
        if abs(realtime_ns - now_ns - self._offset_ns) > TOLERANCE_NS:
            uncertainty_ns, offset_ns = self._measure()
            if abs(offset_ns - self._offset_ns) > TOLERANCE_NS + uncertainty_ns:  # else the thread only had to wait
                self._offset_ns = offset_ns
        return now_ns, self._offset_ns

    def _measure(self) -> tuple[int, int]:
        """Measure the offset; return its uncertainty, and the offset."""
        measured = []
        for _ in range(_TRIES):
            before_ns = self._read(CLOCK_BOOTTIME)
            realtime_ns = self._read(time.CLOCK_REALTIME)
            bracket_ns = self._read(CLOCK_BOOTTIME) - before_ns
            measured.append((bracket_ns, realtime_ns - before_ns - bracket_ns // 2))
        return min(measured)
