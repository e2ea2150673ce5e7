"""The stats of a file, and the system calls that read them: stat(2), and statx(2) for the birth time."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Collection, Container, Iterator
from operator import attrgetter
from typing import Protocol, Union

StrPath = Union[str, "os.PathLike[str]"]

CLOCK_REALTIME_COARSE = 5
"""Of clock_gettime(2); Python has no name for it."""
WHOLE_SECONDS_NS = 2_000_000_000
"""The most by which a filesystem with whole seconds rounds times down: FAT has even seconds."""
FRACTIONS_NS = 20_000_000
"""The most by which any other filesystem does: exFAT has 10 ms."""

_KEYS = ("size", "ts", "mtime", "mtime_ns", "inode", "device", "birth_ns")

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_NO_AUTOMOUNT = 0x800  # stat(2) has it implied
_STATX_BTIME = 0x800
_STATX_MNT_ID = 0x1000  # since Linux 5.8
_WANTED = 0x7FF | _STATX_BTIME | _STATX_MNT_ID  # with STATX_BASIC_STATS (what stat(2) reads)
# struct statx: mask, mode, inode, size, birth, mtime, device, mount.
_STATX = struct.Struct("=I24xH2xQQ32xqI4x16xqI4x8xIIQ")
_STATX_BYTES = 256

Status = tuple[int, int, int, int, int, int, int]
"""Mode, size, mtime_ns, inode, device, birth_ns (0 where the filesystem has no birth time), mount ID (0: unknown)."""


class FileStats:
    """An immutable snapshot of a regular file, read as attributes or by key.

    ``stats["size"]`` and ``stats["ts"]`` (the same as :attr:`mtime`) work as well. ``dict(stats)`` and :meth:`as_dict`
    return a dictionary that JSON can hold.

    Args:
        size: bytes (``st_size``).
        mtime_ns: last modification, nanoseconds since the epoch (``st_mtime_ns``).
        inode: inode number (``st_ino``).
        device: device number (``st_dev``).
        birth_ns: birth of the inode, nanoseconds since the epoch (statx(2)); 0 where the filesystem has no birth time.
        keeps_birth: whether the filesystem never gives the inode another birth.
    """

    __slots__ = ("_birth_ns", "_identity", "_mtime_ns", "_size")

    def __init__(
        self, size: int, mtime_ns: int, inode: int, device: int, birth_ns: int = 0, *, keeps_birth: bool = True
    ) -> None:
        self._size = size
        self._mtime_ns = mtime_ns
        self._birth_ns = birth_ns
        self._identity = (device, inode, birth_ns if keeps_birth else 0)

    # Read-only, at half the cost of a getter written in Python.
    size: int = property(attrgetter("_size"), doc="Size in bytes.")  # type: ignore[assignment]
    mtime_ns: int = property(  # type: ignore[assignment]
        attrgetter("_mtime_ns"), doc="Last modification in nanoseconds since the epoch."
    )
    identity: tuple[int, int, int] = property(  # type: ignore[assignment]
        attrgetter("_identity"),
        doc="""Device, inode number and birth: equal only for stats of the same inode.

        A filesystem reuses the number of a deleted inode, ext4 at once; the birth tells the two inodes apart. It cannot
        if both were made within one tick of the kernel's clock, or the filesystem has no birth time. On overlayfs the
        identity has 0 instead: a file of a lower layer gets another birth when it is first written (copy-up).
        """,
    )

    birth_ns: int = property(  # type: ignore[assignment]
        attrgetter("_birth_ns"),
        doc="Birth of the inode in nanoseconds since the epoch; 0 where the filesystem has no birth time.",
    )

    def later(self, size: int, mtime_ns: int) -> FileStats:
        """Return later stats of the same inode."""
        later = object.__new__(FileStats)
        later._size = size
        later._mtime_ns = mtime_ns
        later._birth_ns = self._birth_ns
        later._identity = self._identity  # one object for all stats of the inode, to save memory
        return later

    @property
    def mtime(self) -> float:
        """Last modification in seconds since the epoch: the same float as ``os.stat`` returns as ``st_mtime``."""
        seconds, nanoseconds = divmod(self._mtime_ns, 1_000_000_000)
        return seconds + 1e-9 * nanoseconds

    @property
    def inode(self) -> int:
        """Inode number."""
        return self._identity[1]

    @property
    def device(self) -> int:
        """Number of the device that the inode is on."""
        return self._identity[0]

    def __getitem__(self, key: str) -> int | float:
        # The most frequent keys first: "size" costs little more than an attribute.
        if key == "size":
            return self._size
        if key == "ts":
            return self.mtime
        if key in _KEYS:
            value: int | float = getattr(self, key)
            return value
        raise KeyError(key)

    def keys(self) -> tuple[str, ...]:
        """The keys of :meth:`as_dict`, so that ``dict(stats)`` works."""
        return _KEYS

    def __iter__(self) -> Iterator[str]:
        return iter(_KEYS)

    def __len__(self) -> int:
        return len(_KEYS)

    def as_dict(self) -> dict[str, int | float]:
        """A new plain dictionary of every number: the attributes but ``identity``, and ``ts``."""
        return {key: self[key] for key in _KEYS}

    def equals_without_details(self, other: FileStats) -> bool:
        """Return whether they are equal, whatever the details of :class:`DetailedStats`."""
        return FileStats.__eq__(self, other)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FileStats):
            return NotImplemented
        return (
            self._size == other._size
            and self._mtime_ns == other._mtime_ns
            and self._birth_ns == other._birth_ns
            and self._identity[:2] == other._identity[:2]
        )

    def __hash__(self) -> int:
        return hash((self._size, self._mtime_ns, self._birth_ns))

    def __repr__(self) -> str:
        return (
            f"FileStats(size={self._size}, mtime_ns={self._mtime_ns}, inode={self.inode}, device={self.device}, "
            f"birth_ns={self.birth_ns})"
        )


class DetailedStats(FileStats):
    """Stats with the details that few ask for; a class of its own, so that the others need no memory for them.

    Equal only to stats with the same details.

    Args:
        stats: the rest.
        disk_bytes: how much of the disk the file takes (``st_blocks``).
        mode: permission bits, with set-user-ID, set-group-ID and sticky bit.
        uid, gid: of its owner and group.
    """

    __slots__ = ("_access", "_disk_bytes")

    def __init__(self, stats: FileStats, disk_bytes: int = 0, mode: int = 0, uid: int = 0, gid: int = 0) -> None:
        self._size = stats._size
        self._mtime_ns = stats._mtime_ns
        self._birth_ns = stats._birth_ns
        self._identity = stats._identity
        self._disk_bytes = disk_bytes
        self._access = _shared((mode, uid, gid))

    disk_bytes: int = property(attrgetter("_disk_bytes"), doc="Bytes on the disk.")  # type: ignore[assignment]
    access: tuple[int, int, int] = property(  # type: ignore[assignment]
        attrgetter("_access"), doc="Permission bits, owner and group."
    )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DetailedStats):
            return False
        return self._disk_bytes == other._disk_bytes and self._access == other._access and super().__eq__(other)

    __hash__ = FileStats.__hash__


@functools.lru_cache(maxsize=1024)
def _shared(access: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return one object for equal arguments, to save memory."""
    return access


