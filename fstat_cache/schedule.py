"""When to do what no event asks for: stat sampled files, list sampled directories, recover from an overflow."""

from __future__ import annotations

import math
import threading
import time

from fstat_cache.changes import Changes
from fstat_cache.engine import Engine
from fstat_cache.session import Session
from fstat_cache.states import DIRECTORIES, FILES

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

    __slots__ = (
        "_changes",
        "_engine",
        "_has_sampled_directories",
        "_recovery",
        "_sample",
        "_sample_directories",
        "_session",
        "_sleeps_until",
        "_thread_id",
    )

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
        was_cool = not engine.sampled
        engine.take_in(news)
        if was_cool and engine.sampled:  # which have just been stat'ed
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
        if engine.doubtful:
            engine.recover(None if cpu_budget is None else RECOVERED_AT_ONCE)
            spent_s = time.thread_time() - began_s
            self._recovery = now + (0 if cpu_budget is None else spent_s / cpu_budget)
        if engine.sampled and now >= self._sample:
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
        due = self._recovery if engine.doubtful else math.inf
        if engine.sampled:
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
