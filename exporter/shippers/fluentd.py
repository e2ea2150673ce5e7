"""fluentd: the ``pos_file`` of in_tail, one line for each log: path, offset and inode number, separated by tabs.

The offset is of what fluentd has read, in whole lines. The file is written in place: a line may be half written.
"""

from __future__ import annotations

import os
import re

from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.values import check_offset

FLUSH_INTERVAL_S = 1.0

_UNWATCHED = "f" * 16
# The path may contain tabs. Before version 0.14 the inode number had 8 digits.
_LINE = re.compile(r"^(.+)\t([0-9a-f]{16})\t([0-9a-f]{16}|[0-9a-f]{8})\n", re.MULTILINE)


def is_state_file(name: str) -> bool:
    """Return whether a file of a directory is a position file."""
    return name.endswith(".pos")


def parse(content: bytes) -> list[Position]:
    """Parse a position file.

    Skips logs that fluentd no longer watches, and those for which it has not yet stored an inode number.

    Raises:
        StateFormatError: the content is torn or damaged.
    """
    text = os.fsdecode(content)
    parts = _LINE.split(text)  # what is between lines, the groups of a line, and so on
    if any(parts[::4]) or "\0" in text:
        raise StateFormatError("has a line that is not path, offset, inode; it is being written or damaged")
    return [
        Position(check_offset(int(offset, 16)), path=path, inode=int(inode, 16))
        for path, offset, inode in zip(parts[1::4], parts[2::4], parts[3::4], strict=True)
        if offset != _UNWATCHED and inode.strip("0")
    ]
