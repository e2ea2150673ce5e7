"""The facts on disk: what is saved, what goes on after a restart, and what happens to files that cannot be used."""

import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter.config.groups import LogGroup
from exporter.ledger.books import Counters
from exporter.ledger.facts import Facts
from exporter.ledger.offsets import Question
from exporter.ops.file_clock import TOLERANCE_NS, FileClock
from exporter.publication.publication import Publication
from exporter.state.checkpoint import Checkpoint
from exporter.state.state_file import APPLICATION_ID, SCHEMA, GroupState, Restored, StateError
from fstat_cache import Data, FileStats
from tests.exporter.ledger.toy import Disk
from tests.support import REPOSITORY

UNPRIVILEGED = 65534

POD = re.compile("^/(?P<pod>.)")
GROUPS = (
    LogGroup("system", ("/a*",), ("*.gz",)),
    LogGroup("pods", ("/p*", "/q*"), path_regex=POD, aggregate_by=("pod",)),
)
SAVED_GROUPS = (
    GroupState("system", (), ("/a*",), ("*.gz",)),
    GroupState("pods", ("pod",), ("/p*", "/q*"), ()),
)
DECLARED = {"/a": 0, "/a.1": 0, "/p": 1, "/p.1": 1, "/q": 1}
NAMES = (*DECLARED, "/a.2", "/q.1")
REALMS = {"system": 0, "pods": 1, "other": 2}
NOTHING = Counters(0, 0, 0, 0)
CLOCK = FileClock(lambda _: 1 << 70, "boot")
"""A clock whose moments are the times of files."""


