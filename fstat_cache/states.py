"""How a file or a directory is followed: its states, and one table of all transitions. Pure: no I/O, no clock.

The engine gives an event to the table, performs the actions that stand there, in their order, and enters the state.
What the kernel answers to an action (it watches, it refuses) is the next event.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

WATCHED = "watched"
HOT = "hot"

# Why a file is polled.
WATCH_LIMIT = "watch_limit"
INSTANCE_LIMIT = "instance_limit"
PERMISSION = "permission"
UNSUPPORTED = "unsupported"
THREAD_FAILED = "thread_failed"
FILESYSTEM = "filesystem"
REMOTE_FILESYSTEM = "remote"
AUDIT = "audit"

WATCH_FAILURES = (WATCH_LIMIT, INSTANCE_LIMIT, PERMISSION, UNSUPPORTED)
"""The reasons that are failures to watch."""
POLL_REASONS = (*WATCH_FAILURES, THREAD_FAILED, FILESYSTEM, REMOTE_FILESYSTEM, AUDIT)
"""All reasons for which a file is polled."""
LIMITS = (WATCH_LIMIT, INSTANCE_LIMIT)
NEVER_WATCHED = (FILESYSTEM, AUDIT)
"""A watch would not report what happens to such a file."""
REMEDIES = {
    WATCH_LIMIT: "no more inotify watches for this user: raise the sysctl fs.inotify.max_user_watches",
    INSTANCE_LIMIT: "no more inotify instances or descriptors: raise the sysctl fs.inotify.max_user_instances "
    "or the limit of open files",
    PERMISSION: "no permission to watch: inotify needs read permission on the file itself, or CAP_DAC_READ_SEARCH",
    UNSUPPORTED: "the kernel refuses to watch a file",
    THREAD_FAILED: "the thread that follows changes has failed: restart the process",
    AUDIT: "a file changed without an event (mmap, direct I/O, a directory renamed above it, a link pointed elsewhere)",
}


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A state. Each exists once: compare by ``is``.

    Attributes:
        name: its name.
        reason: why files in it are polled, one of :data:`POLL_REASONS`; None: they are not.
        shown: how :meth:`FStatCache.how_followed` calls it.
    """

    name: str
    reason: str | None = None
    shown: str = WATCHED


EVENTS = State("events")
"""The kernel reports changes: by a watch of its own, or a file's by the watch of its directory."""
SAMPLED = State("sampled", shown=HOT)
"""Too busy for events: the watch is disarmed, a clock asks for stats."""
POLLED = {reason: State("polled", reason, reason) for reason in POLL_REASONS if reason != REMOTE_FILESYSTEM}
"""Not watched: stat'ed at every sync."""
REMOTE = State("remote", REMOTE_FILESYSTEM, REMOTE_FILESYSTEM)
"""Not watched, and stat'ed only by a worker that may hang."""
RECHECK = State("recheck")
"""Events may have been lost: to be watched again, then stat'ed (a directory: listed) before it is believed."""
GONE = State("gone")
"""Forgotten: the end of an entry."""

BELIEVED = (EVENTS, SAMPLED)
"""What is known of these is true as far as events were taken in."""
STATES = (EVENTS, SAMPLED, *POLLED.values(), REMOTE, RECHECK, GONE)


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """What may happen to a file or a directory. Each exists once."""

    name: str


WRITTEN = Event("written")
"""The kernel reports writes, and nothing else."""
TOUCHED = Event("touched")
"""The kernel reports anything else: the path may lead to another inode now."""
ASKED = Event("asked")
"""Somebody asks for the truth as of now."""
BUSY = Event("busy")
"""Its events have passed the threshold."""
DISARMED = Event("disarmed")
"""The kernel has disarmed its watch."""
QUIET = Event("quiet")
"""Sampled, and unchanged for long enough."""
LOST = Event("lost")
"""Events may have been lost."""
MOUNTED = Event("mounted")
"""Something was mounted or unmounted above it: a local filesystem is there now."""
MOUNTED_REMOTE = Event("mounted_remote")
"""A filesystem that may hang is there now."""
IS_WATCHED = Event("is_watched")
"""The kernel watches what is there now."""
REFUSED = {reason: Event(f"refused_{reason}") for reason in POLLED}
"""It cannot be watched, or a watch would not help."""

EVENT_KINDS = (
    *(WRITTEN, TOUCHED, ASKED, BUSY, DISARMED, QUIET, LOST, MOUNTED, MOUNTED_REMOTE, IS_WATCHED),
    *REFUSED.values(),
)


class Action(enum.Enum):
    """What the engine does."""

    WATCH = "watch"
    """Arm a watch on what is at the path now."""
    STAT = "stat"
    """Stat the file; report the directory, for its owner to list."""
    DISARM = "disarm"
    """Have the watch report no more than the end of the inode."""
    UNWATCH = "unwatch"
    """Remove the watch."""


