"""What the cache has found, as values, in the order of the stats, until somebody takes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from fstat_cache.stats import FileStats

MOST_PENDING = 10_000
"""How many directory events are kept; beyond (and two a directory), their directories are to be listed instead."""


class FileChange(NamedTuple):
    """What a stat of a path found, changed or not.

    Attributes:
        path: the path.
        stats: those of the regular file there; None: there is none.
    """

    path: str
    stats: FileStats | None


class DirectoryEvent(NamedTuple):
    """A place to list or stat again.

    Attributes:
        directory: the path of a watched directory.
        name: the name in it that came, went, or was replaced; None when it may be any, or the directory itself.
        is_directory: whether it is the name of a directory. A symbolic link to one is none.
        moved_from: not 0 when the name was renamed: the same number as in ``moved_to`` of the event for the new name.
        moved_to: not 0 when the name is the new one of a rename.
    """

    directory: str
    name: str | None
    is_directory: bool = False
    moved_from: int = 0
    moved_to: int = 0


Change = FileChange | DirectoryEvent


class Changes:
    """A list of changes. Takes no lock.

    Args:
        is_kept: whether anybody takes them; else none are kept.
    """

    def __init__(self, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self._changes: list[Change] = []
        self._directory_events = 0

    def __bool__(self) -> bool:
        return bool(self._changes)

    def add_stat(self, path: str, stats: FileStats | None) -> None:
        """Add what a stat has found."""
        if self.is_kept:
            self._changes.append(FileChange(path, stats))

    def add_events(self, events: Sequence[DirectoryEvent], directories: Collection[str]) -> None:
        """Add what happened in directories.

        Args:
            events: in order.
            directories: those that are watched.
        """
        if not self.is_kept:
            return
        self._changes += events
        self._directory_events += len(events)
        if self._directory_events > max(MOST_PENDING, 2 * len(directories)):
            paths = dict.fromkeys(each.directory for each in self._changes if isinstance(each, DirectoryEvent))
            listed = [DirectoryEvent(path, None) for path in paths if path in directories]
            self._changes = [each for each in self._changes if isinstance(each, FileChange)]
            self._changes += listed
            self._directory_events = len(listed)

    def take(self) -> list[Change]:
        """Give the changes since the last call."""
        changes, self._changes, self._directory_events = self._changes, [], 0
        return changes
