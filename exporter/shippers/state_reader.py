"""Reads how far one shipper has read: from its state files, of which it opens only changed ones, or its processes."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from exporter.shippers.files import check_size
from exporter.shippers.finder import Finder
from exporter.shippers.formats import Format
from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.process import find_positions
from fstat_cache import file_time_ns, is_settled
from fstat_cache.paths import Root

_ATTEMPTS = 3
_PAUSE_S = 0.005  # between attempts at damaged files, which may be half written
_NOT_FOUND = "no state file found: check path and type, or wait until the shipper writes its state"
_NO_PERMISSION = "no permission to read: run the agent as the shipper's user or with CAP_DAC_READ_SEARCH"


@dataclass(frozen=True, slots=True)
class StateFile:
    """What is known of a state file.

    Attributes:
        path: of the file; for Filebeat of the registry directory; for processes their name. If no state file is found,
            or a directory cannot be listed, the configured path.
        mtime_ns: when it, or a file that belongs to it, was last written, nanoseconds since the epoch; None: unknown.
        error: why it cannot be read, without a part of its content; None: it was read.
    """

    path: str
    mtime_ns: int | None = None
    error: str | None = None

    @property
    def mtime_s(self) -> float | None:
        """The same in seconds."""
        return None if self.mtime_ns is None else self.mtime_ns / 1e9


@dataclass(frozen=True, slots=True)
class Reading:
    """How far a shipper has read.

    Attributes:
        positions: of all state files. A file that cannot be read keeps its last ones; a file that vanished has none.
        files: the state files, and the configured path if it has an error. Never empty.
        failures: how many reads failed in this call. A failure is counted once for each change of a file.
        changed: whether positions or files differ from those of the call before.
        is_current: whether the positions are those of now: all files were read; or there is no process, which reads on.
    """

    positions: Sequence[Position]
    files: Sequence[StateFile]
    failures: int
    changed: bool
    is_current: bool = False

    @property
    def is_readable(self) -> bool:
        """Whether there are state files, and all of them were read."""
        return all(file.error is None for file in self.files)

    @property
    def mtime_ns(self) -> int | None:
        """When the shipper last wrote a state file, nanoseconds since the epoch; None: unknown."""
        return max((file.mtime_ns for file in self.files if file.mtime_ns is not None), default=None)

    @property
    def mtime_s(self) -> float | None:
        """The same in seconds."""
        return None if self.mtime_ns is None else self.mtime_ns / 1e9


class StateReader:
    """Reads the state files of one shipper. Never raises for what is in a file, or what the system refuses.

    Args:
        state_format: of the state files.
        path: absolute: of a state file, of a directory of state files or one above it (`Format.directories`), or a glob
            on such paths, with ``*``, ``?`` and ``[...]``, not recursive.
        copies: an existing directory for copies of databases.
        root: the directory where the path begins; by default the machine's.
    """

    def __init__(self, state_format: Format, path: str, *, copies: str, root: Root | None = None) -> None:
        self._format = state_format
        self._path = path
        self._copies = copies
        self._root = root or Root()
        self._finder = Finder(state_format, path, self._root)
        self._states: dict[str, _State] = {}
        self._is_touched = False
        self._last = Reading((), (), 0, changed=False)

    def read(self) -> Reading:
        """Read the state files that have changed. Only one thread at a time may call this.

        A path without state files is an error: nothing shows whether it is wrong or the shipper has not started yet.
        """
        self._is_touched = not self._last.is_readable or not self._last.files
        error = None
        try:
            for _ in range(_ATTEMPTS):
                if self._refresh(self._finder.find()):
                    break
        except OSError as refusal:  # a directory cannot be listed
            error = _describe(refusal, self._copies)
        if error or not self._states:
            self._is_touched = True
            error = error or _NOT_FOUND
        if not self._is_touched:
            self._last = replace(self._last, failures=0, changed=False)
            return self._last
        files = [state.file for state in self._states.values()]
        failures = sum([state.take_failure() for state in self._states.values()])
        if error:
            files.append(StateFile(self._path, error=error))
            failures += files[-1] not in self._last.files
        positions = self._merge()
        changed = files != self._last.files or positions != self._last.positions
        self._last = Reading(positions, files, failures, changed, all(file.error is None for file in files))
        return self._last

    def _refresh(self, found: dict[str, str | None]) -> bool:
        """Read what has changed.

        Returns:
            False: a file has vanished since the caller found it; another one may have its positions.
        """
        as_of_ns = file_time_ns()
        for path in self._states.keys() - found.keys():
            del self._states[path]
            self._is_touched = True
        is_complete = True
        due = []
        for path, place in found.items():
            state = self._states.get(path) or _State(path, self._format)
            try:
                if not state.look(place or self._resolve(path), as_of_ns):
                    continue
                due.append(state)
            except FileNotFoundError:
                is_complete &= self._states.pop(path, None) is None  # of an unknown file, a link to nothing
                self._is_touched = True
                continue
            except OSError as error:
                state.fail(_describe(error, self._copies))
            self._states[path] = state
            self._is_touched = True
        damaged = due
        for attempt in range(_ATTEMPTS):
            if attempt and damaged:
                time.sleep(_PAUSE_S)
            damaged = [state for state in damaged if not state.read(self._copies)]
        return is_complete and not any(state.has_vanished for state in due)

    def _resolve(self, path: str) -> str:
        place = self._root.real(path)
        return os.path.realpath(place) if os.path.islink(place) else place  # a companion is beside the file itself

    def _merge(self) -> list[Position]:
        if not self._format.latest_of_inode:
            return [position for state in self._states.values() for position in state.positions]
        states = sorted(self._states.values(), key=lambda state: state.file.mtime_ns or 0)
        return list({position.inode: position for state in states for position in state.positions}.values())


class _State:
    """One state, of a file or of Filebeat's directory: what was last read of it."""

    __slots__ = (
        "_counted",
        "_format",
        "_is_emptied",
        "_is_settled",
        "_place",
        "_signature",
        "file",
        "has_vanished",
        "positions",
    )

    def __init__(self, path: str, state_format: Format) -> None:
        self.file = StateFile(path)
        self.positions: list[Position] = []
        self.has_vanished = False
        self._format = state_format
        self._place = ""
        self._signature: list[tuple[int, int, int, int]] = []
        self._is_settled = False
        self._is_emptied = False
        self._counted: object = None

    def look(self, place: str, as_of_ns: int) -> bool:
        """Stat the state's files.

        Returns:
            Whether they have to be read: they have changed, or may have without another mtime.

        Raises:
            OSError: they cannot be stat'ed; FileNotFoundError: there are none.
        """
        signature = self._stat(place)
        if signature == self._signature and self._is_settled:
            return False
        mtime_ns = max(mtime_ns for *_, mtime_ns in signature)
        self._place, self._signature = place, signature
        self._is_settled = is_settled(mtime_ns, as_of_ns) and not self._format.written_by_mmap
        self.has_vanished = False
        self.file = replace(self.file, mtime_ns=mtime_ns)
        return True

    def _stat(self, place: str) -> list[tuple[int, int, int, int]]:
        if self._format.is_directory:
            places = [f"{place}/{name}" for name in os.listdir(place) if self._format.is_state_file(name)]
        else:
            places = [place, *[place + suffix for suffix in self._format.companions]]
        signature = []
        for each in places:
            try:
                status = os.stat(each)
            except FileNotFoundError:
                if each == place:
                    raise
            else:
                signature.append((status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns))
        if not signature:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), place)
        return signature

    def read(self, copies: str) -> bool:
        """Read the positions; if that fails, keep the last ones.

        Two calls in a row must find that a file has no positions any more: fluentd empties its file, then writes it.

        Returns:
            False: the content is damaged, perhaps only for now.
        """
        try:
            for mode, _, size_bytes, _ in self._signature:
                if not stat.S_ISREG(mode):
                    raise StateFormatError("is not a regular file")
                check_size(size_bytes, self._format.max_bytes)
            positions = self._format.read(self._place, copies, self.positions)
        except StateFormatError as error:
            self._is_emptied = False
            self.file = replace(self.file, error=str(error))
            return False
        except OSError as error:
            self.has_vanished = isinstance(error, FileNotFoundError)
            self.fail(_describe(error, copies))
            return True
        self.file = replace(self.file, error=None)
        self._is_emptied = bool(self.positions) and not positions and not self._is_emptied
        if self._is_emptied:
            self._is_settled = False
        else:
            self.positions = positions
        return True

    def fail(self, error: str) -> None:
        """Note that the system refused a call; the next look tries again."""
        self._is_settled = self._is_emptied = False
        self.file = replace(self.file, error=error)

    def take_failure(self) -> bool:
        """Return whether there is a failure that was not yet counted."""
        failure = None if self.file.error is None else (self._signature, self.file.error)
        is_new = failure is not None and failure != self._counted
        self._counted = failure
        return is_new


