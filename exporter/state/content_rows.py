"""The lines of files in the state file: the counters of groups and paths, and how far each inode was read."""

from __future__ import annotations

import os
from collections.abc import Mapping

from exporter.content.contents import Contents
from exporter.content.lines import Tail
from exporter.ledger.books import Journal
from exporter.ledger.facts import Facts
from exporter.ledger.records import Content
from exporter.state.state_file import Row, StateFile, Statement, whole

TABLES = ("content_groups", "content_paths", "content_inodes")
_PUT_GROUP = "INSERT OR REPLACE INTO content_groups VALUES (?, ?, ?)"
_PUT_PATH = "INSERT OR REPLACE INTO content_paths VALUES (?, ?, ?)"
_PUT_INODE = "INSERT OR REPLACE INTO content_inodes VALUES (?, ?, ?, ?, ?)"
_DROP_PATH = "DELETE FROM content_paths WHERE path = ?"
_DROP_INODE = "DELETE FROM content_inodes WHERE device = ? AND inode = ? AND birth_ns = ?"
_DROP_ALL: list[Statement] = [(f"DELETE FROM {table}", [()]) for table in TABLES]


class ContentRows:
    """Turns lines into rows, and rows into lines. The caller holds the facts' lock.

    Args:
        contents: have the lines.
        facts: have the paths and inodes.
        realms: name of a group -> its number.
    """

    def __init__(self, contents: Contents, facts: Facts, realms: Mapping[str, int]) -> None:
        self._contents = contents
        self._facts = facts
        self._realms = realms
        self._has_rows = self._had_rows = False  # now, and before the latest statements
        self._saved: dict[int, tuple[int, int]] = {}
        self._dropped_paths: list[Row] = []  # of restored rows that nothing belongs to any more
        self._dropped_inodes: list[Row] = []

    def fill(self) -> None:
        """Let the next :meth:`statements` write the counters of all groups, for a new file or after a failure."""
        self._saved, self._has_rows = {}, self._had_rows

    def statements(self, journal: Journal) -> list[Statement]:
        """Return the statements that save the groups, and the paths and inodes of a journal.

        An inode that is saved as known has its tail saved too, or its first lines would not count after a restart.
        The first statements after a time without lines save everything.
        """
        self._contents.update()
        lines, facts = self._contents.lines, self._facts
        self._had_rows, self._has_rows = self._has_rows, bool(lines.realms)
        if not lines.realms:
            self._saved = {}
            return _DROP_ALL if self._had_rows else []
        names = {path.name for path in journal.paths}  # an ended path may have a successor
        identities = {inode.identity for inode in journal.inodes}
        if not self._had_rows:
            names |= {path.name for path in facts.paths.values() if path.content is not None}
            identities |= {inode.identity for inode in lines.tails}
        groups: list[Row] = []
        for name, realm in self._realms.items():
            counters = lines.counted[realm], lines.skipped[realm]
            if self._saved.get(realm, (0, 0)) != counters:
                self._saved[realm] = counters
                groups.append((name, *map(whole, counters)))
        paths, inodes = self._dropped_paths, self._dropped_inodes
        self._dropped_paths, self._dropped_inodes = [], []
        put_paths: list[Row] = []
        put_inodes: list[Row] = []
        for name in names:
            path = facts.paths.get(name)
            if path is None or path.content is None:
                paths.append((os.fsencode(name),))
            else:
                put_paths.append((os.fsencode(name), whole(path.content.lines), path.content.has_lines))
        for identity in identities:
            key = tuple(map(whole, identity))
            inode = facts.inodes.get(identity)
            tail = None if inode is None else lines.tails.get(inode)
            if tail is None:
                inodes.append(key)
            else:
                put_inodes.append((*key, whole(tail.offset), tail.is_trusted))
        return [
            (_DROP_PATH, paths),
            (_DROP_INODE, inodes),
            (_PUT_GROUP, groups),
            (_PUT_PATH, put_paths),
            (_PUT_INODE, put_inodes),
        ]

    def load(self, file: StateFile) -> None:
        """Restore the lines, if any count. To be called once, after the paths and inodes were restored."""
        lines, facts = self._contents.lines, self._facts
        if not lines.realms:
            self._has_rows = True  # perhaps
            return
        for name, counted, skipped in file.content_groups():
            if name in self._realms:
                realm = self._realms[name]
                self._saved[realm] = lines.counted[realm], lines.skipped[realm] = counted, skipped
        for name, counted, has_lines in file.content_paths():
            path = facts.paths.get(name)
            if path is None:
                self._dropped_paths.append((os.fsencode(name),))
            else:
                path.content = Content(counted, has_lines)
        for identity, offset, is_trusted in file.content_inodes():
            inode = facts.inodes.get(identity)
            if inode is None:
                self._dropped_inodes.append(tuple(map(whole, identity)))
            else:
                lines.add(Tail(inode, offset, max(offset, inode.size), is_trusted))
        self._has_rows = bool(lines.counted or lines.tails or self._dropped_paths or self._dropped_inodes)
