"""rsyslog: state files of imfile, one JSON object for each log; the inode number is in the state file's name.

The offset is of what rsyslog has put into its main queue. rsyslog empties a state file, then writes it: it may be read
empty. With ``PersistStateInterval`` 0, the default, a running rsyslog rarely writes it, and offsets are outdated.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence

from exporter.shippers.files import read_file
from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.values import check_inode, check_offset, check_path

FLUSH_INTERVAL_S = 1.0
LATEST_OF_INODE = True
"""An inode may have two state files, of names with and without a hash: the one that was written last counts."""

_NAME = re.compile(r"imfile-state:([0-9]{1,20})(?::[0-9a-f]+)?")


def is_state_file(name: str) -> bool:
    """Return whether a file of rsyslog's work directory is a state file of imfile, and not a temporary one."""
    return name.startswith("imfile-state:") and not name.endswith(".tmp")


def read(path: str, _copies: str, _before: Sequence[Position] = ()) -> list[Position]:
    """Read a state file.

    Raises:
        OSError: it cannot be read.
        StateFormatError: as by `parse`.
    """
    return parse(read_file(path), os.path.basename(path))


def parse(content: bytes, name: str) -> list[Position]:
    """Parse a state file.

    Args:
        content: of the state file.
        name: of the state file, without its directory.

    Raises:
        StateFormatError: the content is torn or damaged, or the name has no inode number.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise StateFormatError("has no inode number in its name, expected imfile-state:<inode>; update rsyslog")
    if not content:
        raise StateFormatError("is empty; rsyslog is writing it, or stopped while it was writing it")
    try:
        # fsdecode: rsyslog writes a path that is not UTF-8 as it is.
        state = json.loads(content.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        raise StateFormatError("is not JSON; it is being written or damaged") from None
    if not isinstance(state, dict) or not {"filename", "curr_offs"} <= state.keys():
        raise StateFormatError("has no filename or curr_offs; it is no state file of imfile")
    inode = check_inode(int(found[1]))
    return [Position(check_offset(state["curr_offs"]), path=check_path(state["filename"]), inode=inode)]
