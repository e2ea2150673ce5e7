"""Generations: files that were born, written and rotated unseen. They lie beside the file that has their name now."""

from __future__ import annotations

import re
import stat

from exporter.matching.automaton import Directory
from fstat_cache.paths import Root
from fstat_cache.stats import status_of

_REST = re.compile(r"[-._~@+:][0-9][-._~@+:0-9TZtz]*")
"""What a rotation adds to a name: a separator, digits, a date. Not ".gz", ".bak" or ".tmp"."""
_END = re.compile(r"[-._~@+:0-9TZtz]+$")


def declared_sibling(name: str, state: Directory) -> str | None:
    """Return the longest matching name in the same directory to which a rotation has added the rest of this one."""
    end = _END.search(name)
    for at in range(len(name) - 2, max(end.start(), 1) - 1, -1) if end else ():
        if _REST.fullmatch(name, at) and state.match(name[:at]) is not None:
            return name[:at]
    return None


def birth_of_rotated(path: str, sibling: str, since_ns: int, root: Root) -> int:
    """Return the birth of a file that had its sibling's name before, nanoseconds since the epoch; 0 for any other file.

    Renamed files are older than their successor, copies are younger. A copy that keeps times was modified before its
    birth.

    Args:
        path: the unknown file.
        sibling: the path that it had, if it was rotated.
        since_ns: when it was last known which file has that path; 0: unknown.
        root: where paths begin.
    """
    mode, birth_ns, mtime_ns = _status(path, root)
    if not stat.S_ISREG(mode) or not since_ns or birth_ns < since_ns or mtime_ns < birth_ns:
        return 0
    mode, successor_ns, _ = _status(sibling, root)
    return birth_ns if not mode or birth_ns <= successor_ns else 0


def _status(path: str, root: Root) -> tuple[int, int, int]:
    try:
        mode, _, mtime_ns, _, _, birth_ns, _ = status_of(root.real(path))
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0, 0
    return mode, birth_ns, mtime_ns


def listed_since(real_path: str, *, is_first: bool, doubt_ns: int) -> int:
    """Return since when files may have come and gone unseen in a directory that is to be listed; 0: none have.

    Args:
        real_path: of the directory.
        is_first: whether it is listed for the first time.
        doubt_ns: since when events may have been lost; 0: none were.
    """
    if doubt_ns or not is_first:
        return doubt_ns
    return status_of(real_path)[-2]
