"""The life of a cache: its lock, its engine and its thread; how they start over, and how they end."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

from fstat_cache.changes import Changes
from fstat_cache.engine import Counts, Engine
from fstat_cache.errors import CacheClosedError
from fstat_cache.hanging import RemoteMounts
from fstat_cache.schedule import Schedule
from fstat_cache.session import Session
from fstat_cache.states import LOST
from fstat_cache.stats import read_stats
from fstat_cache.watches import Entry

ORDERLY = (OSError, KeyError, CacheClosedError)
"""What is raised with the lock held on purpose, leaving nothing half done."""


class Life:
    """What one cache has of the system, from one beginning to the next.

    For ``with life.lock, life as engine:``. What an unexpected exception leaves half done is thrown away:
    KeyboardInterrupt, and whatever else a signal's handler raises, comes between any two instructions.

    Args:
        max_watches, gather_s, cpu_budget, remote_timeout_s, keep_changes: as of the cache.

    Attributes:
        lock: protects the engine and all that it has. Hits do without it, and nobody waits under it for a filesystem
            that may hang.
        asking: held while a remote filesystem is asked and until its answer is taken in: so stats are reported in
            their order. Taken before the other.
        served: the engine's, the same in every life.
    """

    def __init__(
        self,
        *,
        max_watches: int | None,
        gather_s: float,
        cpu_budget: float | None,
        remote_timeout_s: float,
        keep_changes: bool,
    ) -> None:
        self.served: dict[str, Entry] = {}
        self.counts = Counts()
        self.max_watches = max_watches
        self.is_closed = False
        self._gather_s = gather_s
        self._cpu_budget = cpu_budget
        self._remote_timeout_s = remote_timeout_s
        self._keep_changes = keep_changes
        self._make_shared()
        self._begin()
        _lives_to_reset_in_a_child().add(self)

    def _make_shared(self) -> None:
        """Make what outlasts start_over(), but not a fork(2)."""
        self.lock = threading.Lock()
        self.asking = threading.Lock()
        self.changes = Changes(is_kept=self._keep_changes)
        self.workers = RemoteMounts(read_stats, self._remote_timeout_s)

    def _begin(self) -> None:
        """Make engine, session and schedule; none of their watches, descriptors and threads is there yet."""
        work = None if self._keep_changes else self._work
        self.session = session = Session(gather_s=self._gather_s, cpu_budget=self._cpu_budget, work=work)
        self.engine = Engine(
            session, self.counts, self.changes, self.workers, self.served, max_watches=self.max_watches
        )
        self.schedule = Schedule(self.engine, session, self.changes)

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, ORDERLY):
            self.throw_away()

    def check_open(self) -> None:
        """Raise CacheClosedError after the end."""
        if self.is_closed:
            raise CacheClosedError("the cache is closed")

    def open(self) -> None:
        """Make sure that files may be stat'ed."""
        self.check_open()
        self.engine.open()

    def limit(self, cpu_budget: float | None) -> None:
        """Change the share of one core that following changes may take."""
        self._cpu_budget = cpu_budget
        self.session.limit(cpu_budget)

    def start_over(self) -> Callable[[], object]:
        """Begin anew; give what ends the old session, to be called without the lock, which its thread may want."""
        session = self.session
        self.engine.forget()
        self._begin()
        return session.close

    def throw_away(self) -> None:
        """Start over after an interruption."""
        directories = tuple(self.engine.directories)
        end = self.start_over()
        for path in directories:
            self.engine.directories.add(path, LOST)
        self.engine.directories.recheck(directories)  # to be watched anew by who asked for it, and listed
        # The lock is held, for which the old thread may be waiting: so it is waited for elsewhere.
        threading.Thread(target=end, name="fstat-cache-end", daemon=True).start()

    def end(self) -> None:
        """End without starting over, when the cache is dropped or the interpreter exits."""
        self.served.clear()  # who still asks then gets nothing from memory that nobody keeps true
        self.session.close()

    def start_over_in_child(self) -> None:
        """Start empty after fork(2): the threads are not here, and the inotify instance belongs to the parent."""
        self.session.abandon()
        self.engine.forget()
        self._make_shared()  # the old lock may be held by a thread of the parent, for ever
        self._begin()

    # -- driving it ---------------------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether changes are followed no longer."""
        return self.is_closed or self.session.has_failed

    def wait(self) -> bool:
        """Sleep until there is something to do; whether to go on.

        Raises:
            OSError: there is no descriptor to sleep with.
        """
        with self.lock, self as engine:
            session = self.session
            if self.has_ended or session.is_closed:  # closed without close(): the interpreter exits
                return False
            try:
                sleeper = session.open_sleeper()
            except OSError:
                engine.fail()
                raise
            due = self.schedule.before_sleep(sleeper.worked_s)
        sleeper.sleep(due)  # False too when another life has begun
        return not (self.has_ended or self.session.is_closed)

    def advance(self) -> None:
        """Take in what the kernel has to report, and do what is due."""
        with self.lock:
            self.check_open()
            try:
                self.schedule.advance()
            except Exception:
                # Nothing keeps the entries true any more: from here on every look-up is an os.stat.
                self.engine.fail()
                raise
            except BaseException:
                self.throw_away()
                raise

    def _work(self) -> float | None:
        """What the cache's own thread calls."""
        try:
            self.advance()
        except CacheClosedError:
            return None
        with self.lock:
            return self.schedule.before_sleep(0.0)


@functools.cache
def _lives_to_reset_in_a_child() -> weakref.WeakSet[Life]:
    """The lives that have begun; the first call registers the fork handler, which cannot be unregistered."""
    lives: weakref.WeakSet[Life] = weakref.WeakSet()

    def reset_all() -> None:
        for life in tuple(lives):
            life.start_over_in_child()

    os.register_at_fork(after_in_child=reset_all)
    return lives
