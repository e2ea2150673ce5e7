"""The directories that are known, which of them are watched, and why."""

from __future__ import annotations

import contextlib
import os
from typing import NamedTuple, TypeVar

from exporter.matching.automaton import Directory, Match
from fstat_cache import AUTOFS, FILESYSTEM, REMOTE, FStatCache, file_time_ns, is_settled

T = TypeVar("T")


class Place(NamedTuple):
    """A name in a directory, and how the kernel comes by it."""

    directory: str
    name: str


class Folder:
    """What is known of one directory."""

    __slots__ = ("changed_ns", "files", "folders", "identity", "is_listed", "is_watched", "path", "reason", "state")

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: Directory | None = None  # None: only single names in it matter, see Folders
        self.is_watched = False  # or tried to
        self.reason: str | None = None  # why it cannot be watched
        self.identity: int | None = None  # which directory was listed: device and inode number
        self.changed_ns = 0  # since when nothing has come or gone in it, if known
        self.is_listed = False  # whether all that its state can match was looked for once
        self.files: dict[str, Match] = {}
        self.folders: dict[str, None] = {}

    def match(self, name: str) -> Match | None:
        """Return what matches a file of this name in it."""
        return None if self.state is None else self.state.match(name)

    def compare(self) -> tuple[bool, bool]:
        """Stat a directory that is about to be listed.

        Returns:
            Whether its path may lead to another directory than the one that was listed, with the same names in it.
            (The number of one that was deleted may be given again: then all that was in it had gone before, with an
            event.) And whether any name may have come or gone since it was listed.
        """
        status = os.stat(self.path)
        before, self.identity = self.identity, status.st_ino << 32 | status.st_dev
        known_ns, self.changed_ns = self.changed_ns, 0
        if self.identity != before:
            known_ns = 0
        changed_ns = status.st_ctime_ns
        if self.reason != FILESYSTEM and is_settled(changed_ns, file_time_ns()):
            self.changed_ns = changed_ns
        return self.identity != before, not known_ns or self.changed_ns != known_ns


class ByName(dict[str, dict[str, T]]):
    """Directory -> name in it -> a value. A directory without names is not in it, as nearly all are."""

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
    """The directories that are known, by path: those in which patterns can match, and those of single names.

    Args:
        cache: watches directories.

    Attributes:
        crossed: names that symbolic links lead over -> the links' paths.
        followed: names of renamed files that match no pattern -> the paths they had, "" if not known.
        unwatchable: directories that cannot be watched, the one first that is listed next.
    """

    def __init__(self, cache: FStatCache) -> None:
        super().__init__()
        self.crossed: ByName[set[str]] = ByName()
        self.followed: ByName[str] = ByName()
        self.unwatchable: dict[str, None] = {}
        self._cache = cache

    def make(self, path: str) -> Folder:
        """Return a directory, which may be new."""
        folder = self.get(path)
        if folder is None:
            folder = self[path] = Folder(path)
        return folder

    def watch(self, folder: Folder) -> str | None:
        """Watch a directory, or return why not. Raises what FStatCache.watch_directory does."""
        reason = folder.reason = self._cache.watch_directory(folder.path)
        folder.is_watched = True
        if reason in (None, REMOTE, AUTOFS):
            self.unwatchable.pop(folder.path, None)
        else:
            self.unwatchable[folder.path] = None
        return reason

    def watch_names(self, folder: Folder) -> None:
        """Watch a directory for single names in it, if it is there."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self.watch(folder)

    def is_remote(self, path: str) -> bool:
        """Whether to stat a name in a directory, known or not, would ask a remote filesystem."""
        try:
            return self._probe(path) in (REMOTE, AUTOFS)
        except OSError:
            return False  # nothing is there, which is known without asking

    def is_directory(self, path: str) -> bool:
        """Whether there is a directory, known or not; False on a remote filesystem, which is not asked."""
        try:
            return self._probe(path) not in (REMOTE, AUTOFS)
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
        """Watch a directory no longer in which no pattern needs it, unless single names do."""
        if folder.path not in self.crossed and folder.path not in self.followed:
            folder.is_watched = False
            self.unwatchable.pop(folder.path, None)
            self._cache.unwatch_directory(folder.path)

    def forget_if_unused(self, folder: Folder) -> None:
        """Forget a directory in which nothing matters any more."""
        path = folder.path
        is_used = folder.state is not None or path in self.crossed or path in self.followed
        if not is_used and path in self:
            del self[path]
            self.unwatch(folder)
