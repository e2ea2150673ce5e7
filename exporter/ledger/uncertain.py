"""How often bytes may have gone uncounted, or counted twice: by group and reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

TRUNCATED = "truncated"
OVERFLOW = "overflow"
DELETED = "deleted"
FLOOD = "flood"
UNWATCHED = "unwatched"
ABSENCE = "absence"

REASONS = (TRUNCATED, OVERFLOW, DELETED, FLOOD, UNWATCHED, ABSENCE)
"""Why bytes may have gone uncounted.

- truncated: a file was truncated within a second after it grew, so what was written last may have gone with it.
- overflow: the kernel dropped events.
- deleted: a file was written after the latest stat, and gone with its last opener before the next one.
- flood: a directory had too many events, so names in it came and went unseen.
- unwatched: a file was written where nothing reads it, after it was moved out of the watched directories; or a deleted
  one was open when its watch was given up.
- absence: a file was deleted, moved away or truncated while the agent did not run.
"""


class Uncertain(Counter[tuple[int, str]]):
    """Counts occurrences by realm and reason. The caller holds the facts' lock."""

    def note(self, realms: Iterable[int], reason: str) -> None:
        """Count one occurrence, once for each realm that it concerns."""
        self.update((realm, reason) for realm in set(realms))