def file_time_ns() -> int:
    """Return the time that the kernel would give to a change made now, in nanoseconds since the epoch.

    A later change never gets an earlier time, unless the filesystem rounds it down; it may get the same time. This is
    the clock of files (clock_gettime(2), CLOCK_REALTIME_COARSE). It is behind ``time.time_ns()`` by up to a tick, or by
    much more after a hypervisor has stopped the machine.
    """
    return time.clock_gettime_ns(CLOCK_REALTIME_COARSE)


def is_settled(changed_ns: int, as_of_ns: int) -> bool:
    """Whether every change after ``as_of_ns`` gets another time than ``changed_ns``.

    Args:
        changed_ns: the time of a change, as the filesystem has it.
        as_of_ns: a moment, by :func:`file_time_ns`.
    """
    rounding_ns = WHOLE_SECONDS_NS if changed_ns % 1_000_000_000 == 0 else FRACTIONS_NS
    return changed_ns < as_of_ns - rounding_ns


def read_stats(
    path: StrPath, known: FileStats | None = None, *, overlays: Collection[int] = (), is_detailed: bool = False
) -> FileStats | None:
    """Stat a file.

    Args:
        path: the file; symbolic links are followed.
        known: its stats before; with details if `is_detailed`.
        overlays: the IDs of the mounts of overlayfs.
        is_detailed: whether to return :class:`DetailedStats`.

    Returns:
        Its stats, ``known`` itself if they are the same; None when there is no regular file.

    Raises:
        OSError: for everything but absence (ENOENT, ENOTDIR), such as a directory that may not be searched.
    """
    try:
        # For an unchanged file os.stat takes half the time of statx(2).
        if known is not None and read_again(path, known) is known:
            return known
        mode, size, mtime_ns, inode, device, birth_ns, mount_id = status_of(path)
        if not stat.S_ISREG(mode):
            return None
        stats = FileStats(size, mtime_ns, inode, device, birth_ns, keeps_birth=mount_id not in overlays)
        if not is_detailed:
            return stats
        detailed = read_again(path, DetailedStats(stats))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return detailed or read_stats(path, overlays=overlays, is_detailed=True)  # None: replaced meanwhile


