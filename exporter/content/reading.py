"""Reads files: counts newlines, and computes checksums.

Pieces are small, because XFS lets writers wait while a read copies. The pages stay in the page cache, and nothing is
said to the kernel about them (posix_fadvise): they are the writer's, and a log shipper is about to read them too.
"""

from __future__ import annotations

import errno
import os
import zlib
from typing import NamedTuple

from fstat_cache import FileStats

_PIECE_BYTES = 1 << 16


class ChangedError(Exception):
    """The file was truncated or written meanwhile; what was read is of no use."""


class Counted(NamedTuple):
    """How many newlines there are, up to which offset, and how many bytes were read for that."""

    lines: int
    end: int
    read_bytes: int


def count_lines(fd: int, begin: int, size: int, most_bytes: int) -> Counted:
    """Count the newlines from an offset of an open file on.

    Args:
        fd: its descriptor.
        begin: the offset.
        size: up to where at most; the file was at least so long.
        most_bytes: how much to read at most; holes are not read.

    Raises:
        ChangedError: it is shorter now.
        OSError: it cannot be read.
    """
    lines = read_bytes = 0
    while begin < size and read_bytes < most_bytes:
        data = os.pread(fd, min(_PIECE_BYTES, size - begin, most_bytes - read_bytes), begin)
        begin += len(data)
        read_bytes += len(data)
        lines += data.count(b"\n")
        if not data:
            raise ChangedError
        if not data.strip(b"\0"):
            begin = min(_end_of_hole(fd, begin), size)
    if os.fstat(fd).st_size < size:
        raise ChangedError  # last, because what was read may have been written after the truncation
    return Counted(lines, begin, read_bytes)


def checksum(fd: int, stats: FileStats) -> int:
    """Return the CRC-32 of an open file, as gzip and zlib compute it.

    Args:
        fd: its descriptor.
        stats: the known ones of its inode.

    Raises:
        ChangedError: it has other stats, before or after the read.
        OSError: it cannot be read.
    """
    crc32 = offset = 0
    _check(fd, stats)
    while offset < stats.size and (data := os.pread(fd, min(_PIECE_BYTES, stats.size - offset), offset)):
        crc32 = zlib.crc32(data, crc32)
        offset += len(data)
    _check(fd, stats)
    return crc32


def _check(fd: int, stats: FileStats) -> None:
    status = os.fstat(fd)
    if (status.st_size, status.st_mtime_ns) != (stats.size, stats.mtime_ns):
        raise ChangedError


def _end_of_hole(fd: int, begin: int) -> int:
    """Return where the next data begins; the end of the file if there is none."""
    try:
        return os.lseek(fd, begin, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return os.fstat(fd).st_size
