"""fluent-bit's database, alone and beside a writer."""

import contextlib
import io
import itertools
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers import fluent_bit
from exporter.shippers.fluent_bit import is_state_file, read
from exporter.shippers.positions import Position, StateFormatError
from tests.exporter.shippers.sample_cases import SAMPLES, cases, check_offsets, check_plausible, damaged

TABLE = """
CREATE TABLE in_tail_files (id INTEGER PRIMARY KEY, name TEXT NOT NULL, offset INTEGER, inode INTEGER, created INTEGER,
rotated INTEGER DEFAULT 0)
"""

# Writes as fluent-bit does: a line of input is a statement, which is committed at the answer.
# In a process of its own: SQLite's locks are a process's.
WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
for pragma in sys.argv[2:]:
    database.execute(f"PRAGMA {pragma}")
for line in sys.stdin:
    database.execute(line)
    print("ok", flush=True)
database.close()
"""


class Writer:
    def __init__(self, path: str, *pragmas: str) -> None:
        program = [sys.executable, "-c", WRITER, path, *pragmas]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(self, offset: int) -> None:
        """Commit an offset of all logs; fails if SQLite refuses it."""
        self.execute(f"UPDATE in_tail_files SET offset = {offset}")

    def execute(self, statement: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{statement}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ok\n"

    def crash(self) -> None:
        self.process.kill()
        self.process.communicate()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.communicate()
        assert self.process.returncode == 0


@contextmanager
def writing(path: str, *pragmas: str) -> Iterator[Writer]:
    writer = Writer(path, *pragmas)
    try:
        yield writer
    finally:
        writer.crash() if sys.exc_info()[0] else writer.stop()


@pytest.fixture
def copies(tmp_path: Path) -> str:
    (tmp_path / "copies").mkdir()
    return str(tmp_path / "copies")


@pytest.fixture
def database(tmp_path: Path) -> str:
    """A database with one log, whose offset is 0."""
    (tmp_path / "of fluent-bit #1%20?").mkdir()
    path = str(tmp_path / "of fluent-bit #1%20?" / "flb.db")
    _create(path, [(b"/var/log/a.log", 0, 7)])
    return path


def _create(path: str, rows: list[tuple[bytes, int, int]]) -> None:
    database = sqlite3.connect(path)
    database.execute(TABLE)
    database.executemany("INSERT INTO in_tail_files (name, offset, inode) VALUES (CAST(? AS TEXT), ?, ?)", rows)
    database.commit()
    database.close()


def _files(path: str) -> dict[str, tuple[int, int, bytes]]:
    """All files beside a database, with what a write would change."""
    directory = Path(path).parent
    return {
        file.name: (file.stat().st_ino, file.stat().st_mtime_ns, file.read_bytes())
        for file in directory.iterdir()
        if file.is_file()
    }


@pytest.mark.parametrize("case", cases("fluent-bit"))
def test_finds_the_offsets_of_samples(case: Path, tmp_path: Path, copies: str) -> None:
    """Each log of a sample has the offset that fluent-bit stored, in the database or its -wal."""
    path = shutil.copytree(case, tmp_path / "case") / "flb_tail.db"
    before = _files(str(path))
    check_offsets(case, read(str(path), copies))
    assert _files(str(path)) == before
    assert os.listdir(copies) == []


@given(
    logs=st.lists(
        st.tuples(
            st.binary(min_size=1).filter(lambda path: 0 not in path),
            st.integers(0, (1 << 63) - 1),
            st.integers(1, (1 << 64) - 1),
        ),
        max_size=5,
    )
)
def test_reads_what_was_written(logs: list[tuple[bytes, int, int]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Paths of any bytes and numbers of all sizes are read; inode numbers beyond SQLite's integers are negative."""
    directory = tmp_path_factory.mktemp("database")
    _create(str(directory / "a.db"), [(path, to, inode - (inode >> 63 << 64)) for path, to, inode in logs])
    found = read(str(directory / "a.db"), str(directory))
    assert found == [Position(offset, os.fsdecode(path), inode) for path, offset, inode in logs]
    shutil.rmtree(directory)


@pytest.mark.parametrize("pragmas", [["journal_mode=wal"], ["journal_mode=wal", "locking_mode=exclusive"]])
def test_reads_beside_a_writer(database: str, copies: str, pragmas: list[str]) -> None:
    """A read beside a writer gives the latest offset, the writer is never refused, and no file stays."""
    with writing(database, *pragmas) as writer:
        for offset in range(1, 1500):  # more pages than the -wal takes before it begins anew
            writer.write(offset)
            if offset % 10 == 0:
                assert read(database, copies) == [Position(offset, "/var/log/a.log", 7)]
        assert os.path.exists(database + "-wal")
    assert read(database, copies) == [Position(1499, "/var/log/a.log", 7)]
    assert os.listdir(os.path.dirname(database)) == ["flb.db"]
    assert os.listdir(copies) == []


