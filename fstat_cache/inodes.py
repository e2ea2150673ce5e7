"""Finds inodes that no tracked path leads to: by their handles, or through the processes that have them open."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping

from fstat_cache.life import Life
from fstat_cache.stats import FileStats


class Inodes:
    """Finds inodes whatever their names are; what is read of them becomes changes for :meth:`FStatCache.take`.

    Those that were written within ten minutes, or are deleted and still open, are followed from then on.

    Args:
        life: has the nameless inodes.
    """

    def __init__(self, life: Life) -> None:
        self._life = life

    def restore(self, handles: Mapping[tuple[int, int, int], bytes], since_ns: int) -> None:
        """Use handles from before a restart.

        Args:
            handles: identity of an inode -> its handle; may change later.
            since_ns: files written since then get their handles when they are tracked; by the clock of files.
        """
        self._life.restored = handles, since_ns
        files = self._life.engine.files
        files.handles.known, files.handles.active_ns = self._life.restored

    def check(self) -> None:
        """Read again all that are followed, and stop following those that are idle.

        Raises:
            CacheClosedError: the cache is closed.
        """
        with self._life.lock, self._life as engine:
            engine.open()
            followed = tuple(engine.files.nameless)
        for wd in followed:
            with self._life.lock, self._life as engine:  # once for each, because look-ups wait for it
                engine.files.nameless.check(wd)

    def find(self, known: Iterable[tuple[FileStats, bytes, str]]) -> list[bool]:
        """Read inodes by their handles, wherever their names went.

        Args:
            known: of each inode the known stats, the handle, and the directory in which it was seen last.

        Returns:
            Whether each was found; nothing if this process may not use handles.

        Raises:
            CacheClosedError: the cache is closed.
        """
        found = []
        for each in known:
            with self._life.lock, self._life as engine:  # once for each, as above
                engine.open()
                if engine.files.handles.are_refused:
                    return []
                found.append(engine.files.nameless.find(*each))
        return found

    def open(self, handle: bytes, directory: str, device: int) -> int:
        """Open an inode by its handle, without access to its content (O_PATH); return the descriptor.

        Args:
            handle: of the inode.
            directory: in which it was seen last.
            device: the inode's.

        Raises:
            CacheClosedError: the cache is closed.
            OSError: it cannot be opened; ESTALE: the inode is gone.
        """
        with self._life.lock, self._life as engine:
            engine.open()
            return engine.files.handles.open(handle, directory, device)

    def find_deleted(self, paths: Iterable[str]) -> list[tuple[str, FileStats]]:
        """Find deleted files that had these paths and are still open, though nobody knows their handles.

        It reads the links of all descriptors that this process may see, 10 ms for some thousands of them.

        Args:
            paths: absolute; other files may have them now.

        Returns:
            The path and the stats of each.

        Raises:
            CacheClosedError: the cache is closed.
        """
        targets = {}
        for path in paths:
            with contextlib.suppress(OSError):  # its directory is gone
                directory, name = os.path.split(self._life.settings.root.real_name(path))
                targets[os.path.join(os.path.realpath(directory), name) + " (deleted)"] = path
        found = {}
        for link, target in _links_to(targets):
            path = targets[target]
            try:
                fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # it was closed, or its process ended
            try:
                if os.fstat(fd).st_nlink == 0:
                    with self._life.lock, self._life as engine:
                        stats = engine.files.nameless.follow(fd, os.path.dirname(path))
                    found[stats.identity] = path, stats
            finally:
                os.close(fd)
        return list(found.values())


def _links_to(targets: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the links in /proc that lead to some open files, and their targets, proc_pid_fd(5)."""
    for process in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            descriptors = os.listdir(f"/proc/{process}/fd") if process.isdecimal() else ()
        except OSError:
            continue  # another user's, or it has ended
        for descriptor in descriptors:
            link = f"/proc/{process}/fd/{descriptor}"
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target in targets:
                yield link, target
