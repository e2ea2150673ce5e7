"""Opens and reads state files: regular ones, without waiting, up to a size."""

from __future__ import annotations

import io
import os
import stat

from exporter.shippers.positions import StateFormatError

MAX_FILE_BYTES = 64 << 20
"""The largest state file that is read: hundreds of thousands of logs."""
MAX_JSON_BYTES = 16 << 20
"""The same for JSON that is parsed as a whole: its lists and mappings take 30 times the memory."""


def open_regular(path: str) -> io.FileIO:
    """Open a regular file for reading. A pipe without a writer does not block.

    Raises:
        OSError: it cannot be opened.
        StateFormatError: it is not a regular file.
    """
    file = io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY))
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise StateFormatError("is not a regular file")
    return file


def read_file(path: str) -> bytes:
    """Read a regular file.

    Raises:
        OSError: it cannot be read.
        StateFormatError: it is not a regular file, or is larger than `MAX_FILE_BYTES`.
    """
    content = bytearray()
    with open_regular(path) as file:
        while len(content) <= MAX_FILE_BYTES and (some := file.read(1 << 20)):
            content += some
    check_size(len(content), MAX_FILE_BYTES)
    return bytes(content)


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Check the size of a state file.

    Raises:
        StateFormatError: it is too large.
    """
    if size_bytes > max_bytes:
        raise StateFormatError(f"is larger than {max_bytes >> 20} MiB, the most that is read")
