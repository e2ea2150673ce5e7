"""Logstash's file input: ``.sincedb_<md5>`` in ``<path.data>/plugins/inputs/file``, replaced by a rename.

An offset says what was read. Logstash keeps entries of rotated and deleted logs for 14 days.
"""

from __future__ import annotations

import os
import re

from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.values import as_count, as_path

FLUSH_INTERVAL_S = 15.0
DIRECTORIES = ("plugins/inputs/file", "")
"""Where the files are, below ``path.data`` or in the directory that has them."""

_NAME = re.compile(r"\.sincedb_[0-9a-f]{32}")
_LINE = re.compile(rb"(\d{1,20}) (\d{1,20}) (\d{1,20}) (\d{1,20})(?: [-+.0-9eE]{1,40}(?: (.*))?)?")
# inode, major, minor, position; since version 2 the time and the path, which may have spaces


def is_state_file(name: str) -> bool:
    """Tell whether a file of this name has positions, unless ``sincedb_path`` names another.

    The temporary file beside it has a longer name.
    """
    return _NAME.fullmatch(name) is not None


def parse(data: bytes) -> list[Position]:
    """Parse a sincedb.

    Returns:
        Positions with inode and device; those of version 2 with the path.

    Raises:
        StateFormatError: a line is damaged.
    """
    return [_parse_line(line) for line in data.split(b"\n") if line]


def _parse_line(line: bytes) -> Position:
    match = _LINE.fullmatch(line)
    if match is None:
        raise StateFormatError("a line is not one of a sincedb: inode, major, minor, position")
    inode, major, minor, offset = (as_count(int(each)) for each in match.groups()[:4])
    device = _device(major, minor)
    if inode is None or offset is None or device is None:
        raise StateFormatError("a line has impossible numbers")
    return Position(offset, None if match[5] is None else as_path(os.fsdecode(match[5])), inode, device)


def _device(major: int | None, minor: int | None) -> int | None:
    """Compute ``st_dev``. JRuby takes its low 24 bits for the minor number: 65024 is "0 65024" there, else "254 0"."""
    if major is None or minor is None or major >= 2**32 or minor >= 2**32:
        return None
    return minor if major == 0 else os.makedev(major, minor)
