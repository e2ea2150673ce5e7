"""The life cycle of a cache: its lock, engine and thread; when they work, start over and end."""

from __future__ import annotations

import functools
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fstat_cache.changes import Changes
from fstat_cache.engine import Engine
from fstat_cache.errors import CacheClosedError
from fstat_cache.files import Counts, Files
from fstat_cache.hanging import RemoteMounts
from fstat_cache.paths import Root
from fstat_cache.session import Session
from fstat_cache.states import DIRECTORIES, FILES, LOST
from fstat_cache.stats import read_stats, with_details
from fstat_cache.watches import Entry, Watches

EXPECTED_ERRORS = (OSError, KeyError, CacheClosedError)
"""Errors that are raised deliberately with the lock held, and leave nothing half done."""
BUDGET_SHARE = 0.5
"""The share of a CPU budget for sampling files between syncs, each of which samples them once more."""
UNTAKEN_S = 0.05
"""After how long the owner is woken again when it has not taken all changes."""
RECOVERED_AT_ONCE = 500
"""How many doubtful files are stat'ed after an overflow before the thread rests: half a second with a budget of 1 %."""


class Schedule:
    """Decides when the engine has to work, by the monotonic clock in seconds; called with the cache's lock.

    Args:
        engine: does the work.
        session: has the CPU budget, and the thread that sleeps.
        changes: those that the owner has not taken yet.
    """

    def __init__(self, engine: Engine, session: Session, changes: Changes) -> None:
        self._engine = engine
        self._session = session
        self._changes = changes
        self._sample = 0.0
        self._sample_directories = 0.0
        self._recovery = 0.0
        self._has_sampled_directories = False  # since the thread slept last
        self._sleeps_until = math.inf  # of the thread that follows changes
        self._thread_id: int | None = None  # of the same thread

    def take_in(self, news: list[tuple[int, int]]) -> None:
        """Process pending events."""
        engine = self._engine
        was_cool = not engine.files.sampled
        engine.take_in(news)
        if was_cool and engine.files.sampled:  # these have just been stat'ed
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
        """Process pending events, and do what is due."""
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
        """Note that the calling thread is about to sleep.

        Args:
            worked_s: CPU time of its turn, which includes the owner's listing of sampled directories.

        Returns:
            Until when it sleeps; None: until it is woken.
        """
        cpu_budget = self._session.cpu_budget
        if self._has_sampled_directories and cpu_budget is not None:
            rest_s = min(worked_s / cpu_budget, DIRECTORIES.greatest_tick_s)
            self._sample_directories = max(self._sample_directories, time.monotonic() + rest_s)
        self._has_sampled_directories = False
        self._thread_id = threading.get_ident()
        self._sleeps_until = self._due()
        if self._changes:  # the owner could not process them yet
            self._sleeps_until = min(self._sleeps_until, time.monotonic() + UNTAKEN_S)
        return None if self._sleeps_until == math.inf else self._sleeps_until

    def _due(self) -> float:
        """Return when to advance even without events; infinite: never."""
        engine = self._engine
        due = self._recovery if engine.files.doubtful else math.inf
        if engine.files.sampled:
            due = min(due, self._sample)
        if engine.directories.sampled:
            due = min(due, self._sample_directories)
        return due

    def _wake_if_due(self) -> None:
        """Wake the sleeping thread if something is due before it would wake up."""
        sleeper = self._session.sleeper
        if sleeper is not None and threading.get_ident() != self._thread_id and self._due() < self._sleeps_until:
            self._sleeps_until = -math.inf  # once is enough
            sleeper.wake()


class Settings(NamedTuple):
    """The settings of a cache; see :class:`FStatCache`."""

    max_watches: int | None
    gather_s: float
    cpu_budget: float | None
    remote_timeout_s: float
    keep_changes: bool
    root: Root