Transition = tuple[State, tuple[Action, ...]]

_NOTHING: tuple[Action, ...] = ()
_STAT = (Action.STAT,)
_WATCH_STAT = (Action.WATCH, Action.STAT)  # watch first: what happens in between is an event
_DISARM = (Action.DISARM,)
_UNWATCH = (Action.UNWATCH,)


def _rows(state: State) -> dict[Event, Transition]:
    """All transitions of a state; an event that is not here changes nothing."""
    is_watched = state is RECHECK or state in BELIEVED
    unwatch = _UNWATCH if is_watched else _NOTHING
    if state is GONE:
        return {}
    rows = {
        ASKED: (state, _STAT if state.reason in NEVER_WATCHED else _WATCH_STAT),
        MOUNTED: (RECHECK, _NOTHING),
        MOUNTED_REMOTE: (REMOTE, unwatch),
        IS_WATCHED: (EVENTS, _NOTHING),
        **{event: (POLLED[reason], unwatch) for reason, event in REFUSED.items()},
    }
    if is_watched:
        rows[WRITTEN] = (state, _WATCH_STAT if state is RECHECK else _STAT)
        rows[TOUCHED] = (state, _WATCH_STAT)
        rows[LOST] = (RECHECK, _NOTHING)
        rows[DISARMED] = (RECHECK if state is RECHECK else SAMPLED, _NOTHING)
        if state is not SAMPLED:
            rows[BUSY] = (state, _DISARM)
        if state is not EVENTS:
            rows[QUIET] = (RECHECK, _WATCH_STAT)
    return rows


TABLE: dict[tuple[State, Event], Transition] = {
    (state, event): _rows(state).get(event, (state, _NOTHING)) for state in STATES for event in EVENT_KINDS
}


class Threshold(NamedTuple):
    """When events are too many, so that asking now and then is cheaper than being notified.

    An armed watch costs a busy writer a quarter to two fifths of its write rate. So what is too busy is disarmed and
    sampled, until it has been quiet for a while: what a network card's driver does between interrupts and polling.

    Attributes:
        events: how many are too many.
        within_s: in which time.
        is_in_a_row: whether only those in each batch count, none further than ``within_s`` behind the other.
        quiet_s: how long a sampled one must be unchanged to be armed again.
        tick_s: how often samples are taken.
        greatest_tick_s: how far a CPU budget may stretch that.
    """

    events: int
    within_s: float
    is_in_a_row: bool
    quiet_s: float
    tick_s: float
    greatest_tick_s: float


FILES = Threshold(events=3, within_s=0.75, is_in_a_row=True, quiet_s=0.4, tick_s=0.5, greatest_tick_s=5.0)
"""A file that is written all the time gives one merged event a batch. A lone file written once a second is in every
batch there is, so only batches close together count. Quiet is less than a tick: a file that has paused for a second is
watched again, and what is cut off it then was seen."""
DIRECTORIES = Threshold(events=1_001, within_s=1.0, is_in_a_row=False, quiet_s=2.0, tick_s=1.0, greatest_tick_s=10.0)
"""A flooding directory gives thousands. It is listed after each sample that shows a change, which may take long."""


class Sampled(dict[int, float]):
    """The watches that are disarmed, each with the time at which it was last seen busy; and who may become one.

    Args:
        threshold: when one does, and when it ends.
    """

    def __init__(self, threshold: Threshold) -> None:
        self.counts: dict[int, int] = {}  # of the watches that are armed; emptied where a batch has none of them
        self._threshold = threshold
        self._since = 0.0

    def after_batch(self, wds: Iterable[int], now: float) -> dict[int, int]:
        """Note which watches had events in one batch.

        Args:
            wds: the watches; one comes as often as its events count.
            now: a monotonic clock, seconds.

        Returns:
            Those that had too many: disarm them.
        """
        threshold = self._threshold
        if now - self._since > threshold.within_s:
            self.counts.clear()
            self._since = now
        counts = self.counts
        if threshold.is_in_a_row:
            self._since, self.counts = now, {}
        for wd in wds:
            if wd in self:
                self[wd] = now  # left over from before it was disarmed, and its file has been stat'ed for that
            else:
                self.counts[wd] = counts.get(wd, 0) + 1
        return {wd: count for wd, count in self.counts.items() if count >= threshold.events}

    def add(self, wd: int, now: float) -> None:
        """Note that ``wd`` is disarmed from now on."""
        self[wd] = now
        self.counts.pop(wd, None)

    def after_samples(self, changed: Iterable[int], now: float) -> list[int]:
        """Note which of the watches were found changed when all were sampled.

        Returns:
            Those that are quiet: arm them, then stat.
        """
        for wd in changed:
            self[wd] = now
        return [wd for wd, busy_at in self.items() if now - busy_at >= self._threshold.quiet_s]
