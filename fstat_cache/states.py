"""The states in which a file or directory is followed, and one table of all transitions. Pure: no I/O, no clock.

The engine looks an event up in the table, enters the state and performs the actions in order. The kernel's answer to an
action (it watches, it refuses) is the next event.
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
"""The poll reasons for which adding a watch failed."""
POLL_REASONS = (*WATCH_FAILURES, THREAD_FAILED, FILESYSTEM, REMOTE_FILESYSTEM, AUDIT)
"""All reasons for which a file is polled."""
LIMITS = (WATCH_LIMIT, INSTANCE_LIMIT)
NEVER_WATCHED = (FILESYSTEM, AUDIT)
"""The poll reasons for which a watch is useless: it would not report all changes."""
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
        reason: why its files are polled, one of :data:`POLL_REASONS`; None: they are not polled.
        shown: its name in :meth:`FStatCache.how_followed`.
    """

    name: str
    reason: str | None = None
    shown: str = WATCHED


EVENTS = State("events")
"""The kernel reports changes: by its own watch, or by the directory's watch that covers a file."""
SAMPLED = State("sampled", shown=HOT)
"""Too busy for events: the watch is disarmed, and stats are taken at intervals."""
POLLED = {reason: State("polled", reason, reason) for reason in POLL_REASONS if reason != REMOTE_FILESYSTEM}
"""Not watched: stat'ed at every sync."""
REMOTE = State("remote", REMOTE_FILESYSTEM, REMOTE_FILESYSTEM)
"""Not watched: stat'ed only by a worker, because a stat may hang."""
RECHECK = State("recheck")
"""Events may have been lost: it must be watched and stat'ed again (a directory: listed) before it is served."""
GONE = State("gone")
"""Dropped: the end of an entry."""

BELIEVED = (EVENTS, SAMPLED)
"""The states in which the known stats may be served."""
STATES = (EVENTS, SAMPLED, *POLLED.values(), REMOTE, RECHECK, GONE)


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """An event of a file or a directory. Each exists once: compare by ``is``."""

    name: str


WRITTEN = Event("written")
"""The kernel has reported writes only."""
TOUCHED = Event("touched")
"""The kernel has reported more than writes: the path may lead to another inode now."""
ASKED = Event("asked")
"""A caller needs its present stats."""
BUSY = Event("busy")
"""It had more events than its threshold allows."""
DISARMED = Event("disarmed")
"""Its watch was disarmed."""
QUIET = Event("quiet")
"""It is sampled, and was unchanged for long enough to be armed again."""
LOST = Event("lost")
"""Events may have been lost."""
MOUNTED = Event("mounted")
"""A mount or unmount above it: it is on a local filesystem now."""
MOUNTED_REMOTE = Event("mounted_remote")
"""It is on a remote filesystem now."""
IS_WATCHED = Event("is_watched")
"""The kernel watches what is at the path now."""
REFUSED = {reason: Event(f"refused_{reason}") for reason in POLLED}
"""It cannot be watched, or a watch would be useless."""

EVENT_KINDS = (
    *(WRITTEN, TOUCHED, ASKED, BUSY, DISARMED, QUIET, LOST, MOUNTED, MOUNTED_REMOTE, IS_WATCHED),
    *REFUSED.values(),
)


class Action(enum.Enum):
    """An action of the engine."""

    WATCH = "watch"
    """Arm a watch on what is at the path now."""
    STAT = "stat"
    """Stat the file; report the directory, for its owner to list."""
    DISARM = "disarm"
    """Let the watch report only that the inode is moved or deleted."""
    UNWATCH = "unwatch"
    """Remove the watch."""


Transition = tuple[State, tuple[Action, ...]]

_NOTHING: tuple[Action, ...] = ()
_STAT = (Action.STAT,)
_WATCH_STAT = (Action.WATCH, Action.STAT)  # in this order a change in between is an event
_DISARM = (Action.DISARM,)
_UNWATCH = (Action.UNWATCH,)


def _rows(state: State) -> dict[Event, Transition]:
    """Return the transitions of a state; any other event changes nothing."""
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
    """How many events are so many that sampling is cheaper than being notified.

    An armed watch costs a busy writer a quarter to two fifths of its write rate. So a busy watch is disarmed and
    sampled until it has been quiet for a while, as a network card's driver switches between interrupts and polling.

    Attributes:
        events: how many are too many.
        within_s: within how many seconds.
        is_in_a_row: whether the events must come in consecutive batches, none more than ``within_s`` after the one
            before.
        quiet_s: how long a sampled watch must be unchanged to be armed again.
        tick_s: the interval between samples.
        greatest_tick_s: the longest interval that a CPU budget may cause.
    """

    events: int
    within_s: float
    is_in_a_row: bool
    quiet_s: float
    tick_s: float
    greatest_tick_s: float


FILES = Threshold(events=3, within_s=0.75, is_in_a_row=True, quiet_s=0.4, tick_s=0.5, greatest_tick_s=5.0)
"""A file that is written all the time has one merged event in each batch. A single file written once a second is in
every batch too, so only batches in quick succession count. ``quiet_s`` is less than a tick, so that a file that has
paused for a second is watched again and a later truncation is seen."""
DIRECTORIES = Threshold(events=1_001, within_s=1.0, is_in_a_row=False, quiet_s=2.0, tick_s=1.0, greatest_tick_s=10.0)
"""A flooded directory has thousands of events. It is listed after each sample that shows a change, which may take long.
"""


class Sampled(dict[int, float]):
    """The disarmed watches, each with the time of its last change; counts events of the armed ones.

    Args:
        threshold: when a watch is to be disarmed, and when armed again.
    """

    def __init__(self, threshold: Threshold) -> None:
        self.counts: dict[int, int] = {}  # armed watch -> its recent events, or batches in a row
        self._threshold = threshold
        self._since = 0.0

    def after_batch(self, wds: Iterable[int], now: float) -> dict[int, int]:
        """Note which watches had events in one batch.

        Args:
            wds: the watches, each as often as its events count.
            now: a monotonic clock, seconds.

        Returns:
            Those with too many events, to be disarmed, and their counts.
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
                self[wd] = now  # an event from before it was disarmed
            else:
                self.counts[wd] = counts.get(wd, 0) + 1
        return {wd: count for wd, count in self.counts.items() if count >= threshold.events}

    def add(self, wd: int, now: float) -> None:
        """Note that ``wd`` is disarmed from now on."""
        self[wd] = now
        self.counts.pop(wd, None)

    def after_samples(self, changed: Iterable[int], now: float) -> list[int]:
        """Note which watches have changed since the sample before.

        Returns:
            Those that are quiet, to be armed and then stat'ed.
        """
        for wd in changed:
            self[wd] = now
        return [wd for wd, busy_at in self.items() if now - busy_at >= self._threshold.quiet_s]
