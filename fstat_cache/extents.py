"""The data of a file between two offsets, without the holes and without what is only allocated (lseek(2))."""

from __future__ import annotations

import errno
import functools
import os
import resource
from typing import NamedTuple

from fstat_cache.life import Life
from fstat_cache.mounts import Mount
from fstat_cache.stats import FileStats, StrPath, read_stats

MOST_EXTENTS = 1000
"""How many extents are searched for holes; what follows them counts as data."""
MOST_ZEROS_BYTES = 1 << 21
"""How far zeros before a hole are skipped: a huge page. Pages that were cut still count as data after fallocate(2)."""
_CHUNK_BYTES = 1 << 16
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Data(NamedTuple):
    """The data between two offsets of a file.

    Attributes:
        size: bytes.
        end: the offset where the last of it ends; the first of the two offsets if there is none.
    """

    size: int
    end: int


class Extents:
    """Finds data by SEEK_DATA and SEEK_HOLE.

    Args:
        life: of the cache; it knows which filesystems may hang.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._mounts = life.engine.mounts
        self._find_data = life.settings.root.beneath(find_data)
        self._read_bytes = life.settings.root.beneath(read_bytes)

    def find(self, path: str, stats: FileStats, begin: int, *, is_resumed: bool) -> Data | None:
        """Find the data between an offset and the end of a file. Holds no lock while it reads.

        A worker asks filesystems that may hang, and only if `is_resumed`, because each question is a network request.
        ZFS is asked only then as well, because it writes the file's pending data to the disk first.

        Args:
            path: the file; absolute.
            stats: of its latest stat; the data ends at their size.
            begin: the offset.
            is_resumed: whether a hole may end within the block at `begin`, see :func:`find_data`.

        Returns:
            The data; None if it is unknown, because the file cannot be opened for reading, has become smaller, is
            another inode, or its filesystem cannot tell or does not answer.
        """
        life = self._life
        mount = self.remote_of(path)
        find = functools.partial(self._find_data, path, stats, begin, is_resumed=is_resumed)
        try:
            if mount is None:
                return find() if is_resumed or stats.device not in self._mounts.syncing_devices else None
            return life.workers.call(mount, find) if is_resumed else None
        except OSError:
            return None

    def remote_of(self, path: str) -> Mount | None:
        """Return the remote filesystem that a path leads to; None: it is a local file."""
        life = self._life
        with life.lock:
            if not life.is_closed:  # then the mounts are unknown
                life.engine.open()
                self._mounts = life.engine.mounts
            return self._mounts.remote_of(path)

    def read(self, path: str, identity: tuple[int, int, int], begin: int, size: int) -> bytes | None:
        """Read some bytes of a file on a filesystem that does not hang. Holds no lock meanwhile.

        Args:
            path: the file; absolute.
            identity: of its inode, as in its stats.
            begin: the offset of the first byte.
            size: how many bytes.

        Returns:
            The bytes, fewer at the end of the file; None if the file cannot be opened for reading, is another inode, or
            is on a remote filesystem.
        """
        if self._mounts.remote_of(path) is not None:
            return None
        try:
            return self._read_bytes(path, identity, begin, size)
        except OSError:
            return None


def find_data(path: StrPath, stats: FileStats, begin: int, *, is_resumed: bool) -> Data:
    """Find the data between an offset and the end of a file.

    A filesystem knows holes by blocks or pages. So zeros next to a hole do not count: behind it up to the end of their
    block, before it :data:`MOST_ZEROS_BYTES`.

    Args:
        path: the file.
        stats: of its latest stat.
        begin: the offset.
        is_resumed: whether a hole may end within the block at `begin`: zeros there do not count.

    Raises:
        OSError: the data is unknown.
    """
    fd = open_unnoticed(path)
    try:
        size = stats.size
        if not is_resumed and os.lseek(fd, begin, os.SEEK_HOLE) >= size:
            return Data(size - begin, size)  # the most frequent case; the same as for any other inode
        data = _scan(fd, begin, size, is_resumed=is_resumed)
        seen = read_stats(f"/proc/self/fd/{fd}")  # last, because a file cut meanwhile also seems to end in a hole
        # On overlayfs the identity of the stats has no birth.
        if seen is None or stats.identity not in (seen.identity, (*seen.identity[:2], 0)) or seen.size < size:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return data
    finally:
        os.close(fd)


def read_bytes(path: StrPath, identity: tuple[int, int, int], begin: int, size: int) -> bytes:
    """Read some bytes of a file; see :meth:`Extents.read`.

    Raises:
        OSError: it cannot be read, or is another inode.
    """
    fd = open_unnoticed(path)
    try:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != identity[:2]:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return os.pread(fd, size, begin)
    finally:
        os.close(fd)


def open_unnoticed(path: StrPath) -> int:
    """Open a file for reading, without waiting for a writer of a pipe, and return the descriptor.

    Its access time stays, where this process owns the file or has CAP_FOWNER (O_NOATIME, open(2)).

    Raises:
        OSError: it cannot be opened.
    """
    try:
        return os.open(path, _FLAGS | os.O_NOATIME)
    except OSError as error:
        if error.errno != errno.EPERM:  # of open(2): another user's file
            raise
    return os.open(path, _FLAGS)


def _scan(fd: int, begin: int, size: int, *, is_resumed: bool) -> Data:
    block = max(os.fstat(fd).st_blksize, resource.getpagesize())  # on tmpfs a huge page
    at = end = begin
    found = 0
    for _ in range(MOST_EXTENTS):
        try:
            first = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return Data(found, end)  # a hole up to the end
        if first >= size:
            return Data(found, end)
        at = last = min(os.lseek(fd, first, os.SEEK_HOLE), size)
        if is_resumed or first > begin:
            head = os.pread(fd, min(block - first % block, last - first), first)
            first += len(head) - len(head.lstrip(b"\0"))
        if last < size:
            last = _end_of_data(fd, first, last)
        is_resumed = True  # a hole precedes all further extents
        if first < last:
            found += last - first
            end = last
        if at == size:
            return Data(found, end)
    return Data(found + size - at, size)


def _end_of_data(fd: int, first: int, last: int) -> int:
    """Return where the last byte before a hole ends that is not 0."""
    least = max(first, last - MOST_ZEROS_BYTES)
    while last > least:
        begin = max(least, last - _CHUNK_BYTES)
        if data := os.pread(fd, last - begin, begin).rstrip(b"\0"):
            return begin + len(data)
        last = begin
    return last
