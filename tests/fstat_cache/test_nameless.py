"""Inodes without a tracked name: limits, sampling, names that come back, interruptions."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import pytest

from fstat_cache import FStatCache, InodeChange, nameless
from tests.fstat_cache.kernel import kernel_watches
from tests.support import as_root, wait_until

pytestmark = as_root  # for CAP_DAC_READ_SEARCH


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A directory that nobody watches."""
    away = tmp_path / "away"
    away.mkdir()
    return away


@pytest.fixture
def cache() -> Iterator[FStatCache]:
    """A cache that keeps its changes, without a thread."""
    with FStatCache(keep_changes=True) as cache:
        yield cache


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """Closes what the test opens."""
    with ExitStack() as stack:
        yield stack


def inodes(cache: FStatCache) -> dict[int, InodeChange]:
    """What was found of each inode since changes were taken last, by its number; after a sync."""
    cache.sync()
    return {change.stats.inode: change for change in cache.take() if isinstance(change, InodeChange)}


def write(*paths: Path) -> list[FileIO]:
    """Make files of five bytes, open."""
    files = [FileIO(path, "a") for path in paths]
    for file in files:
        file.write(b"12345")
    return files


def number(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_ino


def test_moved_and_deleted(tmp_path: Path, away: Path, cache: FStatCache, opened: ExitStack) -> None:
    """A handle is reported with the first stat; afterwards size, links and disk space by the handle alone."""
    moved, unlinked = (opened.enter_context(file) for file in write(tmp_path / "moved", tmp_path / "unlinked"))
    cache.build([tmp_path / "moved", tmp_path / "unlinked"])
    handles = {inode: change.handle for inode, change in inodes(cache).items()}
    assert all(handles.values())
    (tmp_path / "moved").rename(away / "moved")
    (tmp_path / "unlinked").unlink()
    for file in (moved, unlinked):
        file.write(b"678")
    found = inodes(cache)
    assert [(found[number(file)].stats.size, found[number(file)].links) for file in (moved, unlinked)] == [
        (8, 1),
        (8, 0),
    ]
    assert found[number(unlinked)].disk_bytes == 512 * os.fstat(unlinked.fileno()).st_blocks
    unlinked_number = number(unlinked)
    unlinked.close()
    change = wait_until(lambda: inodes(cache).get(unlinked_number))
    assert change.is_gone
    assert change.is_exact


def test_its_own_closes(tmp_path: Path, cache: FStatCache, opened: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that reports them does not keep the thread busy, and what others write and close still counts.

    Before Linux 6.10 a kernel reports them even of O_PATH descriptors, any kernel those of others.
    """
    monkeypatch.setattr(os, "O_PATH", os.O_RDONLY)
    paths = [tmp_path / str(number) for number in range(3)]
    files = [opened.enter_context(file) for file in write(*paths)]
    seconds = [opened.enter_context(FileIO(path, "a")) for path in paths]
    cache.build(paths)
    inodes(cache)
    for path in paths:
        path.unlink()
    for each_one in (files, seconds):
        inodes(cache)
        cache.inodes.check()  # it lets go of each as well
        cache.sync()
        cache.sync()
        assert not cache._life.session.news()
        for file in each_one:
            file.write(b"678")
            file.close()
    found = inodes(cache)
    assert len(found) == 3
    assert {(change.stats.size, change.is_gone, change.is_exact) for change in found.values()} == {(11, True, True)}


def test_only_so_many(tmp_path: Path, cache: FStatCache, opened: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the one that lost its name first is forgotten, with its watch and descriptor."""
    monkeypatch.setattr(nameless, "MOST_NAMELESS", 3)
    paths = [tmp_path / str(number) for number in range(6)]
    files = [opened.enter_context(file) for file in write(*paths)]
    cache.build(paths)
    inodes(cache)
    before = len(os.listdir("/proc/self/fd"))
    for path in paths[:5]:
        path.unlink()
        inodes(cache)
    assert cache.status().watches + 3 == kernel_watches() == 1 + 2 * 3  # held ones have another one
    assert len(os.listdir("/proc/self/fd")) == before + 3
    for file in files:
        file.write(b"6")
    assert inodes(cache).keys() == {number(file) for file in files[2:5]}


def test_few_descriptors(tmp_path: Path, cache: FStatCache, opened: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a quarter of the descriptors holds deleted inodes; the others are read at each write, but not held."""
    monkeypatch.setattr(nameless.resource, "getrlimit", lambda _: (8, 8))
    paths = [tmp_path / str(number) for number in range(4)]
    files = [opened.enter_context(file) for file in write(*paths)]
    cache.build(paths)
    inodes(cache)
    before = len(os.listdir("/proc/self/fd"))
    for path in paths:
        path.unlink()
    inodes(cache)
    assert len(os.listdir("/proc/self/fd")) == before + 2
    for file in files:
        file.write(b"678")
    assert {change.stats.size for change in inodes(cache).values()} == {8}
    assert len(os.listdir("/proc/self/fd")) == before + 2


def test_no_proc(tmp_path: Path, cache: FStatCache, opened: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where descriptors have no paths, an inode is not found, and nothing else happens."""
    (file,) = write(tmp_path / "a")
    opened.enter_context(file)
    stats = cache.get_file_stats(tmp_path / "a")
    handle = inodes(cache)[number(file)].handle
    assert stats is not None
    assert handle is not None

    def no_proc(path: str) -> None:
        raise FileNotFoundError(path)

    monkeypatch.setattr(nameless, "status_of", no_proc)
    assert cache.inodes.find([(stats, handle, str(tmp_path))]) == [False]


def test_quiet_ones_are_forgotten(
    tmp_path: Path, away: Path, cache: FStatCache, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inode that was moved is followed until it has been quiet for long; a deleted one until it is closed."""
    paths = [tmp_path / "moved", tmp_path / "unlinked"]
    files = [opened.enter_context(file) for file in write(*paths)]
    cache.build(paths)
    inodes(cache)
    paths[0].rename(away / "moved")
    paths[1].unlink()
    inodes(cache)
    cache.inodes.check()
    assert kernel_watches() == 3  # two of the unlinked one
    monkeypatch.setattr(nameless, "QUIET_S", 0.0)
    cache.inodes.check()
    assert cache.status().watches + 1 == kernel_watches() == 2
    for file in files:
        file.write(b"6")
    assert inodes(cache).keys() == {number(files[1])}


def test_at_the_limit_of_watches(tmp_path: Path, away: Path, opened: ExitStack) -> None:
    """Files with a name have the watches first."""
    with FStatCache(keep_changes=True, max_watches=4) as cache:
        paths = [tmp_path / str(number) for number in range(4)]
        for file in write(*paths):
            opened.enter_context(file)
        cache.build(paths)
        inodes(cache)
        assert kernel_watches() == 4
        paths[0].rename(away / "0")
        paths[1].unlink()
        inodes(cache)
        assert kernel_watches() <= 4
        for path in (tmp_path / "new", tmp_path / "newer"):
            opened.enter_context(*write(path))
            assert cache.get_file_stats(path) is not None
        assert not cache.status().polled
        assert cache.status().watches == kernel_watches() == 4


def test_a_busy_one_is_sampled_and_armed_again(
    tmp_path: Path, away: Path, cache: FStatCache, opened: ExitStack
) -> None:
    """An inode that is written all the time is not watched meanwhile; every sync reads it."""
    path = tmp_path / "a"
    (file,) = write(path)
    opened.enter_context(file)
    cache.build([path])
    inodes(cache)
    path.rename(away / "a")
    inodes(cache)
    files = cache._life.engine.files

    def is_sampled() -> bool:
        file.write(b"x")
        inodes(cache)
        return bool(files.sampled)

    wait_until(is_sampled)
    file.write(b"x")
    assert inodes(cache)[number(file)].stats.size == os.stat(away / "a").st_size

    def is_armed() -> bool:
        cache.advance()
        return not files.sampled

    wait_until(is_armed)
    cache.take()
    file.write(b"x")
    assert inodes(cache)[number(file)].stats.size == os.stat(away / "a").st_size


def test_a_name_again(tmp_path: Path, away: Path, cache: FStatCache, opened: ExitStack) -> None:
    """An inode that comes back to a tracked name is an ordinary file with its old watch, and may leave again."""
    path = tmp_path / "a"
    (file,) = write(path)
    opened.enter_context(file)
    cache.build([path])
    for size in range(6, 20, 2):
        path.rename(away / "a")
        file.write(b"6")
        assert inodes(cache)[number(file)].stats.size == size
        (away / "a").rename(path)
        file.write(b"7")
        assert cache.look(path)
        stats = cache.get_file_stats(path)
        assert stats is not None
        assert stats.size == size + 1
        inodes(cache)
        assert cache._life.engine.files.nameless == {}
        assert cache.status().watches == kernel_watches() == 1


def test_a_handle_taken_under_another_name(tmp_path: Path, cache: FStatCache, opened: ExitStack) -> None:
    """A file that was renamed before its first change has its handle taken at that change, as any other."""
    (file,) = write(tmp_path / "a")
    opened.enter_context(file)
    cache.inodes.restore({}, os.fstat(file.fileno()).st_mtime_ns + 1)
    cache.build([tmp_path / "a"])
    (tmp_path / "a").rename(tmp_path / "b")
    cache.sync()
    assert cache.look(str(tmp_path / "b"))
    assert not any(change.handle for change in inodes(cache).values())
    file.write(b"6")
    assert inodes(cache)[number(file)].handle


def test_no_handles_of_quiet_files(tmp_path: Path, cache: FStatCache, opened: ExitStack) -> None:
    """After an overflow each file is stat'ed, but only of those that change a handle is taken."""
    paths = [tmp_path / str(number) for number in range(3)]
    files = [opened.enter_context(file) for file in write(*paths)]
    cache.inodes.restore({}, os.fstat(files[-1].fileno()).st_mtime_ns + 1)
    cache.build(paths)
    cache._life.engine.files.distrust()
    assert not inodes(cache)
    files[0].write(b"6")
    assert inodes(cache).keys() == {number(files[0])}


def test_an_inode_that_was_absent(
    tmp_path: Path, cache: FStatCache, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved instead of a handle, for an inode that was not found after a start, is not used as one."""
    used: list[bytes] = []
    open_handle = nameless.open_handle

    def record(directory: int, handle: bytes) -> int:
        used.append(handle)
        return open_handle(directory, handle)

    monkeypatch.setattr(nameless, "open_handle", record)
    (file,) = write(tmp_path / "a")
    opened.enter_context(file)
    stats = cache.get_file_stats_using_stat(tmp_path / "a")
    assert stats is not None
    cache.inodes.restore({stats.identity: b""}, stats.mtime_ns + 1)
    cache.build([tmp_path / "a"])
    (tmp_path / "a").unlink()
    assert inodes(cache)[number(file)].links == 0
    assert b"" not in used


def test_a_library_user_pays_nothing(tmp_path: Path, away: Path, opened: ExitStack) -> None:
    """Where no changes are kept no inode without a name is followed, and nothing is held."""
    with FStatCache() as cache:
        paths = [tmp_path / "moved", tmp_path / "unlinked"]
        for file in write(*paths):
            opened.enter_context(file)
        cache.build(paths)
        before = len(os.listdir("/proc/self/fd"))
        paths[0].rename(away / "moved")
        paths[1].unlink()
        cache.sync()
        assert cache.get_file_stats(paths[0]) is None
        assert cache.status().watches == kernel_watches() == 0
        assert len(os.listdir("/proc/self/fd")) == before


class Interruption(Exception):
    pass


# One that comes in a finalizer can not be raised, says Python.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_leaves_nothing_half_done(tmp_path: Path, away: Path) -> None:
    """What a signal's handler raises at random moments leaves no watch behind; a closed file is not held."""
    rng = random.Random(1)
    armed = False

    def interrupt(*_: object) -> None:
        if armed:
            raise Interruption

    handler = signal.signal(signal.SIGALRM, interrupt)
    try:
        with FStatCache(keep_changes=True) as cache:
            for round_number in range(600):
                path = tmp_path / f"{round_number}"
                (file,) = write(path)
                with file:
                    try:
                        armed = True
                        signal.setitimer(signal.ITIMER_REAL, rng.random() * 1e-3)
                        cache.look(path)
                        cache.sync()
                        if rng.random() < 0.5:
                            path.unlink()
                        else:
                            path.rename(away / path.name)
                        file.write(b"6")
                        cache.sync()
                        file.write(b"7")
                        cache.inodes.check()
                        armed = False
                    except Interruption:
                        armed = False
                    signal.setitimer(signal.ITIMER_REAL, 0)
                path.unlink(missing_ok=True)
                cache.sync()
                cache.sync()  # the first one lets go
                cache.take()
                assert all(inode.fd is None for inode in cache._life.engine.files.nameless.values())
            wait_until(lambda: kernel_watches() == cache.status().watches)
        wait_until(lambda: all(thread.name != "fstat-cache-end" for thread in threading.enumerate()))
    finally:
        signal.signal(signal.SIGALRM, handler)
