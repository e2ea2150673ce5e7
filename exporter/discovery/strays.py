"""Strays: files that no pattern matches, and that were renamed from a matching name without an event.

A lost file is known by its inode number. One that was born, written and rotated unseen is known by its name and births:
it lies beside the file that has its name now. Renamed files are older than their successor, copies are younger. A copy
that keeps times was modified before its birth.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Collection, Set

from exporter.discovery.folders import Folder
from exporter.discovery.renames import Renames
from fstat_cache.paths import Root
from fstat_cache.stats import status_of

_REST = re.compile(r"[-._~@+:][0-9][-._~@+:0-9TZtz]*")
"""What a rotation adds to a name: a separator, digits, a date. Not ".gz", ".bak" or ".tmp"."""
_END = re.compile(r"[-._~@+:0-9TZtz]+$")


class Strays:
    """The strays of one directory.

    Args:
        folder: the directory.
        root: where paths begin.
        lost: the inode numbers of known files without a known name that were last seen there.
        doubt_ns: since when events may have been lost, by the clock of files; None: none were.
        is_first: whether it is listed for the first time.
    """

    def __init__(
        self, folder: Folder, root: Root, lost: Set[int], doubt_ns: int | None = None, *, is_first: bool = False
    ) -> None:
        self._folder = folder
        self._root = root
        self._lost = lost
        # Files may have come and gone unseen since then; before the first listing, since the birth of the directory.
        self._since_ns = doubt_ns or (_status(folder.path, root, follows=True)[1] if is_first else 0)
        self._found: set[str] = set()  # names with the number of a lost file
        self._rotated: dict[str, str] = {}  # name -> the name that it may have had

    def __bool__(self) -> bool:
        """Whether there may be any."""
        return bool(self._lost or self._since_ns)

    def note(self, entry: os.DirEntry[str]) -> None:
        """Note a file that no pattern matches, and that is no symbolic link."""
        sibling = self._sibling(entry.name) if self._since_ns else None
        if sibling is not None:
            self._rotated[entry.name] = sibling
        if self._lost and entry.inode() in self._lost:
            self._found.add(entry.name)

    def follow(self, renames: Renames) -> None:
        """Follow those that are strays indeed."""
        folder = self._folder
        for name in sorted(self._found | self._rotated.keys()):
            path = os.path.join(folder.path, name)
            if renames.origin_of(path) is not None:
                continue
            origin = os.path.join(folder.path, self._rotated.get(name, ""))
            birth_ns = self._birth_of_rotated(path, origin) if name in self._rotated else 0
            if birth_ns:
                renames.follow(folder, name, origin, birth_ns)
                if name in self._found:
                    renames.numbered.add(path)
            elif name in self._found:
                renames.follow(folder, name)

    def _sibling(self, name: str) -> str | None:
        """Return the longest matching name to which a rotation has added the rest of this one."""
        end = _END.search(name)
        for at in range(len(name) - 2, max(end.start(), 1) - 1, -1) if end else ():
            if _REST.fullmatch(name, at) and self._folder.match(name[:at]) is not None:
                return name[:at]
        return None

    def _birth_of_rotated(self, path: str, sibling: str) -> int:
        """Return the birth of a file that had its sibling's name before; 0 for any other file."""
        mode, birth_ns, mtime_ns = _status(path, self._root)
        if not stat.S_ISREG(mode) or not birth_ns or birth_ns < self._since_ns or mtime_ns < birth_ns:
            return 0
        mode, successor_ns, _ = _status(sibling, self._root)
        return birth_ns if not mode or birth_ns <= successor_ns else 0


def find_strays(
    folder: Folder, root: Root, lost: Set[int], doubt_ns: int | None, *, besides: Collection[str], renames: Renames
) -> None:
    """Find strays in a directory that is not listed: no pattern has a wildcard there, or only a link leads there.

    Args:
        folder, root, lost, doubt_ns: see :class:`Strays`.
        besides: names to leave out.
        renames: follows the strays.
    """
    is_first, state = False, folder.state
    if state is not None and not state.listed and any(state.match(name) is not None for name in state.names):
        is_first, folder.is_listed = not folder.is_listed, True
    elif not lost:
        return
    with contextlib.suppress(OSError):
        if strays := Strays(folder, root, lost, doubt_ns, is_first=is_first):
            with os.scandir(root.real(folder.path)) as entries:
                for entry in entries:
                    is_file = entry.name not in besides and entry.is_file(follow_symlinks=False)
                    if is_file and folder.match(entry.name) is None:
                        strays.note(entry)
            strays.follow(renames)


def _status(path: str, root: Root, *, follows: bool = False) -> tuple[int, int, int]:
    """Return mode, birth and mtime, by default of a symbolic link itself; zeros if nothing is there."""
    try:
        real_path = root.real(path) if follows else root.real_name(path)
        mode, _, mtime_ns, _, _, birth_ns, _ = status_of(real_path, follow_symlinks=follows)
    except (FileNotFoundError, NotADirectoryError):
        return 0, 0, 0
    return mode, birth_ns, mtime_ns
