"""The ledger on disk, so that the counters go on after a restart and what was appended meanwhile is counted.

A SQLite file in WAL mode with ``synchronous=NORMAL``: what is committed is in the kernel's hands, so that kill -9 loses
none of it. A power cut may lose the latest commits, as many as the kernel had not written yet, and never corrupts the
file; waiting for the disk at every scrape would cost more than that is worth.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from exporter.ledger.growth import Counters, Identity, Inode, Journal, Labels, Ledger, Series, Totals
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions

_log = logging.getLogger(__name__)

APPLICATION_ID = 0x66737461  # "fsta"; marks the file as ours
SCHEMA = 1

_LOCK_TIMEOUT_S = 1.0  # as long as an agent that is told to stop may take
_SUFFIXES = ("", "-wal", "-shm", "-journal")  # of the files that SQLite keeps beside each other
_DAMAGED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ)
_WHOLE = 1 << 63  # SQLite's integers are below; inode numbers and times need not be, they are text then

# Paths are bytes, as they need not be text; lists are JSON. Columns of numbers have no type, so one stays what it is.
# What a series saw last is in its row if it pays in there, as nearly all do: a busy file is one row. Other inodes have
# rows of their own.
_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE totals (group_name TEXT, label_names TEXT, label_values TEXT, changes, appended_bytes, truncations, "
    "rotations, PRIMARY KEY (group_name, label_names, label_values)) WITHOUT ROWID",
    "CREATE TABLE series (path BLOB PRIMARY KEY, group_name TEXT, is_counting, changes, appended_bytes, truncations, "
    "rotations, device, inode, birth_ns, size, mtime_ns, last_name BLOB, emptied_from) WITHOUT ROWID",
    "CREATE TABLE inodes (device, inode, birth_ns, size, mtime_ns, last_name BLOB, emptied_from, home BLOB, "
    "group_name TEXT, PRIMARY KEY (device, inode, birth_ns)) WITHOUT ROWID",
)
_NO_INODE = (None,) * 7
_EMPTY_ALL = tuple((f"DELETE FROM {table}", [()]) for table in ("meta", "totals", "series", "inodes"))
# SQLite is faster at telling that there is nothing odd about nearly all rows.
_IS_ODD = (
    "WHERE typeof(path) <> 'blob' OR typeof(group_name) <> 'text' OR typeof(last_name) NOT IN ('blob', 'null') "
    "OR typeof(emptied_from) NOT IN ('integer', 'null') OR "
    + " OR ".join(
        f"typeof({column}) <> 'integer'"
        for column in (
            *("is_counting", "changes", "appended_bytes", "truncations", "rotations"),
            *("device", "inode", "birth_ns", "size", "mtime_ns"),
        )
    )
)
_PUT_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_PUT_TOTALS = "INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?, ?)"
_PUT_SERIES = "INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_INODE = "INSERT OR REPLACE INTO inodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DROP_TOTALS = "DELETE FROM totals WHERE group_name = ? AND label_names = ? AND label_values = ?"
_DROP_SERIES = "DELETE FROM series WHERE path = ?"
_DROP_INODE = "DELETE FROM inodes WHERE device = ? AND inode = ? AND birth_ns = ?"

_Value = int | str | bytes | None
_Row = tuple[_Value, ...]
_Statement = tuple[str, Sequence[_Row]]

_EMPTY_AGGREGATES_AND_INODES: tuple[_Statement, ...] = (
    ("DELETE FROM totals WHERE label_values <> '[]'", [()]),
    ("DELETE FROM inodes", [()]),
)


class StateError(Exception):
    """The state file can not be used; the message says which and why."""


@dataclass(frozen=True, slots=True)
class GroupState:
    """What is remembered of a group's configuration.

    Attributes:
        name: of the group.
        aggregate_by: names of the labels that it aggregates by.
        paths: its patterns as the user wrote them.
        exclude: likewise.
    """

    name: str
    aggregate_by: tuple[str, ...]
    paths: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """As of when the ledger goes on.

    Attributes:
        saved_at_ns: whatever was born before that and is not known was there already; nanoseconds since the epoch.
            0 without a checkpoint.
        groups: what was configured then; nothing without a checkpoint.
    """

    saved_at_ns: int = 0
    groups: tuple[GroupState, ...] = ()

    def was_configured(self, pattern: str, exclude: Collection[str]) -> bool:
        """Whether whatever a pattern and its excludes mean was meant then too, so that unknown files are new."""
        return any(pattern in group.paths and set(group.exclude) <= set(exclude) for group in self.groups)


class Checkpoint:
    """Keeps a ledger in a file. Safe to call from several threads.

    A file that is damaged or is not ours is set aside under another name, told, and begun anew.

    Args:
        path: the file; made if it is missing, with its directory. Used by nobody else until :meth:`close`.
        ledger: new, nothing declared in it.
        groups: the configuration, by the numbers that the ledger has for them.

    Attributes:
        resets: how often a file was set aside.
        failures: how often :meth:`save` failed.

    Raises:
        StateError: the file can not be made, read or written, or is in use.
    """

    def __init__(self, path: str, ledger: Ledger, groups: Sequence[GroupState]) -> None:
        self.resets = 0
        self.failures = 0
        self._path = path
        self._ledger = ledger
        self._groups = tuple(groups)
        self._label_names = [_json(group.aggregate_by) for group in groups]
        self._lock = threading.Lock()  # the connection's: SQLite is waited for under it
        self._journal = Journal()
        self._pending: list[_Statement] = []  # to be run with the next rows
        self._faults = Transitions()
        self._file: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = self._open()

    @property
    def is_urgent(self) -> bool:
        """Whether to save without waiting for a scrape: something happened of which no trace is left on the disk."""
        return self._journal.is_urgent

    def load(self, label: Callable[[str], Labels | None]) -> Restored:
        """Have the ledger go on where it was. To be called once, before anything else is told to it.

        Args:
            label: what a path is published under now; None when no group means it any more.

        Raises:
            StateError: the file can not be read.
        """
        with self._lock, self._ledger.lock, _nothing_is_garbage():
            assert self._connection is not None
            try:
                restored, moved = self._load(self._connection, label)
            except sqlite3.Error as error:
                raise StateError(f"the state file {self._path} can not be read: {error}") from None
            self._journal = self._ledger.journal()
            self._ledger.take(self._journal)  # it is on the disk
            self._journal.inodes.update(moved)
            return restored

    def save(self, as_of_ns: int) -> bool:
        """Write what has changed since the last time; nothing if nothing has.

        Not to be called before every file was looked at once: what :meth:`load` told would be out of date too early.

        Args:
            as_of_ns: every file that was born before this was seen, by the clock of births (`file_time_ns`):
                its reading from before the latest ``sync()``.

        Returns:
            Whether it was written. If not it is told, and nothing is lost: the next time it is tried again.
        """
        with self._lock:
            try:
                if self._connection is None or _file_at(self._path) != self._file:
                    self._begin_anew()
                self._save(as_of_ns)
            except (StateError, sqlite3.Error, OSError, OverflowError) as error:
                self.failures += 1
                if self._faults.update(["it"]).begun:
                    text = "the state can not be written, which is tried again at each scrape"
                    _log.warning(text, extra=fields(path=self._path, error=error))
                if isinstance(error, sqlite3.Error) and _is_damage(error):
                    self._disconnect()  # the file is found to be damaged when it is opened
                return False
            if self._faults.update(()).ended:
                _log.info("the state is written again", extra=fields(path=self._path))
            return True

    def go_on_with(self, ledger: Ledger, groups: Sequence[GroupState]) -> None:
        """Keep another ledger from now on, that of another configuration; the next :meth:`save` writes what differs.

        Args:
            ledger, groups: as of the class, but the ledger is where the other one is.
        """
        with self._lock:
            before, old_groups = self._ledger, self._groups
            with before.lock, ledger.lock:
                unsaved = {series.path for series in self._journal.series}
                unsaved.update(inode.series.path for inode in self._journal.inodes)
                known = {series.path: series for series in before.series()}
                self._ledger, self._groups = ledger, tuple(groups)
                self._label_names = [_json(group.aggregate_by) for group in groups]
                journal = ledger.journal()
                ledger.take(journal)
                for series in ledger.series():
                    twin = known.get(series.path)
                    if (
                        twin is None
                        or series.path in unsaved
                        or old_groups[twin.labels.group].name != groups[series.labels.group].name
                        or _state(twin) != _state(series)
                    ):
                        journal.series.add(series)
                journal.inodes.update(inode for inode in ledger.inodes() if self._has_row(inode))
                journal.totals.update(ledger.groups)
                journal.totals.update(ledger.aggregates.values())
                gone = [path for path in (known.keys() | unsaved) if path not in ledger]
            self._journal = journal
            rows: list[_Row] = [(os.fsencode(path),) for path in gone]
            self._drop(_DROP_SERIES, rows)
            # The totals of groups that are no more stay, should they come back.
            self._pending += [*_EMPTY_AGGREGATES_AND_INODES, self._groups_statement()]

    def close(self) -> None:
        """Let the file go; nothing is saved by that. Idempotent."""
        with self._lock:
            self._disconnect()

    # -- below here, every method is called with the lock held, or before anybody knows of this -----------------------

    def _open(self) -> sqlite3.Connection:
        try:
            connection = _connect(self._path)
        except _UnusableError as error:
            self.resets += 1
            kept = _set_aside(self._path)
            text = "the state file can not be used and was set aside, the counters begin anew"
            _log.warning(text, extra=fields(path=self._path, reason=error, kept=kept))
            connection = _connect(self._path)
        self._file = _file_at(self._path)
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _begin_anew(self) -> None:
        """Have all that is known written, to a file that is there no more or was found damaged."""
        if self._connection is not None:
            _log.warning("the state file has gone, all of it is written again", extra=fields(path=self._path))
        self._disconnect()
        self._connection = self._open()
        self._pending = [*_EMPTY_ALL, self._groups_statement()]
        self._ledger.fill(self._journal)

    def _groups_statement(self) -> _Statement:
        groups = [[group.name, group.aggregate_by, group.paths, group.exclude] for group in self._groups]
        return _PUT_META, [("groups", _json(groups))]

    def _save(self, as_of_ns: int) -> None:
        with self._ledger.lock:
            taken = self._ledger.take(self._journal)
            statements = [*self._pending, *self._statements(taken)]
        if not statements:
            return
        statements.append((_PUT_META, [("saved_at_ns", _whole(as_of_ns))]))
        assert self._connection is not None
        try:
            _run(self._connection, statements)
        except BaseException:
            with self._ledger.lock:
                self._journal.merge(taken)
            raise
        self._pending = []

    def _statements(self, taken: Journal) -> Iterator[_Statement]:
        """What writes a journal. What has ended may have a successor, in this journal or written before."""
        ledger = self._ledger
        ended = [book for book in taken.totals if book.has_ended and (book.group, book.values) not in ledger.aggregates]
        for sql, rows in (
            (_DROP_TOTALS, [self._totals_key(book) for book in ended]),
            (_DROP_SERIES, [(os.fsencode(book.path),) for book in taken.series if book.path not in ledger]),
            (_DROP_INODE, [_key(inode.identity) for inode in taken.inodes if not self._has_row(inode)]),
            (_PUT_TOTALS, [self._totals_row(book) for book in taken.totals if not book.has_ended]),
            (_PUT_SERIES, [self._series_row(book) for book in taken.series if not book.has_ended]),
            (_PUT_INODE, [self._inode_row(inode) for inode in taken.inodes if self._has_row(inode)]),
        ):
            if rows:
                yield sql, rows

    def _totals_key(self, totals: Totals) -> _Row:
        names = self._label_names[totals.group] if totals.values else "[]"
        return self._groups[totals.group].name, names, _json(totals.values)

    def _totals_row(self, totals: Totals) -> _Row:
        return (*self._totals_key(totals), *_counters(totals))

    def _series_row(self, series: Series) -> _Row:
        name = self._groups[series.labels.group].name
        latest: _Row = _NO_INODE
        if series.inode is not None and series.inode.series is series:
            latest = self._inode_values(series.inode)
        return os.fsencode(series.path), name, series.is_counting, *_counters(series), *latest

    def _has_row(self, inode: Inode) -> bool:
        """Whether it is known, and not what its series saw last."""
        is_latest = inode.series.inode is inode and not inode.series.has_ended
        return not is_latest and self._ledger.inode(inode.identity) is inode

    def _inode_row(self, inode: Inode) -> _Row:
        name = self._groups[inode.series.labels.group].name
        return *self._inode_values(inode), os.fsencode(inode.series.path), name

    def _inode_values(self, inode: Inode) -> _Row:
        emptied_from = self._ledger.emptied_from(inode)
        return (
            *_key(inode.identity),
            _whole(inode.size),
            _whole(inode.mtime_ns),
            None if inode.last_name == inode.series.path else os.fsencode(inode.last_name),
            None if emptied_from is None else _whole(emptied_from),
        )

    def _load(
        self, connection: sqlite3.Connection, label: Callable[[str], Labels | None]
    ) -> tuple[Restored, list[Inode]]:
        """Restore what is still meant. The inodes returned were in the row of a series that is not."""
        restored = _read_meta(connection)
        if restored.groups != self._groups:
            self._pending.append(self._groups_statement())
        ledger = self._ledger
        numbers = {group.name: number for number, group in enumerate(self._groups)}
        others: list[_Other] = []
        dropped: list[_Row] = []
        for path, name, is_counting, counters, latest in _read_series(connection):
            labels = label(path)
            if labels is None:
                dropped.append((os.fsencode(path),))
                if latest is not None:
                    others.append((latest, path, name))
                continue
            ledger.restore_series(path, labels, counters, is_counting=is_counting, since_ns=restored.saved_at_ns)
            if latest is not None:
                ledger.restore_inode(*latest, home=path, group=labels.group, is_latest=True)
        self._drop(_DROP_SERIES, dropped)
        dropped = []
        for name, label_names, values, counters in _read_totals(connection):
            number = numbers.get(name)
            if number is None:
                is_meant = not values  # should the group come back
            elif not values:
                is_meant = True
            else:
                is_meant = label_names == self._groups[number].aggregate_by and (number, values) in ledger.aggregates
            if not is_meant:
                dropped.append((name, _json(label_names), _json(values)))
            elif number is not None:
                ledger.restore_totals(number, values, counters)
        self._drop(_DROP_TOTALS, dropped)
        moved = [latest.identity for latest, _, _ in others]
        dropped = []
        others += _read_inodes(connection)
        for saved, home, name in others:
            if home in ledger or name in numbers:
                ledger.restore_inode(*saved, home=home, group=numbers.get(name, 0), is_latest=False)
            else:
                dropped.append(_key(saved.identity))
        self._drop(_DROP_INODE, dropped)
        return restored, [inode for identity in moved if (inode := ledger.inode(identity)) is not None]

    def _drop(self, sql: str, rows: list[_Row]) -> None:
        if rows:
            self._pending.append((sql, rows))


@contextlib.contextmanager
def _nothing_is_garbage() -> Iterator[None]:
    """Spare the collector from looking through all that is made again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _UnusableError(Exception):
    """What is there is no state file of this version, or is damaged."""


