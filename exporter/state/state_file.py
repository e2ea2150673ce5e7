"""The state file: a SQLite database, its tables and rows, and the treatment of unusable files.

It is in WAL mode with ``synchronous=NORMAL``. The kernel has each committed write, so kill -9 loses none. A power cut
may lose the latest commits, but never corrupts the file; waiting for the disk at every scrape would cost too much.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from exporter.ledger.books import Counters
from exporter.ledger.records import Identity
from exporter.ops.log import fields

_log = logging.getLogger(__name__)

APPLICATION_ID = 0x66737461  # "fsta"; marks the file as a state file
SCHEMA = 2

_TIMEOUT_S = 1.0  # how long to wait for a lock: as long as another agent may take to stop
_HEADER = b"SQLite format 3\0"  # the first bytes of a database, sqlite.org/fileformat.html
_SUFFIXES = ("", "-wal", "-shm", "-journal")  # of the database and SQLite's files beside it
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ)
_WHOLE = 1 << 63  # SQLite's integers are below; greater inode numbers and times are stored as text

# Paths are bytes, because they need not be valid text; lists are JSON. Number columns have no type, so that integers
# and text both stay as they are. If a path is the home of its latest inode, as nearly always, the inode is in the
# path's row: a change of a busy file writes one row. Other inodes have a row for each home.
_COUNTERS = "changes, appended_bytes, truncations, rotations"
_OF_INODE = "device, inode, birth_ns, size, mtime_ns"
_INODES = (
    f"CREATE TABLE inodes ({_OF_INODE}, last_name BLOB, cut_from, home BLOB, group_name TEXT, "
    "PRIMARY KEY (device, inode, birth_ns, group_name)) WITHOUT ROWID"
)
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    f"CREATE TABLE totals (group_name TEXT, label_names TEXT, label_values TEXT, {_COUNTERS}, "
    "PRIMARY KEY (group_name, label_names, label_values)) WITHOUT ROWID",
    f"CREATE TABLE series (path BLOB PRIMARY KEY, group_name TEXT, is_counting, {_COUNTERS}, {_OF_INODE}, "
    "last_name BLOB, cut_from) WITHOUT ROWID",
    _INODES,
)
# Not in the first files of this version; an older program leaves them alone.
_MORE_TABLES = (
    "CREATE TABLE IF NOT EXISTS handles (device, inode, birth_ns, handle BLOB, PRIMARY KEY (device, inode, birth_ns)) "
    "WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS uncertain (group_name TEXT, reason TEXT, occurrences, "
    "PRIMARY KEY (group_name, reason)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS shipper_sums (shipper TEXT, group_name TEXT, label_values TEXT, read_bytes, "
    "lost_bytes, unaccounted_bytes, PRIMARY KEY (shipper, group_name, label_values)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS shipper_logs (shipper TEXT, device, inode, birth_ns, read_to, counted_to, size, "
    "born_ns, points TEXT, has_left, sums TEXT, PRIMARY KEY (shipper, device, inode, birth_ns)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS content_groups (group_name TEXT PRIMARY KEY, lines, skipped_bytes) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS content_paths (path BLOB PRIMARY KEY, lines, has_lines) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS content_inodes (device, inode, birth_ns, read_to, is_trusted, "
    "PRIMARY KEY (device, inode, birth_ns)) WITHOUT ROWID",
)
# In version 1 an inode had one home.
_FROM_VERSION_1 = (
    "ALTER TABLE series RENAME COLUMN emptied_from TO cut_from",
    "ALTER TABLE inodes RENAME TO inodes_1",
    _INODES,
    "INSERT INTO inodes SELECT * FROM inodes_1",
    "DROP TABLE inodes_1",
)
_MARKS = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA}")
# Selects rows with unexpected types; SQLite skips the good rows faster than Python could.
_IS_ODD = (
    "WHERE typeof(path) <> 'blob' OR typeof(group_name) <> 'text' OR typeof(last_name) NOT IN ('blob', 'null') "
    "OR typeof(cut_from) NOT IN ('integer', 'null') OR "
    + " OR ".join(f"typeof({name}) <> 'integer'" for name in f"is_counting, {_COUNTERS}, {_OF_INODE}".split(", "))
)

Value = int | str | bytes | None
Row = tuple[Value, ...]
Statement = tuple[str, Sequence[Row]]


class StateError(Exception):
    """The state file cannot be used; the message says which and why."""


class UnusableError(Exception):
    """The file is not a state file of a known version, or is damaged."""


def check_path(path: str) -> str:
    """Check whether this user can have a state file at a path; open and make nothing.

    Args:
        path: absolute.

    Returns:
        A hint: the directory is missing, which another user or systemd may make; or the file there is none of ours, and
        a start would rename it. "" if there is none.

    Raises:
        StateError: the file cannot be made, read or written.
    """
    try:
        if os.path.lexists(path):
            _check_file(path)
            with open(path, "rb") as file:
                if file.read(len(_HEADER)) not in (b"", _HEADER):
                    return f"{path} is not a state file: a start renames it and begins a new one"
    except OSError as error:
        raise StateError(f"the state file {path} cannot be used: {error.strerror}") from None
    directory = above = os.path.dirname(path)
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK):
        return ""
    if above != directory and os.path.isdir(above):
        return f"the directory {directory} is missing, and this user cannot make it: {above} is not writable"
    what = "not writable for this user" if os.path.isdir(above) else "not a directory"
    raise StateError(f"the state file {path} cannot be used: {above} is {what}")


class GroupState(NamedTuple):
    """The saved part of a group's configuration.

    Attributes:
        name: of the group.
        aggregate_by: names of the labels by which it aggregates.
        paths: its patterns as the user wrote them.
        exclude: its excludes, with their dates at the save.
    """

    name: str
    aggregate_by: tuple[str, ...]
    paths: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """The time and the configuration of the latest save.

    Attributes:
        saved_at_ns: nanoseconds since the epoch, 0 without a save. An unknown inode born earlier is old.
        groups: the configuration at that time; empty without a save.
        saved_at_boottime_ns, boot_id: the same time as a moment of a boot, see :meth:`FileClock.saved`; None and "" if
            an earlier version has saved it.
    """

    saved_at_ns: int = 0
    groups: tuple[GroupState, ...] = ()
    saved_at_boottime_ns: int | None = None
    boot_id: str = ""

    def was_configured(self, pattern: str, exclude: Collection[str]) -> bool:
        """Return whether all files that a pattern with these excludes matches were matched then too.

        If so, an unknown file is new since then.
        """
        return any(pattern in group.paths and set(group.exclude) <= set(exclude) for group in self.groups)


GONE = ""
"""The last name of a path's latest inode if that was known to be gone; another file at the path is a rotation."""


