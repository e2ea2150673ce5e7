"""How names came into watched directories: shows which files are new where no birth does, and which went unseen."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

from fstat_cache import DirectoryEvent, FileStats

T = TypeVar("T")

MOST_ARRIVALS = 10_000
"""How many names are remembered until their files are stat'ed."""
MOST_MOVES = 10_000
"""How many renames are remembered until the event of the new name."""


class Moves(dict[int, dict[str, T]]):
    """Pairs the two events of each rename: its number -> directory of the old name -> a value of the file.

    It has both events more than once if several watched paths lead to a directory.
    """

    def __init__(self) -> None:
        super().__init__()
        self._latest: tuple[int, dict[str, T]] = 0, {}  # the rename that was paired last, because more events may come

    def put(self, cookie: int, directory: str, value: T) -> None:
        """Set the value of a file that was renamed away from a directory."""
        self.setdefault(cookie, {})[directory] = value
        if len(self) > MOST_MOVES:
            del self[next(iter(self))]

    def pair(self, cookie: int, directory: str) -> T | None:
        """Return the value of a file that was renamed to a directory: of the same, or of the one with the most similar
        path. None if there is none.
        """
        if cookie in self:
            self._latest = cookie, self.pop(cookie)
        latest, values = self._latest
        if cookie != latest:
            return None
        return values[max(values, key=lambda old: (old == directory, len(os.path.commonpath((old, directory)))))]


class Arrivals:
    """Remembers names that were created, and names that a rename has reached, until their files are stat'ed.

    Args:
        real_name: gives where a name is, see :meth:`fstat_cache.paths.Root.real_name`.

    Attributes:
        names: path -> the path at which its file was created; "" if it was renamed from an unknown place.
    """

    def __init__(self, real_name: Callable[[str], str]) -> None:
        self._real_name = real_name
        self.names: dict[str, str] = {}
        self._moves = Moves[str]()  # the same of renames without their second event; none from unknown places
        self._missed: list[tuple[str, bool]] = []
        self._gone: list[str] = []  # names whose files were gone at their stat

    def note(self, event: DirectoryEvent) -> None:
        """Process an event; the order counts."""
        if event.name is None:
            self.forget()  # any events may be lost
        if event.name is None or event.is_directory:
            return
        path = os.path.join(event.directory, event.name)
        created_at = self.names.pop(path, "")
        if event.moved_from:
            if created_at:
                self._moves.put(event.moved_from, event.directory, created_at)
            return
        if created_at:  # deleted, or replaced by a rename
            self._missed.append((created_at, not event.moved_to and created_at == path))
        if event.is_created or event.moved_to:
            self.names[path] = path if event.is_created else self._moves.pair(event.moved_to, event.directory) or ""
            if len(self.names) > MOST_ARRIVALS:
                del self.names[next(iter(self.names))]

    def take(self, path: str, stats: FileStats | None) -> bool | None:
        """Return how the file of a stat came to a path, and forget it, unless it has gone since.

        A new name of an old file is created too, so a created name shows nothing if its file has another one.

        Args:
            path: the path.
            stats: the latest stat of it; None: no file is there any more.

        Returns:
            True if it was created, also if renamed since; False if it was renamed from an unknown place; else None.
        """
        status = None
        with contextlib.suppress(OSError):
            status = os.lstat(self._real_name(path))
        if stats is None and status is None:
            self._gone.append(path)  # the event that tells how it went is pending
            return None
        created_at = self.names.pop(path, None)
        if stats is None or created_at is None:
            return None
        # A symbolic link has another inode than its file.
        if created_at and (status is None or status.st_nlink > 1 or status[1:3] != (stats.inode, stats.device)):
            return None
        return bool(created_at)

    def take_missed(self) -> list[tuple[str, bool]]:
        """Return the files that went before their first stat, and forget them. No event may be pending.

        Returns:
            The path at which each was created, and whether it was deleted there, so that a process may still have it
            open; not replaced or moved away.
        """
        missed = self._missed + [(created_at, False) for move in self._moves.values() for created_at in move.values()]
        for path in self._gone:  # without an event: its directory was renamed
            self.names.pop(path, None)
        self._missed, self._gone = [], []
        self._moves.clear()
        return missed

    def forget(self) -> None:
        """Forget the names."""
        self.names.clear()