def _connect(path: str) -> sqlite3.Connection:
    """Open the file for nobody else, make it a state file if it is new or empty, and check all of it.

    Raises:
        StateError: it can not be used as things are.
        _UnusableError: it can never be used.
    """
    _make(path)
    try:
        connection = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise StateError(f"the state file {path} can not be opened: {error}") from None
    try:
        _prepare(connection)
        return connection
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.Error):
            if _code(error) == sqlite3.SQLITE_BUSY:
                raise StateError(f"the state file {path} is in use by another process") from None
            if not _is_damage(error):
                raise StateError(f"the state file {path} can not be opened: {error}") from None
        if isinstance(error, sqlite3.Error | ValueError | TypeError):
            raise _UnusableError(str(error)) from None
        raise


def _make(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        except FileExistsError:
            # Not opened to see: closing it would drop the locks that this process may hold on it.
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise StateError(f"the state file {path} can not be used: it is not a regular file") from None
            if not os.access(path, os.R_OK | os.W_OK):
                raise StateError(f"the state file {path} can not be used: reading or writing is not allowed") from None
    except OSError as error:
        place = "" if error.filename in (None, path) else f"{error.filename}: "
        raise StateError(f"the state file {path} can not be made: {place}{error.strerror}") from None


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    application, version, tables = (
        connection.execute(sql).fetchone()[0]
        for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    is_new = not tables and not application
    if not is_new and application != APPLICATION_ID:
        raise _UnusableError("it belongs to another program")
    if not is_new and version != SCHEMA:
        raise _UnusableError(f"its format has version {version}, expected {SCHEMA}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if is_new:
        marks = (f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {SCHEMA}")
        _run(connection, [(sql, [()]) for sql in (*_TABLES, *marks)])
    _read_meta(connection)
    for rows in (_read_series(connection, _IS_ODD), _read_totals(connection), _read_inodes(connection)):
        for _ in rows:
            pass


def _run(connection: sqlite3.Connection, statements: Sequence[_Statement]) -> None:
    """Run all of them or none."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for sql, rows in statements:
            if rows == [()]:
                connection.execute(sql)
            else:
                connection.executemany(sql, rows)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have done so
            connection.execute("ROLLBACK")
        raise


def _set_aside(path: str) -> str:
    """Give the file another name, and those that belong to it; return it."""
    kept = f"{path}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    for suffix in _SUFFIXES:
        try:
            os.rename(path + suffix, kept + suffix)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StateError(f"the state file {path} can not be set aside: {error.strerror}") from None
    return kept


def _is_damage(error: sqlite3.Error) -> bool:
    code = _code(error)
    return code in _DAMAGED or code & 0xFF in _DAMAGED


def _code(error: sqlite3.Error) -> int:
    """SQLite's own number of an error; that of a general one where the module raised it by itself."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


# -- rows --------------------------------------------------------------------------------------------------------------


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _whole(number: int) -> int | str:
    return number if -_WHOLE <= number < _WHOLE else str(number)


def _counters(book: Series | Totals) -> _Row:
    return _whole(book.changes), _whole(book.appended_bytes), _whole(book.truncations), _whole(book.rotations)


def _state(series: Series) -> tuple[object, ...]:
    """What tells whether the row of a series is the same in another ledger."""
    inode = series.inode
    if inode is None or inode.series is not series:
        return Counters.of(series), series.is_counting
    return Counters.of(series), series.is_counting, inode.identity, inode.size, inode.mtime_ns, inode.last_name


def _key(identity: Identity) -> _Row:
    device, inode, birth_ns = identity
    return _whole(device), _whole(inode), _whole(birth_ns)


class _SavedInode(NamedTuple):
    """What :meth:`Ledger.restore_inode` is told of an inode itself."""

    identity: Identity
    size: int
    mtime_ns: int
    last_name: str
    emptied_from: int | None


_Other = tuple[_SavedInode, str, str]  # its home, and the group of that


def _read_meta(connection: sqlite3.Connection) -> Restored:
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    groups = (
        GroupState(name, *(tuple(part) for part in parts)) for name, *parts in json.loads(meta.get("groups", "[]"))
    )
    return Restored(int(meta.get("saved_at_ns", 0)), tuple(groups))


def _read_series(
    connection: sqlite3.Connection, where: str = ""
) -> Iterator[tuple[str, str, bool, Counters, _SavedInode | None]]:
    for row in connection.execute(f"SELECT * FROM series {where}"):
        path, name, is_counting, changes, appended_bytes, truncations, rotations, device, *rest = row
        path = os.fsdecode(path)
        counters = Counters(*map(_count, (changes, appended_bytes, truncations, rotations)))
        yield path, name, bool(is_counting), counters, None if device is None else _saved_inode(path, device, *rest)


def _read_totals(
    connection: sqlite3.Connection,
) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...], Counters]]:
    for name, label_names, values, *counters in connection.execute("SELECT * FROM totals"):
        yield name, tuple(json.loads(label_names)), tuple(json.loads(values)), Counters(*map(_count, counters))


def _read_inodes(connection: sqlite3.Connection) -> Iterator[_Other]:
    for *values, home, name in connection.execute("SELECT * FROM inodes"):
        path = os.fsdecode(home)
        yield _saved_inode(path, *values), path, name


def _saved_inode(
    home: str,
    device: _Value,
    inode: _Value,
    birth_ns: _Value,
    size: _Value,
    mtime_ns: _Value,
    last_name: bytes | None,
    emptied_from: _Value,
) -> _SavedInode:
    return _SavedInode(
        (_number(device), _number(inode), _number(birth_ns)),
        _number(size),
        _number(mtime_ns),
        home if last_name is None else os.fsdecode(last_name),
        None if emptied_from is None else _number(emptied_from),
    )


def _count(value: _Value) -> int:
    number = _number(value)
    if number < 0:
        raise ValueError(f"a counter below zero: {number}")
    return number


def _number(value: _Value) -> int:
    return value if isinstance(value, int) else int(value)  # type: ignore[arg-type]  # None raises as it should
