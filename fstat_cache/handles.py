"""File handles: read an inode wherever its name went (name_to_handle_at(2), open_by_handle_at(2))."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct

_AT_EMPTY_PATH = 0x1000
_MAX_HANDLE_BYTES = 128
_HEADER = struct.Struct("=Ii")  # struct file_handle without its bytes: their number, and their type
_REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)


class RefusedError(OSError):
    """This process may not open handles at all: it lacks CAP_DAC_READ_SEARCH, or a seccomp profile forbids the call."""


def take_handle(fd: int) -> bytes | None:
    """Return the handle of an open file, of an O_PATH descriptor too; None where its filesystem has none (overlayfs).

    A handle stays valid after renames, moves and restarts, until the inode is gone.

    Raises:
        RefusedError: the call is forbidden.
    """
    handle = ctypes.create_string_buffer(_HEADER.size + _MAX_HANDLE_BYTES)
    _HEADER.pack_into(handle, 0, _MAX_HANDLE_BYTES, 0)
    try:
        _call("name_to_handle_at", fd, b"", handle, ctypes.byref(ctypes.c_int()), _AT_EMPTY_PATH)
    except RefusedError:
        raise
    except OSError:
        return None
    size, _ = _HEADER.unpack_from(handle)
    return handle.raw[: _HEADER.size + size]


def open_handle(directory: int, handle: bytes) -> int:
    """Open an inode, without access to its content (O_PATH); return the descriptor.

    Args:
        directory: a descriptor of any directory on the inode's filesystem.
        handle: what :func:`take_handle` has returned.

    Raises:
        RefusedError: handles cannot be opened by this process.
        OSError: ESTALE: the inode is gone.
    """
    return _call("open_by_handle_at", directory, handle, os.O_PATH | os.O_CLOEXEC)


def _call(name: str, *args: object) -> int:
    result: int = getattr(_libc(), name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise (RefusedError if number in _REFUSED else OSError)(number, os.strerror(number))
    return result


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