class State:
    """Facts, their publication and the checkpoint of both, as an agent has them after its start.

    Args:
        path: of the file.
        declared: name -> the position of the group that matches it.
        groups: of the configuration.
        zeros: the positions of those with ``first_sample: zero``.
    """

    def __init__(
        self,
        path: Path,
        declared: Mapping[str, int] = DECLARED,
        groups: tuple[LogGroup, ...] = GROUPS,
        zeros: Collection[int] = (),
    ) -> None:
        self.facts = Facts()
        self.declared = declared
        self.groups = groups
        self.publication = Publication(self.facts, groups, REALMS, zeros=dict.fromkeys(zeros, 10))
        self.checkpoint = Checkpoint(str(path), self.publication, REALMS, CLOCK)
        self.restored = self.checkpoint.load(lambda name: (declared[name],) if name in declared else ())

    def look(self, name: str, stats: FileStats | None) -> None:
        """Declare a path, if it is one of those, and book a stat of it."""
        position = self.declared.get(name)
        if position is not None and stats is not None:
            realm = REALMS[self.groups[position].group]
            self.facts.declare(name, realm, (position,), since_ns=0, is_new=True)
        self.facts.observe(name, stats, may_ask=False)

    def expire(self, now_s: float = 0) -> None:
        """End the paths of all files that have gone."""
        self.publication.expire(now_s, is_scrape=False)
        self.publication.expire(now_s + 1000, is_scrape=False)

    def save(self, as_of_ns: int = 1000) -> None:
        """Save without a failure."""
        assert self.checkpoint.save(as_of_ns)

    def close(self) -> None:
        """Let the file go."""
        self.checkpoint.close()

    def appended(self) -> dict[str, int]:
        """The bytes appended to each path that counts, and to the groups."""
        self.publication.update()
        groups = {str(totals.group): totals.appended_bytes for totals in self.publication.groups}
        return groups | {path.name: path.appended_bytes for path in self.facts.paths.values() if path.is_counting}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state is to be."""
    return tmp_path / "state.db"


# -- going on ----------------------------------------------------------------------------------------------------------


class Twins:
    """A disk at random, and states that look at the same names at the same time."""

    def __init__(self, seed: int, *states: State) -> None:
        self.states = [*states]
        self._random = random.Random(seed)
        self._disk = Disk()
        self._now_s = 0

    def go_on(self, steps: int) -> None:
        """Change files, look at some, and let time pass."""
        for _ in range(steps):
            name, other = self._random.choices(NAMES, k=2)
            names = self._disk.names
            file = names.get(name)
            match self._random.randrange(9):
                case 0 | 1 | 2 if file is not None:
                    self._disk.append(file, self._random.randint(1, 50))
                case 0 | 1 | 2:
                    self._disk.create(name)
                case 3 if file is not None:
                    self._disk.empty(file)
                case 4 if file is not None:
                    names[other] = names.pop(name)
                case 5 if file is not None:
                    names[other] = file
                case 6:
                    names.pop(name, None)
                case 7:
                    self._disk.create(name)
                case 8 if self._random.random() < 0.2:
                    self.expire()
            if self._random.random() < 0.7:
                self.look(self._random.choice(NAMES))

    def look(self, name: str) -> None:
        """Have all look at a name."""
        file = self._disk.names.get(name)
        for state in self.states:
            state.look(name, None if file is None else file.stats)

    def look_everywhere(self) -> None:
        """Have all look at all names."""
        for name in NAMES:
            self.look(name)

    def grow(self) -> None:
        """Append to each file, and look at it."""
        for file in dict.fromkeys(self._disk.names.values()):
            self._disk.append(file, 1)
        self.look_everywhere()

    def expire(self) -> None:
        """Have all paths end whose files are gone."""
        self._now_s += 10_000
        for state in self.states:
            state.expire(self._now_s)


def all_of(state: State) -> object:
    """What is to be seen of a state. Names that have counted nothing and lead nowhere end with a restart at once."""
    facts, publication = state.facts, state.publication
    publication.update()
    rows = [row for row in publication.rows.values() if row.is_present or Counters.of(row.path) != NOTHING]
    totals = {*publication.groups, *(each for row in rows for each in row.totals)}
    return (
        {(each.group, each.values): (Counters.of(each), each.files) for each in totals},
        [each.size_bytes for each in publication.groups],
        {row.path.name: (Counters.of(row.path), row.values, row.path.realm, row.is_present) for row in rows},
        {
            each.identity: (
                each.size,
                each.mtime_ns,
                sorted((home.realm, home.name) for home in each.homes),
                sorted(each.names),
                facts.inodes.offsets.get(each.identity),
            )
            for each in facts.inodes.values()
        },
    )


@settings(max_examples=60)
@example(seed=180, steps=[4, 40, 40])  # the home of a file with two names ends, and its path's latest file is another
@given(seed=st.integers(0, 1 << 32), steps=st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_a_restored_state_goes_on_as_the_old_one(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[int]
) -> None:
    """Whatever was saved in however many parts: both see the same, then and later."""
    path = tmp_path_factory.mktemp("state") / "state.db"
    old = State(path)
    twins = Twins(seed, old)
    for some in steps:
        twins.go_on(some)
        old.save(0)
    twins.look_everywhere()
    old.save(0)
    old.close()
    new = State(path)
    twins.states.append(new)
    twins.look_everywhere()
    # A file whose home has ended finds another one when it grows, if not before.
    twins.grow()
    assert all_of(new) == all_of(old)
    twins.expire()
    twins.grow()
    assert all_of(new) == all_of(old)
    new.facts.end_restoring()
    twins.go_on(40)
    twins.grow()
    assert all_of(new) == all_of(old)
    new.close()


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """All rows of a state file that nobody has open, those of groups that have counted nothing left out."""
    connection = sqlite3.connect(path)
    tables = ("meta", "totals", "series", "inodes")
    found = {table: sorted(connection.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}
    connection.close()
    found["totals"] = [row for row in found["totals"] if any(row[3:])]  # nothing is as good as no row
    return found


@settings(max_examples=20)
@given(seed=st.integers(0, 1 << 32), steps=st.lists(st.integers(0, 40), min_size=2, max_size=6))
def test_many_small_saves_are_one_big_one(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[int]
) -> None:
    """Only what has changed is written, and in the end the same is there; also after the file was removed."""
    path = tmp_path_factory.mktemp("state") / "state.db"
    state = State(path)
    twins = Twins(seed, state)
    for some in steps:
        twins.go_on(some)
        state.save(7)
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    path.unlink()
    state.save(7)
    state.close()
    assert rows(path) == rows(copy)


def test_growth_while_down(path: Path) -> None:
    """What known inodes grew by counts, under whatever name they are now; what is unknown counts if it is new."""
    state = State(path)
    assert state.restored == Restored()
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.look("/p", FileStats(20, 1, 2, 1, 500))
    state.save(1000)
    state.close()
    state = State(path)
    assert state.restored == Restored(1000, SAVED_GROUPS, 1000, "boot")
    assert sorted(inode.last_name for inode in state.facts.lost()) == ["/a", "/p"]
    state.look("/a.1", FileStats(13, 2, 1, 1, 500))
    state.look("/a", FileStats(5, 2, 3, 1, 1000))
    state.look("/p", FileStats(25, 2, 4, 1, 999 - TOLERANCE_NS))
    assert state.appended() == {"0": 18, "1": 20, "/a": 18, "/p": 20}
    assert {path.name: path.rotations for path in state.facts.paths.values()} == {"/a": 1, "/a.1": 0, "/p": 1}
    state.close()


def test_what_is_restored_is_not_born(path: Path) -> None:
    """Its series goes on, so it does not begin at 0, whatever it has counted; what was unknown does."""
    zeros = range(len(GROUPS))
    state = State(path, zeros=zeros)
    state.look("/a", FileStats(10, 1, 1, 1, 1))
    state.look("/p", FileStats(0, 1, 2, 1, 1))
    state.publication.update()
    assert all(row.is_zero for row in state.publication.rows.values())
    state.save()
    state.close()
    state = State(path, zeros=zeros)
    state.look("/a", FileStats(30, 2, 1, 1, 1))
    state.look("/p", FileStats(20, 2, 2, 1, 1))
    state.look("/q", FileStats(70, 2, 3, 1, 1))
    state.publication.update()
    assert {row.path.name: row.is_zero for row in state.publication.rows.values()} == {
        "/a": False,
        "/p": False,
        "/q": True,
    }
    assert {values: totals.is_zero for (_, values), totals in state.publication.aggregates.items()} == {
        ("p",): False,
        ("q",): True,
    }
    state.close()


def test_a_series_that_follows_one_that_has_ended(path: Path) -> None:
    """What becomes of a file that paid into the one before does not take its row away."""
    state = State(path)
    state.look("/p", FileStats(10, 1, 1, 1, 500))
    state.look("/rotated", FileStats(10, 1, 1, 1, 500))
    state.look("/p", None)
    state.expire()
    state.look("/p", FileStats(5, 2, 2, 1, 500))
    state.save(1000)
    state.look("/rotated", None)
    state.save(1000)
    state.close()
    state = State(path)
    assert state.appended() == {"0": 0, "1": 15, "/p": 5}
    state.close()


def test_what_has_ended_has_no_rows(path: Path) -> None:
    """Neither series and aggregates, nor inodes that are in the row of their series again."""
    state = State(path)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.look("/a", FileStats(10, 1, 2, 1, 500))
    state.look("/q", FileStats(10, 1, 3, 1, 500))
    state.save(1000)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.look("/q", None)
    state.expire()
    state.save(1000)
    state.close()
    found = rows(path)
    assert [row[:3] for row in found["totals"]] == [("pods", "[]", "[]"), ("system", "[]", "[]")]
    assert [(row[0], row[8]) for row in found["series"]] == [(b"/a", 1)]
    assert [row[1] for row in found["inodes"]] == [2, 3]


def test_what_was_forgotten_has_no_row(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files that no known name leads to, as many are saved as are remembered."""
    monkeypatch.setattr("exporter.ledger.lost.LOST_INODES", 1)
    state = State(path)
    for number in range(1, 5):
        state.look("/a", FileStats(10, 1, number, 1, 500 + number))
        if number == 3:
            state.save()
    state.save()
    state.close()
    assert [row[1] for row in rows(path)["inodes"]] == [3]


