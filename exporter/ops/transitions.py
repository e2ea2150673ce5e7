"""Tells what has begun and what has ended, so that a lasting fault is logged once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.ops.log import fields


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

    def log_faults(self, log: logging.Logger, faults: Mapping[str, OSError], begun: str, ended: str) -> None:
        """Log what has begun and what has ended, a line each.

        Args:
            log: where to.
            faults: path -> what is wrong with it now.
            begun, ended: what to say; the count and an example are added.
        """
        changed = self.update(faults)
        if changed.begun:
            example = min(changed.begun)
            log.warning(begun, extra=fields(count=len(changed.begun), example=example, error=faults[example].strerror))
        if changed.ended:
            log.info(ended, extra=fields(count=len(changed.ended), example=min(changed.ended)))
