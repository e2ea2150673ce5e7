"""Which inode a look has found: its number is given again at once, and no byte may be counted for the wrong one."""

import ctypes
import errno
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fstat_cache import FileStats, FStatCache, file_time_ns
from fstat_cache.states import REFUSED
from fstat_cache.stats import read_again, read_stats, status_of
from tests.fstat_cache.driven import stats_taken, survey
from tests.support import wait_until

TRIES = 100  # to get an inode's number again, which on ext4 is the next one's unless another process is faster


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file on a filesystem that tells births and keeps them."""
    path = tmp_path / "file.log"
    path.write_bytes(b"12345")
    with FStatCache() as cache:
        stats = cache.get_file_stats(path)
    assert stats is not None
    if not stats.identity[2]:
        pytest.skip("the filesystem of the temporary folder does not tell when a file was born, or changes it")
    return path


def recreate(path: Path, data: bytes) -> None:
    """Another inode in the place of one, with its number if the filesystem gives it again (ext4 does)."""
    changed_ns = path.stat().st_ctime_ns
    wait_until(lambda: file_time_ns() > changed_ns)  # so that the births differ
    path.unlink()
    path.write_bytes(data)


def look(path: Path) -> FileStats:
    stats = read_stats(path)
    assert stats is not None
    return stats


def test_stats_have_the_birth(file: Path) -> None:
    """It is the time at which the file was made, whatever is written later, and part of the identity."""
    stats = look(file)
    assert abs(stats.birth_ns - time.time_ns()) < 60 * 10**9
    assert stats.identity == (stats.device, stats.inode, stats.birth_ns)
    os.utime(file, (1, 2))
    file.write_bytes(b"longer than before")
    assert look(file).identity == stats.identity
    assert look(file) == read_stats(file, stats) == read_again(file, stats) != stats
    again = look(file)
    assert read_stats(file, again) is read_again(file, again) is again, "the same object while nothing changes"
    recreate(file, b"12345")
    assert look(file).identity != stats.identity
    assert read_stats(file, stats) == look(file)
    other = file.with_name("other")
    other.touch()
    assert read_again(other, look(file)) is None, "it has another number"


def outcome(function: Callable[[Any], object], path: object) -> object:
    """What a function returns, or which error it raises of what."""
    try:
        return function(path)
    except OSError as error:
        return type(error), error.errno, error.filename


def test_statx_says_what_os_stat_says(file: Path, tmp_path: Path) -> None:
    """All that both tell is the same, of everything that can have a name; and so are the errors."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "not text \udcff").touch()
    paths = (*map(str, tmp_path.iterdir()), os.fsencode(file), file, "/dev/null", "/proc/self/stat", "", "/missing")
    for path in paths:
        expected = outcome(os.stat, path)
        found = outcome(status_of, path)
        if isinstance(expected, os.stat_result):
            assert isinstance(found, tuple)
            assert found[:2] == (expected.st_mode, expected.st_size)
            assert found[3:5] == (expected.st_ino, expected.st_dev)
            if path != "/proc/self/stat":  # where it is the present time
                assert found[2] == expected.st_mtime_ns
        else:
            assert found == expected
    with pytest.raises(ValueError, match="null"):
        status_of(f"{file}\0")


def test_threads_do_not_share_a_buffer(tmp_path: Path) -> None:
    """Looks at the same time in several threads each give their own file."""
    paths = [tmp_path / str(number) for number in range(4)]
    for number, path in enumerate(paths):
        path.write_bytes(b"x" * number)
    wrong: list[int] = []

    def read(size: int) -> None:
        wrong.extend(size for _ in range(5000) if status_of(paths[size])[1] != size)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