def test_was_configured() -> None:
    """A pattern was if some group had it and left out nothing that is not left out now."""
    restored = Restored(1, SAVED_GROUPS)
    assert restored.was_configured("/a*", ["*.gz", "*.old"])
    assert not restored.was_configured("/a*", [])
    assert restored.was_configured("/q*", [])
    assert not restored.was_configured("/b*", [])
    assert not Restored().was_configured("/a*", ["*.gz"])


def test_nothing_changed_nothing_written(path: Path) -> None:
    """A save costs what has changed; the time of the last one is that of the last change."""
    state = State(path)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.look("/q", FileStats(10, 1, 2, 1, 500))
    state.save(1000)
    log = Path(f"{path}-wal")
    before = log.read_bytes()
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.save(2000)
    assert log.read_bytes() == before
    state.close()
    state = State(path)
    assert state.restored.saved_at_ns == 1000
    state.save(3000)
    state.close()
    state = State(path)
    assert state.restored.saved_at_ns == 1000
    state.close()


def test_names_and_numbers_of_any_kind(path: Path) -> None:
    """Names that are not text, label values likewise, and numbers that SQLite does not know."""
    name = os.fsdecode(b"/\xff\n'\"\\")
    any_pod = re.compile("(?s)^/(?P<pod>.*)")
    groups = (GROUPS[0], replace(GROUPS[1], path_regex=any_pod))
    declared = {**DECLARED, name: 1}
    state = State(path, declared, groups)
    huge = (1 << 64) - 1
    state.look(name, FileStats(5, huge, huge, huge, huge))
    state.look("/a", FileStats(5, -1, 1, 1, 1))
    state.save(huge)
    state.close()
    before = all_of(state)
    state = State(path, declared, groups)
    assert state.restored.saved_at_ns == huge
    state.look(name, FileStats(5, huge, huge, huge, huge))
    state.look("/a", FileStats(5, -1, 1, 1, 1))
    assert all_of(state) == before
    state.close()


def test_another_configuration(path: Path) -> None:
    """What is not meant any more is dropped; group totals are not; a file's counters go on in another group."""
    state = State(path)
    for number, name in enumerate(DECLARED):
        state.look(name, FileStats(10, 1, number, 1, 500))
    state.look("/a", FileStats(5, 1, 9, 1, 500))
    state.look("/a.2", FileStats(10, 1, 0, 1, 500))
    state.save(1000)
    state.close()
    now = {"/a.1": 0, "/p": 1, "/q": 0}
    by_uid = LogGroup("pods", ("/p",), path_regex=re.compile("^/(?P<uid>.)"), aggregate_by=("uid",))
    groups = (GROUPS[0], by_uid, LogGroup("other", ()))
    state = State(path, now, groups)
    assert state.restored.groups == SAVED_GROUPS
    for number, name in enumerate(DECLARED):
        state.facts.observe(name, FileStats(11, 2, number, 1, 500))
    state.facts.observe("/a.2", FileStats(12, 2, 0, 1, 500))
    assert state.appended() == {"0": 25 + 4, "1": 30 + 2, "2": 0, "/a.1": 11, "/p": 11, "/q": 11}
    assert {key: totals.appended_bytes for key, totals in state.publication.aggregates.items()} == {(1, ("p",)): 1}
    state.save(2000)
    state.close()
    found = rows(path)
    assert [row[:3] for row in found["totals"]] == [
        ("pods", '["uid"]', '["p"]'),
        ("pods", "[]", "[]"),
        ("system", "[]", "[]"),
    ]
    assert [row[0] for row in found["series"]] == [b"/a.1", b"/p", b"/q"]
    assert [row[1] for row in found["inodes"]] == [0, 3, 9]
    state = State(path, {}, groups[2:])
    assert [group.name for group in state.restored.groups] == ["system", "pods", "other"]
    assert state.appended() == {"0": 0}
    assert state.facts.inodes == {}
    state.save(3000)
    state.close()
    found = rows(path)
    assert [row[:3] for row in found["totals"]] == [
        ("pods", "[]", "[]"),
        ("system", "[]", "[]"),
    ]
    assert found["series"] == found["inodes"] == []
    state = State(path)
    assert state.appended() == {"0": 29, "1": 32}
    state.close()