def test_reads_while_the_writer_writes(database: str, copies: str) -> None:
    """Reads at any moment of a write give an offset that is committed, and the writer loses no update."""
    program = f"""
import sqlite3
database = sqlite3.connect({database!r}, isolation_level=None, timeout=0)
database.execute("PRAGMA journal_mode=wal")
for _ in range(10_000):
    database.execute("UPDATE in_tail_files SET offset = offset + 1")
"""
    writer = subprocess.Popen([sys.executable, "-c", program])
    offsets = []
    while writer.poll() is None:
        with contextlib.suppress(StateFormatError):  # while it turns to WAL mode
            offsets += [position.offset for position in read(database, copies)]
    assert writer.returncode == 0
    # A copy may have what is written, a microsecond before SQLite shows it to readers.
    assert all(later >= earlier - 1 for earlier, later in itertools.pairwise(offsets))
    assert len(set(offsets)) > 10
    assert [position.offset for position in read(database, copies)] == [10_000]


def test_reads_beside_a_writer_that_comes_and_goes(database: str, copies: str) -> None:
    """A writer that stops just now can neither make a read fail for long nor make it create a -wal."""
    program = f"""
import sqlite3
for _ in range(300):
    database = sqlite3.connect({database!r}, isolation_level=None, timeout=0)
    database.execute("PRAGMA journal_mode=wal")
    database.execute("UPDATE in_tail_files SET offset = offset + 1")
    database.close()
"""
    writer = subprocess.Popen([sys.executable, "-c", program])
    offset = 0
    while writer.poll() is None:
        try:
            (position,) = read(database, copies)
        except StateFormatError:  # three times in a row
            continue
        # A copy may have what is written, a microsecond before SQLite shows it to readers.
        assert position.offset >= offset - 1
        offset = position.offset
    assert writer.returncode == 0
    with writing(database, "journal_mode=wal"):  # removes what remains if a read and a stop coincided
        pass
    assert read(database, copies)[0].offset == 300
    for _ in range(3):
        read(database, copies)
    assert os.listdir(os.path.dirname(database)) == ["flb.db"]


