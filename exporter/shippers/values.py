"""Values of state files, which others write: reads JSON, and takes only possible counts and paths.

The functions ``as_...`` return None for another value, so that its entry can be skipped; the functions ``check_...``
refuse the whole file as damaged.
"""

from __future__ import annotations

import json
import os

from exporter.shippers.positions import StateFormatError

_INODES = 1 << 64
LARGEST_COUNT = 2**63 - 1
"""The largest offset, inode number and device number that the kernel gives."""


def load_json(data: bytes) -> object:
    """Parse JSON.

    Args:
        data: UTF-8. Other bytes, from names of files, become what ``os.fsdecode`` makes of them.

    Raises:
        StateFormatError: it is damaged, nested too deeply, or has a number of thousands of digits.
    """
    try:
        return json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        # Without the cause: its message shows where the damage is, and a traceback would show the content.
        raise StateFormatError("it is not valid JSON") from None


def as_count(value: object) -> int | None:
    """Take a value as an offset, inode number or device number.

    Returns:
        None: it is something else. A program in Go may write 1234567 as ``1.234567e+06``: that is a count.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= LARGEST_COUNT else None


def as_path(value: object) -> str | None:
    """Take a value as an absolute path.

    Returns:
        None: it is something else, or no path of a file.
    """
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        return None
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # half of a surrogate pair, which no file name decodes to
        return None
    return value


def check_offset(offset: object) -> int:
    """Return an offset.

    Raises:
        StateFormatError: it is no integer from 0 to 2**63 - 1.
    """
    count = as_count(offset) if type(offset) is int else None
    if count is None:
        raise StateFormatError("has an offset that no file can have; the file is damaged")
    return count


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
