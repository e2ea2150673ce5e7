"""Reads the content of files in a thread of its own: appended bytes for their lines, small files for their checksums.

The thread sleeps until a file changes. Then it reads what its budgets of bytes and CPU time allow, without a lock. What
it has read counts after all changes up to then were booked: after a truncation among them it counts for nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from exporter.config.groups import CRC32, LINES
from exporter.config.model import Config
from exporter.content.checksums import Checksums
from exporter.content.lines import Lines, Piece
from exporter.content.opening import find_trusted, open_for_reading
from exporter.content.reading import ChangedError, Counted, checksum, count_lines
from exporter.ledger.books import InodeBookings
from exporter.tracker import Tracker
from fstat_cache import CacheClosedError, file_time_ns

_log = logging.getLogger(__name__)
T = TypeVar("T")

PAUSE_S = 1.0
"""The pause after everything was read, so that many small writes are read at once."""
FILES_AT_ONCE = 100
BYTES_AT_ONCE = 1 << 20
"""How much is read between two pauses, so that a file is open for a few milliseconds only."""
STOP_TIMEOUT_S = 0.2
_FINAL = (errno.EACCES, errno.EPERM, errno.EOPNOTSUPP)
"""Errors that the next attempt would meet again."""


@dataclass(frozen=True, slots=True)
class GroupLines:
    """The numbers of a group: newlines, bytes that could not be read, bytes that are still to be read."""

    lines: int
    skipped_bytes: int
    backlog_bytes: int


@dataclass(frozen=True, slots=True)
class _Source:
    """Where an inode is: a name, or its handle and the directory in which it was seen last."""

    identity: tuple[int, int, int]
    name: str | None
    handle: bytes | None
    directory: str


@dataclass(frozen=True, slots=True)
class _Done:
    """How many bytes were read, and whether a limit left some unread."""

    read_bytes: int
    is_limited: bool


class Contents:
    """Reads the files of the groups whose ``metrics`` name lines or checksums. Safe to call from several threads.

    Args:
        tracker: follows the files.
        config: says how much may be read; its groups are those of the tracker.

    Attributes:
        lines: the lines of inodes and groups.
        groups: realm -> the numbers of its group at the latest :meth:`update`.
    """

    def __init__(self, tracker: Tracker, config: Config) -> None:
        self.lines = Lines(tracker.facts)
        self.groups: Mapping[int, GroupLines] = {}
        self._tracker = tracker
        self._checksums = Checksums(tracker.facts)
        self._bookings = InodeBookings()
        self._wake = self._bookings.changed
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Read the files of the tracker's present groups from now on, within the budgets of a configuration."""
        tracker = self._tracker
        facts = tracker.facts
        with facts.lock:
            groups = tracker.publication.config
            line_realms = {tracker.realms[group.group] for group in groups if LINES in group.metrics}
            checksum_realms = {tracker.realms[group.group] for group in groups if CRC32 in group.metrics}
            self.lines.realms, self._checksums.realms = line_realms, checksum_realms
            self._checksums.max_size = config.content_max_size
            self._bytes_per_s = config.content_budget
            self._cpu_budget = config.cache.cpu_budget
            if line_realms or checksum_realms:
                facts.read_inodes(self._bookings)
            else:
                facts.discard(self._bookings)
                self._bookings.clear()
                self.lines.clear()
            self.update()
        if (line_realms or checksum_realms) and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="content", daemon=True)
            self._thread.start()

    def update(self) -> None:
        """Take over what was booked, and bring :attr:`groups` up to date."""
        with self._tracker.facts.lock:
            self.lines.update(self._bookings)
            self._checksums.update(self._bookings)
            self._bookings.clear()
            lines, backlog = self.lines, self.lines.backlog()
            self.groups = {
                realm: GroupLines(lines.counted[realm], lines.skipped[realm], backlog[realm]) for realm in lines.realms
            }

    def close(self) -> None:
        """Stop reading. Idempotent."""
        self._is_stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._is_stopping.is_set():
                return
            began_s, is_ready = time.thread_time(), self._tracker.is_ready
            done = _Done(0, is_limited=False)
            try:
                if is_ready:
                    done = self._read()
            except CacheClosedError:
                return
            except Exception:  # noqa: BLE001 - whatever it was, the next read may succeed
                _log.exception("the content of files could not be read; the next change of a file tries again")
                self._is_stopping.wait(PAUSE_S)
                continue
            with self._tracker.facts.lock:
                has_more = bool(self.lines or self._checksums) or not is_ready
            pause_s = 0.0 if done.is_limited else PAUSE_S
            spent_s = time.thread_time() - began_s
            self._is_stopping.wait(max(pause_s, done.read_bytes / self._bytes_per_s, spent_s / self._cpu_budget))
            if has_more:
                self._wake.set()

    def _read(self) -> _Done:
        """Read what is due, up to a limit."""
        facts = self._tracker.facts
        with facts.lock:
            self.update()
            most_bytes = min(BYTES_AT_ONCE, self._bytes_per_s)
            pieces = list(self.lines.pieces(FILES_AT_ONCE, most_bytes))
            sources = [self._source(piece) for piece in pieces]
            summed = self._checksums.due(file_time_ns())
        counted = [self._count(piece, source) for piece, source in zip(pieces, sources, strict=True)]
        crc32: int | OSError | ChangedError | None = None
        if summed is not None:
            path, stats = summed
            source = _Source(stats.identity, path.name, None, "")
            crc32 = self._attempt(source, lambda fd: checksum(fd, stats))
        with self._tracker.lock:
            self._tracker.catch_up()
        read_bytes, is_limited = 0, summed is not None or len(pieces) == FILES_AT_ONCE
        with facts.lock:
            self.update()
            for piece, result in zip(pieces, counted, strict=True):
                if isinstance(result, Counted):
                    self.lines.book(piece, result.end, result.lines)
                    read_bytes += result.read_bytes
                else:
                    is_final = _is_final(result)
                    self.lines.fail(piece, is_final=is_final)
                    is_limited &= is_final  # else the next attempt would come too soon
            if summed is not None:
                path, stats = summed
                if isinstance(crc32, int):
                    self._checksums.book(path, stats, crc32)
                    read_bytes += stats.size
                elif crc32 is not None:
                    is_final = _is_final(crc32)
                    self._checksums.fail(path, is_final=is_final)
                    is_limited &= is_final
        if pieces or summed:
            self._tracker.booked.set()
        return _Done(read_bytes, is_limited=is_limited or read_bytes >= most_bytes)

    def _source(self, piece: Piece) -> _Source:
        """Return where a piece can be read. The caller holds the facts' lock."""
        inode = piece.tail.inode
        handle = self._tracker.facts.inodes.handles.get(inode.identity) if piece.tail.is_trusted else None
        return _Source(
            inode.identity, inode.names[0] if inode.names else None, handle, os.path.dirname(inode.last_name)
        )

    def _count(self, piece: Piece, source: _Source) -> Counted | OSError | ChangedError:
        return self._attempt(source, lambda fd: count_lines(fd, piece.begin, piece.size, piece.most_bytes))

    def _attempt(self, source: _Source, read: Callable[[int], T]) -> T | OSError | ChangedError:
        """Open a file, read it, and close it; return an error if that fails."""
        try:
            found = self._find(source)
            try:
                fd = open_for_reading(found, source.identity)
            finally:
                os.close(found)
            try:
                return read(fd)
            finally:
                os.close(fd)
        except (OSError, ChangedError) as error:
            return error

    def _find(self, source: _Source) -> int:
        cache = self._tracker.cache
        if cache.extents.remote_of(source.name or source.directory) is not None:
            raise OSError(errno.EOPNOTSUPP, "a remote filesystem may hang")
        if source.name is not None:
            return find_trusted(source.name, cache.root.path)
        if source.handle is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return cache.inodes.open(source.handle, source.directory, source.identity[0])


def _is_final(error: OSError | ChangedError) -> bool:
    return isinstance(error, OSError) and error.errno in _FINAL
