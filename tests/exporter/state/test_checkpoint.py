"""The ledger on disk: what is saved, what goes on after a restart, and what happens to files that can not be used."""

import json
import logging
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.ledger.growth import Counters, GroupRules, Labels, Ledger
from exporter.state.checkpoint import APPLICATION_ID, SCHEMA, Checkpoint, GroupState, Restored, StateError
from fstat_cache import FileStats
from tests.exporter.ledger.toy import Disk
from tests.support import REPOSITORY

UNPRIVILEGED = 65534

GROUPS = (
    GroupState("system", (), ("/a*",), ("*.gz",)),
    GroupState("pods", ("pod",), ("/p*", "/q*"), ()),
)
DECLARED = {
    "/a": Labels(0, ("1",)),
    "/a.1": Labels(0, ("2",)),
    "/p": Labels(1, ("3",), ("x",)),
    "/p.1": Labels(1, ("4",), ("x",)),
    "/q": Labels(1, ("5",), ("y",)),
}
NAMES = (*DECLARED, "/a.2", "/q.1")

State = tuple[Ledger, Checkpoint, Restored]


def begin(
    path: Path, label: Callable[[str], Labels | None] = DECLARED.get, groups: tuple[GroupState, ...] = GROUPS
) -> State:
    """An agent's ledger and checkpoint after its start."""
    ledger = Ledger([GroupRules()] * len(groups))
    checkpoint = Checkpoint(str(path), ledger, groups)
    return ledger, checkpoint, checkpoint.load(label)


def look(ledger: Ledger, path: str, stats: FileStats | None, labels: Labels | None = None) -> None:
    """Have a path declared, if it is one of those, and book a look at it."""
    labels = labels or DECLARED.get(path)
    if labels is not None and stats is not None:
        ledger.declare(path, labels, since_ns=0, is_new=True)
    ledger.observe(path, stats)


