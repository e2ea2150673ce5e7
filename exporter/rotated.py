"""The rotated files: those that were renamed, and that no pattern matches any more."""

from __future__ import annotations

import time

from exporter.ledger.facts import Facts

QUIET_S = 600.0
"""How long a rotated file is followed after its last growth."""


class RotatedFiles(dict[str, tuple[int, float]]):
    """Path of a rotated file -> its size, and since when it has this size, by the monotonic clock in seconds."""

    def begin(self, name: str, size: int) -> None:
        """Note a file; one that is known keeps its time."""
        self.setdefault(name, (size, time.monotonic()))

    def quiet(self, facts: Facts) -> list[str]:
        """Return those that have not grown for :data:`QUIET_S`."""
        now = time.monotonic()
        for name, (size, _) in self.items():
            inode = facts.at(name)
            if inode is not None and inode.size != size:
                self[name] = inode.size, now
        return [name for name, (_, since) in self.items() if now - since >= QUIET_S]