def test_static_labels_change(path: Path) -> None:
    """While the agent does not run: the counters of groups and aggregates go on, also after one more restart."""

    def groups(team: str) -> tuple[LogGroup, ...]:
        labels = {"team": team}
        return (GROUPS[0], LogGroup("pods", ("/p*",), labels=labels, path_regex=POD, aggregate_by=("team", "pod")))

    declared = {"/a": 0, "/p": 1}
    state = State(path, declared, groups("a"))
    for number, name in enumerate(declared):
        state.look(name, FileStats(10, 1, number, 1, 500))
    state.save(1000)
    state.close()
    for at in range(2):
        state = State(path, declared, groups("b"))
        assert [totals.appended_bytes for totals in state.publication.groups] == [10, 10]
        aggregates = {values: totals.appended_bytes for (_, values), totals in state.publication.aggregates.items()}
        assert aggregates == {("b", "p"): 10}
        state.save(2000 + at)  # before a change that would have it written again
        state.close()
    assert [row[:3] for row in rows(path)["totals"]] == [
        ("pods", '["team","pod"]', '["b","p"]'),
        ("pods", "[]", "[]"),
        ("system", "[]", "[]"),
    ]


def test_another_publication(path: Path) -> None:
    """After a reload what differs is written, be it what was saved before or not, and all is as if written anew."""
    then = {**DECLARED, "/a.5": 0}
    now = {"/a": 0, "/a.1": 0, "/a.5": 0, "/p": 1, "/q.1": 1}  # and the others are matched no more
    by_x = LogGroup("system", ("/a*",), labels={"new": "x"}, path_regex=re.compile("^/(?P<x>.)"), aggregate_by=("x",))
    groups = (by_x, LogGroup("other", ("/*",)))
    state = State(path, then)
    for number, name in enumerate(then):
        state.look(name, FileStats(10, 1, number, 1, 500))
    state.look("/a.2", FileStats(11, 2, 1, 1, 500))
    state.look("/a.1", FileStats(1, 3, 9, 1, 500))
    state.save(1000)
    state.look("/a", FileStats(15, 2, 0, 1, 500))  # not saved yet
    for declared in list(state.facts.paths.values()):
        numbers = (*declared.groups, 2 + now[declared.name]) if declared.name in now else declared.groups
        state.facts.declare(declared.name, declared.realm, numbers, since_ns=0, is_new=False)
    after = Publication(state.facts, groups, REALMS, first=2, before=state.publication)
    state.facts.declare("/q.1", REALMS["other"], (3,), since_ns=0, is_new=True)
    state.facts.observe("/q.1", FileStats(20, 4, 7, 1, 500))
    with state.facts.lock:
        after.take_over(lambda _: ())
        state.checkpoint.switch_to(after)
    state.save(2000)
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    path.unlink()
    state.save(2000)
    state.close()
    written, copied = rows(path), rows(copy)
    (kept,) = (row for row in copied["totals"] if row[0] == "pods")  # is no more, and may come back
    assert kept == ("pods", "[]", "[]", 0, 30, 0, 0)
    copied["totals"].remove(kept)
    assert copied == written
    assert {(row[0], row[1]) for row in written["series"]} == {
        (os.fsencode(name), groups[position].group) for name, position in now.items()
    }
    state.publication = after
    restored = State(path, now, groups)
    assert (
        restored.appended()
        == state.appended()
        == {
            "0": 10 + 11 + 1 + 10 + 5,
            "1": 20,
            "/a": 15,
            "/a.1": 12,
            "/a.5": 10,
            "/p": 10,
            "/q.1": 20,
        }
    )
    restored.close()


VERSION_1 = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE totals (group_name TEXT, label_names TEXT, label_values TEXT, changes, appended_bytes, truncations, "
    "rotations, PRIMARY KEY (group_name, label_names, label_values)) WITHOUT ROWID",
    "CREATE TABLE series (path BLOB PRIMARY KEY, group_name TEXT, is_counting, changes, appended_bytes, truncations, "
    "rotations, device, inode, birth_ns, size, mtime_ns, last_name BLOB, emptied_from) WITHOUT ROWID",
    "CREATE TABLE inodes (device, inode, birth_ns, size, mtime_ns, last_name BLOB, emptied_from, home BLOB, "
    "group_name TEXT, PRIMARY KEY (device, inode, birth_ns)) WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    "PRAGMA user_version = 1",
    """INSERT INTO meta VALUES ('saved_at_ns', 1000),
        ('groups', '[["system",[],["/a*"],["*.gz"]],["pods",["pod"],["/p*","/q*"],[]]]')""",
    """INSERT INTO totals VALUES ('system', '[]', '[]', 1, 500, 2, 3), ('pods', '[]', '[]', 4, 600, 0, 1),
        ('pods', '["pod"]', '["p"]', 3, 60, 0, 1), ('gone', '[]', '[]', 5, 5, 5, 5)""",
    """INSERT INTO series VALUES
        (x'2f61', 'system', 1, 1, 100, 2, 3, 1, 1, 500, 10, 7, NULL, 30),
        (x'2f612e31', 'system', 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (x'2f70', 'pods', 1, 3, 60, 0, 1, 1, 2, 500, 20, 7, NULL, NULL)""",
    """INSERT INTO inodes VALUES
        (1, 3, 500, 40, 7, x'2f726f7461746564', NULL, x'2f61', 'system'),
        (1, 4, 500, 50, 7, x'2f6f6c64', 60, x'2f656e646564', 'pods')""",
)


