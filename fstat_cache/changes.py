"""Changes as values: what stats have found and directories have reported, in order, until the owner takes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from fstat_cache.stats import FileStats

MOST_PENDING = 10_000
"""How many directory events are kept, or two a directory if that is more; beyond, whole directories are reported."""


class FileChange(NamedTuple):
    """The result of a stat, changed or not.

    Attributes:
        path: the path.
        stats: of the regular file there; None: there is none.
    """

    path: str
    stats: FileStats | None


class InodeChange(NamedTuple):
    """What is known of an inode by itself, whatever its names are.

    Attributes:
        stats: of the latest read.
        handle: its file handle, which :meth:`Inodes.find` reads after a restart; None: none, or as before.
        links: how many names it has, 0 if it is deleted and still open; None: unknown.
        disk_bytes: how much of the disk it takes.
        is_gone: whether it does not exist any more.
        is_exact: False if it was written after its latest read and cannot be read any more, or if it is deleted, open
            and not watched any more.
        is_read: False if it cannot be read: the stats may be older than others of the same inode.
    """

    stats: FileStats
    handle: bytes | None = None
    links: int | None = None
    disk_bytes: int = 0
    is_gone: bool = False
    is_exact: bool = True
    is_read: bool = True


class EventsLost(NamedTuple):
    """The kernel dropped events, or a directory had more than were processed; what they told is found by listings.

    Attributes:
        directory: the flooded directory; None: an overflow, which concerns everything.
    """

    directory: str | None


class DirectoryEvent(NamedTuple):
    """A place to list or stat again.

    Attributes:
        directory: the path of a watched directory.
        name: the name in it that came, went, or was replaced; None: any name, or the directory itself.
        is_directory: whether the name is a directory's. A symbolic link to a directory is none.
        is_created: whether the name was made by open(2), link(2) and their kin, not by a rename.
        moved_from: the rename's number when this is its old name, equal to ``moved_to`` of the new name; else 0.
        moved_to: the rename's number when this is its new name; else 0.
        since_ns: without a name: names may have come and gone unseen since then, by the clock of files; 0: none has.
    """

    directory: str
    name: str | None
    is_directory: bool = False
    moved_from: int = 0
    moved_to: int = 0
    since_ns: int = 0
    is_created: bool = False


Change = FileChange | DirectoryEvent | InodeChange | EventsLost


class Changes:
    """The changes not taken yet. Takes no lock.

    Args:
        is_kept: whether changes are kept at all.
    """

    def __init__(self, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self._changes: list[Change] = []
        self._directory_events = 0
        self._as_of_ns = 0  # every directory event until then was taken

    def __bool__(self) -> bool:
        return bool(self._changes)

    def add_stat(self, path: str, stats: FileStats | None) -> None:
        """Add the result of a stat."""
        if self.is_kept:
            self._changes.append(FileChange(path, stats))

    def add(self, change: Change) -> None:
        """Add a change as it is; see :meth:`add_events` for many events of directories."""
        if self.is_kept:
            self._changes.append(change)

    def add_events(self, events: Sequence[DirectoryEvent], directories: Collection[str], as_of_ns: int = 0) -> None:
        """Add events of directories.

        Args:
            events: in order.
            directories: the paths of the watched ones.
            as_of_ns: when there were no more events than those before these, by the clock of files.
        """
        if not self.is_kept:
            return
        if not self._directory_events:
            self._as_of_ns = as_of_ns
        self._changes += events
        self._directory_events += len(events)
        if self._directory_events > max(MOST_PENDING, 2 * len(directories)):
            dropped = [each for each in self._changes if isinstance(each, DirectoryEvent)]
            paths = dict.fromkeys(each.directory for each in dropped if each.directory in directories)
            listed = [DirectoryEvent(path, None, since_ns=self._as_of_ns) for path in paths]
            # A listing finds all that was created, but not what is gone again.
            gone = (EventsLost(each.directory) for each in dropped if each.name is not None and not each.is_created)
            kept = [each for each in self._changes if not isinstance(each, DirectoryEvent | EventsLost)]
            lost = [each for each in self._changes if isinstance(each, EventsLost)]
            self._changes = [*kept, *dict.fromkeys((*lost, *gone)), *listed]
            self._directory_events = len(listed)

    def take(self) -> list[Change]:
        """Return and forget the changes since the last call."""
        changes, self._changes, self._directory_events = self._changes, [], 0
        return changes
