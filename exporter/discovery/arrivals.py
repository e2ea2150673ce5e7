"""How names came into watched directories: shows whether a file is new where no birth does, or a wrong one."""

from __future__ import annotations

import os
from collections.abc import Callable

from fstat_cache import DirectoryEvent, FileStats

MOST_ARRIVALS = 10_000
"""How many names are remembered until their files are stat'ed, and how many renames until their second event."""


class Arrivals:
    """Remembers names that were created, and names that a rename has reached, until their files are stat'ed.

    Args:
        real_name: gives where a name is, see :meth:`fstat_cache.paths.Root.real_name`.

    Attributes:
        names: path -> True if its file was created, False if it was renamed from an unknown place.
    """

    def __init__(self, real_name: Callable[[str], str]) -> None:
        self._real_name = real_name
        self.names: dict[str, bool] = {}
        self._moves: dict[int, bool] = {}  # the same of renames without their second event

    def note(self, event: DirectoryEvent) -> None:
        """Process an event; the order counts."""
        if event.name is None:
            self.forget()  # any events may be lost
            return
        path = os.path.join(event.directory, event.name)
        is_created = self.names.pop(path, None)
        if event.is_created:
            _put(self.names, path, True)
        elif event.moved_to:
            _put(self.names, path, self._moves.pop(event.moved_to, False))
        elif event.moved_from and is_created is not None:
            _put(self._moves, event.moved_from, is_created)

    def take(self, path: str, stats: FileStats | None) -> bool | None:
        """Return how the file of a stat came to a path, and forget it.

        A new name of an old file is created too, so a created name shows nothing if its file has another one.

        Args:
            path: the path.
            stats: the latest stat of it; None: no file is there any more.

        Returns:
            True if it was created, also if renamed since; False if it was renamed from an unknown place; else None.
        """
        is_created = self.names.pop(path, None)
        if stats is None:
            return None
        if is_created:
            try:
                status = os.lstat(self._real_name(path))
            except OSError:
                return None
            # A symbolic link has another inode than its file.
            if status.st_nlink > 1 or (status.st_dev, status.st_ino) != (stats.device, stats.inode):
                return None
        return is_created

    def forget(self) -> None:
        """Forget everything."""
        self.names.clear()
        self._moves.clear()


def _put(into: dict[str, bool] | dict[int, bool], key: str | int, is_created: bool) -> None:
    into[key] = is_created  # type: ignore[index]
    if len(into) > MOST_ARRIVALS:
        del into[next(iter(into))]  # type: ignore[arg-type]