def test_a_file_of_version_1(path: Path) -> None:
    """It goes on with all counters and homes, and is one of the current version from then on."""
    execute(path, *VERSION_1)
    for version in (1, 2):
        assert execute_one(path, "PRAGMA user_version") == version
        state = State(path)
        assert (state.checkpoint.resets, state.restored) == (0, Restored(1000, SAVED_GROUPS))
        assert [Counters.of(totals) for totals in state.publication.groups] == [
            Counters(1, 500, 2, 3),
            Counters(4, 600, 0, 1),
        ]
        assert {values: Counters.of(totals) for (_, values), totals in state.publication.aggregates.items()} == {
            ("p",): Counters(3, 60, 0, 1)
        }
        assert {path.name: (Counters.of(path), path.is_counting) for path in state.facts.paths.values()} == {
            "/a": (Counters(1, 100, 2, 3), True),
            "/a.1": (Counters(0, 0, 0, 0), False),
            "/p": (Counters(3, 60, 0, 1), True),
        }
        assert {
            inode.identity[1]: (inode.size, inode.last_name, [(home.name, home.realm) for home in inode.homes])
            for inode in state.facts.lost()
        } == {
            1: (10, "/a", [("/a", 0)]),
            2: (20, "/p", [("/p", 1)]),
            3: (40, "/rotated", [("/a", 0)]),
            4: (50, "/old", [("/ended", 1)]),
        }
        assert state.facts.inodes.offsets == {(1, 1, 500): 30, (1, 4, 500): 60}
        state.close()
    state = State(path)
    for name, inode, size in (("/a", 1, 11), ("/p", 2, 22), ("/rotated", 3, 44), ("/old", 4, 58)):
        state.look(name, FileStats(size, 8, inode, 1, 500))
    assert state.appended() == {"0": 505, "1": 610, "/a": 105, "/p": 62}
    state.look("/q", FileStats(44, 8, 3, 1, 500))
    state.save(2000)
    state.close()
    assert [row for row in rows(path)["totals"] if row[0] == "gone"] == [("gone", "[]", "[]", 5, 5, 5, 5)]
    state = State(path)
    assert state.appended() == {"0": 505, "1": 654, "/a": 105, "/p": 62, "/q": 44}
    state.close()


def test_a_broken_file_of_version_1(path: Path) -> None:
    """It is kept as it was."""
    execute(path, *VERSION_1, "DROP TABLE inodes")
    state = State(path)
    assert (state.checkpoint.resets, state.restored) == (1, Restored())
    state.close()
    (kept,) = path.parent.glob("state.db.corrupt-*Z")
    assert execute_one(kept, "PRAGMA user_version") == 1
    assert execute_one(kept, "SELECT emptied_from FROM series WHERE path = x'2f61'") == 30


def test_homes_in_two_groups(path: Path) -> None:
    """A file that counts in two groups goes on in both, wherever its names and homes are by then."""
    state = State(path)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.look("/p", FileStats(10, 1, 1, 1, 500))
    state.save()
    state.close()
    state = State(path)
    state.look("/q", FileStats(13, 2, 1, 1, 500))
    assert state.appended() == {"0": 13, "1": 13, "/a": 13, "/p": 13}
    for name in ("/a", "/p"):  # nothing is there any more
        state.look(name, None)
    state.save()
    state.look("/p", FileStats(5, 3, 2, 1, 2000))
    state.look("/q", None)
    state.save()
    state.close()
    found = rows(path)
    assert [(row[0], row[1], row[8], row[12]) for row in found["series"]] == [
        (b"/a", "system", 1, b"/q"),
        (b"/p", "pods", 2, None),
        (b"/q", "pods", None, None),
    ]
    assert [(row[1], row[7], row[8]) for row in found["inodes"]] == [(1, b"/p", "pods")]
    state = State(path)
    assert [inode.last_name for inode in state.facts.lost()] == ["/q", "/p"]
    state.look("/elsewhere", FileStats(20, 4, 1, 1, 500))
    assert state.appended() == {"0": 20, "1": 25, "/a": 20, "/p": 25}
    for name in ("/a", "/p"):
        state.look(name, None)
    state.expire()
    state.save()
    state.close()
    assert [(row[1], row[7], row[8]) for row in rows(path)["inodes"]] == [
        (1, b"/a", "system"),
        (1, b"/p", "pods"),
        (2, b"/p", "pods"),
    ]
    state = State(path)
    state.look("/elsewhere", FileStats(21, 5, 1, 1, 500))
    assert state.appended() == {"0": 21, "1": 26}
    state.close()
    state = State(path, {}, GROUPS[:1])  # one of its groups is no more
    state.save()
    state.close()
    assert [(row[1], row[7], row[8]) for row in rows(path)["inodes"]] == [(1, b"/a", "system")]