def appended(ledger: Ledger) -> dict[str, int]:
    """The bytes appended to each path that counts, and to the groups."""
    groups = {str(totals.group): totals.appended_bytes for totals in ledger.groups}
    return groups | {series.path: series.appended_bytes for series in ledger.series() if series.is_counting}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state is to be."""
    return tmp_path / "state.db"


# -- going on ----------------------------------------------------------------------------------------------------------


class Twins:
    """A disk at random, and ledgers that look at the same names at the same time."""

    def __init__(self, seed: int, *ledgers: Ledger) -> None:
        self.ledgers = [*ledgers]
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
        """Have all ledgers look at a name."""
        file = self._disk.names.get(name)
        for ledger in self.ledgers:
            look(ledger, name, None if file is None else file.stats)

    def look_everywhere(self) -> None:
        """Have all ledgers look at all names."""
        for name in NAMES:
            self.look(name)

    def grow(self) -> None:
        """Append to each file, and look at it."""
        for file in dict.fromkeys(self._disk.names.values()):
            self._disk.append(file, 1)
        self.look_everywhere()

    def expire(self) -> None:
        """Have all series end whose files are gone."""
        self._now_s += 10_000
        for ledger in self.ledgers:
            ledger.expire(self._now_s, is_scrape=False)
            ledger.expire(self._now_s + 9_000, is_scrape=False)


def all_of(ledger: Ledger) -> object:
    """What is to be seen of a ledger."""
    totals = (*ledger.groups, *ledger.aggregates.values())
    return (
        {(each.group, each.values): (Counters.of(each), each.files) for each in totals},
        sum(each.size_bytes for each in ledger.groups),
        {each.path: (Counters.of(each), each.labels, each.is_present) for each in ledger.series()},
        {
            each.identity: (
                each.size,
                each.mtime_ns,
                each.series.path,
                sorted(each.names),
                ledger.emptied_from(each),
            )
            for each in ledger.inodes()
        },
    )


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), steps=st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_a_restored_ledger_goes_on_as_the_old_one(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[int]
) -> None:
    """Whatever was saved in however many parts: both see the same, then and later."""
    path = tmp_path_factory.mktemp("state") / "state.db"
    old, checkpoint, _ = begin(path)
    twins = Twins(seed, old)
    for some in steps:
        twins.go_on(some)
        assert checkpoint.save(0)
    twins.look_everywhere()
    assert checkpoint.save(0)
    checkpoint.close()
    new, checkpoint, _ = begin(path)
    twins.ledgers.append(new)
    twins.look_everywhere()
    twins.grow()  # a file whose series has ended finds another one when it grows, if not before
    assert all_of(new) == all_of(old)
    twins.expire()
    assert all_of(new) == all_of(old)
    new.end_restoring()
    twins.go_on(40)
    twins.look_everywhere()
    assert all_of(new) == all_of(old)
    checkpoint.close()


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
    ledger, checkpoint, _ = begin(path)
    twins = Twins(seed, ledger)
    for some in steps:
        twins.go_on(some)
        assert checkpoint.save(7)
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    path.unlink()
    assert checkpoint.save(7)
    checkpoint.close()
    assert rows(path) == rows(copy)


def test_growth_while_down(path: Path) -> None:
    """What known inodes grew by counts, under whatever name they are now; what is unknown counts if it is new."""
    ledger, checkpoint, restored = begin(path)
    assert restored == Restored()
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    look(ledger, "/p", FileStats(20, 1, 2, 1, 500))
    assert checkpoint.save(1000)
    checkpoint.close()
    ledger, checkpoint, restored = begin(path)
    assert restored == Restored(1000, GROUPS)
    assert sorted(inode.last_name for inode in ledger.lost()) == ["/a", "/p"]
    look(ledger, "/a.1", FileStats(13, 2, 1, 1, 500))
    look(ledger, "/a", FileStats(5, 2, 3, 1, 1000))
    look(ledger, "/p", FileStats(25, 2, 4, 1, 999))
    assert appended(ledger) == {"0": 18, "1": 20, "/a": 18, "/p": 20}
    assert {series.path: series.rotations for series in ledger.series()} == {"/a": 1, "/a.1": 0, "/p": 1}
    checkpoint.close()


def test_a_series_that_follows_one_that_has_ended(path: Path) -> None:
    """What becomes of a file that paid into the one before does not take its row away."""
    ledger, checkpoint, _ = begin(path)
    look(ledger, "/p", FileStats(10, 1, 1, 1, 500))
    look(ledger, "/rotated", FileStats(10, 1, 1, 1, 500))
    look(ledger, "/p", None)
    ledger.expire(0, is_scrape=False)
    ledger.expire(1000, is_scrape=False)
    look(ledger, "/p", FileStats(5, 2, 2, 1, 500))
    assert checkpoint.save(1000)
    look(ledger, "/rotated", None)
    assert checkpoint.save(1000)
    checkpoint.close()
    ledger, checkpoint, _ = begin(path)
    assert appended(ledger) == {"0": 0, "1": 15, "/p": 5}
    checkpoint.close()


def test_what_has_ended_has_no_rows(path: Path) -> None:
    """Neither series and aggregates, nor inodes that are in the row of their series again."""
    ledger, checkpoint, _ = begin(path)
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    look(ledger, "/a", FileStats(10, 1, 2, 1, 500))
    look(ledger, "/q", FileStats(10, 1, 3, 1, 500))
    assert checkpoint.save(1000)
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    look(ledger, "/q", None)
    ledger.expire(0, is_scrape=False)
    ledger.expire(1000, is_scrape=False)
    assert checkpoint.save(1000)
    checkpoint.close()
    found = rows(path)
    assert [row[:3] for row in found["totals"]] == [("pods", "[]", "[]"), ("system", "[]", "[]")]
    assert [(row[0], row[8]) for row in found["series"]] == [(b"/a", 1)]
    assert [row[1] for row in found["inodes"]] == [2, 3]


def test_was_configured() -> None:
    """A pattern was if some group had it and left out nothing that is not left out now."""
    restored = Restored(1, GROUPS)
    assert restored.was_configured("/a*", ["*.gz", "*.old"])
    assert not restored.was_configured("/a*", [])
    assert restored.was_configured("/q*", [])
    assert not restored.was_configured("/b*", [])
    assert not Restored().was_configured("/a*", ["*.gz"])


def test_nothing_changed_nothing_written(path: Path) -> None:
    """A save costs what has changed; the time of the last one is that of the last change."""
    ledger, checkpoint, _ = begin(path)
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    look(ledger, "/q", FileStats(10, 1, 2, 1, 500))
    assert checkpoint.save(1000)
    log = Path(f"{path}-wal")
    before = log.read_bytes()
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    assert checkpoint.save(2000)
    assert log.read_bytes() == before
    checkpoint.close()
    _, checkpoint, restored = begin(path)
    assert restored.saved_at_ns == 1000
    assert checkpoint.save(3000)
    checkpoint.close()
    assert begin(path)[2].saved_at_ns == 1000


def test_urgent(path: Path) -> None:
    """A truncation is to be saved at once, once."""
    ledger, checkpoint, _ = begin(path)
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    assert not checkpoint.is_urgent
    look(ledger, "/a", FileStats(0, 2, 1, 1, 500))
    assert checkpoint.is_urgent
    assert checkpoint.save(1000)
    assert not checkpoint.is_urgent
    checkpoint.close()


def test_names_and_numbers_of_any_kind(path: Path) -> None:
    """Names that are not text, label values likewise, and numbers that SQLite does not know."""
    name = os.fsdecode(b"/\xff\n'\"\\")
    labels = Labels(1, (name,), (name,))
    ledger, checkpoint, _ = begin(path)
    huge = (1 << 64) - 1
    look(ledger, name, FileStats(5, huge, huge, huge, huge), labels)
    look(ledger, "/a", FileStats(5, -1, 1, 1, 1))
    assert checkpoint.save(huge)
    checkpoint.close()
    before = all_of(ledger)
    ledger, checkpoint, restored = begin(path, (DECLARED | {name: labels}).get)
    assert restored.saved_at_ns == huge
    look(ledger, name, FileStats(5, huge, huge, huge, huge), labels)
    look(ledger, "/a", FileStats(5, -1, 1, 1, 1))
    assert all_of(ledger) == before
    checkpoint.close()


def test_another_configuration(path: Path) -> None:
    """What is not meant any more is dropped; group totals are not; a file's counters go on in another group."""
    ledger, checkpoint, _ = begin(path)
    for number, name in enumerate(DECLARED):
        look(ledger, name, FileStats(10, 1, number, 1, 500))
    look(ledger, "/a", FileStats(5, 1, 9, 1, 500))
    look(ledger, "/a.2", FileStats(10, 1, 0, 1, 500))
    assert checkpoint.save(1000)
    checkpoint.close()
    now = {"/a.1": Labels(0, ("2",)), "/p": Labels(1, ("3",), ("x",)), "/q": Labels(0, ("5",))}
    groups = (GROUPS[0], GroupState("pods", ("uid",), ("/p",), ()), GroupState("other", (), (), ()))
    ledger, checkpoint, restored = begin(path, now.get, groups)
    assert restored.groups == GROUPS
    for number, name in enumerate(DECLARED):
        ledger.observe(name, FileStats(11, 2, number, 1, 500))
    ledger.observe("/a.2", FileStats(12, 2, 0, 1, 500))
    assert appended(ledger) == {"0": 25 + 4, "1": 30 + 2, "2": 0, "/a.1": 11, "/p": 11, "/q": 11}
    assert {key: totals.appended_bytes for key, totals in ledger.aggregates.items()} == {(1, ("x",)): 1}
    assert checkpoint.save(2000)
    checkpoint.close()
    found = rows(path)
    assert [row[:3] for row in found["totals"]] == [
        ("pods", '["uid"]', '["x"]'),
        ("pods", "[]", "[]"),
        ("system", "[]", "[]"),
    ]
    assert [row[0] for row in found["series"]] == [b"/a.1", b"/p", b"/q"]
    assert [row[1] for row in found["inodes"]] == [0, 3, 9]
    ledger, checkpoint, restored = begin(path, {}.get, groups[2:])
    assert restored.groups == groups
    assert appended(ledger) == {"0": 0}
    assert list(ledger.inodes()) == []
    assert checkpoint.save(3000)
    checkpoint.close()
    found = rows(path)
    assert [row[:3] for row in found["totals"]] == [
        ("pods", "[]", "[]"),
        ("system", "[]", "[]"),
    ]
    assert found["series"] == found["inodes"] == []
    ledger, checkpoint, _ = begin(path)
    assert appended(ledger) == {"0": 29, "1": 32}
    checkpoint.close()


