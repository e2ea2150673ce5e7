"""The clock of files: what a step of CLOCK_REALTIME changes, and what it leaves alone."""

import time
from collections.abc import Callable

import pytest

from exporter.ops.file_clock import AHEAD_NS, TOLERANCE_NS, FileClock

SECOND_NS = 10**9
EPOCH_NS = 1_700_000_000 * SECOND_NS
"""CLOCK_REALTIME at the boot."""


class Clocks:
    """Both clocks of a machine that has run for a minute."""

    def __init__(self) -> None:
        self.boottime_ns = 60 * SECOND_NS
        self.offset_ns = EPOCH_NS
        self.waits_ns: list[int] = []  # how long the thread waits after each of its next readings

    def read(self, clock: int) -> int:
        """As clock_gettime(2)."""
        now_ns = self.boottime_ns + (0 if clock == time.CLOCK_BOOTTIME else self.offset_ns)
        self.boottime_ns += self.waits_ns.pop(0) if self.waits_ns else 0
        return now_ns

    @property
    def realtime_ns(self) -> int:
        """The time of a file that is made now."""
        return self.boottime_ns + self.offset_ns


@pytest.mark.parametrize("step_s", [3600, -3600, 86400, 0.5])
def test_a_moment_outlives_a_step(step_s: float) -> None:
    """What was born before a moment stays older and what is born after it younger, each by the clock that it had."""
    clocks = Clocks()
    clock = FileClock(clocks.read)
    old_ns = clocks.realtime_ns
    clocks.boottime_ns += SECOND_NS
    since_ns = clock.now_ns()
    assert clock.file_now_ns() == since_ns
    before_ns = clock.moment_of(old_ns)
    assert before_ns == since_ns - SECOND_NS
    clocks.offset_ns += int(step_s * SECOND_NS)
    clocks.boottime_ns += SECOND_NS
    assert clock.now_ns() == clock.file_now_ns() == clock.moment_of(clocks.realtime_ns) == since_ns + SECOND_NS


def test_a_time_later_than_now_shows_nothing() -> None:
    """It has no moment; filesystems may round a time up a little."""
    clocks = Clocks()
    clock = FileClock(clocks.read)
    assert clock.moment_of(clocks.realtime_ns + AHEAD_NS) == clocks.boottime_ns + AHEAD_NS
    assert clock.moment_of(clocks.realtime_ns + AHEAD_NS + 1) is None
    late_ns = clocks.realtime_ns
    clocks.offset_ns -= 3600 * SECOND_NS
    clocks.boottime_ns += SECOND_NS
    clock.check()
    assert clock.moment_of(late_ns) is None


@pytest.mark.parametrize("waits", [1, 2, 3, 16])
def test_a_thread_that_waits_between_two_readings_is_no_step(waits: int) -> None:
    """However long it waits, the offset stays; a step at that time is found nonetheless."""
    clocks = Clocks()
    clock = FileClock(clocks.read)
    for number in range(waits):
        clocks.waits_ns = [0] * number + [7 * SECOND_NS] * waits
        assert clock.check() == EPOCH_NS
    clocks.waits_ns = [7 * SECOND_NS, 0, *[7 * SECOND_NS, 0, 0] * waits]
    assert clock.check() == EPOCH_NS
    clocks.waits_ns = [7 * SECOND_NS]
    clocks.offset_ns -= 3600 * SECOND_NS
    assert clock.check() == clocks.offset_ns


def saved_by(clocks: Clocks, **more: str) -> tuple[int, int, str]:
    """What an agent saves of the present moment."""
    clock = FileClock(clocks.read, **more)
    return clock.saved(clock.file_now_ns())


def test_the_boottime_decides_in_the_same_boot() -> None:
    """An agent saves while the clock is an hour ahead, the next one starts after the step."""
    clocks = Clocks()
    clocks.offset_ns += 3600 * SECOND_NS
    saved, moment_ns = saved_by(clocks), clocks.boottime_ns
    clocks.offset_ns -= 3600 * SECOND_NS
    clocks.boottime_ns += SECOND_NS
    assert FileClock(clocks.read).restored(*saved) == moment_ns - TOLERANCE_NS
    assert saved[2], "the kernel's boot is known"


BOOTS: list[tuple[str, Callable[[Clocks], object]]] = [
    ("another", lambda clocks: setattr(clocks, "boottime_ns", 5 * SECOND_NS)),
    ("another", lambda clocks: setattr(clocks, "boottime_ns", 500 * SECOND_NS)),
    ("one", lambda clocks: setattr(clocks, "boottime_ns", 5 * SECOND_NS)),  # a snapshot of the machine from before
]


@pytest.mark.parametrize(("boot_id", "boot"), BOOTS)
def test_the_time_decides_in_another_boot(boot_id: str, boot: Callable[[Clocks], object]) -> None:
    """The moment is before the boot, or at least not in the future."""
    clocks = Clocks()
    saved = saved_by(clocks, boot_id="one")
    clocks.offset_ns += 1000 * SECOND_NS
    boot(clocks)
    assert FileClock(clocks.read, boot_id).restored(*saved) == -940 * SECOND_NS


def test_a_clock_that_is_behind_after_a_boot() -> None:
    """Without a real-time clock it is, until it is set: what is born since the boot is new all the same."""
    clocks = Clocks()
    saved = saved_by(clocks, boot_id="one")
    clocks.offset_ns -= 86400 * SECOND_NS
    assert FileClock(clocks.read, "another").restored(*saved) == 0


def test_a_time_that_an_earlier_version_saved() -> None:
    """Of which boot it is is not known, so the time decides; it is never in the future."""
    clocks = Clocks()
    clock = FileClock(clocks.read, "one")
    assert clock.restored(clocks.realtime_ns - SECOND_NS) == clocks.boottime_ns - SECOND_NS
    assert clock.restored(clocks.realtime_ns + SECOND_NS) == clocks.boottime_ns
