"""Tells what has begun and what has ended, so that a lasting fault is logged once."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transition:
    """What is different from the time before, in no particular order."""

    begun: frozenset[str]
    ended: frozenset[str]


class Transitions:
    """Remembers what was the case last time. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: frozenset[str] = frozenset()

    def update(self, present: Iterable[str]) -> Transition:
        """Take what is the case now; return what differs from the time before."""
        now = frozenset(present)
        with self._lock:
            before, self._present = self._present, now
        return Transition(now - before, before - now)