def test_does_not_create_a_wal_that_was_just_removed(
    database: str, copies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the writer removes its -wal after it was seen, SQLite does not open the database: it would create a -wal."""
    opened = fluent_bit.open_regular
    with writing(database, "journal_mode=wal") as writer:
        writer.write(5)

        def open_after_a_stop(path: str) -> io.FileIO:
            writer.stop()
            return opened(path)

        monkeypatch.setattr(fluent_bit, "open_regular", open_after_a_stop)
        assert fluent_bit._read_beside_writer(database, copies) is None
    assert os.listdir(os.path.dirname(database)) == ["flb.db"]


def test_a_writer_that_stops_meanwhile_keeps_its_wal(
    database: str, copies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is read the -wal stays, so that SQLite need not create one; the next writer removes it."""
    query = fluent_bit._query
    with writing(database, "journal_mode=wal") as writer:
        writer.write(5)

        def query_after_a_stop(path: str, options: str) -> list[Position]:
            writer.stop()
            return query(path, options)

        monkeypatch.setattr(fluent_bit, "_query", query_after_a_stop)
        size = os.stat(database + "-wal").st_size
        assert read(database, copies) == [Position(5, "/var/log/a.log", 7)]
        assert os.stat(database + "-wal").st_size == size > 0
    with writing(database, "journal_mode=wal"):
        pass
    assert os.listdir(os.path.dirname(database)) == ["flb.db"]
    assert read(database, copies) == [Position(5, "/var/log/a.log", 7)]


def test_reads_again_if_a_writer_came(database: str, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read without locks is not believed if the database was written at the same time."""
    query = fluent_bit._query
    journal_modes = ["delete", "wal", "wal"]

    def query_before_a_write(path: str, options: str) -> list[tuple[object, object, object]]:
        rows = query(path, options)
        monkeypatch.setattr(fluent_bit, "_query", query)
        with writing(database, f"journal_mode={journal_modes.pop(0)}") as writer:
            writer.write(int(str(rows[0][0])) + 1)
        return rows

    for expected in (1, 2, 3):
        monkeypatch.setattr(fluent_bit, "_query", query_before_a_write)
        assert read(database, copies)[0].offset == expected


def test_copies_again_if_the_wal_began_anew(tmp_path: Path, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the database from before a checkpoint does not go with a -wal from after it."""
    path = str(tmp_path / "a.db")
    _create(path, [(b"/" + b"a" * 3000, 0, 1), (b"/" + b"b" * 3000, 0, 2)])  # a page each
    copy = fluent_bit._copy
    with writing(path, "journal_mode=wal", "locking_mode=exclusive", "wal_autocheckpoint=1") as writer:
        writer.execute("UPDATE in_tail_files SET offset = 1 WHERE id = 1")

        def copy_before_writes(file: io.FileIO, target: str) -> None:
            copy(file, target)
            monkeypatch.setattr(fluent_bit, "_copy", copy)
            writer.execute("UPDATE in_tail_files SET offset = 2 WHERE id = 1")
            writer.execute("UPDATE in_tail_files SET offset = 3 WHERE id = 2")

        monkeypatch.setattr(fluent_bit, "_copy", copy_before_writes)
        assert [position.offset for position in read(path, copies)] == [2, 3]


def test_takes_no_lock_beside_an_exclusive_writer(database: str, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``db.locking`` a read lock would make fluent-bit fail to start after a crash. It has no -shm."""
    writer = Writer(database, "journal_mode=wal", "locking_mode=exclusive")
    writer.write(5)
    writer.crash()
    assert not os.path.exists(database + "-shm")
    monkeypatch.setattr(fluent_bit, "_SHARED_LOCK", None)
    assert read(database, copies)[0].offset == 5


def test_changes_no_file(database: str, copies: str) -> None:
    """No read writes to the database or a file beside it, whether fluent-bit runs, crashed or stopped."""
    writer = Writer(database, "journal_mode=wal")
    writer.write(5)
    running = _files(database)
    assert set(running) == {"flb.db", "flb.db-wal", "flb.db-shm"}
    assert read(database, copies)[0].offset == 5
    assert _files(database) == running
    writer.crash()
    assert read(database, copies)[0].offset == 5
    assert _files(database) == running
    with writing(database, "journal_mode=wal"):
        pass
    stopped = _files(database)
    assert set(stopped) == {"flb.db"}
    assert read(database, copies)[0].offset == 5
    assert _files(database) == stopped


def test_a_rollback_journal_is_waited_for(database: str, copies: str) -> None:
    """In the journal mode of old versions, a transaction that is not complete hides the database's content."""
    with writing(database, "journal_mode=persist") as writer:
        writer.write(5)
        assert read(database, copies)[0].offset == 5
    Path(database + "-journal").write_bytes(fluent_bit._HOT_JOURNAL + bytes(512))
    with pytest.raises(StateFormatError, match="unfinished transaction"):
        read(database, copies)


def test_columns_of_other_versions_do_not_matter(database: str, copies: str) -> None:
    """Columns may be more or fewer, and in another order."""
    with sqlite3.connect(database) as connection:
        connection.execute("ALTER TABLE in_tail_files ADD COLUMN offset_marker INTEGER DEFAULT 0")
        connection.execute("ALTER TABLE in_tail_files DROP COLUMN rotated")
    connection.close()
    assert read(database, copies) == [Position(0, "/var/log/a.log", 7)]


def test_rows_of_one_inode_are_all_kept(database: str, copies: str) -> None:
    """Which of them counts is the caller's decision."""
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO in_tail_files (name, offset, inode) VALUES ('/var/log/b.log', 3, 7)")
    connection.close()
    assert read(database, copies) == [Position(0, "/var/log/a.log", 7), Position(3, "/var/log/b.log", 7)]


def test_an_empty_file_has_no_positions(tmp_path: Path, copies: str) -> None:
    """SQLite creates its file empty."""
    (tmp_path / "a.db").touch()
    assert read(str(tmp_path / "a.db"), copies) == []


@pytest.mark.parametrize(
    "statements",
    [
        ["UPDATE in_tail_files SET offset = -1"],
        ["UPDATE in_tail_files SET offset = NULL"],
        ["UPDATE in_tail_files SET offset = 1.5"],
        ["UPDATE in_tail_files SET offset = 'text'"],
        ["UPDATE in_tail_files SET inode = 0"],
        ["UPDATE in_tail_files SET inode = NULL"],
        ["UPDATE in_tail_files SET inode = 1e30"],
        ["UPDATE in_tail_files SET name = ''"],
        ["UPDATE in_tail_files SET name = x'2f61'"],
        ["UPDATE in_tail_files SET name = '/a' || char(0)"],
        ["UPDATE in_tail_files SET name = '/' || printf('%2000000s', 'a')"],
        ["ALTER TABLE in_tail_files RENAME TO in_tail_logs"],
        ["ALTER TABLE in_tail_files DROP COLUMN offset"],
        ["PRAGMA writable_schema = on", "UPDATE sqlite_master SET name = CAST(x'ff' AS TEXT), sql = 'CREATE /a'"],
        ["ALTER TABLE in_tail_files RENAME TO a", "CREATE VIEW in_tail_files AS SELECT * FROM a"],
        [
            "DROP TABLE in_tail_files",
            "CREATE VIEW in_tail_files AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
            "SELECT '/a' AS name, x AS offset, x AS inode FROM n",
        ],
    ],
)
def test_refuses_what_is_damaged(database: str, copies: str, statements: list[str]) -> None:
    """Rows that no log can have, another table, and a view, which may never end, raise; the message quotes nothing."""
    with sqlite3.connect(database) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    begin = time.monotonic()
    with pytest.raises(StateFormatError) as caught:
        read(database, copies)
    assert time.monotonic() - begin < 5
    assert "/a" not in str(caught.value)


def test_refuses_what_is_no_database(tmp_path: Path, copies: str) -> None:
    """Text, a directory, and a pipe without a writer raise at once."""
    (tmp_path / "text.db").write_text("name /var/log/a.log\n" * 1000)
    (tmp_path / "directory.db").mkdir()
    os.mkfifo(tmp_path / "pipe.db")
    for name in ("text.db", "pipe.db"):
        with pytest.raises(StateFormatError):
            read(str(tmp_path / name), copies)
    for name in ("directory.db", "missing.db"):
        with pytest.raises(OSError, match=name):
            read(str(tmp_path / name), copies)


def test_damage_raises_nothing_else(tmp_path: Path, copies: str) -> None:
    """Of any damaged database and -wal the positions are possible ones, or they are refused."""
    path = str(tmp_path / "a.db")
    databases = [file.read_bytes() for file in SAMPLES.glob("fluent-bit/*/*.db")]
    wals = [file.read_bytes() for file in SAMPLES.glob("fluent-bit/*/*.db-wal")]
    refused = 0
    for number, (content, wal) in enumerate(zip(damaged(databases, 400), damaged(wals, 400), strict=True)):
        Path(path).write_bytes(databases[number % len(databases)] if number % 3 == 0 else content)
        Path(path + "-wal").unlink(missing_ok=True)
        if number % 2:
            Path(path + "-wal").write_bytes(wal)
        try:
            check_plausible(read(path, copies))
        except StateFormatError:
            refused += 1
    assert refused > 50
    assert os.listdir(copies) == []


@pytest.mark.alone
def test_is_fast(tmp_path: Path, copies: str) -> None:
    """5,000 logs take a few milliseconds; generous here, for slow machines."""
    pod = "/var/log/pods/default_web-{}_0b0f2f6e-1111-2222-3333-444455556666/web/0.log"
    _create(str(tmp_path / "a.db"), [(pod.format(number).encode(), number, number + 1) for number in range(5000)])

    def took() -> float:
        begin = time.process_time()
        assert len(read(str(tmp_path / "a.db"), copies)) == 5000
        return time.process_time() - begin

    assert min(took() for _ in range(5)) < 0.03


def test_names() -> None:
    """Of a directory, databases count, and not the files that SQLite keeps beside them."""
    assert is_state_file("flb_kube.db")
    assert not is_state_file("flb_kube.db-wal")


def test_unchanged_positions_are_used_again(tmp_path: Path, copies: str) -> None:
    """Only those of changed rows are made, also when rows come and go."""
    path = str(tmp_path / "a.db")
    _create(path, [(b"/a", 0, 1), (b"/b", 0, 2), (b"/\xff", 0, -3)])
    before = fluent_bit.read(path, copies)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE in_tail_files SET offset = 5 WHERE name = '/b'")
    after = fluent_bit.read(path, copies, before)
    assert [old is new for old, new in zip(before, after, strict=True)] == [True, False, False]
    assert after == [Position(0, "/a", 1), Position(5, "/b", 2), Position(0, "/\udcff", (1 << 64) - 3)]
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM in_tail_files WHERE name = '/a'")
    assert fluent_bit.read(path, copies, after) == after[1:]
