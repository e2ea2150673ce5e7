"""Inodes without a tracked name: limits, sampling, names that come back, interruptions."""

import errno
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import pytest

from fstat_cache import FStatCache, InodeChange, handles, nameless
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


def half_a_queue() -> range:
    """As many rounds as there may be pairs of events, and one more."""
    return range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 1)


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


def test_a_deleted_one_stays_longest(
    tmp_path: Path, away: Path, cache: FStatCache, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest that has links makes room. A deleted one goes only after these, and may have uncounted bytes."""
    monkeypatch.setattr(nameless, "MOST_NAMELESS", 2)
    paths = [tmp_path / str(number) for number in range(5)]
    files = [opened.enter_context(file) for file in write(*paths)]
    cache.build(paths)
    inodes(cache)
    paths[0].unlink()
    for path in paths[1:3]:
        inodes(cache)
        path.rename(away / path.name)
    assert all(change.is_exact for change in inodes(cache).values())
    for file in files[:3]:
        file.write(b"6")
    assert inodes(cache).keys() == {number(files[0]), number(files[2])}
    for path in paths[3:]:
        path.unlink()
        found = inodes(cache)
    assert [inode for inode, change in found.items() if not change.is_exact] == [number(files[0])]


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


@pytest.mark.parametrize("is_open", [False, True])
def test_at_the_limit_of_watches_alone(tmp_path: Path, opened: ExitStack, *, is_open: bool) -> None:
    """A deleted file that is open may have uncounted bytes if it makes room at once; one that is closed has none."""
    with FStatCache(keep_changes=True, max_watches=1) as cache:
        (file,) = write(tmp_path / "a")
        opened.enter_context(file)
        cache.build([tmp_path / "a"])
        inodes(cache)
        (tmp_path / "a").unlink()
        if not is_open:
            file.close()
        changes = inodes(cache).values()
        assert len(changes) == 1
        assert {change.is_exact for change in changes} == {not is_open}
        assert kernel_watches() == 0


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
    open_handle = handles.open_handle

    def record(directory: int, handle: bytes) -> int:
        used.append(handle)
        return open_handle(directory, handle)

    monkeypatch.setattr(handles, "open_handle", record)
    (file,) = write(tmp_path / "a")
    opened.enter_context(file)
    stats = cache.get_file_stats_using_stat(tmp_path / "a")
    assert stats is not None
    cache.inodes.restore({stats.identity: b""}, stats.mtime_ns + 1)
    cache.build([tmp_path / "a"])
    (tmp_path / "a").unlink()
    assert inodes(cache)[number(file)].links == 0
    assert b"" not in used


@pytest.mark.parametrize("has_handle", [False, True])
def test_an_overflow(tmp_path: Path, cache: FStatCache, opened: ExitStack, *, has_handle: bool) -> None:
    """Without its events an inode is forgotten if it is gone, and found if it lost its name; also during recovery."""
    paths = [tmp_path / str(number) for number in range(4)]
    files = [opened.enter_context(file) for file in write(*paths)]
    numbers = [number(file) for file in files]
    cache.build(paths)
    inodes(cache)
    if not has_handle:
        cache._life.engine.files.handles.clear()
    paths[0].unlink()
    inodes(cache)
    for _ in half_a_queue():
        for file in files[2:]:
            file.write(b"6")
    for file in files[:2]:
        file.close()
    for path in paths[1:3]:
        path.unlink()
    found = inodes(cache)
    assert cache.status().queue_overflows == 1
    assert {inode for inode, change in found.items() if change.is_gone} == {*numbers[:2]}
    assert {inode for inode, change in found.items() if change.links == 0} == ({numbers[2]} if has_handle else set())
    assert [inode.stats.inode for inode in cache._life.engine.files.nameless.values()] == [numbers[2]]


def test_an_overflow_without_names(tmp_path: Path, away: Path, cache: FStatCache, opened: ExitStack) -> None:
    """The same where no file has a name any more."""
    paths = [tmp_path / str(number) for number in range(3)]
    files = [opened.enter_context(file) for file in write(*paths)]
    cache.build(paths)
    inodes(cache)
    paths[0].unlink()
    for path in paths[1:]:
        path.rename(away / path.name)
    gone = number(files[0])
    inodes(cache)
    for _ in half_a_queue():
        for file in files[1:]:
            file.write(b"6")
    files[0].close()
    assert inodes(cache)[gone].is_gone
    assert len(cache._life.engine.files.nameless) == 2


def test_an_overflow_of_closes(tmp_path: Path, cache: FStatCache) -> None:
    """When more files are closed than the kernel reports, none is held longer than by others."""
    paths = [tmp_path / str(number) for number in range(3)]
    files = write(*paths)
    cache.build(paths)
    inodes(cache)
    for path in paths:
        path.unlink()
    inodes(cache)
    for _ in half_a_queue():
        for file in files[:2]:
            os.close(os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY))
    numbers = {number(file) for file in files}
    for file in files:
        file.close()
    cache.sync()
    found = inodes(cache)
    assert {inode for inode, change in found.items() if change.is_gone} == numbers
    assert all(change.is_exact for change in found.values())


@pytest.mark.parametrize(
    ("number", "are_used"),
    [
        (errno.EACCES, True),
        (errno.ENOMEM, True),
        (errno.EPERM, False),
        (errno.ENOSYS, False),
        (errno.EOPNOTSUPP, False),
    ],
)
def test_an_error(
    tmp_path: Path,
    cache: FStatCache,
    opened: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
    *,
    number: int,
    are_used: bool,
) -> None:
    """An error of one file says nothing of others, nor of itself later, unless it is about process or filesystem."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    (file,) = write(tmp_path / "a")
    opened.enter_context(file)
    cache.sync()
    with monkeypatch.context() as patch:
        patch.setattr(handles, "_call", fail)
        cache.build([tmp_path / "a"])
        assert cache.status().reads_deleted_files == are_used
    file.write(b"6")
    change = inodes(cache).get(os.fstat(file.fileno()).st_ino)
    assert (change is not None and change.handle is not None) == are_used


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
