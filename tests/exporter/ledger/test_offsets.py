"""Holes, and what is only allocated, against real filesystems; and what counts when nobody can tell."""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.config.groups import LogGroup
from exporter.ledger.offsets import LARGE_BYTES, Question
from fstat_cache import Data
from fstat_cache.extents import find_data
from fstat_cache.stats import read_stats
from tests.exporter.books import OLD, Book, seen

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
MIB = 1 << 20
BIG = 10 * LARGE_BYTES


@pytest.fixture(
    scope="module", params=["here", "tmpfs", "huge pages", "ext4", "xfs", "btrfs", "btrfs with compression"]
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty directory of a filesystem."""
    kind = request.param
    point = tmp_path_factory.mktemp("filesystem")
    if kind == "here":
        yield point
        return
    if os.geteuid() != 0:
        pytest.skip("needs root: it mounts")
    if kind in ("tmpfs", "huge pages"):
        options = "huge=always" if kind == "huge pages" else "size=50%"
        command = ["mount", "-t", "tmpfs", "-o", options, "none", str(point)]
    else:
        fs_type, _, is_compressed = kind.partition(" ")
        if shutil.which(f"mkfs.{fs_type}") is None:
            pytest.skip(f"mkfs.{fs_type} is not installed")
        image = tmp_path_factory.mktemp("image") / "image"
        with image.open("wb") as file:
            file.truncate(400 * MIB)
        subprocess.run([f"mkfs.{fs_type}", "-q", image], check=True, capture_output=True)
        command = ["mount", "-o", "loop,compress-force" if is_compressed else "loop", str(image), str(point)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip(f"cannot mount {kind}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)


class Log:
    """A file on a filesystem, whose every change is booked; and how much was written beyond its earlier data.

    Args:
        path: where to create it.
        is_old: whether it exists before the agent starts.
    """

    def __init__(self, path: Path, *, is_old: bool = False) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.written = self.size = self.end = 0
        self._now_ns = 0
        self._book = Book(data=self._find)
        self._book.declare(str(path), since_ns=0, is_new=not is_old)
        self.look()

    def _find(self, path: str, question: Question) -> Data:
        stats = read_stats(path)
        assert stats is not None
        return find_data(path, stats, question.begin, is_resumed=question.is_resumed)

    def look(self) -> None:
        """Stat it; each time it has another time."""
        self._now_ns += 1_000_000_000
        os.utime(self.fd, ns=(self._now_ns, self._now_ns))
        self._book.observe(str(self.path), read_stats(self.path))

    @property
    def appended(self) -> int:
        """What counts."""
        return self._book.appended()[0]

    def write(self, size: int, offset: int) -> None:
        assert os.pwrite(self.fd, b"x" * size, offset) == size
        self.written += size
        self.end = offset + size
        self.size = max(self.size, self.end)

    def append(self, size: int) -> None:
        self.write(size, self.size)

    def fill(self, size: int) -> None:
        """Go on where the data ends."""
        self.write(size, self.end)

    def skip(self, size: int) -> None:
        """Leave a hole."""
        self.write(size, self.size + size + 4 * MIB)

    def extend(self, size: int) -> None:
        self.size += size + 4 * MIB
        os.ftruncate(self.fd, self.size)

    def allocate(self, size: int) -> None:
        os.posix_fallocate(self.fd, self.size, size + 4 * MIB)
        self.size += size + 4 * MIB

    def reserve(self, size: int) -> None:
        """Allocate far beyond the end: on tmpfs, what is allocated twice is data."""
        fallocate(self.fd, FALLOC_FL_KEEP_SIZE, self.size + 1024 * MIB, size)

    def punch(self, size: int) -> None:
        fallocate(self.fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, max(0, self.end - 2 * size), size)

    def sync(self, _: int) -> None:
        os.fsync(self.fd)

    def cut(self, size: int) -> None:
        """Make it smaller: what is left counts again, unless only a hole was cut off."""
        self.size = min(self.size * size // 200_000, self.end)
        os.ftruncate(self.fd, self.size)
        if self.size < self.end:
            self.written += self.size
            self.end = self.size

    def trim(self, _: int) -> None:
        """Cut off what was only allocated."""
        self.size = self.end
        os.ftruncate(self.fd, self.size)


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(size)):
        raise OSError(ctypes.get_errno(), "fallocate")


CHANGES = [
    Log.append, Log.fill, Log.skip, Log.extend, Log.allocate, Log.reserve, Log.punch, Log.sync, Log.cut, Log.trim
]  # fmt: skip


def test_blocks_allocated_beyond_the_end(folder: Path) -> None:
    """They are no growth; what is appended there counts."""
    log = Log(folder / "a.log")
    fallocate(log.fd, FALLOC_FL_KEEP_SIZE, 0, 8 * MIB)
    for size in (500, 100_000):
        log.append(size)
        log.look()
        assert log.appended == log.written
    os.close(log.fd)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.integers(1, 100_000)), max_size=12))
def test_what_is_written_beyond_the_data_counts(folder: Path, changes: list[tuple[Callable[..., None], int]]) -> None:
    """Whatever happens to the file in between, to the byte; holes and allocated blocks do not."""
    log = Log(folder / "a.log")
    try:
        for change, size in changes:
            change(log, size)
            log.look()
            assert log.appended == log.written, change.__name__
    finally:
        os.close(log.fd)


def test_what_is_written_into_a_hole_does_not_count(folder: Path) -> None:
    """The record of a user with a huge number makes lastlog large; the records before it do not make it grow."""
    log = Log(folder / "lastlog")
    log.write(292, 4_294_967_294 * 292)
    log.look()
    assert log.appended == 292
    os.pwrite(log.fd, b"x" * 292, 1000 * 292)
    log.look()
    assert log.appended == 292
    os.close(log.fd)


def test_a_writer_that_goes_on_at_its_old_offset(folder: Path) -> None:
    """After a truncation the hole before it does not count, even if it ends within a huge page."""
    for size in (10, 4_096, 100_000, 3_000_000):
        log = Log(folder / "a.log")
        log.append(size)
        log.look()
        log.cut(0)
        log.look()
        log.write(50, size)
        log.look()
        assert log.appended == log.written == size + 50
        os.close(log.fd)


def test_zeros_count(folder: Path) -> None:
    """Zeros are data where no hole is next to them."""
    log = Log(folder / "a.log")
    log.append(10)
    log.look()
    os.pwrite(log.fd, bytes(MIB), 10)
    log.look()
    assert log.appended == 10 + MIB
    os.close(log.fd)


def test_files_with_very_many_holes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the first extents counts as data, so that the search ends."""
    monkeypatch.setattr("fstat_cache.extents.MOST_EXTENTS", 3)
    log = Log(folder / "a.log")
    for number in range(5):
        log.write(100, 8 * MIB * number)
    log.look()
    searched = 16 * MIB + os.fstat(log.fd).st_blksize
    assert log.appended == 300 + log.size - searched
    os.close(log.fd)


def test_a_file_allocated_before_the_agent_started(folder: Path) -> None:
    """Only what is written from then on counts."""
    path = folder / "journal.log"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 8 * MIB)
        file.write(b"x" * 50_000)
    stats = read_stats(path)
    assert stats is not None
    book = Book(data=lambda _, question: find_data(path, stats, question.begin, is_resumed=question.is_resumed))
    book.facts.declare("/a", 0, (0,), since_ns=stats.birth_ns + 1, is_new=False)
    book.observe("/a", stats)
    assert book.appended() == [0]
    with path.open("r+b") as file:
        file.seek(50_000)
        file.write(b"x" * 1_000)
    os.utime(path, ns=(1, 1))
    stats = read_stats(path)
    assert stats is not None
    book.observe("/a", stats)
    assert book.appended() == [1_000]


