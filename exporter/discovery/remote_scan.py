"""The scanner of remote filesystems: lists directories with a timeout, because they may hang."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from exporter.discovery.folders import identity_of
from exporter.matching.automaton import Directory, Loop, Match
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from fstat_cache.hanging import Worker

_log = logging.getLogger(__name__)


class RemoteScanner:
    """Finds files below directories of filesystems like NFS, and logs each fault once.

    A directory may hang (the server is gone). After the timeout the scan continues without it. Later scans skip it
    until the hanging call returns.

    Args:
        timeout_s: how long to wait for one directory, or one link to a file, seconds.
        real: resolves a path; raises OSError as ``os.stat`` does.
    """

    TIMEOUT_S = 10

    def __init__(self, timeout_s: float = TIMEOUT_S, real: Callable[[str], str] = os.fspath) -> None:
        self._timeout_s = timeout_s
        self._real = real
        self._hung: dict[_Place, Future[RemoteScan]] = {}
        self._faults = Transitions()

    def scan(self, directories: Mapping[str, Directory]) -> RemoteScan:
        """Find the files now. No error is fatal; only one thread at a time may call this.

        Args:
            directories: directory to scan -> what can match there. A ``**`` that follows symbolic links enters each
                directory once, by the first path: those without links come first.
        """
        walk = RemoteScan(places=[_Place(path, directory) for path, directory in reversed(tuple(directories.items()))])
        entered: set[tuple[Loop, int]] = set()
        parents: set[str] = set()  # directories of the places that hang since this scan
        answers: dict[_Place, RemoteScan] = {}
        for place in [place for place, findings in self._hung.items() if findings.done()]:
            answers[place] = self._hung.pop(place).result()
            _log.info("a remote directory or file answers again", extra=fields(path=place.path))
        worker: Worker | None = None
        try:
            while walk.places or walk.links:
                if not walk.places:
                    walk.places = sorted(walk.links, key=lambda link: link.path.split("/"), reverse=True)
                    walk.links = []
                place = walk.places.pop()
                if place in answers:
                    walk.add(answers.pop(place))
                elif place in self._hung:
                    walk.left_out.add(place.path)
                else:
                    worker = worker or Worker("scan-walk")
                    findings = worker.begin(partial(RemoteScan().check, place, self._real, entered), self._timeout_s)
                    assert findings is not None  # a late worker is replaced
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
        self._faults.log_faults(
            _log,
            walk.faults,
            "remote directories or files cannot be read and are skipped",
            "remote directories or files can be read again, or are gone",
        )
        return walk


class _Place(NamedTuple):
    """A path to check.

    Attributes:
        path: the path.
        directory: what can match in it if it is a directory; None: nothing.
        match: its match if it is a regular file; None: only a directory is of interest, which is listed without a stat.
    """

    path: str
    directory: Directory | None
    match: Match | None = None


@dataclass(slots=True)
class RemoteScan:
    """The result of a scan, of one place or of many.

    Attributes:
        files: regular file, or symbolic link to one -> its match.
        left_out: paths that do not answer.
        faults: path of a directory, or of a link to a file, that cannot be read -> why.
        places: to check next.
        links: symbolic links that ``**`` follows, to check after all places.
    """

    files: dict[str, Match] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)
    faults: dict[str, OSError] = field(default_factory=dict)
    places: list[_Place] = field(default_factory=list)
    links: list[_Place] = field(default_factory=list)

    @property
    def unreadable(self) -> int:
        """How many directories (or links to files) could not be read."""
        return len(self.faults) + len(self.left_out)

    def add(self, other: RemoteScan) -> None:
        """Add the result of another place."""
        self.files.update(other.files)
        self.faults.update(other.faults)
        self.places += other.places
        self.links += other.links

    def check(self, place: _Place, real: Callable[[str], str], entered: set[tuple[Loop, int]]) -> RemoteScan:
        """Stat or list one place, which may hang; return this result.

        Args:
            place: a file or a directory.
            real: see :class:`RemoteScanner`.
            entered: each ``**`` that follows symbolic links, and the identity of a directory that it has entered.
        """
        path, directory, match = place
        try:
            if directory is not None and directory.loops and match is None:
                identity = identity_of(os.stat(real(path)))
                found = {loop for loop in directory.loops if (loop, identity) in entered}
                entered.update((loop, identity) for loop in directory.loops)
                directory = directory.without(found)
            if match is not None:
                mode = os.stat(real(path)).st_mode
                if stat.S_ISREG(mode):
                    self.files[path] = match
                elif stat.S_ISDIR(mode) and directory is not None:
                    (self.links if directory.loops else self.places).append(_Place(path, directory))
            elif directory is not None and directory.listed:
                self._list(path, directory, real)
            elif directory is not None:
                self._add_names(path, directory)
        except (FileNotFoundError, NotADirectoryError):
            pass  # deleted meanwhile, or never there
        except OSError as error:
            self.faults[path] = error
            if directory is not None and match is None:
                self._add_names(path, directory)  # names without wildcards need no listing
        return self

    def _list(self, path: str, directory: Directory, real: Callable[[str], str]) -> None:
        with os.scandir(real(path)) as entries:
            for entry in entries:
                # A listing includes the type, so no stat is needed.
                name = entry.name
                found = os.path.join(path, name)
                if entry.is_file(follow_symlinks=False):
                    if (match := directory.match(name)) is not None:
                        self.files[found] = match
                elif entry.is_dir(follow_symlinks=False):
                    if (below := directory.enter(name, is_symlink=False)) is not None:
                        self.places.append(_Place(found, below))
                elif entry.is_symlink():
                    self._add_place(found, directory, name)

    def _add_names(self, path: str, directory: Directory) -> None:
        for name in directory.names:
            # Whether it is a symbolic link matters to "**" only, which has no names.
            self._add_place(os.path.join(path, name), directory, name)

    def _add_place(self, path: str, directory: Directory, name: str) -> None:
        match = directory.match(name)
        below = directory.enter(name, is_symlink=True)
        if match is not None or below is not None:
            is_followed = match is None and below is not None and below.loops
            (self.links if is_followed else self.places).append(_Place(path, below, match))


def _leave_out(place: _Place, walk: RemoteScan, parents: set[str]) -> None:
    _log.warning(
        "a remote directory or file does not answer and is skipped until it does; its known files are kept",
        extra=fields(path=place.path),
    )
    walk.left_out.add(place.path)
    parent = os.path.dirname(place.path)
    if parent in parents:
        # The second one in a directory: most likely the whole filesystem hangs. Waiting for each of its directories
        # could take hours, so the rest is left to the next scan.
        below = os.path.join(parent, "")
        walk.left_out.add(parent)
        walk.places = [other for other in walk.places if not other.path.startswith(below)]
    parents.add(parent)