def test_a_path_that_comes_to_another_group(path: Path) -> None:
    """All that has its home there comes along, in the file too; what had it there before that does not."""
    state = State(path)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.look("/rotated", FileStats(10, 1, 1, 1, 500))
    state.look("/a", FileStats(5, 1, 2, 1, 500))
    state.save()
    state.close()
    now = {"/a": 1}
    state = State(path, now)
    state.save()
    state.close()
    assert [row[1] for row in rows(path)["series"]] == ["pods"]
    assert [(row[1], row[7], row[8]) for row in rows(path)["inodes"]] == [(1, b"/a", "pods")]
    for number in range(2):
        state = State(path, now)
        assert {home.realm for inode in state.facts.inodes.values() for home in inode.homes} == {1}
        state.look("/rotated", FileStats(12, 2, 1, 1, 500))
        state.look("/a", FileStats(6, 2, 2, 1, 500))
        assert state.appended() == {"0": 15, "1": 3, "/a": 18}
        if number:
            state.save()
        state.close()
    state = State(path, now)
    state.facts.declare("/a", 0, (0,), since_ns=0, is_new=False)
    state.look("/rotated", FileStats(13, 3, 1, 1, 500))
    state.facts.observe("/a", FileStats(7, 3, 2, 1, 500))
    assert state.appended() == {"0": 22, "1": 5, "/a": 7}
    state.save()
    state.close()
    for _ in range(2):
        state = State(path)
        assert {inode.identity[1]: {home.realm for home in inode.homes} for inode in state.facts.inodes.values()} == {
            1: {1},
            2: {0, 1},
        }
        assert state.appended() == {"0": 22, "1": 5, "/a": 7}
        state.save()
        state.close()


# -- files that cannot be used ----------------------------------------------------------------------------------------


def saved(path: Path, files: int = 1) -> list[str]:
    """Make a state file of 10 bytes in each of so many files; return their names, so long that some fill a page."""
    names = [f"/var/log/{number:05d}{'x' * 200}.log" for number in range(files)]
    state = State(path, dict.fromkeys(names, 0))
    for number, name in enumerate(names):
        state.look(name, FileStats(10, 1, number, 1, 500))
    state.save(1000)
    state.close()
    return names


def execute(path: Path, *statements: str) -> None:
    """Change a database."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def write_text(path: Path) -> None:
    """Not a database."""
    path.write_text("counters: 1\n" * 1000)


def write_foreign(path: Path) -> None:
    """Some other program's database."""
    execute(path, "CREATE TABLE important (value)", "PRAGMA user_version = 1")


def write_foreign_mark(path: Path) -> None:
    """One that says whose it is, and has nothing in it."""
    execute(path, "PRAGMA application_id = 1")


def write_newer(path: Path) -> None:
    """Made by a later version."""
    saved(path)
    execute(path, f"PRAGMA user_version = {SCHEMA + 1}")