def test_another_file_than_the_one_that_was_booked(folder: Path) -> None:
    """Its holes say nothing about the one before, nor do those of a file that was cut meanwhile."""
    path, other = folder / "a.log", folder / "b.log"
    for each in (path, other):
        with each.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, MIB)
    stats = read_stats(path)
    assert stats is not None
    assert find_data(path, stats, 0, is_resumed=False) == Data(0, 0)
    with pytest.raises(OSError, match="Stale"):
        find_data(other, stats, 0, is_resumed=False)
    os.truncate(path, MIB // 2)
    with pytest.raises(OSError, match="Stale"):
        find_data(path, stats, 0, is_resumed=True)


# -- unknown data ------------------------------------------------------------------------------------------------------


def test_nobody_asks_about_small_growth() -> None:
    """A file that grows by little at a time is not opened."""
    asked = []
    book = Book(data=lambda _, question: asked.append(question))
    size = LARGE_BYTES
    book.look("/a", seen(size))
    book.look("/a", seen(2 * size))
    assert asked == []
    book.look("/a", seen(3 * size + 1))
    assert asked == [Question(2 * size)]
    assert book.appended() == [3 * size + 1]


@pytest.mark.parametrize("size", [BIG, BIG + 1])
def test_the_first_scan_opens_no_usual_files(size: int) -> None:
    """Of those that exist before, only files with the size of whole pages may be allocated ahead."""
    asked = []
    book = Book(data=lambda _, question: asked.append(question))
    book.look("/a", seen(size, birth_ns=OLD))
    assert asked == [Question(0)] * (size == BIG)
    assert book.appended() == [0]


def test_unknown_data_after_a_cut() -> None:
    """What lies beyond the old size counts, because the rest may be a hole."""
    book = Book()
    book.look("/a", seen(1000))
    book.look("/a", seen(0))
    book.look("/a", seen(600))
    book.look("/a", seen(1030))
    assert book.appended() == [1000 + 600 + 30]
    book.look("/a", seen(1040))
    assert book.appended() == [1000 + 600 + 30 + 10]


def test_unknown_data_of_a_file_that_is_allocated_ahead() -> None:
    """The size counts; if it did not change, the next answer makes up for it."""
    answers: list[Data | None] = []
    book = Book(data=lambda _, __: answers.pop())

    def look(size: int, mtime_ns: int, answer: Data | None) -> int:
        answers.append(answer)
        book.look("/a", seen(size, mtime_ns=mtime_ns))
        answers.clear()
        return book.appended()[0]

    assert look(BIG, 1, Data(100, 100)) == 100
    assert look(BIG, 2, None) == 100
    assert look(BIG, 3, Data(50, 150)) == 150
    assert look(BIG + 20, 4, None) == 170
    assert look(BIG + 30, 5, Data(1, 1)) == 180, "not asked any more"


def test_cut_off_what_was_allocated() -> None:
    """Is no loss of data, so nothing counts again; but a cut into the data is a truncation as any other."""
    book = Book(data=lambda _, question: Data(100, 100) if question.begin == 0 else None)
    book.look("/a", seen(BIG))
    book.look("/a", seen(120))
    assert book.appended() == [120]
    book.look("/b", seen(BIG, 2))
    book.look("/b", seen(60, 2))
    book.look("/b", seen(110, 2))
    assert book.appended() == [120 + 100 + 60 + 10]
    assert book.of("/b").truncations == 1


def test_large_growth_of_a_file_that_was_cut() -> None:
    """Its writer may still go on at the old offset afterwards."""
    asked = []

    def find(_: str, question: Question) -> Data:
        asked.append(question)
        return Data(1, 1) if question.is_resumed else Data(BIG, BIG)

    book = Book(data=find)
    book.look("/a", seen(2 * BIG - 1, birth_ns=OLD))
    book.look("/a", seen(0, birth_ns=OLD))
    book.look("/a", seen(BIG, birth_ns=OLD))
    book.look("/a", seen(2 * BIG, birth_ns=OLD))
    assert asked == [Question(0), Question(BIG, is_resumed=True)]


def test_another_name_in_another_group() -> None:
    """The group gets what was written, too."""
    book = Book(LogGroup("g", ()), LogGroup("h", ()), data=lambda _, __: Data(100, 100))
    book.look("/a", seen(BIG))
    book.look("/b", seen(BIG), 1)
    assert [group.appended_bytes for group in book.groups] == [100, 100]