def test_another_ledger(path: Path) -> None:
    """After a reload what differs is written, be it what was saved before or not, and all is as if written anew."""
    then = DECLARED | {"/a.5": Labels(0, ("7",))}
    now = {
        "/a": Labels(0, ("1", "new"), ("n",)),  # the same in the same group, but for what is not saved
        "/a.1": Labels(0, ("2", "new"), ("n",)),
        "/a.5": Labels(0, ("7", "new"), ("n",)),
        "/p": Labels(1, ("3", "")),  # in another group
        "/q.1": Labels(1, ("6", "")),  # new
    }  # and the others are meant no more
    groups = (GroupState("system", ("x",), ("/a*",), ()), GroupState("other", (), ("/*",), ()))
    before, checkpoint, _ = begin(path)
    after = Ledger([GroupRules()] * 2)
    for ledger, labels in ((before, then), (after, now)):
        for number, name in enumerate(then):
            if name in labels:
                look(ledger, name, FileStats(10, 1, number, 1, 500), labels[name])
        look(ledger, "/a.2", FileStats(11, 2, 1, 1, 500))
        look(ledger, "/a.1", FileStats(1, 3, 9, 1, 500), labels["/a.1"])
        if ledger is before:
            assert checkpoint.save(1000)
        look(ledger, "/a", FileStats(15, 2, 0, 1, 500), labels["/a"])  # not saved yet
    for name, number in (("/q.1", 7), ("/a.5", 5)):
        look(after, name, FileStats(20, 4, number, 1, 500), now[name])  # which the other one has not seen
    checkpoint.go_on_with(after, groups)
    assert checkpoint.save(2000)
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    path.unlink()
    assert checkpoint.save(2000)
    checkpoint.close()
    written, copied = rows(path), rows(copy)
    copied["totals"] = [row for row in copied["totals"] if row[0] != "pods"]  # is no more, and may come back
    assert copied == written
    restored, checkpoint, _ = begin(path, now.get, groups)
    assert appended(restored) == appended(after)
    checkpoint.close()


