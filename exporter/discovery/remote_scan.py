"""Lists directories on filesystems that may not answer, without waiting for them for ever."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from exporter.matching.automaton import Directory, Match
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteScan:
    """What a scan found.

    Attributes:
        files: the regular files (symbolic links to one included), each with what it is matched by.
        left_out: places that do not answer.
        unreadable: how many directories (or links to files) could not be looked at.
    """

    files: dict[str, Match]
    left_out: set[str]
    unreadable: int


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
        self._hung: dict[_Place, _Look] = {}
        self._faults = Transitions()

    def scan(self, directories: Mapping[str, Directory]) -> RemoteScan:
        """Look for the files now. Nothing that is met on the way is fatal; not to be called by two threads at once.

        Args:
            directories: where to look, and what can match there.
        """
        walk = _Walk(self._hung, self._take_answers())
        if directories:
            walk.run(directories, self._timeout_s)
        self._faults.tell_faults(
            _log,
            walk.found.faults,
            "remote directories or files can not be reached and are left out",
            "remote directories or files can be reached again, or are gone",
        )
        return RemoteScan(walk.found.files, walk.left_out, len(walk.found.faults) + len(walk.left_out))

    def _take_answers(self) -> dict[_Place, _Findings]:
        answers = {place: look.found for place, look in self._hung.items() if look.found is not None}
        for place in answers:
            del self._hung[place]
            _log.info("a directory or file answers again", extra=fields(path=place.path))
        return answers


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


class _Findings:
    """What was found at one place, or at many."""

    __slots__ = ("faults", "files", "places")

    def __init__(self) -> None:
        self.files: dict[str, Match] = {}
        self.faults: dict[str, OSError] = {}
        self.places: list[_Place] = []  # where to look next

    def add(self, other: _Findings) -> None:
        self.files.update(other.files)
        self.faults.update(other.faults)
        self.places += other.places

    def look_at(self, place: _Place) -> None:
        path, directory, match = place
        try:
            if match is not None:
                self._follow(path, directory, match)
            elif directory is not None:
                if directory.listed:
                    self._list(path, directory)
                else:
                    self._look_up(path, directory)
        except (FileNotFoundError, NotADirectoryError):
            pass  # gone since it was seen, or never there
        except OSError as error:
            self.faults[path] = error
            if directory is not None and match is None:
                self._look_up(path, directory)  # what is spelt out may be within reach all the same

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

    def _follow(self, path: str, directory: Directory | None, match: Match) -> None:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            self.files[path] = match
        elif stat.S_ISDIR(mode) and directory is not None:
            self.places.append(_Place(path, directory))


class _Look:
    """A look at one place. Of one that was given up, `found` is set when it is over after all."""

    __slots__ = ("began_s", "found", "place")

    def __init__(self, place: _Place) -> None:
        self.place = place
        self.began_s = time.monotonic()
        self.found: _Findings | None = None


class _Walk:
    """One scan under way: a thread walks, and where it hangs it is left behind and another one goes on with the rest.

    Args:
        hung: the looks that hang, those of earlier scans; new ones are added.
        answers: what looks given up in earlier scans have found since, used instead of looking again.
    """

    def __init__(self, hung: dict[_Place, _Look], answers: dict[_Place, _Findings]) -> None:
        self.found = _Findings()
        self.left_out: set[str] = set()
        self._hung = hung
        self._answers = answers
        self._parents_of_hung: set[str] = set()
        self._failure: Exception | None = None
        self._done = threading.Event()
        # Protects all of the above: a thread that was given up may come back at any time.
        self._lock = threading.Lock()
        self._look: _Look | None = None

    def run(self, directories: Mapping[str, Directory], timeout_s: float) -> None:
        """Walk from these directories; raises what went wrong unexpectedly."""
        self.found.places += [_Place(path, directory) for path, directory in directories.items()]
        with self._lock:
            self._go_on()
        while not self._done.wait(timeout_s - self._waited_s()):
            with self._lock:
                if self._look is not None and self._waited_s() >= timeout_s:
                    self._give_up(self._look)
                    self._go_on()
        if self._failure is not None:
            raise self._failure

    def _waited_s(self) -> float:
        look = self._look
        return 0 if look is None else time.monotonic() - look.began_s

    def _walk(self, look: _Look | None) -> None:
        try:
            while look is not None:
                found = _Findings()
                found.look_at(look.place)
                with self._lock:
                    if look is not self._look:  # given up
                        look.found = found
                        return
                    self.found.add(found)
                    look = self._look = self._next()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._failure = error
        self._done.set()

    # Below here, every method is called with the lock held.

    def _go_on(self) -> None:
        self._look = self._next()
        # A daemon: a thread that hangs in the kernel must not keep the process from exiting.
        threading.Thread(target=self._walk, args=(self._look,), name="scan-walk", daemon=True).start()

    def _next(self) -> _Look | None:
        places = self.found.places
        while places:
            place = places.pop()
            if place in self._hung:
                self.left_out.add(place.path)
            elif place in self._answers:
                self.found.add(self._answers.pop(place))
            else:
                return _Look(place)
        return None

    def _give_up(self, look: _Look) -> None:
        path = look.place.path
        self._hung[look.place] = look
        self.left_out.add(path)
        _log.warning(
            "a directory or file does not answer and is left out until it does, what was known of it is kept",
            extra=fields(path=path),
        )
        parent = os.path.dirname(path)
        if parent in self._parents_of_hung:
            # The second one in a directory: most likely a whole filesystem hangs. To wait for each of its directories
            # could take hours; what is left has its turn in the next scan.
            below = os.path.join(parent, "")
            places = self.found.places
            self.left_out.add(parent)
            places[:] = [place for place in places if not place.path.startswith(below)]
        self._parents_of_hung.add(parent)
