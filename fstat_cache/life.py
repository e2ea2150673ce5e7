"""The life of a cache: its lock, its engine and its thread; when they work, how they start over, and how they end."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import NamedTuple

from fstat_cache.changes import Changes
from fstat_cache.engine import Engine
from fstat_cache.errors import CacheClosedError
from fstat_cache.files import Counts, Files
from fstat_cache.hanging import RemoteMounts
from fstat_cache.session import Session
from fstat_cache.states import DIRECTORIES, FILES, LOST
from fstat_cache.stats import read_stats
from fstat_cache.watches import Entry, Watches

ORDERLY = (OSError, KeyError, CacheClosedError)
"""What is raised with the lock held on purpose, leaving nothing half done."""
BUDGET_SHARE = 0.5
"""How much of a CPU budget sampling files may take: who asks has them sampled once more."""
UNTAKEN_S = 0.05
"""After how long an owner that has left changes where they are is called again."""
RECOVERED_AT_ONCE = 500
"""After how many files that an overflow has made doubtful the thread rests: half a second with a budget of 1 %."""


class Schedule:
    """What is due when, by the monotonic clock, seconds; called with the cache's lock.

    Args:
        engine: what does it.
        session: knows the CPU budget, and has the thread that sleeps.
        changes: what the owner has not taken yet.
    """

    def __init__(self, engine: Engine, session: Session, changes: Changes) -> None:
        self._engine = engine
        self._session = session
        self._changes = changes
        self._sample = 0.0
        self._sample_directories = 0.0
        self._recovery = 0.0
        self._has_sampled_directories = False  # since the thread slept last
        self._sleeps_until = math.inf  # the thread that follows changes
        self._thread_id: int | None = None  # which one that is

    def take_in(self, news: list[tuple[int, int]]) -> None:
        """Take in what the kernel has to report."""
        engine = self._engine
        was_cool = not engine.files.sampled
        engine.take_in(news)
        if was_cool and engine.files.sampled:  # which have just been stat'ed
            self._sample = time.monotonic() + FILES.tick_s
        self._wake_if_due()

    def sample(self) -> None:
        """Stat the sampled files now."""
        began_at, began_s = time.monotonic(), time.thread_time()
        self._engine.sample()
        tick_s, cpu_budget = FILES.tick_s, self._session.cpu_budget
        if cpu_budget is not None:
            spent_s = time.thread_time() - began_s
            tick_s = max(tick_s, min(spent_s / (cpu_budget * BUDGET_SHARE), FILES.greatest_tick_s))
        self._sample = began_at + tick_s

    def advance(self) -> None:
        """Take in what the kernel has to report, and do what is due."""
        began_s = time.thread_time()
        engine, cpu_budget = self._engine, self._session.cpu_budget
        self.take_in(self._session.news())
        now = time.monotonic()
        if engine.files.doubtful:
            engine.recover(None if cpu_budget is None else RECOVERED_AT_ONCE)
            spent_s = time.thread_time() - began_s
            self._recovery = now + (0 if cpu_budget is None else spent_s / cpu_budget)
        if engine.files.sampled and now >= self._sample:
            self.sample()
        if engine.directories.sampled and now >= self._sample_directories:
            engine.directories.sample(now)
            self._sample_directories = now + DIRECTORIES.tick_s
            self._has_sampled_directories = True
        self._wake_if_due()

    def before_sleep(self, worked_s: float) -> float | None:
        """Note that the calling thread is the one that sleeps, and until when; None: without end.

        Args:
            worked_s: CPU time of its turn. Who has taken that sampled directories have changed lists them, which may
                take long.
        """
        cpu_budget = self._session.cpu_budget
        if self._has_sampled_directories and cpu_budget is not None:
            rest_s = min(worked_s / cpu_budget, DIRECTORIES.greatest_tick_s)
            self._sample_directories = max(self._sample_directories, time.monotonic() + rest_s)
        self._has_sampled_directories = False
        self._thread_id = threading.get_ident()
        self._sleeps_until = self._due()
        if self._changes:  # its owner could not book them yet
            self._sleeps_until = min(self._sleeps_until, time.monotonic() + UNTAKEN_S)
        return None if self._sleeps_until == math.inf else self._sleeps_until

    def _due(self) -> float:
        """When to advance even without events; infinite: never."""
        engine = self._engine
        due = self._recovery if engine.files.doubtful else math.inf
        if engine.files.sampled:
            due = min(due, self._sample)
        if engine.directories.sampled:
            due = min(due, self._sample_directories)
        return due

    def _wake_if_due(self) -> None:
        """Wake the thread that sleeps where it has something to do earlier than it knows: it may sleep without end."""
        sleeper = self._session.sleeper
        if sleeper is not None and threading.get_ident() != self._thread_id and self._due() < self._sleeps_until:
            self._sleeps_until = -math.inf  # once is enough
            sleeper.wake()


class Settings(NamedTuple):
    """What a cache was asked for."""

    max_watches: int | None
    gather_s: float
    cpu_budget: float | None
    remote_timeout_s: float
    keep_changes: bool


class Life:
    """What one cache has of the system, from one beginning to the next.

    For ``with life.lock, life as engine:``. What an unexpected exception leaves half done is thrown away:
    KeyboardInterrupt, and whatever else a signal's handler raises, comes between any two instructions.

    Args:
        settings: as of the cache.

    Attributes:
        lock: protects the engine and all that it has. Hits do without it, and nobody waits under it for a filesystem
            that may hang.
        asking: held while a remote filesystem is asked and until its answer is taken in: so stats are reported in
            their order. Taken before the other.
        served: the engine's, the same in every life.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served: dict[str, Entry] = {}
        self.counts = Counts()
        self.is_closed = False
        self._make_shared()
        self._begin()
        _lives_to_reset_in_a_child().add(self)

    def _make_shared(self) -> None:
        """Make what outlasts start_over(), but not a fork(2)."""
        self.lock = threading.Lock()
        self.asking = threading.Lock()
        self.changes = Changes(is_kept=self.settings.keep_changes)
        self.workers = RemoteMounts(read_stats, self.settings.remote_timeout_s)

    def _begin(self) -> None:
        """Make engine, session and schedule; none of their watches, descriptors and threads is there yet."""
        settings = self.settings
        work = None if settings.keep_changes else self._follow
        self.session = session = Session(gather_s=settings.gather_s, cpu_budget=settings.cpu_budget, work=work)
        watches = Watches(session, settings.max_watches)
        files = Files(session, watches, self.changes, self.served, self.counts)
        self.engine = Engine(session, watches, files, self.workers, self.counts)
        self.schedule = Schedule(self.engine, session, self.changes)

    def __enter__(self) -> Engine:
        if self.is_closed:
            raise CacheClosedError("the cache is closed")
        return self.engine

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, ORDERLY):
            self.throw_away()

    def limit(self, cpu_budget: float | None) -> None:
        """Change the share of one core that following changes may take."""
        self.settings = self.settings._replace(cpu_budget=cpu_budget)
        self.session.limit(cpu_budget)

    def start_over(self) -> Callable[[], object]:
        """Begin anew; give what ends the old session, to be called without the lock, which its thread may want."""
        session = self.session
        self.engine.files.forget()
        self._begin()
        return session.close

    def throw_away(self) -> None:
        """Start over after an interruption."""
        paths = self.engine.directories.by_path.keys()
        end = self.start_over()
        directories = self.engine.directories
        for path in paths:
            directories.add(path, LOST)
        directories.recheck(directories.by_path.values())  # to be watched anew by who asked for it, and listed
        # The lock is held, for which the old thread may be waiting: so it is waited for elsewhere.
        threading.Thread(target=end, name="fstat-cache-end", daemon=True).start()

    def end(self) -> None:
        """End without starting over, when the cache is dropped or the interpreter exits."""
        self.served.clear()  # who still asks then gets nothing from memory that nobody keeps true
        self.session.close()

    def start_over_in_child(self) -> None:
        """Start empty after fork(2): the threads are not here, and the inotify instance belongs to the parent."""
        self.session.close(in_child=True)
        self.engine.files.forget()
        self._make_shared()  # the old lock may be held by a thread of the parent, for ever
        self._begin()

    # -- driving it ---------------------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether changes are followed no longer."""
        return self.is_closed or self.session.has_failed

    def wait(self, session: Session | None = None) -> bool:
        """Sleep until there is something to do; whether to go on.

        Args:
            session: the only one to wait in; None: whichever is the present one.

        Raises:
            OSError: there is no descriptor to sleep with.
        """
        with self.lock:
            session = session or self.session
            # Closed without close(): the interpreter exits.
            if self.has_ended or session.is_closed or session is not self.session:
                return False
            with self:
                try:
                    sleeper = session.open_sleeper()
                except OSError:
                    self.engine.fail()
                    raise
                due = self.schedule.before_sleep(sleeper.worked_s)
        sleeper.sleep(due)  # False too when another life has begun
        return not (self.has_ended or self.session.is_closed)

    def advance(self) -> None:
        """Take in what the kernel has to report, and do what is due."""
        with self.lock:
            if self.is_closed:
                raise CacheClosedError("the cache is closed")
            try:
                self.schedule.advance()
            except Exception:
                # Nothing keeps the entries true any more: from here on every look-up is an os.stat.
                self.engine.fail()
                raise
            except BaseException:
                self.throw_away()
                raise

    def _follow(self, session: Session) -> None:
        """What the cache's own thread does."""
        with contextlib.suppress(CacheClosedError):
            while self.wait(session):
                self.advance()


@functools.cache
def _lives_to_reset_in_a_child() -> weakref.WeakSet[Life]:
    """The lives that have begun; the first call registers the fork handler, which cannot be unregistered."""
    lives: weakref.WeakSet[Life] = weakref.WeakSet()

    def reset_all() -> None:
        for life in tuple(lives):
            life.start_over_in_child()

    os.register_at_fork(after_in_child=reset_all)
    return lives