class StatReader(Protocol):
    """Stats a file, given its path and perhaps its stats before; as :func:`read_stats`."""

    def __call__(self, path: str, known: FileStats | None = None) -> FileStats | None: ...


def with_details(read: Callable[..., FileStats | None], detailed: Container[str]) -> StatReader:
    """Return a function that stats files, some of them with details.

    Args:
        read: :func:`read_stats`.
        detailed: the paths to read with details.
    """

    def read_path(path: str, known: FileStats | None = None) -> FileStats | None:
        is_detailed = path in detailed
        if is_detailed and not isinstance(known, DetailedStats):
            known = None
        return read(path, known, is_detailed=is_detailed)

    return read_path


def read_again(path: StrPath, known: FileStats) -> FileStats | None:
    """Stat a file by ``os.stat``. An inode with the known device and number counts as the known one.

    Details are read if the known stats have them.

    Returns:
        Its stats, ``known`` itself if they are the same; None when another inode is there.

    Raises:
        OSError: as ``os.stat``.
    """
    seen = os.stat(path)
    device, inode, _ = known._identity
    if seen.st_ino != inode or seen.st_dev != device or not stat.S_ISREG(seen.st_mode):
        return None
    size, mtime_ns = seen.st_size, seen.st_mtime_ns
    later = known
    if mtime_ns != known._mtime_ns or size != known._size:
        later = known.later(size, mtime_ns)
    if type(known) is FileStats:
        return later
    detailed = DetailedStats(later, seen.st_blocks * 512, stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)
    return known if detailed == known else detailed


def status_of(path: str | bytes | os.PathLike[str], *, follow_symlinks: bool = True) -> Status:
    """Read a file's status by statx(2), or else by stat(2).

    Args:
        path: the file.
        follow_symlinks: False: of a symbolic link itself.

    Raises:
        OSError: what ``os.stat`` raises.
        ValueError: a NUL in the path.
    """
    name = os.fsencode(path)
    if 0 in name:
        raise ValueError(f"embedded null character in path: {path!r}")  # C would end the name there
    statx = _statx()
    if statx is None:
        return _by_stat(path, follow_symlinks=follow_symlinks)
    buffer = _buffers.buffer
    flags = _AT_NO_AUTOMOUNT if follow_symlinks else _AT_NO_AUTOMOUNT | _AT_SYMLINK_NOFOLLOW
    if statx(_AT_FDCWD, name, flags, _WANTED, buffer):
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EPERM):  # an old kernel, or a sandbox that forbids the call
            return _by_stat(path, follow_symlinks=follow_symlinks)
        raise OSError(number, os.strerror(number), path)
    mask, mode, inode, size, birth_s, birth_ns, mtime_s, mtime_ns, major, minor, mount_id = _STATX.unpack_from(buffer)
    birth_ns = birth_s * 1_000_000_000 + birth_ns if mask & _STATX_BTIME else 0
    if not mask & _STATX_MNT_ID:
        mount_id = 0
    return mode, size, mtime_s * 1_000_000_000 + mtime_ns, inode, _device(major, minor), birth_ns, mount_id


def _by_stat(path: str | bytes | os.PathLike[str], *, follow_symlinks: bool) -> Status:
    status = os.stat(path, follow_symlinks=follow_symlinks)
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev, 0, 0


_device = functools.lru_cache(os.makedev)
"""Cached, so that all files of a device share one object, which saves 32 bytes a file."""


class _Buffers(threading.local):
    """One buffer for each thread, because other threads run during the call."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(_STATX_BYTES)


_buffers = _Buffers()


@functools.cache
def _statx() -> Callable[..., int] | None:
    """Return statx() of the C library; None where it has none."""
    try:
        # No argtypes: they would make the call half as slow again, and all arguments are ints or pointers anyway.
        return ctypes.CDLL(None, use_errno=True).statx
    except (OSError, AttributeError):
        return None