class ProcessReader:
    """Reads how far the processes of a name have read, as `StateReader` reads state files.

    Args:
        match: a glob on the name of the processes.
        proc: where proc(5) is mounted.
    """

    def __init__(self, match: str, *, proc: str = "/proc") -> None:
        self._match = match
        self._proc = proc
        self._last = Reading((), (), 0, changed=False)

    def read(self) -> Reading:
        """Read the offsets of now. Without a process, or without permission, the last ones stay."""
        positions: Sequence[Position] = self._last.positions
        error = None
        is_current = True
        try:
            positions = find_positions(self._match, proc=self._proc)
        except (StateFormatError, OSError) as refusal:
            error = str(refusal)
            is_current = isinstance(refusal, ProcessLookupError)
        files = [StateFile(self._match, error=error)]
        is_new = files != self._last.files
        # What a process reads, and closes again, leaves no trace.
        self._last = Reading(positions, files, int(error is not None and is_new), is_new or error is None, is_current)
        return self._last


def _describe(error: OSError, copies: str) -> str:
    """Describe what the system refused."""
    name = str(error.filename or "")
    if error.errno in (errno.EACCES, errno.EPERM) and not name.startswith(copies):
        return _NO_PERMISSION
    return f"cannot be read: {error.strerror}" + (f": {name}" if name else "")