class Life:
    """The parts of one cache, which it replaces when it starts over: engine, session and schedule.

    Use it as ``with life.lock, life as engine:``. After an unexpected exception the parts are replaced, because they
    may be half changed: a signal's handler may raise, KeyboardInterrupt for example, between any two instructions.

    Args:
        settings: of the cache.

    Attributes:
        lock: protects the engine and its parts. Hits do not take it, and no thread waits for a remote filesystem while
            it holds it.
        asking: held from a stat of remote files until its result is processed, so that stats are reported in order.
            Taken before ``lock``.
        served: the entries that are served from memory; the same dictionary after a start over.
        detailed: the paths whose stats have details.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.served: dict[str, Entry] = {}
        self.counts = Counts()
        self.detailed: set[str] = set()
        self.is_closed = False
        self.restored: tuple[Mapping[tuple[int, int, int], bytes], int] | None = None  # see Inodes.restore()
        self._make_shared()
        self._begin()
        _lives_to_reset_in_a_child().add(self)

    def _make_shared(self) -> None:
        """Make the parts that survive start_over(), but not a fork(2)."""
        self.lock = threading.Lock()
        self.asking = threading.Lock()
        self.changes = Changes(is_kept=self.settings.keep_changes)
        read = with_details(self.settings.root.beneath(read_stats), self.detailed)
        self.workers = RemoteMounts(read, self.settings.remote_timeout_s)

    def _begin(self) -> None:
        """Make engine, session and schedule, without any watch, descriptor or thread yet."""
        settings = self.settings
        work = None if settings.keep_changes else self._follow
        self.session = session = Session(
            settings.root, gather_s=settings.gather_s, cpu_budget=settings.cpu_budget, work=work
        )
        watches = Watches(session, settings.max_watches)
        files = Files(session, watches, self.changes, self.served, self.counts, self.detailed)
        if self.restored is not None:
            files.handles.known, files.handles.active_ns = self.restored
        self.engine = Engine(session, watches, files, self.changes, self.workers, self.counts)
        self.schedule = Schedule(self.engine, session, self.changes)

    def __enter__(self) -> Engine:
        if self.is_closed:
            raise CacheClosedError("the cache is closed")
        return self.engine

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, EXPECTED_ERRORS):
            self.throw_away()

    def limit(self, cpu_budget: float | None) -> None:
        """Change the share of one core that following changes may take."""
        self.settings = self.settings._replace(cpu_budget=cpu_budget)
        self.session.limit(cpu_budget)

    def start_over(self) -> Callable[[], object]:
        """Replace the parts; return the function that ends the old session.

        Call that without the lock, because the old session's thread may be waiting for it.
        """
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
        directories.recheck(directories.by_path.values())  # so that their owner watches and lists them again
        # end() joins the old thread, which may be waiting for the lock that is held here.
        threading.Thread(target=end, name="fstat-cache-end", daemon=True).start()

    def end(self) -> None:
        """End without starting over, when the cache is dropped or the interpreter exits."""
        self.served.clear()  # nothing keeps it up to date any more
        self.session.close()

    def start_over_in_child(self) -> None:
        """Start empty after fork(2): the child has no threads, and the inotify instance belongs to the parent."""
        self.session.close(in_child=True)
        self.engine.files.forget()
        self._make_shared()  # the old lock may be held by a thread that only the parent has
        self._begin()

    # -- driving it ---------------------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        """Whether following changes has ended."""
        return self.is_closed or self.session.has_failed

    def wait(self, session: Session | None = None) -> bool:
        """Sleep until there is something to do; return whether to continue.

        Args:
            session: the only session to wait in; None: the present one.

        Raises:
            OSError: there is no descriptor to sleep with.
        """
        with self.lock:
            session = session or self.session
            # The session may be closed without close(), when the interpreter exits.
            if self.has_ended or session.is_closed or session is not self.session:
                return False
            with self:
                try:
                    sleeper = session.open_sleeper()
                except OSError:
                    self.engine.fail()
                    raise
                due = self.schedule.before_sleep(sleeper.worked_s)
        sleeper.sleep(due)  # also returns False after start_over(), so its result does not count here
        return not (self.has_ended or self.session.is_closed)

    def advance(self) -> None:
        """Process pending events, and do what is due; nothing after the end."""
        with self.lock:
            if self.is_closed:  # by another thread, after wait() has returned
                return
            try:
                self.schedule.advance()
            except Exception:
                # Nothing keeps the entries up to date any more: every look-up is an os.stat from here on.
                self.engine.fail()
                raise
            except BaseException:
                self.throw_away()
                raise

    def _follow(self, session: Session) -> None:
        """Run the cache's own thread."""
        while self.wait(session):
            self.advance()


@functools.cache
def _lives_to_reset_in_a_child() -> weakref.WeakSet[Life]:
    """Return all lives; the first call registers the fork handler, which cannot be unregistered."""
    lives: weakref.WeakSet[Life] = weakref.WeakSet()

    def reset_all() -> None:
        for life in tuple(lives):
            life.start_over_in_child()

    os.register_at_fork(after_in_child=reset_all)
    return lives
