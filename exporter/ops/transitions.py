"""Transitions: finds which faults have begun and ended, so that a lasting fault is logged once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.ops.log import fields


@dataclass(frozen=True, slots=True)
class Transition:
    """What has begun and ended since the update before, in no particular order."""

    begun: frozenset[str]
    ended: frozenset[str]


class Transitions:
    """Remembers what was present at the latest update. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: frozenset[str] = frozenset()

    def update(self, present: Iterable[str]) -> Transition:
        """Set what is present now; return what has begun and ended."""
        now = frozenset(present)
        with self._lock:
            before, self._present = self._present, now
        return Transition(now - before, before - now)

    def log_faults(self, log: logging.Logger, faults: Mapping[str, OSError], begun: str, ended: str) -> None:
        """Log which faults have begun and which have ended, in a line each.

        Args:
            log: the logger.
            faults: path -> its error now.
            begun, ended: the messages; the count and an example are added.
        """
        changed = self.update(faults)
        if changed.begun:
            example = min(changed.begun)
            log.warning(begun, extra=fields(count=len(changed.begun), example=example, error=faults[example].strerror))
        if changed.ended:
            log.info(ended, extra=fields(count=len(changed.ended), example=min(changed.ended)))
