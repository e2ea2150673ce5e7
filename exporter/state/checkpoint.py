"""The facts on disk: counters continue after a restart, and bytes appended meanwhile count."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from exporter.content.contents import Contents
from exporter.ledger.books import Counting, Journal
from exporter.ledger.records import Identity, Inode, Path
from exporter.ops.file_clock import FileClock
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from exporter.publication.publication import Publication
from exporter.publication.rows import Totals
from exporter.shippers.shippers import Shippers
from exporter.state import content_rows
from exporter.state.content_rows import ContentRows
from exporter.state.shipper_rows import ShipperRows
from exporter.state.state_file import (
    GONE,
    GroupState,
    Restored,
    Row,
    SavedHome,
    StateError,
    StateFile,
    Statement,
    whole,
)

_log = logging.getLogger(__name__)

_NO_INODE = (None,) * 7
_TABLES = ("meta", "totals", "series", "inodes", "handles", "uncertain", "shipper_sums", "shipper_logs")
_EMPTY_ALL = [(f"DELETE FROM {table}", [()]) for table in (*_TABLES, *content_rows.TABLES)]
_EMPTY_AGGREGATES: Statement = ("DELETE FROM totals WHERE label_values <> '[]'", [()])
_PUT_META = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_PUT_TOTALS = "INSERT OR REPLACE INTO totals VALUES (?, ?, ?, ?, ?, ?, ?)"
_PUT_PATH = "INSERT OR REPLACE INTO series VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_INODE = "INSERT OR REPLACE INTO inodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_HANDLE = "INSERT OR REPLACE INTO handles VALUES (?, ?, ?, ?)"
_PUT_UNCERTAIN = "INSERT OR REPLACE INTO uncertain VALUES (?, ?, ?)"
_DROP_HANDLE = "DELETE FROM handles WHERE device = ? AND inode = ? AND birth_ns = ?"
_DROP_TOTALS = "DELETE FROM totals WHERE group_name = ? AND label_names = ? AND label_values = ?"
_DROP_PATH = "DELETE FROM series WHERE path = ?"
_DROP_INODE = "DELETE FROM inodes WHERE device = ? AND inode = ? AND birth_ns = ?"


class Checkpoint:
    """Saves facts, and the totals of their publication, in a file. Safe to call from several threads.

    Args:
        path: the file, see :class:`StateFile`.
        publication: of new facts, in which no path is declared.
        realms: name of a group -> its number.
        clock: by default a new one.
        shippers: whose accounts are saved too; None: there are none.
        contents: the lines of files, which are saved too; None: there are none.

    Attributes:
        failures: how often :meth:`save` failed.

    Raises:
        StateError: the file cannot be made, read or written, or is in use.
    """

    def __init__(
        self,
        path: str,
        publication: Publication,
        realms: Mapping[str, int],
        clock: FileClock | None = None,
        shippers: Shippers | None = None,
        contents: Contents | None = None,
    ) -> None:
        self.failures = 0
        self._facts = publication.facts
        self._publication = publication
        self._realms = realms
        self._clock = clock or FileClock()
        self._shippers = None if shippers is None else ShipperRows(shippers, self._facts, realms, self._clock)
        self._contents = None if contents is None else ContentRows(contents, self._facts, realms)
        self._lock = threading.Lock()  # protects the file; held while SQLite works
        self._journal = Journal()
        self._pending: list[Statement] = []  # to be run before the next rows
        self._saved_uncertain: Counter[tuple[int, str]] = Counter()
        self._faults = Transitions()
        self._file = StateFile(path)

    @property
    def resets(self) -> int:
        """How often an unusable file was set aside."""
        return self._file.resets

    def load(self, groups_of: Callable[[str], tuple[int, ...]]) -> Restored:
        """Restore the facts. To be called once, before anything else is booked.

        Args:
            groups_of: gives the numbers of the groups that match a path now.

        Raises:
            StateError: the file cannot be read.
        """
        with self._lock, self._facts.lock, _nothing_is_garbage():
            try:
                restored, unsaved = self._load(groups_of)
            except sqlite3.Error as error:
                raise StateError(f"the state file {self._file.path} cannot be read: {error}") from None
            self._journal = self._facts.journal()  # what was loaded is on the disk
            self._journal.merge(unsaved)
            return restored

    def save(self, as_of_ns: int) -> bool:
        """Write the changes since the last save, if any.

        Not to be called before every file was stat'ed. Otherwise files not seen yet would count as old after a restart.

        Args:
            as_of_ns: the moment before the latest ``sync()``, by `FileClock.file_now_ns`: every file born before is
                known.

        Returns:
            Whether it succeeded. A failure is logged and loses nothing: the next save writes these changes too.
        """
        with self._lock:
            try:
                if not self._file.is_there:
                    self._file.open_again()
                    self._write_all()
                self._save(as_of_ns)
            except (StateError, sqlite3.Error, OSError, OverflowError) as error:
                self.failures += 1
                if self._faults.update(["it"]).begun:
                    text = "cannot write the state file; each scrape tries again"
                    _log.warning(text, extra=fields(path=self._file.path, error=error))
                return False
            if self._faults.update(()).ended:
                _log.info("the state file is written again", extra=fields(path=self._file.path))
            return True

    def switch_to(self, publication: Publication) -> None:
        """Save the totals of another publication from the next :meth:`save` on. The caller holds the facts' lock."""
        self._publication = publication

    def close(self) -> None:
        """Close the file without saving. Idempotent."""
        with self._lock:
            self._file.close()

    # -- below here, every method is called with the lock held --------------------------------------------------------

    def _write_all(self) -> None:
        """Queue all known facts and totals for a new file, after the old one was deleted or damaged."""
        self._pending, self._saved_uncertain = [*_EMPTY_ALL, self._groups_statement()], Counter()
        with self._facts.lock:
            self._facts.fill(self._journal)
            self._publication.unsaved = set(self._publication.totals())
            if self._shippers is not None:
                self._shippers.fill()
            if self._contents is not None:
                self._contents.fill()

    def _group_states(self) -> tuple[GroupState, ...]:
        groups = self._publication.config
        return tuple(
            GroupState(group.group, group.aggregate_by, group.written_paths, group.written_exclude) for group in groups
        )

    def _groups_statement(self) -> Statement:
        return _PUT_META, [("groups", _as_json(self._group_states()))]

    def _save(self, as_of_ns: int) -> None:
        journal = self._journal
        facts = self._facts
        with facts.lock:
            publication = self._publication
            publication.update()
            of_content = [] if self._contents is None else self._contents.statements(journal)
            if publication.unsaved is None:  # the first save of another publication
                publication.unsaved = set(publication.totals())
                # The totals of removed groups stay in the file, because the groups may come back.
                self._pending += [_EMPTY_AGGREGATES, self._groups_statement()]
            taken, unsaved = Journal(journal.paths, journal.inodes, journal.handles), publication.unsaved
            statements = [*self._pending, *self._statements(taken, unsaved)]
            of_shippers, accounts = ([], {}) if self._shippers is None else self._shippers.statements()
            statements += [*of_shippers, *of_content]
            journal.paths, journal.inodes, journal.handles, publication.unsaved = set(), set(), set(), set()
            statements = [(sql, rows) for sql, rows in statements if rows]
            uncertain = facts.inodes.uncertain.copy()
        if not statements:
            return
        epoch_ns, moment_ns, boot_id = self._clock.saved(as_of_ns)
        saved = ("saved_at_ns", whole(epoch_ns)), ("saved_at_boottime_ns", whole(moment_ns)), ("boot_id", boot_id)
        statements.append((_PUT_META, saved))
        try:
            self._file.run(statements)
        except BaseException:
            with self._facts.lock:
                journal.merge(taken)
                publication.unsaved |= unsaved
                if self._shippers is not None:
                    self._shippers.put_back(accounts)
                if self._contents is not None:
                    self._contents.fill()
            raise
        self._pending, self._saved_uncertain = [], uncertain

    def _statements(self, taken: Journal, unsaved: Iterable[Totals]) -> tuple[Statement, ...]:
        """Return the statements that write a journal. They drop before they put: an ended row may have a successor."""
        facts, aggregates = self._facts, self._publication.aggregates
        names = {realm: name for name, realm in self._realms.items()}
        ended = [totals for totals in unsaved if totals.has_ended and (totals.group, totals.values) not in aggregates]
        homes = {home for inode in taken.inodes for home in inode.homes if home.inode is inode}
        forgotten = [inode for inode in taken.inodes if inode.identity not in facts.inodes]
        new_handles = {inode.identity for inode in taken.handles} & facts.inodes.handles.keys()
        uncertain = facts.inodes.uncertain.items() - self._saved_uncertain.items()
        return (
            (_DROP_TOTALS, [self._totals_key(totals) for totals in ended]),
            (_DROP_PATH, [(os.fsencode(path.name),) for path in taken.paths if path.name not in facts.paths]),
            (_DROP_INODE, [_key(inode.identity) for inode in taken.inodes]),
            (_PUT_TOTALS, [(*self._totals_key(each), *_counters(each)) for each in unsaved if not each.has_ended]),
            (_PUT_PATH, [self._path_row(path, names) for path in taken.paths | homes if not path.has_ended]),
            (_PUT_INODE, [row for inode in taken.inodes for row in self._inode_rows(inode, names)]),
            (_DROP_HANDLE, [_key(inode.identity) for inode in forgotten]),
            (_PUT_HANDLE, [(*_key(identity), facts.inodes.handles[identity]) for identity in new_handles]),
            (_PUT_UNCERTAIN, [(names[realm], reason, count) for (realm, reason), count in uncertain]),
        )

    def _totals_key(self, totals: Totals) -> Row:
        group = self._publication.config[totals.group]
        return group.group, _as_json(group.aggregate_by) if totals.values else "[]", _as_json(totals.values)

    def _path_row(self, path: Path, names: Mapping[int, str]) -> Row:
        inode = path.inode
        latest = _NO_INODE if inode is None or path not in inode.homes else self._inode_values(inode, path)
        return os.fsencode(path.name), names[path.realm], path.is_counting, *_counters(path), *latest

    def _inode_rows(self, inode: Inode, names: Mapping[int, str]) -> Iterator[Row]:
        """Yield a row for each home of the inode whose own row does not include the inode."""
        if self._facts.inodes.get(inode.identity) is inode:
            for home in inode.homes:
                if home.inode is not inode or home.has_ended:
                    yield *self._inode_values(inode, home), os.fsencode(home.name), names[home.realm]

    def _inode_values(self, inode: Inode, home: Path) -> Row:
        offset = self._facts.inodes.offsets.get(inode.identity)
        last_name = inode.last_name if inode.identity in self._facts.inodes else GONE
        return (
            *_key(inode.identity),
            whole(inode.size),
            whole(inode.mtime_ns),
            None if last_name == home.name else os.fsencode(last_name),
            None if offset is None else whole(offset),
        )

    def _load(self, groups_of: Callable[[str], tuple[int, ...]]) -> tuple[Restored, Journal]:
        """Restore everything that still matches; return also a journal of what must be saved again."""
        restored = self._file.meta()
        if restored.groups != self._group_states():
            self._pending.append(self._groups_statement())
        since_ns = self._clock.restored(restored.saved_at_ns, restored.saved_at_boottime_ns, restored.boot_id)
        facts, publication = self._facts, self._publication
        positions = {group.group: position for position, group in enumerate(publication.config)}
        names = {realm: name for name, realm in self._realms.items()}
        regrouped: dict[str, str] = {}  # path that another group publishes now -> its saved group
        others: list[SavedHome] = []
        paths: list[Row] = []  # keys of rows to drop, here and below
        totals: list[Row] = []
        inodes: list[Row] = []
        for name, group, is_counting, counters, latest in self._file.paths():
            groups = groups_of(name)
            position = publication.position_of(groups)
            if position is None:
                paths.append((os.fsencode(name),))
                if latest is not None:
                    others.append(SavedHome(latest, name, group))
                continue
            now = publication.config[position].group
            realm = self._realms[now]
            if now != group:
                regrouped[name] = group
            facts.restore_path(name, realm, groups, counters, is_counting=is_counting, since_ns=since_ns)
            if latest is not None:
                facts.restore_inode(*latest, home=name, realm=realm, is_latest=True)
        publication.update()
        for row in publication.rows.values():
            row.has_counters = row.path.is_counting  # it is not born, its series goes on
        publication.unsaved = set()
        for group, label_names, saved_values, counters in self._file.totals():
            at = positions.get(group)
            values = None if at is None else self._values_now(at, label_names, saved_values)
            if saved_values and values != saved_values:
                totals.append((group, _as_json(label_names), _as_json(saved_values)))
            if at is not None and values is not None:  # else the group was removed, but may come back
                publication.restore_totals(at, values, counters)
                if values != saved_values:
                    publication.unsaved.add(publication.aggregates[at, values])
        unsaved = {saved.inode.identity for saved in others}
        others += self._file.inodes()
        for saved, home, group in others:
            path = facts.paths.get(home)
            if path is not None and group == regrouped.get(home, names[path.realm]):
                facts.restore_inode(*saved, home=home, realm=path.realm, is_latest=False)
            elif group in positions:
                facts.restore_inode(*saved, home=home, realm=self._realms[group], is_latest=False)
            else:
                inodes.append(_key(saved.identity))
            if home in regrouped or group not in positions:
                unsaved.add(saved.identity)
        handles: list[Row] = []
        for identity, handle in self._file.handles():
            if identity in facts.inodes:
                facts.inodes.handles[identity] = handle
            else:
                handles.append(_key(identity))
        for group, reason, occurrences in self._file.uncertain():
            if group in positions:
                facts.inodes.uncertain[self._realms[group], reason] = occurrences
        if self._shippers is not None:
            self._shippers.load(self._file)
        if self._contents is not None:
            self._contents.load(self._file)
        self._saved_uncertain = facts.inodes.uncertain.copy()
        self._pending += [(_DROP_PATH, paths), (_DROP_TOTALS, totals), (_DROP_INODE, inodes), (_DROP_HANDLE, handles)]
        unsaved_inodes = {facts.inodes[identity] for identity in unsaved if identity in facts.inodes}
        return restored, Journal({facts.paths[name] for name in regrouped}, unsaved_inodes)

    def _values_now(self, position: int, names: tuple[str, ...], saved: tuple[str, ...]) -> tuple[str, ...] | None:
        """Return the label values that saved totals have now; static ones may have changed. None: no such aggregate."""
        group = self._publication.config[position]
        if not saved or names != group.aggregate_by:
            return None if saved else ()
        values = tuple([group.labels.get(name, value) for name, value in zip(names, saved, strict=False)])
        return values if (position, values) in self._publication.aggregates else None


@contextlib.contextmanager
def _nothing_is_garbage() -> Iterator[None]:
    """Disable the garbage collector, which would traverse the many new objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _as_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _counters(of: Counting) -> Row:
    return whole(of.changes), whole(of.appended_bytes), whole(of.truncations), whole(of.rotations)


def _key(identity: Identity) -> Row:
    return tuple(map(whole, identity))