# -- files that can not be used ----------------------------------------------------------------------------------------


def saved(path: Path, files: int = 1) -> list[str]:
    """Make a state file of 10 bytes in each of so many files; return their names, so long that some fill a page."""
    ledger, checkpoint, _ = begin(path)
    names = [f"/var/log/{number:05d}{'x' * 200}.log" for number in range(files)]
    for number, name in enumerate(names):
        look(ledger, name, FileStats(10, 1, number, 1, 500), Labels(0, ()))
    assert checkpoint.save(1000)
    checkpoint.close()
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
    """Values that can not be read."""
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
    ledger, checkpoint, restored = begin(path)
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == "the state file can not be used and was set aside, the counters begin anew"
    (kept,) = path.parent.glob("state.db.corrupt-*Z")
    assert getattr(line, "fields") | {"reason": ""} == {"path": str(path), "reason": "", "kept": str(kept)}  # noqa: B009
    assert kept.read_bytes() == before
    assert checkpoint.resets == 1
    assert restored == Restored()
    assert appended(ledger) == {"0": 0, "1": 0}
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    assert checkpoint.save(1000)
    checkpoint.close()
    ledger, checkpoint, _ = begin(path)
    assert checkpoint.resets == 0
    assert appended(ledger) == {"0": 10, "1": 0, "/a": 10}
    checkpoint.close()