def write_truncated(path: Path) -> None:
    """Cut off in the middle."""
    saved(path, 2000)
    os.truncate(path, path.stat().st_size // 2)


def write_beginning(path: Path) -> None:
    """A header, and little more."""
    saved(path)
    os.truncate(path, 5000)


def write_garbage(path: Path) -> None:
    """Overwritten in the middle."""
    saved(path, 2000)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xa5" * 20_000)


def write_no_table(path: Path) -> None:
    """Without one of its tables."""
    saved(path)
    execute(path, "DROP TABLE inodes")


def write_no_number(path: Path) -> None:
    """A counter that is none."""
    saved(path)
    execute(path, "UPDATE series SET appended_bytes = 'many'")


def write_no_value(path: Path) -> None:
    """A counter that is missing."""
    saved(path)
    execute(path, "UPDATE series SET size = NULL")


def write_no_json(path: Path) -> None:
    """Values that cannot be read."""
    saved(path)
    execute(path, "UPDATE totals SET label_values = '['")


def write_other_json(path: Path) -> None:
    """What was configured is not what it should be."""
    saved(path)
    execute(path, "UPDATE meta SET value = '{\"a\": 1}' WHERE key = 'groups'")


@pytest.mark.parametrize(
    "write",
    [
        write_text,
        write_foreign,
        write_foreign_mark,
        write_newer,
        write_truncated,
        write_beginning,
        write_garbage,
        write_no_table,
        write_no_number,
        write_no_value,
        write_no_json,
        write_other_json,
    ],
    ids=lambda write: write.__name__,
)
def test_a_file_that_can_not_be_used_is_set_aside(
    path: Path, write: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """It is kept as it was under another name, that is told once, and another one is begun."""
    write(path)
    before = path.read_bytes()
    state = State(path)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == "the state file cannot be used and was renamed: the counters begin anew"
    (kept,) = path.parent.glob("state.db.corrupt-*Z")
    assert getattr(line, "fields") | {"reason": ""} == {"path": str(path), "reason": "", "kept": str(kept)}  # noqa: B009
    assert kept.read_bytes() == before
    assert state.checkpoint.resets == 1
    assert state.restored == Restored()
    assert state.appended() == {"0": 0, "1": 0}
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.save(1000)
    state.close()
    state = State(path)
    assert state.checkpoint.resets == 0
    assert state.appended() == {"0": 10, "1": 0, "/a": 10}
    state.close()


def test_an_empty_file_is_a_new_one(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Such as kill -9 may leave in the first moment."""
    path.touch()
    state = State(path)
    assert (state.checkpoint.resets, state.restored, caplog.records) == (0, Restored(), [])
    state.close()
    assert execute_one(path, "PRAGMA application_id") == APPLICATION_ID


def execute_one(path: Path, sql: str) -> object:
    """The only value that a query gives."""
    connection = sqlite3.connect(path)
    (value,) = connection.execute(sql).fetchone()
    connection.close()
    return value


def test_the_directory_is_made(tmp_path: Path) -> None:
    """A directory of its own need not be made before."""
    state = State(tmp_path / "lib" / "fstat" / "state.db")
    state.close()
    assert (tmp_path / "lib" / "fstat" / "state.db").stat().st_mode & 0o777 == 0o640 & ~current_umask()


def current_umask() -> int:
    """The process' umask."""
    value = os.umask(0)
    os.umask(value)
    return value


def test_places_where_no_state_can_be(tmp_path: Path) -> None:
    """The message says what is in the way."""

    def message(path: Path) -> str:
        with pytest.raises(StateError) as caught:
            State(path)
        return str(caught.value)

    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    where = tmp_path / "file" / "state.db"
    assert message(where) == f"the state file {where} cannot be made: {tmp_path / 'file'}: File exists"
    where = tmp_path / "file" / "below" / "state.db"
    assert message(where) == f"the state file {where} cannot be made: {where.parent}: Not a directory"
    for where in (tmp_path, tmp_path / "fifo"):
        assert message(where) == f"the state file {where} cannot be used: it is not a regular file"


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the user")
def test_no_permission(tmp_path: Path) -> None:
    """Neither to make the file nor to write it."""
    tmp_path.chmod(0o755)
    for directory in tmp_path.parents:
        if directory.stat().st_uid == os.geteuid() and not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)
    saved(tmp_path / "theirs.db")
    script = (
        "import os, sys\n"
        "from exporter.ledger.facts import Facts\n"
        "from exporter.publication.publication import Publication\n"
        "from exporter.state.checkpoint import Checkpoint, StateError\n"
        f"os.setuid({UNPRIVILEGED})\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        Checkpoint(path, Publication(Facts(), [], {}), {})\n"
        "    except StateError as error:\n"
        "        print(error)\n"
    )
    paths = [str(tmp_path / "theirs.db"), str(tmp_path / "new.db")]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"the state file {paths[0]} cannot be used: no permission to read and write it",
        f"the state file {paths[1]} cannot be made: Permission denied",
    ]


def test_in_use(path: Path) -> None:
    """A second agent must not have the file, in this process or another one, and does the first no harm."""
    state = State(path)
    script = (
        "import sys\n"
        "from exporter.ledger.facts import Facts\n"
        "from exporter.publication.publication import Publication\n"
        "from exporter.state.checkpoint import Checkpoint, StateError\n"
        "try:\n"
        "    Checkpoint(sys.argv[1], Publication(Facts(), [], {}), {})\n"
        "except StateError as error:\n"
        "    print(error)\n"
    )
    told = f"the state file {path} is in use by another process"
    with pytest.raises(StateError) as caught:
        State(path)
    assert str(caught.value) == told
    for size in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", script, path], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        assert done.stdout == told + "\n"
        state.look("/a", FileStats(size, size, 1, 1, 500))
        state.save(1000)
    state.close()
    state.close()
    state = State(path)
    assert state.appended()["/a"] == 2
    state.close()


# -- faults while it runs ----------------------------------------------------------------------------------------------


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file can be made longer than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each failure is counted, the first one told; nothing is lost, and what was there before stays whole."""
    caplog.set_level(logging.INFO)
    many = {f"/var/log/{number:05d}.log": number + 2 for number in range(3000)}
    declared = DECLARED | dict.fromkeys(many, 0)
    state = State(path, declared)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.save(1000)
    with full_disk(os.path.getsize(f"{path}-wal") + 50_000):
        for name, number in many.items():
            state.look(name, FileStats(10, 1, number, 1, 500))
        assert not state.checkpoint.save(2000)
        state.look("/a", FileStats(0, 2, 1, 1, 500))
        state.look("/p", FileStats(9, 2, 5000, 1, 500))
        assert not state.checkpoint.save(3000)
    assert state.checkpoint.failures == 2
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == "cannot write the state file; each scrape tries again"
    caplog.clear()
    state.look("/a", FileStats(7, 3, 1, 1, 500))
    state.save(4000)
    assert [line.getMessage() for line in caplog.records] == ["the state file is written again"]
    state.close()
    before = all_of(state)
    state = State(path, declared)
    assert state.checkpoint.resets == 0
    assert state.restored.saved_at_ns == 4000
    state.look("/a", FileStats(7, 3, 1, 1, 500))
    state.look("/p", FileStats(9, 2, 5000, 1, 500))
    for name, number in many.items():
        state.look(name, FileStats(10, 1, number, 1, 500))
    assert all_of(state) == before
    state.close()


def test_a_save_that_fails_before_it_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loses nothing either: the next one has it."""

    def fail(*_: object) -> Iterator[object]:
        raise OverflowError

    state = State(path)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.save(1000)
    state.look("/a", FileStats(0, 2, 1, 1, 500))
    state.look("/a", FileStats(10, 3, 1, 1, 500))
    monkeypatch.setattr(Checkpoint, "_statements", fail)
    assert not state.checkpoint.save(2000)
    monkeypatch.undo()
    state.save(3000)
    before = all_of(state)
    state.close()
    state = State(path)
    state.look("/a", FileStats(10, 3, 1, 1, 500))
    assert all_of(state) == before
    state.close()


def test_a_full_disk_from_the_first_moment(path: Path) -> None:
    """It is a mistake of the user's, not a damaged file."""
    with full_disk(0), pytest.raises(StateError, match=r"^the state file \S+ cannot be opened: "):
        State(path)


def test_the_file_is_removed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That is told, and all is written again; also where the directory has gone too."""
    path = path.parent / "lib" / "state.db"
    state = State(path)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    state.save(1000)
    state.look("/p", FileStats(10, 1, 2, 1, 500))
    state.save(1000)
    shutil.rmtree(path.parent)
    state.save(1000)
    assert [line.getMessage() for line in caplog.records] == ["the state file was removed: writing a new one"]
    path.unlink()
    state.look("/p", FileStats(15, 2, 2, 1, 500))
    state.save(1000)
    assert (state.checkpoint.failures, state.checkpoint.resets, len(caplog.records)) == (0, 0, 2)
    state.close()
    state = State(path)
    assert state.appended() == {"0": 10, "1": 15, "/a": 10, "/p": 15}
    state.close()


def test_the_file_is_replaced_by_one_that_is_in_use(path: Path) -> None:
    """That is a failure until it is not in use any more; then it is ours again, with nothing of the other's."""
    state = State(path)
    state.look("/a", FileStats(10, 1, 1, 1, 500))
    path.unlink()
    other = State(path)
    other.look("/q", FileStats(10, 1, 2, 1, 500))
    other.save(1000)
    assert not state.checkpoint.save(1000)
    assert not state.checkpoint.save(1000)
    assert (state.checkpoint.failures, state.checkpoint.resets) == (2, 0)
    other.close()
    state.look("/a", FileStats(15, 2, 1, 1, 500))
    state.save(1000)
    state.close()
    state = State(path)
    assert state.appended() == {"0": 15, "1": 0, "/a": 15}
    state.close()


def test_the_file_is_damaged_while_it_runs(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is set aside as soon as that is found, and all is written again."""
    many = dict.fromkeys(saved(path, 15_000), 0)  # more than SQLite keeps in memory
    state = State(path, many)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    for number, name in enumerate(many):
        if number % 10 == 0:
            state.look(name, FileStats(15, 2, number, 1, 500))
    assert not state.checkpoint.save(1000)
    state.save(1000)
    assert (state.checkpoint.failures, state.checkpoint.resets) == (1, 1)
    state.close()
    before = {name: size for name, size in state.appended().items() if size}
    state = State(path, many)
    assert {name: size for name, size in state.appended().items() if size} == before
    state.close()


# -- kill -9 -----------------------------------------------------------------------------------------------------------

GROWING = """
import os, sys
from exporter.config.groups import LogGroup
from exporter.ledger.facts import Facts
from exporter.publication.publication import Publication
from exporter.state.checkpoint import Checkpoint
from fstat_cache import FileStats

facts = Facts()
publication = Publication(facts, [LogGroup("all", ())], {"all": 0})
checkpoint = Checkpoint(sys.argv[1], publication, {"all": 0})
checkpoint.load(lambda path: (0,))
assert checkpoint.resets == 0
size = publication.groups[0].appended_bytes // 50
assert {path.appended_bytes for path in facts.paths.values()} <= {size}
os.write(1, b"%d\\n" % size)
for number in range(50):
    facts.declare(f"/{number}", 0, (0,), since_ns=0, is_new=True)
while True:
    size += 1
    for number in range(50):
        facts.observe(f"/{number}", FileStats(size, size, number, 1, 1))
    assert checkpoint.save(size)
    os.write(1, b"%d\\n" % size)
"""


def test_kill_at_random_moments(path: Path) -> None:
    """What was saved is there after each kill -9, whole, and no more than one step further."""
    told = 0
    rng = random.Random(4)
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", GROWING, path], cwd=REPOSITORY, stdout=subprocess.PIPE) as agent:
            assert agent.stdout is not None
            first = int(agent.stdout.readline())
            assert told <= first <= told + 1
            for _ in range(rng.randint(0, 300)):
                told = int(agent.stdout.readline())
            agent.send_signal(signal.SIGKILL)
            told = max(first, told, *(int(line) for line in agent.stdout.read().split()))
    assert told > 300


def test_meta_is_json(path: Path) -> None:
    """What was configured can be read by people with the program sqlite3."""
    saved(path)
    meta = dict(rows(path)["meta"])
    assert json.loads(str(meta["groups"]))[1] == ["pods", ["pod"], ["/p*", "/q*"], []]
    assert meta["saved_at_ns"] == 1000


def test_files_allocated_ahead(path: Path) -> None:
    """Where their data ends is kept, so that what is written next counts."""
    state = State(path)
    state.facts.declare("/a", 0, (0,), since_ns=0, is_new=True)
    state.facts.observe("/a", FileStats(50_000, 1, 1, 1, 1), Data(100, 100), may_ask=False)
    state.save(1)
    state.close()
    state = State(path)
    question = state.facts.observe("/a", FileStats(50_000, 2, 1, 1, 1))
    assert question == Question(100, is_resumed=True)
    state.close()


def test_counters_beyond_the_integers_of_sqlite(path: Path) -> None:
    """Are kept all the same: a user who makes huge files must not stop the state from being saved."""
    state = State(path)
    huge = (1 << 63) - 1
    for size in (huge, 0, huge):
        state.look("/a", FileStats(size, size, 1, 1, 1))
        state.save(1)
    expected = state.appended()
    assert expected["/a"] >= 1 << 63
    state.close()
    state = State(path)
    state.look("/a", FileStats(huge, huge, 1, 1, 1))
    assert state.appended() == expected
    state.close()


def test_a_counter_below_zero(path: Path) -> None:
    """Is damage."""
    state = State(path)
    state.look("/a", FileStats(5, 5, 1, 1, 1))
    state.save(1)
    state.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE totals SET appended_bytes = -5")
    connection.close()
    state = State(path)
    assert state.checkpoint.resets == 1
    state.close()
