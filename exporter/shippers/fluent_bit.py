"""fluent-bit: the database of in_tail (option ``db``), a SQLite file with one row for each log.

The offset is of what fluent-bit has read; its output may be behind. fluent-bit writes it after every read, in WAL mode
(since 1.8): the latest offsets are in the file with the suffix ``-wal``. A stop without a crash removes that file.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import shutil
import sqlite3
import struct
import tempfile
import urllib.parse
from collections.abc import Sequence
from itertools import zip_longest
from typing import NamedTuple

from exporter.shippers.files import open_regular
from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.values import check_inode, check_offset, check_path

FLUSH_INTERVAL_S = 1.0
COMPANIONS = ("-wal",)  # suffixes of the files whose changes change positions too

_ATTEMPTS = 3
_QUERY = "SELECT offset, name, inode FROM in_tail_files"  # in the order of a position
_Row = tuple[object, object, object]
_MAX_VALUE_BYTES = 1 << 20
_MAX_OPERATIONS = 10_000_000  # of SQLite's virtual machine: about a second; a million rows take seven million
_UNREADABLE_IN_PLACE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PROTOCOL,
)
_CHANGE_COUNTER = slice(24, 28)  # of the header of a database
_HOT_JOURNAL = bytes.fromhex("d9d505f920a163d7")  # a journal of an unfinished transaction begins like this
_WAL_HEADER_BYTES = 32
# A read lock on the bytes that readers of SQLite lock: the last one to close a database locks them before it removes
# the -wal, which SQLite would then create again for us. flock(2)'s struct: type, whence, start, length, pid.
_SHARED_LOCK = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0x40000002, 510, 0)


def is_state_file(name: str) -> bool:
    """Return whether a file of a directory is a database, and not a companion of one."""
    return name.endswith(".db")


def read(path: str, directory: str, before: Sequence[Position] = ()) -> list[Position]:
    """Read a database, beside a running fluent-bit or without one. Writes nothing to it, and never waits for a lock.

    If there is a ``-wal``, SQLite reads with shared locks, for one query. Without one it reads without locks, and again
    if a writer came meanwhile. A database that is locked is copied, with its ``-wal``.

    Args:
        path: of the database. Only one thread at a time may read it.
        directory: for copies. If the process is killed, one may stay there.
        before: the positions that were read last; unchanged ones are used again, because most are unchanged.

    Raises:
        OSError: the database cannot be read or copied.
        StateFormatError: it is no database of in_tail, is damaged, or is being written.
    """
    fault = "is being written, or has an unfinished transaction that fluent-bit has to complete"
    for _ in range(_ATTEMPTS):
        look = _Look.at(path)
        if not look.size:
            return []
        if look.has_hot_journal:
            continue
        try:
            rows = _read_beside_writer(path, directory) if look.has_wal else _query(path, "immutable=1")
        except (sqlite3.Error, UnicodeDecodeError) as error:  # UnicodeDecodeError: of SQLite's message
            rows, fault = None, _fault(error)
        if rows is not None and (look.has_wal or look == _Look.at(path)):
            return [
                position if position is not None and position[:3] == row else _position(*row)
                for row, position in zip_longest(rows, before[: len(rows)])
            ]
    raise StateFormatError(fault)


class _Look(NamedTuple):
    """What shows whether a database without a ``-wal`` was written between two looks."""

    size: int
    inode: int
    mtime_ns: int
    change_counter: bytes
    has_wal: bool
    has_hot_journal: bool

    @classmethod
    def at(cls, path: str) -> _Look:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            header = file.read(_CHANGE_COUNTER.stop)
        journal = b""
        with contextlib.suppress(FileNotFoundError), open_regular(path + "-journal") as file:
            journal = file.read(len(_HOT_JOURNAL))
        return cls(
            status.st_size,
            status.st_ino,
            status.st_mtime_ns,
            header[_CHANGE_COUNTER],
            os.path.exists(path + "-wal"),
            journal == _HOT_JOURNAL,
        )


def _read_beside_writer(path: str, directory: str) -> list[_Row] | None:
    """Read a database that has a ``-wal``; None: the writer removed it or began it anew meanwhile."""
    if os.path.exists(path + "-shm"):  # else the writer uses no shared locks (db.locking)
        try:
            with open_regular(path) as database:
                fcntl.fcntl(database, fcntl.F_OFD_SETLK, _SHARED_LOCK)
                if not os.path.exists(path + "-wal"):
                    return None
                # readonly_shm: SQLite also opens the writer's shared memory only for reading.
                return _query(path, "mode=ro&readonly_shm=1")
        except BlockingIOError:
            pass
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _UNREADABLE_IN_PLACE:
                raise
    with tempfile.TemporaryDirectory(dir=directory) as copies:
        copy = os.path.join(copies, "copy.db")
        try:
            with open_regular(path + "-wal") as wal, open_regular(path) as database:
                header = wal.read(_WAL_HEADER_BYTES)
                # What a checkpoint writes to the database meanwhile is in the -wal, which is copied later.
                _copy(database, copy)
                _copy(wal, copy + "-wal")
            with open_regular(path + "-wal") as wal:
                if wal.read(_WAL_HEADER_BYTES) != header:
                    return None
        except FileNotFoundError:
            return None
        return _query(copy, "mode=ro")


def _query(path: str, options: str) -> list[_Row]:
    uri = f"file:{urllib.parse.quote(os.fsencode(os.path.abspath(path)))}?{options}"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
        connection.text_factory = _decode
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        connection.set_authorizer(_authorize)
        connection.set_progress_handler(lambda: True, _MAX_OPERATIONS)
        return connection.execute(_QUERY).fetchall()


def _position(offset: object, path: object, inode: object) -> Position:
    if isinstance(inode, int) and inode < 0:
        inode += 1 << 64  # SQLite's integers have a sign
    return Position(check_offset(offset), check_path(path), check_inode(inode))


def _authorize(action: int, _table: str | None, _column: str | None, _database: str | None, view: str | None) -> int:
    """Allow to read a table, and no view, which may take any time and memory."""
    is_allowed = action == sqlite3.SQLITE_SELECT or (action == sqlite3.SQLITE_READ and view is None)
    return sqlite3.SQLITE_OK if is_allowed else sqlite3.SQLITE_DENY


def _copy(file: io.FileIO, path: str) -> None:
    file.seek(0)
    with open(path, "xb") as target:
        shutil.copyfileobj(file, target, 1 << 20)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")  # as os.fsdecode, which takes twice as long


def _fault(error: Exception) -> str:
    """Return a message without SQLite's text, which may quote the content."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    if name == "SQLITE_ERROR":
        return "has no table in_tail_files with name, offset and inode, expected a database of fluent-bit's tail input"
    return f"is not a readable SQLite database ({name})"
