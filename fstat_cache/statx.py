"""statx(2), which Python lacks before 3.15: os.stat with the birth time, in one system call."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import threading
from collections.abc import Callable

_AT_FDCWD = -100
_AT_NO_AUTOMOUNT = 0x800  # as stat(2) does, unasked
_STATX_BTIME = 0x800
_WANTED = 0x7FF | _STATX_BTIME  # STATX_BASIC_STATS is what stat(2) tells
# struct statx: mask, mode, inode, size, birth, mtime, device.
_STATX = struct.Struct("=I24xH2xQQ32xqI4x16xqI4x8xII")
_STATX_BYTES = 256

Status = tuple[int, int, int, int, int, int]
"""Mode, size, mtime_ns, inode, device, birth_ns; the last one 0 where the filesystem does not tell."""


def status_of(path: str | bytes | os.PathLike[str]) -> Status:
    """Ask for a file's status, symbolic links followed.

    Args:
        path: the file.

    Raises:
        OSError: what ``os.stat`` raises.
        ValueError: a NUL in the path.
    """
    name = os.fsencode(path)
    if 0 in name:
        raise ValueError(f"embedded null character in path: {path!r}")  # C would end the name there
    statx = _statx()
    if statx is None:
        return _by_stat(path)
    buffer = _buffers.buffer
    if statx(_AT_FDCWD, name, _AT_NO_AUTOMOUNT, _WANTED, buffer):
        number = ctypes.get_errno()
        if number in (errno.ENOSYS, errno.EPERM):  # an old kernel; a sandbox that does not know the call
            return _by_stat(path)
        raise OSError(number, os.strerror(number), path)
    mask, mode, inode, size, birth_s, birth_ns, mtime_s, mtime_ns, major, minor = _STATX.unpack_from(buffer)
    birth_ns = birth_s * 1_000_000_000 + birth_ns if mask & _STATX_BTIME else 0
    return mode, size, mtime_s * 1_000_000_000 + mtime_ns, inode, _device(major, minor), birth_ns


def _by_stat(path: str | bytes | os.PathLike[str]) -> Status:
    status = os.stat(path)
    return status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev, 0


_device = functools.lru_cache(os.makedev)
"""One object for all files of a device, which is 32 bytes less for each."""


class _Buffers(threading.local):
    """One a thread: the call lets other threads run."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(_STATX_BYTES)


_buffers = _Buffers()


@functools.cache
def _statx() -> Callable[..., int] | None:
    """The function of the C library; None where it has none."""
    try:
        # Without argtypes, which take half as long again as the call: all is an int or a pointer by itself.
        return ctypes.CDLL(None, use_errno=True).statx
    except (OSError, AttributeError):
        return None
