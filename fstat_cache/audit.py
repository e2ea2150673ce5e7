"""The rotating self-check: finds changes that the kernel does not report."""

from __future__ import annotations

import time
from collections.abc import Iterator

from fstat_cache.files import Files
from fstat_cache.life import Life
from fstat_cache.states import AUDIT, BELIEVED, EVENTS, GONE, REFUSED, TOUCHED
from fstat_cache.stats import FileStats
from fstat_cache.watches import Entry

IN_FLIGHT_S = 0.005
"""How long an audit waits for the event of a write(2) that may be in progress."""
LONG_WRITE_S = 10.0
"""How long growth without an event is no mismatch: a write(2) may be in progress, and its event comes at its end."""

Suspect = tuple[Entry, FileStats]
"""An entry that a fresh stat contradicts, and its stats before."""


class Audit:
    """Compares entries with a fresh stat, in rotation.

    Args:
        life: has the entries.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._to_check: list[str] = []

    def run(self, files: int | None) -> int:
        """Compare entries with a fresh stat; return how many changed without an event.

        A file that differs may have an event that is still queued, or be in the middle of a write(2). It is only a
        suspect until its event has had time to come.

        Args:
            files: how many entries; None: all.
        """
        life = self._life
        with life.lock, life:
            life.schedule.take_in(life.session.news())
            suspects = self._unexplained(list(self._differing(files)))
        # Wait for the events of writes in progress, without the lock: only the caller waits.
        for _ in range(2):
            if suspects:
                time.sleep(IN_FLIGHT_S)
                with life.lock, life:
                    suspects = self._unexplained(suspects)
        with life.lock, life as engine:
            return self._poll_mismatches(engine.files, self._unexplained(suspects))

    def _unexplained(self, suspects: list[Suspect]) -> list[Suspect]:
        """Process pending events; return the suspects that had none."""
        self._life.schedule.take_in(self._life.session.news())
        return [(entry, was) for entry, was in suspects if entry.stats is was and entry.state in BELIEVED]

    def _differing(self, files: int | None) -> Iterator[Suspect]:
        served, counts = self._life.served, self._life.counts
        if files is None or not self._to_check:
            self._to_check = list(served)
        for _ in range(len(self._to_check) if files is None else min(files, len(self._to_check))):
            entry = served.get(self._to_check.pop())
            if entry is None or entry.state is not EVENTS:
                continue
            counts.audit_checks += 1
            try:
                stats = self._life.engine.files.read_stats(entry.path, entry.stats)
                if stats is entry.stats:
                    continue
                if stats is not None and stats != entry.stats and stats.equals_without_details(entry.stats):
                    self._life.engine.files.take_over(entry, stats)  # no mismatch: blocks change without an event
                else:
                    yield entry, entry.stats
            except OSError:
                yield entry, entry.stats

    def _poll_mismatches(self, files: Files, suspects: list[Suspect]) -> int:
        """Stat suspects again, and poll from now on those that changed without an event; return how many."""
        now = time.monotonic()
        mismatches = [entry for entry, since in files.grown.values() if now - since >= LONG_WRITE_S]
        for entry, was in suspects:
            files.on(entry, TOUCHED)
            if entry.state is not GONE and entry.stats.inode == was.inode and entry.stats.size > was.size:
                files.grown.setdefault(entry.path, (entry, now))
            else:
                mismatches.append(entry)
        for entry in mismatches:
            files.grown.pop(entry.path, None)
            self._life.counts.audit_mismatches += 1
            if entry.state in BELIEVED:
                files.on(entry, REFUSED[AUDIT])
        return len(mismatches)
