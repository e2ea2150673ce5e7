"""Checks of what a state file says, for all formats: a damaged number or path makes the file a damaged one."""

from __future__ import annotations

import os

from exporter.shippers.positions import StateFormatError

_OFFSETS = 1 << 63  # a file cannot be larger
_INODES = 1 << 64


def check_offset(offset: object) -> int:
    """Return an offset.

    Raises:
        StateFormatError: it is no integer from 0 to 2**63 - 1.
    """
    if type(offset) is not int or not 0 <= offset < _OFFSETS:
        raise StateFormatError("has an offset that no file can have; the file is damaged")
    return offset


def check_inode(inode: object) -> int:
    """Return an inode number.

    Raises:
        StateFormatError: it is no integer from 1 to 2**64 - 1.
    """
    if type(inode) is not int or not 0 < inode < _INODES:
        raise StateFormatError("has an inode number that no file can have; the file is damaged")
    return inode


def check_path(path: object) -> str:
    """Return a path, decoded as by ``os.fsdecode``.

    Raises:
        StateFormatError: it is no text, is empty, or has a NUL or a surrogate that encodes no byte.
    """
    try:
        if isinstance(path, str) and path and "\0" not in path:
            if not path.isascii():
                os.fsencode(path)
            return path
    except UnicodeEncodeError:
        pass
    raise StateFormatError("has a path that no file can have; the file is damaged")
