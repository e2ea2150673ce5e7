"""Lists directories on filesystems that may not answer, without waiting for them for ever."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from exporter.matching.automaton import Directory, Match
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from fstat_cache.hanging import Worker

_log = logging.getLogger(__name__)


class RemoteScanner:
    """Looks for files below directories of filesystems like NFS, and logs what is in its way once.

    A directory may hang (the server is gone). It is waited for only so long, then the scan goes on without it, and so
    do later ones until the call that hangs returns.

    Args:
        timeout_s: how long one directory, or one link to a file, is waited for, seconds.
    """

    TIMEOUT_S = 10

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._hung: dict[_Place, Future[RemoteScan]] = {}
        self._faults = Transitions()

    def scan(self, directories: Mapping[str, Directory]) -> RemoteScan:
        """Look for the files now. Nothing that is met on the way is fatal; not to be called by two threads at once.

        Args:
            directories: where to look, and what can match there.
        """
        walk = RemoteScan(places=[_Place(path, directory) for path, directory in directories.items()])
        parents: set[str] = set()  # of what is left out since this scan
        answers: dict[_Place, RemoteScan] = {}
        for place in [place for place, findings in self._hung.items() if findings.done()]:
            answers[place] = self._hung.pop(place).result()
            _log.info("a directory or file answers again", extra=fields(path=place.path))
        worker: Worker | None = None
        try:
            while walk.places:
                place = walk.places.pop()
                if place in answers:
                    walk.add(answers.pop(place))
                elif place in self._hung:
                    walk.left_out.add(place.path)
                else:
                    worker = worker or Worker("scan-walk")
                    findings = worker.begin(partial(RemoteScan().look_at, place), self._timeout_s)
                    assert findings is not None  # a worker that is late is left behind
                    wait((findings,), self._timeout_s)
                    if findings.done():
                        walk.add(findings.result())
                        continue
                    worker.close()
                    worker = None
                    self._hung[place] = findings
                    _leave_out(place, walk, parents)
        finally:
            if worker is not None:
                worker.close()
        self._faults.tell_faults(
            _log,
            walk.faults,
            "remote directories or files can not be reached and are left out",
            "remote directories or files can be reached again, or are gone",
        )
        return walk


class _Place(NamedTuple):
    """Where to look.

    Attributes:
        path: where.
        directory: what can match in it, should it be a directory; None: nothing.
        match: what the file is matched by, should it be a regular one. If it is, it costs a stat to tell which of both
            it is; without, listing it tells as well whether it is a directory, and whether it is there.
    """

    path: str
    directory: Directory | None
    match: Match | None = None


@dataclass(slots=True)
class RemoteScan:
    """What was found at one place, or at many.

    Attributes:
        files: the regular files (symbolic links to one included), each with what it is matched by.
        left_out: places that do not answer.
        faults: directories (or links to files) that could not be looked at -> why.
        places: where to look next.
    """

    files: dict[str, Match] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    faults: dict[str, OSError] = field(default_factory=dict)
    places: list[_Place] = field(default_factory=list)

    @property
    def unreadable(self) -> int:
        """How many directories (or links to files) could not be looked at."""
        return len(self.faults) + len(self.left_out)

    def add(self, other: RemoteScan) -> None:
        """Add what was found at another place."""
        self.files.update(other.files)
        self.faults.update(other.faults)
        self.places += other.places

    def look_at(self, place: _Place) -> RemoteScan:
        """Look at one place, which may hang; return what was found."""
        path, directory, match = place
        try:
            if match is not None:
                mode = os.stat(path).st_mode
                if stat.S_ISREG(mode):
                    self.files[path] = match
                elif stat.S_ISDIR(mode) and directory is not None:
                    self.places.append(_Place(path, directory))
            elif directory is not None and directory.listed:
                self._list(path, directory)
            elif directory is not None:
                self._look_up(path, directory)
        except (FileNotFoundError, NotADirectoryError):
            pass  # gone since it was seen, or never there
        except OSError as error:
            self.faults[path] = error
            if directory is not None and match is None:
                self._look_up(path, directory)  # what is spelt out may be within reach all the same
        return self

    def _list(self, path: str, directory: Directory) -> None:
        with os.scandir(path) as entries:
            for entry in entries:
                # The kernel has told the type together with the name.
                name = entry.name
                if entry.is_file(follow_symlinks=False):
                    if (match := directory.match(name)) is not None:
                        self.files[entry.path] = match
                elif entry.is_dir(follow_symlinks=False):
                    if (below := directory.enter(name, is_symlink=False)) is not None:
                        self.places.append(_Place(entry.path, below))
                elif entry.is_symlink():
                    self._add_place(entry.path, directory, name)

    def _look_up(self, path: str, directory: Directory) -> None:
        for name in directory.names:
            # Whether it is a symbolic link makes a difference to "**" only, which spells nothing out.
            self._add_place(os.path.join(path, name), directory, name)

    def _add_place(self, path: str, directory: Directory, name: str) -> None:
        match = directory.match(name)
        below = directory.enter(name, is_symlink=True)
        if match is not None or below is not None:
            self.places.append(_Place(path, below, match))


def _leave_out(place: _Place, walk: RemoteScan, parents: set[str]) -> None:
    _log.warning(
        "a directory or file does not answer and is left out until it does, what was known of it is kept",
        extra=fields(path=place.path),
    )
    walk.left_out.add(place.path)
    parent = os.path.dirname(place.path)
    if parent in parents:
        # The second one in a directory: most likely a whole filesystem hangs. To wait for each of its directories
        # could take hours; what is left has its turn in the next scan.
        below = os.path.join(parent, "")
        walk.left_out.add(parent)
        walk.places = [other for other in walk.places if not other.path.startswith(below)]
    parents.add(parent)