def test_an_empty_file_is_a_new_one(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Such as kill -9 may leave in the first moment."""
    path.touch()
    _, checkpoint, restored = begin(path)
    assert (checkpoint.resets, restored, caplog.records) == (0, Restored(), [])
    checkpoint.close()
    assert execute_one(path, "PRAGMA application_id") == APPLICATION_ID


def execute_one(path: Path, sql: str) -> object:
    """The only value that a query gives."""
    connection = sqlite3.connect(path)
    (value,) = connection.execute(sql).fetchone()
    connection.close()
    return value


def test_the_directory_is_made(tmp_path: Path) -> None:
    """A directory of its own need not be made before."""
    _, checkpoint, _ = begin(tmp_path / "lib" / "fstat" / "state.db")
    checkpoint.close()
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
            begin(path)
        return str(caught.value)

    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    where = tmp_path / "file" / "state.db"
    assert message(where) == f"the state file {where} can not be made: {tmp_path / 'file'}: File exists"
    where = tmp_path / "file" / "below" / "state.db"
    assert message(where) == f"the state file {where} can not be made: {where.parent}: Not a directory"
    for where in (tmp_path, tmp_path / "fifo"):
        assert message(where) == f"the state file {where} can not be used: it is not a regular file"


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
        "from exporter.ledger.growth import Ledger\n"
        "from exporter.state.checkpoint import Checkpoint, StateError\n"
        f"os.setuid({UNPRIVILEGED})\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        Checkpoint(path, Ledger([]), [])\n"
        "    except StateError as error:\n"
        "        print(error)\n"
    )
    paths = [str(tmp_path / "theirs.db"), str(tmp_path / "new.db")]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        f"the state file {paths[0]} can not be used: reading or writing is not allowed",
        f"the state file {paths[1]} can not be made: Permission denied",
    ]


def test_in_use(path: Path) -> None:
    """A second agent must not have the file, in this process or another one, and does the first no harm."""
    ledger, checkpoint, _ = begin(path)
    script = (
        "import sys\n"
        "from exporter.ledger.growth import Ledger\n"
        "from exporter.state.checkpoint import Checkpoint, StateError\n"
        "try:\n"
        "    Checkpoint(sys.argv[1], Ledger([]), [])\n"
        "except StateError as error:\n"
        "    print(error)\n"
    )
    told = f"the state file {path} is in use by another process"
    with pytest.raises(StateError) as caught:
        begin(path)
    assert str(caught.value) == told
    for size in (1, 2):
        done = subprocess.run(
            [sys.executable, "-c", script, path], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        assert done.stdout == told + "\n"
        look(ledger, "/a", FileStats(size, size, 1, 1, 500))
        assert checkpoint.save(1000)
    checkpoint.close()
    checkpoint.close()
    ledger, checkpoint, _ = begin(path)
    assert appended(ledger)["/a"] == 2
    checkpoint.close()


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
    ledger, checkpoint, _ = begin(path)
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    assert checkpoint.save(1000)
    many = [(f"/var/log/{number:05d}.log", number + 2) for number in range(3000)]
    with full_disk(os.path.getsize(f"{path}-wal") + 50_000):
        for name, number in many:
            look(ledger, name, FileStats(10, 1, number, 1, 500), Labels(0, ()))
        assert not checkpoint.save(2000)
        look(ledger, "/a", FileStats(0, 2, 1, 1, 500))
        assert not checkpoint.save(3000)
        assert checkpoint.is_urgent
    assert checkpoint.failures == 2
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == "the state can not be written, which is tried again at each scrape"
    caplog.clear()
    look(ledger, "/a", FileStats(7, 3, 1, 1, 500))
    assert checkpoint.save(4000)
    assert not checkpoint.is_urgent
    assert [line.getMessage() for line in caplog.records] == ["the state is written again"]
    checkpoint.close()
    before = all_of(ledger)
    ledger, checkpoint, restored = begin(path, (DECLARED | {name: Labels(0, ()) for name, _ in many}).get)
    assert checkpoint.resets == 0
    assert restored.saved_at_ns == 4000
    look(ledger, "/a", FileStats(7, 3, 1, 1, 500))
    for name, number in many:
        look(ledger, name, FileStats(10, 1, number, 1, 500), Labels(0, ()))
    assert all_of(ledger) == before
    checkpoint.close()


def test_a_full_disk_from_the_first_moment(path: Path) -> None:
    """It is a mistake of the user's, not a damaged file."""
    with full_disk(0), pytest.raises(StateError, match=r"^the state file \S+ can not be opened: "):
        begin(path)


def test_the_file_is_removed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """That is told, and all is written again; also where the directory has gone too."""
    path = path.parent / "lib" / "state.db"
    ledger, checkpoint, _ = begin(path)
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    assert checkpoint.save(1000)
    look(ledger, "/p", FileStats(10, 1, 2, 1, 500))
    assert checkpoint.save(1000)
    shutil.rmtree(path.parent)
    assert checkpoint.save(1000)
    assert [line.getMessage() for line in caplog.records] == ["the state file has gone, all of it is written again"]
    path.unlink()
    look(ledger, "/p", FileStats(15, 2, 2, 1, 500))
    assert checkpoint.save(1000)
    assert (checkpoint.failures, checkpoint.resets, len(caplog.records)) == (0, 0, 2)
    checkpoint.close()
    ledger, checkpoint, _ = begin(path)
    assert appended(ledger) == {"0": 10, "1": 15, "/a": 10, "/p": 15}
    checkpoint.close()


def test_the_file_is_replaced_by_one_that_is_in_use(path: Path) -> None:
    """That is a failure until it is not in use any more; then it is ours again, with nothing of the other's."""
    ledger, checkpoint, _ = begin(path)
    look(ledger, "/a", FileStats(10, 1, 1, 1, 500))
    path.unlink()
    other_ledger, other, _ = begin(path)
    look(other_ledger, "/q", FileStats(10, 1, 2, 1, 500))
    assert other.save(1000)
    assert not checkpoint.save(1000)
    assert not checkpoint.save(1000)
    assert (checkpoint.failures, checkpoint.resets) == (2, 0)
    other.close()
    look(ledger, "/a", FileStats(15, 2, 1, 1, 500))
    assert checkpoint.save(1000)
    checkpoint.close()
    ledger, checkpoint, _ = begin(path)
    assert appended(ledger) == {"0": 15, "1": 0, "/a": 15}
    checkpoint.close()


def test_the_file_is_damaged_while_it_runs(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is set aside as soon as that is found, and all is written again."""
    many = dict.fromkeys(saved(path, 15_000), Labels(0, ()))  # more than SQLite keeps in memory
    ledger, checkpoint, _ = begin(path, many.get)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))
    for number, (name, labels) in enumerate(many.items()):
        if number % 10 == 0:
            look(ledger, name, FileStats(15, 2, number, 1, 500), labels)
    assert not checkpoint.save(1000)
    assert checkpoint.save(1000)
    assert (checkpoint.failures, checkpoint.resets) == (1, 1)
    checkpoint.close()
    before = {name: size for name, size in appended(ledger).items() if size}
    ledger, checkpoint, _ = begin(path, many.get)
    assert {name: size for name, size in appended(ledger).items() if size} == before
    checkpoint.close()


# -- kill -9 -----------------------------------------------------------------------------------------------------------

GROWING = """
import os, sys
from exporter.ledger.growth import GroupRules, Labels, Ledger
from exporter.state.checkpoint import Checkpoint, GroupState
from fstat_cache import FileStats

ledger = Ledger([GroupRules()])
checkpoint = Checkpoint(sys.argv[1], ledger, [GroupState("all", (), (), ())])
checkpoint.load(lambda path: Labels(0, ()))
assert checkpoint.resets == 0
size = ledger.groups[0].appended_bytes // 50
assert {series.appended_bytes for series in ledger.series()} <= {size}
os.write(1, b"%d\\n" % size)
for number in range(50):
    ledger.declare(f"/{number}", Labels(0, ()), since_ns=0, is_new=True)
while True:
    size += 1
    for number in range(50):
        ledger.observe(f"/{number}", FileStats(size, size, number, 1, 1))
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


def test_counters_beyond_the_integers_of_sqlite(path: Path) -> None:
    """Are kept all the same: a user who makes huge files must not stop the state from being saved."""
    ledger, checkpoint, _ = begin(path)
    huge = (1 << 63) - 1
    for size in (huge, 0, huge):
        look(ledger, "/a", FileStats(size, size, 1, 1, 1))
        assert checkpoint.save(1)
    expected = appended(ledger)
    assert expected["/a"] >= 1 << 63
    checkpoint.close()
    again, checkpoint, _ = begin(path)
    look(again, "/a", FileStats(huge, huge, 1, 1, 1))
    assert appended(again) == expected
    checkpoint.close()


def test_a_counter_below_zero(path: Path) -> None:
    """Is damage."""
    ledger, checkpoint, _ = begin(path)
    look(ledger, "/a", FileStats(5, 5, 1, 1, 1))
    assert checkpoint.save(1)
    checkpoint.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE totals SET appended_bytes = -5")
    connection.close()
    _, checkpoint, _ = begin(path)
    assert checkpoint.resets == 1
    checkpoint.close()