class SavedInode(NamedTuple):
    """The saved fields of an inode."""

    identity: Identity
    size: int
    mtime_ns: int
    last_name: str
    cut_from: int | None  # or another offset where its writer may go on, see Offsets


class SavedPath(NamedTuple):
    """The saved fields of a path, with its latest inode if the path is a home of it."""

    name: str
    group: str
    is_counting: bool
    counters: Counters
    latest: SavedInode | None


class SavedHome(NamedTuple):
    """A saved inode and one of its homes, which may not be declared any more."""

    inode: SavedInode
    home: str
    group: str


SumKey = tuple[str, tuple[str, ...]]
"""The name of a group, and the label values of an aggregate; no values: the whole group."""


class SavedLog(NamedTuple):
    """The saved fields of a log of a shipper, see :class:`exporter.shippers.logs.Log`, with times for moments."""

    offset: int | None
    counted: int | None
    size: int
    born_ns: int | None
    points: tuple[tuple[int, int], ...]
    has_left: bool
    keys: tuple[SumKey, ...]


class StateFile:
    """The open state file. Only one thread at a time may use it.

    A file that is damaged, or no state file of a known version, is renamed and replaced by a new one, which is logged.

    Args:
        path: made if it is missing, with its directory. Locked against other processes until :meth:`close`.

    Attributes:
        resets: how often an unusable file was set aside.

    Raises:
        StateError: the file cannot be made, read or written, or is in use.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.resets = 0
        self._file: tuple[int, int] | None = None
        self._open()

    @property
    def is_there(self) -> bool:
        """Whether the opened file is still at its path, and not known to be damaged."""
        return self._file is not None and _file_at(self.path) == self._file

    def open_again(self) -> None:
        """Open the file that is at the path now, or make one."""
        if self._file is not None:
            _log.warning("the state file was removed: writing a new one", extra=fields(path=self.path))
        self.close()
        self._open()

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file = None
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def run(self, statements: Iterable[Statement]) -> None:
        """Run all statements or none.

        Raises:
            sqlite3.Error: none was run. If the file is damaged, :attr:`is_there` is False from now on.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for sql, rows in statements:
                if rows == [()]:
                    self._connection.execute(sql)
                else:
                    self._connection.executemany(sql, rows)
            self._connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and _is_damage(error):
                self.close()  # open_again() then finds the damage and sets the file aside
            raise

    def meta(self) -> Restored:
        """Read the time and the configuration of the latest save."""
        meta = dict(self._connection.execute("SELECT key, value FROM meta"))
        groups = (GroupState(name, *map(tuple, parts)) for name, *parts in json.loads(meta.get("groups", "[]")))
        boottime_ns = meta.get("saved_at_boottime_ns")
        return Restored(
            int(meta.get("saved_at_ns", 0)),
            tuple(groups),
            saved_at_boottime_ns=None if boottime_ns is None else int(boottime_ns),
            boot_id=str(meta.get("boot_id", "")),
        )

    def paths(self, where: str = "") -> Iterator[SavedPath]:
        """Read the paths."""
        for row in self._connection.execute(f"SELECT * FROM series {where}"):
            path, group, is_counting, changes, appended_bytes, truncations, rotations, *inode = row
            name = os.fsdecode(path)
            counters = Counters(*map(_count, (changes, appended_bytes, truncations, rotations)))
            latest = None if inode[0] is None else _saved_inode(name, *inode)
            yield SavedPath(name, group, bool(is_counting), counters, latest)

    def totals(self) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...], Counters]]:
        """Read the totals: the group's name, the label names, the label values, the counters."""
        for name, label_names, values, *counters in self._connection.execute("SELECT * FROM totals"):
            yield name, tuple(json.loads(label_names)), tuple(json.loads(values)), Counters(*map(_count, counters))

    def inodes(self) -> Iterator[SavedHome]:
        """Read the inodes that are not in the row of a path."""
        for *values, home, group in self._connection.execute("SELECT * FROM inodes"):
            name = os.fsdecode(home)
            yield SavedHome(_saved_inode(name, *values), name, group)

    def handles(self) -> Iterator[tuple[Identity, bytes]]:
        """Read the file handles of inodes."""
        for device, inode, birth_ns, handle in self._connection.execute("SELECT * FROM handles"):
            yield (_number(device), _number(inode), _number(birth_ns)), bytes(handle)

    def uncertain(self) -> Iterator[tuple[str, str, int]]:
        """Read how often bytes may have gone uncounted: the group's name, the reason, the number."""
        for group, reason, occurrences in self._connection.execute("SELECT * FROM uncertain"):
            yield str(group), str(reason), _count(occurrences)

    def shipper_sums(self) -> Iterator[tuple[str, SumKey, int, int, int]]:
        """Read the shippers' counters: the shipper, the group or aggregate, bytes read, lost, unaccounted for."""
        for shipper, group, values, *counters in self._connection.execute("SELECT * FROM shipper_sums"):
            read, lost, unaccounted = map(_count, counters)
            yield str(shipper), (str(group), tuple(map(str, json.loads(values)))), read, lost, unaccounted

    def shipper_logs(self) -> Iterator[tuple[str, Identity, SavedLog]]:
        """Read how far each log was read: the shipper, the log's identity, the rest."""
        for shipper, device, inode, birth_ns, *saved in self._connection.execute("SELECT * FROM shipper_logs"):
            read_to, counted_to, size, born_ns, points, has_left, sums = saved
            offset, counted, born = (None if each is None else _number(each) for each in (read_to, counted_to, born_ns))
            grown = tuple((_number(time_ns), _count(end)) for time_ns, end in json.loads(points))
            keys = tuple((str(group), tuple(map(str, values))) for group, values in json.loads(sums))
            identity = _number(device), _number(inode), _number(birth_ns)
            yield str(shipper), identity, SavedLog(offset, counted, _count(size), born, grown, bool(has_left), keys)

    def content_groups(self) -> Iterator[tuple[str, int, int]]:
        """Read the lines of groups: the group's name, newlines, bytes that were not read."""
        for group, lines, skipped_bytes in self._connection.execute("SELECT * FROM content_groups"):
            yield str(group), _count(lines), _count(skipped_bytes)

    def content_paths(self) -> Iterator[tuple[str, int, bool]]:
        """Read the lines of paths: the path, newlines, whether its file can be read."""
        for path, lines, has_lines in self._connection.execute("SELECT * FROM content_paths"):
            yield os.fsdecode(path), _count(lines), bool(has_lines)

    def content_inodes(self) -> Iterator[tuple[Identity, int, bool]]:
        """Read how far each inode was read: its identity, the offset, whether it was opened by a trusted name."""
        for device, inode, birth_ns, read_to, is_trusted in self._connection.execute("SELECT * FROM content_inodes"):
            yield (_number(device), _number(inode), _number(birth_ns)), _count(read_to), bool(is_trusted)

    def _open(self) -> None:
        try:
            self._connect()
        except UnusableError as error:
            self.resets += 1
            kept = _set_aside(self.path)
            text = "the state file cannot be used and was renamed: the counters begin anew"
            _log.warning(text, extra=fields(path=self.path, reason=error, kept=kept))
            self._connect()
        self._file = _file_at(self.path)

    def _connect(self) -> None:
        """Open and lock the file, make the tables if it is new or empty, and check all rows.

        Raises:
            StateError: it cannot be used now, but that may change.
            UnusableError: it can never be used.
        """
        path = self.path
        _make(path)
        try:
            self._connection = sqlite3.connect(path, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise StateError(f"the state file {path} cannot be opened: {error}") from None
        try:
            self._prepare()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                if _code(error) == sqlite3.SQLITE_BUSY:
                    raise StateError(f"the state file {path} is in use by another process") from None
                if not _is_damage(error):
                    raise StateError(f"the state file {path} cannot be opened: {error}") from None
            if isinstance(error, sqlite3.Error | ValueError | TypeError):
                raise UnusableError(str(error)) from None
            raise

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        application, version, tables = (
            self._connection.execute(sql).fetchone()[0]
            for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        is_new = not tables and not application
        if not is_new and application != APPLICATION_ID:
            raise UnusableError("it belongs to another program")
        if not is_new and version not in (1, SCHEMA):
            raise UnusableError(f"its format has version {version}, expected {SCHEMA}")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        if is_new or version != SCHEMA:
            self.run((sql, [()]) for sql in (*(_TABLES if is_new else _FROM_VERSION_1), *_MARKS))
        self.run((sql, [()]) for sql in _MORE_TABLES)
        self.meta()
        others = (
            self.totals(),
            self.inodes(),
            self.handles(),
            self.uncertain(),
            self.shipper_sums(),
            self.shipper_logs(),
            self.content_groups(),
            self.content_paths(),
            self.content_inodes(),
        )
        for rows in (self.paths(_IS_ODD), *others):
            for _ in rows:
                pass


def _make(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        except FileExistsError:
            _check_file(path)
    except OSError as error:
        place = "" if error.filename in (None, path) else f"{error.filename}: "
        raise StateError(f"the state file {path} cannot be made: {place}{error.strerror}") from None


def _check_file(path: str) -> None:
    # Checked without opening it: a close would drop the locks that this process may hold on it.
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise StateError(f"the state file {path} cannot be used: it is not a regular file") from None
    if not os.access(path, os.R_OK | os.W_OK):
        raise StateError(f"the state file {path} cannot be used: no permission to read and write it") from None


def _set_aside(path: str) -> str:
    """Rename the file, and SQLite's files beside it; return the new name."""
    kept = f"{path}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    for suffix in _SUFFIXES:
        try:
            os.rename(path + suffix, kept + suffix)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StateError(f"the state file {path} cannot be set aside: {error.strerror}") from None
    return kept


def _is_damage(error: sqlite3.Error) -> bool:
    code = _code(error)
    return code in _DAMAGED or code & 0xFF in _DAMAGED


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's number of an error; that of a general error if the Python module raised it by itself."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


# -- rows --------------------------------------------------------------------------------------------------------------


def whole(number: int) -> int | str:
    """Return a number as it is stored in a row: as text if SQLite's integers cannot hold it."""
    return number if -_WHOLE <= number < _WHOLE else str(number)


def _saved_inode(home: str, *values: Value) -> SavedInode:
    device, inode, birth_ns, size, mtime_ns, last_name, cut_from = values
    identity = _number(device), _number(inode), _number(birth_ns)
    name = home if last_name is None else os.fsdecode(last_name)  # type: ignore[arg-type]  # a number raises as it should
    cut = None if cut_from is None else _number(cut_from)
    return SavedInode(identity, _number(size), _number(mtime_ns), name, cut)


def _count(value: Value) -> int:
    number = _number(value)
    if number < 0:
        raise ValueError(f"a counter below zero: {number}")
    return number


def _number(value: Value) -> int:
    return value if isinstance(value, int) else int(value)  # type: ignore[arg-type]  # None raises as it should