@pytest.mark.parametrize("number", [None, errno.ENOSYS, errno.EPERM])
def test_without_statx(file: Path, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    """An old C library, an old kernel, a sandbox: os.stat tells all but the birth."""

    def refuse(*_: object) -> int:
        ctypes.set_errno(number or 0)
        return -1

    expected = look(file)
    monkeypatch.setattr("fstat_cache.stats._statx", lambda: None if number is None else refuse)
    stats = look(file)
    assert stats == FileStats(expected.size, expected.mtime_ns, expected.inode, expected.device)
    assert stats.birth_ns == 0


def follow_armed(_cache: FStatCache, _path: Path) -> None:
    pass


def follow_hot(cache: FStatCache, path: Path) -> None:
    with path.open("ab", buffering=0) as log:

        def write_until_hot() -> bool:
            log.write(b"x")
            cache._life.schedule.take_in(cache._life.session.news())
            return cache.status().hot == 1

        wait_until(write_until_hot)


def follow_polled(cache: FStatCache, path: Path) -> None:
    (entry,) = cache._life.engine.files
    cache._life.engine.files.on(entry, REFUSED["audit"])


def follow_doubtful(cache: FStatCache, path: Path) -> None:
    cache._life.engine.files.distrust()


WAYS = [follow_armed, follow_hot, follow_polled, follow_doubtful]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_another_inode_is_told_as_another(file: Path, way: Callable[[FStatCache, Path], None]) -> None:
    """However the file is followed, and whatever its successor's number and size, the new identity is told."""
    told: list[FileStats | None] = []

    def latest() -> FileStats | None:
        told.extend(stats for _, stats in stats_taken(cache))
        return told[-1]

    with FStatCache(keep_changes=True) as cache:
        cache.build([file])
        for _ in range(3):
            way(cache, file)
            before = latest()
            assert before is not None
            recreate(file, b"y" * before.size)
            cache.sync()
            after = latest()
            assert after == look(file)
            assert after is not None
            assert after.identity != before.identity
            with file.open("ab") as log:
                log.write(b"more")
            cache.sync()
            assert latest() == look(file)


def test_another_inode_of_the_same_looks_is_told(file: Path) -> None:
    """With the number, the size and the time of the old one it is another all the same: the watch tells."""
    for _ in range(TRIES):
        with FStatCache(gather_s=60) as cache:
            cache.build([file])
            before = look(file)
            recreate(file, b"54321")
            os.utime(file, ns=(before.mtime_ns, before.mtime_ns))
            after = look(file)
            if after.inode != before.inode:  # another process has it, or nobody ever gets one again
                continue
            cache.sync()
            assert cache.get_file_stats(file) == after != before
            return
    pytest.skip("the filesystem of the temporary folder does not give numbers again at once: tmpfs, btrfs")


def test_a_look_before_the_event_is_taken_in(file: Path) -> None:
    """A look at a watched file trusts its number only as long as no event is queued that may say otherwise."""
    with FStatCache(gather_s=60) as cache:
        cache.build([file])
        (entry,) = cache._life.engine.files
        recreate(file, b"longer than before")
        cache._life.engine.files.stat(entry, watch=False)
        assert entry.stats == look(file)


def test_a_directory_event_and_a_look(file: Path) -> None:
    """look() tells the new identity as well, of a file that is watched and of one that there is no room for."""
    with FStatCache(1, keep_changes=True) as cache:
        for _ in range(2):
            cache.look(str(file))
            _, before = stats_taken(cache)[-1]
            recreate(file, b"12345")
            cache.look(str(file))
            _, after = stats_taken(cache)[-1]
            assert before is not None
            assert after == look(file)
            assert after is not None
            assert after.identity != before.identity
            other = file.with_name("other")
            other.touch()
            cache.get_file_stats(other)  # takes the only place


class Naive:
    """A ledger that believes all it is told, in the order in which it is told: bytes by identity."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[int, int, int], int] = {}
        self.appended = 0
        self.shrunk = 0

    def __call__(self, path: str, stats: FileStats | None) -> None:
        if stats is None:
            return
        was = self.sizes.get(stats.identity, 0)
        if stats.size < was:
            self.shrunk += 1
            was = 0
        self.sizes[stats.identity] = stats.size
        self.appended += stats.size - was


class Meddler:
    """Notes what is told, and does something when the first look at one file is told: before those at files that were
    only written, which are looked at together afterwards.
    """

    def __init__(self, first: Path, do: Callable[[], object]) -> None:
        self.told: list[tuple[str, FileStats | None]] = []
        self.is_on = False
        self._first = str(first)
        self._do = do

    def __call__(self, path: str, stats: FileStats | None) -> None:
        if self.is_on:
            self.told.append((path, stats))
            if path == self._first:
                self.is_on = False
                self._do()
                self.is_on = True


def sync_meddled_with(first: Path, written: Path, others: list[Path], do: Callable[[], object]) -> Meddler:
    """Take in changes of the first two files in one batch, and do something while they are looked at. Afterwards all
    are known as they are.
    """
    meddler = Meddler(first, do)
    paths = [first, written, *others]
    with FStatCache(keep_changes=True) as cache:
        cache._life.engine.files.report = meddler
        cache.build(paths)
        meddler.is_on = True
        append(first, b"x")
        first.chmod(0o600)  # as a written file is seen whose attributes have changed too
        append(written, b"x")
        cache.sync()
        cache.sync()  # which the writes of `do` were complete before
        assert [cache.get_file_stats(path) for path in paths] == [look(path) for path in paths]
    return meddler


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as log:
        log.write(data)


def test_what_is_written_during_a_look_is_seen(file: Path) -> None:
    """While files are looked at others are written, and they too: all are true after the same sync(), and a look that
    two writes have led to is told once."""
    written, other = file.with_name("written"), file.with_name("other")
    written.touch()
    other.touch()

    def write() -> None:
        append(written, b"y" * 10)
        append(other, b"y")

    meddler = sync_meddled_with(file, written, [other], write)
    assert [stats.size for path, stats in meddler.told if path == str(written) and stats] == [11]
    assert [stats.size for path, stats in meddler.told if path == str(other) and stats] == [1]


@pytest.mark.parametrize("is_overflow", [False, True])
def test_a_file_replaced_during_a_look_is_another_one(file: Path, is_overflow: bool) -> None:
    """The number of a file is given to another one while it is about to be looked at, perhaps unheard because the
    queue is full: what is told is never of the first inode with the size of the second."""
    written = file.with_name("written")
    others = [file.with_name("a"), file.with_name("b")]
    for path in (written, *others):
        path.touch()
    first = look(written)

    def replace() -> None:
        if is_overflow:
            limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
            for _ in range(limit // 2 + 1):
                for path in others:
                    append(path, b"x")
        recreate(written, b"another")

    meddler = sync_meddled_with(file, written, others, replace)
    found = [stats for path, stats in meddler.told if path == str(written)]
    assert found
    assert all(stats is None or stats.identity != first.identity for stats in found)


WRITER = """
import os, random, sys, time
rng = random.Random(int(sys.argv[1]))
paths = sys.argv[2:]
written = 0
deadline = time.monotonic() + 2.5
while time.monotonic() < deadline:
    path = rng.choice(paths)
    for _ in range(rng.choice((1, 1, 3, 30))):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        written += os.write(fd, b"x" * rng.randint(1, 300))
        os.close(fd)
    if rng.random() < 0.3:
        os.unlink(path)
    if rng.random() < 0.01:
        time.sleep(0.01)
print(written)
"""


@pytest.mark.parametrize("max_files", [None, 4])
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in (2, 3))])
def test_never_more_bytes_than_were_written(tmp_path: Path, max_files: int | None, seed: int) -> None:
    """While files are deleted, made again and written, and looked at in every way by several threads and the owner,
    what is told never adds up to more than the writers' system calls returned."""
    paths = [str(tmp_path / str(number)) for number in range(6)]
    ledger = Naive()
    errors: list[BaseException] = []
    lock = threading.Lock()

    def book() -> None:
        with lock:  # taking and booking are one step, or the order is lost
            for path, stats in stats_taken(cache):
                ledger(path, stats)

    def drive() -> None:
        while cache.wait():
            cache.advance()
            book()

    with FStatCache(max_files, gather_s=0.001, keep_changes=True) as cache:
        owner = threading.Thread(target=drive)
        owner.start()
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(seed), *paths], stdout=subprocess.PIPE, text=True)

        def use(number: int) -> None:
            rng = random.Random(number)
            try:
                while writer.poll() is None:
                    step = rng.randrange(6)
                    if step == 0:
                        cache.sync()
                    elif step == 1:
                        cache.look(rng.choice(paths))
                    elif step == 2:
                        survey(cache, set(paths))
                    elif step == 3:
                        cache.audit()
                    elif step == 4 and rng.random() < 0.05:
                        cache.invalidate()
                    else:
                        cache.get_file_stats(rng.choice(paths))
                    book()
                    time.sleep(rng.random() * 0.002)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the main thread reports it
                errors.append(error)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert writer.stdout is not None
        written = int(writer.stdout.read())
        writer.stdout.close()
        writer.wait()
        survey(cache, set(paths))
        book()
    owner.join()
    assert errors == []
    assert ledger.appended <= written
    assert ledger.appended > written / 100, "and it was told something"
