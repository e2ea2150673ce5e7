"""The known directories, and their watches."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple, TypeVar

from exporter.matching.automaton import Directory, Match
from fstat_cache import AUTOFS, FILESYSTEM, REMOTE, FStatCache, file_time_ns, is_settled

T = TypeVar("T")


def identity_of(status: os.stat_result) -> int:
    """Return the device and inode number as one number."""
    return status.st_ino << 32 | status.st_dev


class Place(NamedTuple):
    """A name in a directory, by the path on which the kernel reaches it."""

    directory: str
    name: str


class Folder:
    """The state of one known directory."""

    __slots__ = ("changed_ns", "files", "folders", "identity", "is_listed", "is_watched", "path", "reason", "state")

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: Directory | None = None  # what can match in it; None: only single names matter, see Folders
        self.is_watched = False  # True also after a watch was refused
        self.reason: str | None = None  # why it cannot be watched
        self.identity: int | None = None  # of the listed directory: device and inode number
        self.changed_ns = 0  # its ctime at the latest listing; 0: not known, so list it again
        self.is_listed = False  # whether it was listed once with its present state
        self.files: dict[str, Match] = {}
        self.folders: dict[str, None] = {}

    def forget_listing(self) -> None:
        """Have it listed again, as if for the first time."""
        self.identity, self.changed_ns, self.is_listed = None, 0, False

    def match(self, name: str) -> Match | None:
        """Return the match of a file with this name in it."""
        return None if self.state is None else self.state.match(name)

    def compare(self, real_path: str) -> tuple[bool, bool]:
        """Stat a directory before it is listed.

        Args:
            real_path: where it is beneath the agent's own root.

        Returns:
            Whether its path leads to another directory than the listed one; and whether names may have come or gone
            since it was listed. A deleted directory's inode number may be reused unnoticed. That is harmless, because
            all files in it were deleted before, with an event.
        """
        status = os.stat(real_path)
        before, self.identity = self.identity, identity_of(status)
        known_ns, self.changed_ns = self.changed_ns, 0
        if self.identity != before:
            known_ns = 0
        changed_ns = status.st_ctime_ns
        if self.reason != FILESYSTEM and is_settled(changed_ns, file_time_ns()):
            self.changed_ns = changed_ns
        return self.identity != before, not known_ns or self.changed_ns != known_ns


class ByName(dict[str, dict[str, T]]):
    """Directory -> name in it -> a value. Directories without names, which are nearly all, have no entry."""

    def put(self, directory: str, name: str, value: T) -> None:
        """Set the value of a name."""
        self.setdefault(directory, {})[name] = value

    def take(self, directory: str, name: str) -> T | None:
        """Remove a name and return its value, if it has one."""
        names = self.get(directory, {})
        value = names.pop(name, None)
        if not names:
            self.pop(directory, None)
        return value


class Folders(dict[str, Folder]):
    """The known directories by path: those in which patterns can match, and those with single names of interest.

    Args:
        cache: watches directories.

    Attributes:
        crossed: name on the way of symbolic links -> the links' paths.
        followed: name of a renamed file that no pattern matches -> the path it had, "" if unknown.
        unwatchable: directories that cannot be watched, ordered by next check.
    """

    def __init__(self, cache: FStatCache) -> None:
        super().__init__()
        self.crossed: ByName[set[str]] = ByName()
        self.followed: ByName[str] = ByName()
        self.unwatchable: dict[str, None] = {}
        self._cache = cache

    def make(self, path: str) -> Folder:
        """Return a directory; add it if it is new."""
        folder = self.get(path)
        if folder is None:
            folder = self[path] = Folder(path)
        return folder

    def watch(self, folder: Folder) -> str | None:
        """Watch a directory; return and raise as FStatCache.watch_directory does."""
        reason = folder.reason = self._cache.watch_directory(folder.path)
        folder.is_watched = True
        if reason in (None, REMOTE, AUTOFS):
            self.unwatchable.pop(folder.path, None)
        else:
            self.unwatchable[folder.path] = None
        return reason

    def watch_names(self, folder: Folder) -> None:
        """Watch a directory for single names in it, if it exists."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.watch(folder)

    def is_remote(self, path: str) -> bool:
        """Return whether a stat of a name in a directory, known or not, would access a remote filesystem."""
        try:
            return self._probe(path) in (REMOTE, AUTOFS)
        except OSError:
            return False  # no directory is there, so nothing remote

    def is_directory(self, path: str) -> bool:
        """Return whether a directory is there, known or not; False on a remote filesystem, without a call on it."""
        try:
            reason = self._probe(path)
            # What cannot be watched may be anything.
            return reason is None or (reason not in (REMOTE, AUTOFS) and os.path.isdir(self._cache.root.real(path)))
        except OSError:
            return False

    def _probe(self, path: str) -> str | None:
        """Do as :meth:`watch` does, and leave the directory unwatched if it is not known."""
        reason = self._cache.watch_directory(path)
        folder = self.get(path)
        if folder is None:
            self._cache.unwatch_directory(path)
        else:
            folder.is_watched = True
        return reason

    def unwatch(self, folder: Folder) -> None:
        """Stop watching a directory that no pattern needs, unless single names in it do."""
        if folder.path not in self.crossed and folder.path not in self.followed:
            folder.is_watched = False
            self.unwatchable.pop(folder.path, None)
            self._cache.unwatch_directory(folder.path)

    def forget_if_unused(self, folder: Folder) -> None:
        """Forget a directory in which nothing is of interest any more."""
        path = folder.path
        is_used = folder.state is not None or path in self.crossed or path in self.followed
        if not is_used and path in self:
            del self[path]
            self.unwatch(folder)
