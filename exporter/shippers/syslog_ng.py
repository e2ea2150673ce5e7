"""syslog-ng: ``syslog-ng.persist``, a store of keys and values that syslog-ng writes through mmap.

An offset says what the destinations have acknowledged, in whole lines, at once. A path has one entry, of its present
inode: a rotated log has none any more. No event reports the writes, and a read may show half of one: read the file
twice, and believe what is equal.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from exporter.shippers.files import read_file
from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.values import LARGEST_COUNT, as_path

FLUSH_INTERVAL_S = 1.0
WRITTEN_BY_MMAP = True
"""Neither inotify nor the mtime shows the writes: the file is read at every scrape."""

_ATTEMPTS = 20
_KEY_STORE = 64
_HEADER_SIZE = 4096
_KEY_BLOCK_SIZE = 4096
_VALUE_HEADER = struct.Struct(">IBB2x")  # size, whether it is in use, version
_POSITION = "BB2xIIIIIqqii8xqq"
# Version, byte order; buffer_pos, 4 numbers; raw_stream_pos, pending; raw_buffer_size, pending; file_size, file_inode.
_LITTLE_ENDIAN, _BIG_ENDIAN = struct.Struct("<" + _POSITION), struct.Struct(">" + _POSITION)


def is_state_file(name: str) -> bool:
    """Tell whether a file of this name, in syslog-ng's directory, has positions."""
    return name == "syslog-ng.persist"


def read(path: str, _copies: str, _before: Sequence[Position] = ()) -> list[Position]:
    """Read ``syslog-ng.persist`` beside a running syslog-ng, until two reads are equal.

    Raises:
        OSError: it cannot be read.
        StateFormatError: as by `parse`, or syslog-ng writes all the time.
    """
    data = read_file(path)
    for _ in range(_ATTEMPTS):
        before, data = data, read_file(path)
        if data == before:
            return parse(data)
    raise StateFormatError("changes during every read; syslog-ng writes it all the time")


def parse(data: bytes) -> list[Position]:
    """Parse ``syslog-ng.persist``.

    Returns:
        Positions with inode, and with path unless the source has a ``persist-name``. Left out are entries that the
        running syslog-ng does not use: it removes them at its next start.

    Raises:
        StateFormatError: it is damaged, torn or of an unknown version.
    """
    if data[:3] != b"SLP":
        raise StateFormatError("it is not a persist file of syslog-ng")
    if data[3:4] != b"4":
        raise StateFormatError("its version is unknown; expected version 4 of syslog-ng's persist file")
    handles = _read_keys(data)
    return [
        position
        for key, handle in handles.items()
        if b"curpos" in key and (position := _parse_value(data, key, handle)) is not None
    ]


def _read_keys(data: bytes) -> dict[bytes, int]:
    """Read all keys, and where their values are. A key that was added again has its last value."""
    if len(data) < _HEADER_SIZE:
        raise StateFormatError("it is cut off")
    count = _number(data, 8, len(data))
    at, end = _KEY_STORE, _HEADER_SIZE
    handles: dict[bytes, int] = {}
    unread = len(data)
    for _ in range(count):
        size = _number(data, at, end)
        while size == 0:  # the end of this block of keys: the next one is elsewhere
            at = _number(data, at + 4, end)
            start = at - _VALUE_HEADER.size
            unread -= _KEY_BLOCK_SIZE  # less than none: the blocks overlap, or form a circle
            if start < _HEADER_SIZE or unread < 0 or _number(data, start, len(data)) != _KEY_BLOCK_SIZE:
                raise StateFormatError("its blocks of keys are damaged")
            end = min(at + _KEY_BLOCK_SIZE, len(data))
            size = _number(data, at, end)
        handle = _number(data, at + 4 + size, end)
        handles[data[at + 4 : at + 4 + size]] = handle
        at += size + 8
    return handles


def _number(data: bytes, at: int, end: int) -> int:
    if at + 4 > end:
        raise StateFormatError("a key is cut off")
    return int.from_bytes(data[at : at + 4], "big")


def _parse_value(data: bytes, key: bytes, handle: int) -> Position | None:
    start = handle - _VALUE_HEADER.size
    if start < _HEADER_SIZE or handle + _LITTLE_ENDIAN.size > len(data):
        raise StateFormatError("the place of a position is damaged")
    size, in_use, store_version = _VALUE_HEADER.unpack_from(data, start)
    if not in_use:
        return None
    if store_version != 4 or size != _LITTLE_ENDIAN.size:
        raise StateFormatError("a position is of an unknown version")
    layout = _BIG_ENDIAN if data[handle + 1] else _LITTLE_ENDIAN
    version, _, buffer_pos, _, _, _, _, raw_stream_pos, _, raw_buffer_size, _, _, inode = layout.unpack_from(
        data, handle
    )
    if version != 0:
        raise StateFormatError("a position is of an unknown version")
    if inode == 0:  # allocated, and not yet used
        return None
    # buffer_pos counts what came out of the conversion of `encoding()`: it may be more than the bytes in the file.
    offset = raw_stream_pos + min(buffer_pos, raw_buffer_size)
    if raw_stream_pos < 0 or raw_buffer_size < 0 or inode < 0 or offset > LARGEST_COUNT:
        raise StateFormatError("a position has impossible numbers")
    return Position(offset, path=_path(key), inode=inode)


def _path(key: bytes) -> str | None:
    if not key.startswith(b"affile_sd_curpos(") or not key.endswith(b")"):
        return None  # named by `persist-name`, or a path so long that it was cut off
    return as_path(os.fsdecode(key[key.index(b"(") + 1 : -1]))
