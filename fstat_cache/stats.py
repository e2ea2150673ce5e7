"""What is remembered of a file, and the one system call that reads it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any, Union

StrPath = Union[str, "os.PathLike[str]"]

_KEYS = ("size", "ts", "mtime", "mtime_ns", "inode", "device")


class FileStats:
    """An immutable snapshot of a regular file, read as attributes or by key.

    Attributes:
        size: bytes (``st_size``).
        mtime_ns: last modification, nanoseconds since the epoch (``st_mtime_ns``).
        inode: inode number (``st_ino``).
        device: device number (``st_dev``).

    ``stats["size"]`` and ``stats["ts"]`` (the same as :attr:`mtime`) work as well, and ``dict(stats)`` or
    :meth:`as_dict` gives what can be sent as JSON.
    """

    __slots__ = ("device", "inode", "mtime_ns", "size")

    size: int
    mtime_ns: int
    inode: int
    device: int

    def __init__(self, size: int, mtime_ns: int, inode: int, device: int) -> None:
        _set_size(self, size)
        _set_mtime_ns(self, mtime_ns)
        _set_inode(self, inode)
        _set_device(self, device)

    @property
    def mtime(self) -> float:
        """Last modification in seconds since the epoch: the very float that ``os.stat`` gives as ``st_mtime``."""
        seconds, nanoseconds = divmod(self.mtime_ns, 1_000_000_000)
        return seconds + 1e-9 * nanoseconds

    def __getitem__(self, key: str) -> int | float:
        # The most asked first: with "size" this costs little more than the attribute.
        if key == "size":
            return self.size
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
        """A new plain dictionary with every attribute, and ``ts``."""
        return {key: self[key] for key in _KEYS}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FileStats):
            return NotImplemented
        return (
            self.size == other.size
            and self.mtime_ns == other.mtime_ns
            and self.inode == other.inode
            and self.device == other.device
        )

    def __hash__(self) -> int:
        return hash((self.size, self.mtime_ns, self.inode, self.device))

    def __repr__(self) -> str:
        return f"FileStats(size={self.size}, mtime_ns={self.mtime_ns}, inode={self.inode}, device={self.device})"

    def __reduce__(self) -> tuple[Any, ...]:
        return FileStats, (self.size, self.mtime_ns, self.inode, self.device)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"FileStats is immutable: can not set {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"FileStats is immutable: can not delete {name!r}")


# The slots' own setters, which go past __setattr__: a third of the price of object.__setattr__.
_set_size = FileStats.__dict__["size"].__set__
_set_mtime_ns = FileStats.__dict__["mtime_ns"].__set__
_set_inode = FileStats.__dict__["inode"].__set__
_set_device = FileStats.__dict__["device"].__set__


def read_stats(path: StrPath) -> FileStats | None:
    """Read a file's stats by one ``os.stat``.

    Args:
        path: the file; symbolic links are followed.

    Returns:
        Its stats, or None when nothing is there or it is not a regular file.

    Raises:
        OSError: for everything but absence (ENOENT, ENOTDIR), such as a directory that may not be searched.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return FileStats(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
