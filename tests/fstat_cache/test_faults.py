"""Lost events, exhausted limits, missing permission, filesystems that tell nothing or answer no more."""

import contextlib
import logging
import mmap
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from fstat_cache import DetailedStats, FileStats, FStatCache, watches
from fstat_cache.hanging import Found
from fstat_cache.inotify import IN_MODIFY, Inotify
from fstat_cache.mounts import Mount as MountLine
from tests.fstat_cache.driven import stats_taken, survey
from tests.fstat_cache.kernel import kernel_watches
from tests.support import Mount, Stopwatch, program, skip_unless_ci, wait_until

REPOSITORY = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts, or becomes another user")


def truth(path: Path | str) -> FileStats | None:
    return FStatCache.get_file_stats_using_stat(path)


def known(cache: FStatCache, path: Path) -> FileStats | None:
    """What the cache remembers of a file, without asking it, which might make it look."""
    entry = cache._life.engine.files.find(str(path))
    return None if entry is None else entry.stats


def assert_true(cache: FStatCache, paths: list[Path]) -> None:
    assert survey(cache, set(map(str, paths))) == {}
    for path in paths:
        assert known(cache, path) == truth(path), path


def make(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.log" for number in range(count)]
    for path in paths:
        path.write_bytes(b"x" * 10)
    return paths


def append(path: Path, data: bytes = b"more") -> None:
    with path.open("ab") as log:
        log.write(data)


def overflow(paths: list[Path]) -> None:
    """Queue more events than the queue holds, none of which can be merged: files take turns."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    files = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in paths]
    for number in range(limit + len(paths)):
        os.write(files[number % len(files)], b"x")
    for file in files:
        os.close(file)


def test_after_an_overflow_every_entry_is_true(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is served before it was looked at again, replaced files are followed at their new inode, and it counts.

    A recreated file has the inode number and the size of the old one: only a new watch tells them apart.
    """
    paths = make(tmp_path, 1000)
    with FStatCache() as cache:
        cache.build(paths)
        with cache._life.lock:  # the pump can not drain
            overflow(paths[:2])
            for path in paths[10:200]:
                path.unlink()
                path.write_bytes(b"y" * 10)
            for path in paths[200:210]:
                path.unlink()
            for path in paths[210:220]:
                append(path)
        assert_true(cache, paths)
        assert cache.status().queue_overflows == 1
        with cache._life.lock:
            overflow(paths[300:302])  # others: the first two are sampled now
        assert_true(cache, paths)
        assert cache.status().queue_overflows == 2
        assert caplog.text.count("overflowed") == 1
        for path in paths[10:20]:
            append(path)
        assert_true(cache, paths)
        assert cache.cache_info().files == 990
        assert cache.status().watches == 990


def test_an_overflow_heals_without_sync(tmp_path: Path) -> None:
    """A cache without a CPU budget recovers by its own thread."""
    paths = make(tmp_path, 50)
    with FStatCache() as cache:
        cache.build(paths)
        with cache._life.lock:
            overflow(paths[:2])
            append(paths[40])

        def is_served() -> bool:  # without asking the cache, which would heal it
            entry = cache._served.get(str(paths[40]))
            return entry is not None and entry.stats == truth(paths[40])

        wait_until(is_served)


def test_a_look_up_after_an_overflow_is_true_at_once(tmp_path: Path) -> None:
    """With a CPU budget the recovery waits for sync(), but a look-up never gives what is doubtful."""
    paths = make(tmp_path, 50)
    with FStatCache(cpu_budget=0.01) as cache:
        cache.build(paths)
        with cache._life.lock:
            overflow(paths[:2])
            append(paths[40])
        wait_until(lambda: cache.status().queue_overflows)
        assert cache.get_file_stats(str(paths[40])) == truth(paths[40])
        assert_true(cache, paths)


@pytest.mark.alone
def test_a_file_written_all_the_time_is_sampled_and_stays_exact(tmp_path: Path) -> None:
    """A busy file loses its armed watch, is exact after sync(), and gets its watch back when it is quiet."""
    path, quiet = make(tmp_path, 2)
    with FStatCache() as cache:
        cache.build([path, quiet])

        def write_until_hot() -> bool:
            append(path)
            return cache.status().hot == 1

        wait_until(write_until_hot)
        for _ in range(20):
            append(path)
            assert_true(cache, [path, quiet])
        append(path)
        wait_until(lambda: cache.get_file_stats(path) == truth(path), 2)
        wait_until(lambda: cache.status().hot == 0)
        append(path)
        wait_until(lambda: cache.get_file_stats(path) == truth(path))


@pytest.mark.parametrize("change", ["unlink", "replace", "recreate", "truncate", "rename"])
def test_a_hot_file_is_followed_through_anything(tmp_path: Path, change: str) -> None:
    """What happens to a file while it is sampled is seen at sync(), and its successor is followed."""
    (path,) = make(tmp_path, 1)
    with FStatCache() as cache, path.open("ab", buffering=0) as writer:
        cache.build([path])

        def write_until_hot() -> bool:
            writer.write(b"x")
            return cache.status().hot == 1

        wait_until(write_until_hot)
        if change == "unlink":
            path.unlink()
        elif change == "replace":
            new = tmp_path / "new"
            new.write_bytes(b"new")
            new.replace(path)
        elif change == "recreate":
            path.unlink()
            path.write_bytes(b"new")
        elif change == "truncate":
            os.truncate(path, 0)
        else:
            path.rename(tmp_path / "other")
        writer.write(b"into the old file")
        assert_true(cache, [path])
        if path.exists():
            append(path)
            assert_true(cache, [path])
        else:
            assert cache.list_files_in_cache() == []


@pytest.mark.parametrize("way", ["met", "replaced"])
def test_another_name_of_a_hot_file_loses_nothing(tmp_path: Path, way: str) -> None:
    """A new name arms the watch of a sampled file: what was written before it is seen under all names."""
    path, other = make(tmp_path, 2)
    with FStatCache() as cache, path.open("ab", buffering=0) as writer:
        cache.build([path, other])

        def write_until_hot() -> bool:
            writer.write(b"x")
            return cache.status().hot == 1

        wait_until(write_until_hot)
        cache.sync()
        writer.write(b"nobody is told of this")
        other.unlink()
        other.hardlink_to(path)
        if way == "met":
            with contextlib.suppress(KeyError):  # unless the cache's own thread has seen it go
                cache.remove_from_watch(other)
            cache.get_file_stats(other)
        assert_true(cache, [path, other])


def test_a_long_write_is_no_mismatch(tmp_path: Path) -> None:
    """A write(2) of hundreds of MB makes its file grow long before its event; the file goes on being watched."""
    (path,) = make(tmp_path, 1)
    code = "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), bytes(200 << 20))"
    with FStatCache() as cache:
        cache.build([path])
        writer = subprocess.Popen([sys.executable, "-c", code, path])
        while writer.poll() is None:
            cache.audit()
        assert cache.status().audit_mismatches == 0
        assert_true(cache, [path])
        assert cache.status().watches == 1
    path.unlink()


def test_an_audit_finds_what_makes_no_event(tmp_path: Path) -> None:
    """Writes through mmap(2), links pointed elsewhere, renamed ancestors are found, healed, counted and polled."""
    (tmp_path / "old").mkdir()
    mapped, below, target, other, untouched = (
        tmp_path / "mapped",
        tmp_path / "old" / "below",
        tmp_path / "target",
        tmp_path / "other",
        tmp_path / "untouched",
    )
    for path in (mapped, below, target, untouched):
        path.write_bytes(b"x" * 100)
    other.write_bytes(b"another size")
    link = tmp_path / "link"
    link.symlink_to(target)
    with FStatCache() as cache:
        cache.build([mapped, below, link, untouched])
        assert cache.audit() == 0
        with mapped.open("r+b") as file, mmap.mmap(file.fileno(), 100) as memory:
            memory[0] = 1
            memory.flush()
        (tmp_path / "old").rename(tmp_path / "new")
        (tmp_path / "renewed").symlink_to(other)
        (tmp_path / "renewed").rename(link)
        assert cache.audit() == 3
        assert_true(cache, [mapped, below, link, untouched])
        status = cache.status()
        assert (status.audit_checks, status.audit_mismatches) == (8, 3)
        assert status.polled == {"audit": 2}
        with mapped.open("r+b") as file, mmap.mmap(file.fileno(), 100) as memory:
            memory[0] = 2
            memory.flush()
        assert_true(cache, [mapped, link])
        assert cache.audit() == 0


def test_an_audit_corrects_blocks_that_were_allocated_later(tmp_path: Path) -> None:
    """A filesystem reports no event when it allocates or frees blocks: that is no reason to poll the file."""
    path = str(tmp_path / "a.log")
    Path(path).write_bytes(b"x" * 10_000)
    with FStatCache(keep_changes=True) as cache:
        assert cache.look(path, is_detailed=True)
        seen = cache.get_file_stats(path)
        assert isinstance(seen, DetailedStats)
        cache._life.served[path].stats = DetailedStats(seen, 0, *seen.access)  # as it was before
        cache.take()
        assert cache.audit() == 0
        assert cache.status().polled == dict.fromkeys(cache.status().polled, 0)
        assert cache.take() == [(path, seen)]


def test_an_audit_waits_without_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it waits for the event of a write that may be under way, others use the cache."""
    (path,) = make(tmp_path, 1)
    used: list[FileStats | None] = []

    def use(seconds: float) -> None:
        user = threading.Thread(target=lambda: used.append(cache.get_file_stats(tmp_path / "other")))
        user.start()
        user.join(10)

    with FStatCache() as cache:
        cache.build([path])
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 10) as memory:
            memory[0] = 1
            memory.flush()
        monkeypatch.setattr("fstat_cache.audit.time.sleep", use)
        assert cache.audit() == 1
    assert used == [None, None]


def test_an_audit_goes_round(tmp_path: Path) -> None:
    """Limited to a few entries a call, it compares each of them once before any of them twice."""
    paths = make(tmp_path, 10)
    with FStatCache() as cache:
        cache.build(paths)
        for _ in range(4):
            cache.audit(3)
        assert cache.status().audit_checks == 10


def test_an_audit_is_not_deceived_by_busy_writers(tmp_path: Path) -> None:
    """Growth whose event is still on its way is no mismatch."""
    (path,) = make(tmp_path, 1)
    writer = subprocess.Popen(
        [sys.executable, "-c", "import sys\nf = open(sys.argv[1], 'ab', 0)\nwhile True: f.write(b'x' * 100_000)", path]
    )
    try:
        with FStatCache(gather_s=0.2) as cache:
            cache.build([path])
            wait_until(lambda: cache.get_file_stats(path)["size"] > 1_000_000)  # type: ignore[index]
            for _ in range(50):
                assert cache.audit() == 0
    finally:
        writer.kill()
        writer.wait()


def test_beyond_max_watches_files_are_polled_and_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files that get no watch are looked at each time; one warning names the sysctl; when room returns they get one."""
    paths = make(tmp_path, 10)
    with FStatCache(max_watches=6) as cache:
        cache.build(paths)
        assert cache.status().watches == 6
        assert cache.status().polled == {"watch_limit": 4}
        assert cache.status().watch_failures == {"watch_limit": 4}
        for path in paths:
            append(path)
            if path in paths[6:]:
                assert cache.get_file_stats(path) == truth(path), "without sync() as well"
        assert_true(cache, paths)
        assert caplog.text.count("max_user_watches") == 1
        for path in paths[:5]:
            cache.remove_from_watch(path)
        cache.sync()
        assert cache.status().polled == {}
        assert cache.status().watches == 5
        append(paths[9])
        assert_true(cache, paths[5:])


def test_some_watches_are_left_to_others(tmp_path: Path) -> None:
    """By default the bound is what the kernel allows the user but for 16,384, or half of it if that is less."""
    with FStatCache() as cache:
        cache.build(make(tmp_path, 1))
        allowed = int(Path("/proc/sys/fs/inotify/max_user_watches").read_text())
        assert cache._life.engine.watches.limit == max(allowed - 16_384, allowed - allowed // 2)


def test_a_directorys_watch_stands_in_for_those_that_its_files_can_not_get(tmp_path: Path) -> None:
    """Without a watch to be had, files in a watched directory are served from memory, but for what has other names."""
    paths = make(tmp_path, 4)
    other_name, link = tmp_path / "other-name", tmp_path / "link"
    os.link(paths[3], other_name)
    os.symlink(paths[0], link)
    with FStatCache(max_watches=1, gather_s=60) as cache:
        assert cache.watch_directory(str(tmp_path)) is None
        cache.build([*paths, other_name, link])
        assert (cache.status().watches, cache.status().guarded) == (1, 3)
        assert cache.status().polled == {"watch_limit": 3}
        append(paths[0])
        os.truncate(paths[1], 0)
        os.replace(paths[2], paths[1])
        assert_true(cache, paths)
        assert str(paths[2]) not in cache.list_files_in_cache()
        misses = cache.cache_info().misses
        assert_true(cache, paths[:2])
        assert cache.cache_info().misses == misses
        cache.unwatch_directory(str(tmp_path))
        append(paths[0])
        assert_true(cache, paths)
        assert cache.status().guarded == 0


def test_a_directory_that_is_written_to_all_the_time_stands_in_for_no_watch(tmp_path: Path) -> None:
    """Its files are looked at whenever asked; that goes for a busy neighbour that is no file of ours too."""
    path = make(tmp_path, 1)[0]
    neighbour = tmp_path / "neighbour"
    for busy in (path, neighbour):
        with FStatCache(max_watches=1, gather_s=60) as cache:
            cache.watch_directory(str(tmp_path))
            cache.build([path])
            assert cache.status().guarded == 1
            for _ in range(3):
                append(busy)
                cache.advance()  # takes in what has happened, and stats nothing else
            assert cache.status().guarded == 0
            assert cache.status().polled == {"watch_limit": 1}
            append(path)
            assert_true(cache, [path])


def test_another_path_to_a_directory_takes_nothing_from_its_files(tmp_path: Path) -> None:
    """A directory that is watched by a second path, and no more by that, goes on to stand in for its files' watches."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (path,) = make(folder, 1)
    with FStatCache(max_watches=1, gather_s=60) as cache:
        cache.watch_directory(str(folder))
        cache.build([path])
        other = f"{tmp_path}/../{tmp_path.name}/folder"
        cache.watch_directory(other)
        append(path)
        assert_true(cache, [path])
        cache.unwatch_directory(other)
        append(path)
        assert_true(cache, [path])
        assert cache.status().guarded == 1


def test_a_file_that_can_not_be_guarded_keeps_no_other_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a busy spell the files of a directory are told of by its watch again, but for those that can not be."""
    monkeypatch.setattr(watches, "COVERLESS_S", 0.0)
    paths = make(tmp_path, 3)
    link = tmp_path / "link"
    os.symlink(paths[0], link)
    with FStatCache(max_watches=1, gather_s=60) as cache:
        cache.watch_directory(str(tmp_path))
        cache.build([link, *paths])
        for _ in range(3):
            append(paths[0])
            cache.advance()
        assert cache.status().guarded == 0
        for _ in range(3):
            cache.sync()
        assert cache.status().guarded == 3
        assert cache.status().polled == {"watch_limit": 1}


def reports_writes(cache: FStatCache, directory: Path) -> bool:
    """Whether the kernel reports writes to the files in a directory by its watch."""
    inotify = cache._life.session.inotify
    assert inotify is not None
    info = Path(f"/proc/self/fdinfo/{inotify.fd}").read_text()
    found = re.search(rf"ino:{directory.stat().st_ino:x} .* mask:([0-9a-f]+)", info)
    assert found is not None
    return bool(int(found[1], 16) & IN_MODIFY)


def test_another_limit_takes_effect(tmp_path: Path, max_user_watches: Callable[[int], object]) -> None:
    """The next sync() reads it: polled and guarded files get watches from a higher one, new files none from a lower."""
    folder = tmp_path / "folder"
    folder.mkdir()
    guarded, paths = make(folder, 3), make(tmp_path, 3)
    max_user_watches(2)
    with FStatCache(gather_s=60) as cache:
        assert cache.status().max_watches is None
        cache.watch_directory(str(folder))
        cache.build([*guarded, *paths])
        for _ in range(2):
            cache.sync()
            assert (cache.status().watches, cache.status().max_watches, cache.status().guarded) == (1, 1, 3)
            assert cache.status().polled == {"watch_limit": 3}
        assert reports_writes(cache, folder)
        max_user_watches(10)
        cache.sync()
        status = cache.status()
        assert (status.watches, status.max_watches, status.guarded, status.polled) == (5, 5, 2, {}), "polled ones first"
        max_user_watches(100)
        cache.sync()
        assert (cache.status().watches, cache.status().guarded, kernel_watches()) == (7, 0, 7)
        assert not reports_writes(cache, folder), "the watches of its files do"
        for path in (*guarded, *paths):
            append(path)
        assert_true(cache, [*guarded, *paths])
        max_user_watches(8)
        cache.sync()
        assert cache.status().max_watches == 50, "nothing lacks a watch, so nothing is read"


def test_a_lower_limit_takes_no_watch(tmp_path: Path, max_user_watches: Callable[[int], object]) -> None:
    """A file that has a watch keeps it, as in the kernel; one that comes is polled until others have gone."""
    paths = make(tmp_path, 6)
    max_user_watches(8)
    with FStatCache(gather_s=60) as cache:
        cache.build(paths[:5])
        max_user_watches(4)
        cache.sync()
        cache.build(paths)
        for _ in range(2):
            assert (cache.status().watches, cache.status().max_watches) == (4, 2)
            assert cache.status().polled == {"watch_limit": 2}
            append(paths[0])
            append(paths[5])
            assert_true(cache, paths)
        for path in paths[:3]:
            cache.remove_from_watch(path)
        cache.sync()
        assert (cache.status().watches, cache.status().polled) == (2, {"watch_limit": 1})


IN_A_NAMESPACE = """
import logging, os, sys
from pathlib import Path
from fstat_cache import FStatCache
logging.basicConfig(format="%(message)s", level="WARNING")
limit, instances = Path("/proc/sys/user/max_inotify_watches"), Path("/proc/sys/user/max_inotify_instances")
limit.write_text("5")
paths = [Path(sys.argv[1], f"{number}.log") for number in range(8)]
for path in paths:
    path.write_text("x")
with FStatCache() as cache:
    def check():
        for path in paths:
            path.write_text(path.read_text() + "more")
        cache.sync()
        cache.survey(set(map(str, paths)))
        known = [cache._life.engine.files.find(str(path)).stats for path in paths]
        assert known == [cache.get_file_stats_using_stat(path) for path in paths]
    assert cache.build(paths) == []
    assert cache.status().polled == {"watch_limit": 3}, cache.status()
    check()
    limit.write_text("100")
    check()
    assert cache.status().polled == {} and cache.status().watches == 8, cache.status()
    check()
logging.disable()
limit.write_text("1")
with FStatCache(gather_s=60) as cache:
    assert cache.watch_directory(sys.argv[1]) is None
    cache.build(paths)
    check()
    assert cache.status().guarded == 8 and cache.status().watches == 1, cache.status()
    limit.write_text("100")
    check()
    assert cache.status().guarded == 0 and cache.status().watches == 9, cache.status()
    check()
instances.write_text("0")
with FStatCache() as cache:
    cache.build(paths)
    assert cache.watch_directory(sys.argv[1]) == "instance_limit"
    check()
    assert cache.status().polled == {"instance_limit": 8}, cache.status()
    instances.write_text("100")
    check()
    assert cache.status().polled == {} and cache.status().watches == 8, cache.status()
    assert cache.watch_directory(sys.argv[1]) is None
    check()
print("right")
"""


def run_in(command: list[str], code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, sys.executable, "-W", "error", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )


@as_root
def test_the_kernels_limits(tmp_path: Path) -> None:
    """ENOSPC, EMFILE: files without a watch are polled or guarded, one warning names the sysctl; raised, it is used."""
    done = run_in([program("unshare"), "--user", "--map-root-user"], IN_A_NAMESPACE, str(tmp_path))
    if "unshare failed" in done.stderr:  # as in a chroot, see user_namespaces(7)
        skip_unless_ci("no user namespace can be made here")
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr
    assert done.stderr.count("\n") == done.stderr.count("fs.inotify.max_user_watches") == 1, done.stderr


def take_all(instances: list[Inotify]) -> None:
    while True:
        try:
            instances.append(Inotify())
        except OSError:
            return


@pytest.mark.alone  # it takes all that this user may have
def test_the_kernels_limit_of_instances(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """EMFILE: without an inotify instance every file is polled; with one again they are watched."""
    paths = make(tmp_path, 3)
    instances: list[Inotify] = []
    try:
        take_all(instances)
        with FStatCache() as cache:
            cache.build(paths)
            assert cache.status().polled == {"instance_limit": 3}
            assert caplog.text.count("max_user_instances") == 1
            for _ in range(2):
                append(paths[0])
                assert cache.get_file_stats(paths[0]) == truth(paths[0])
                append(paths[1])
                assert_true(cache, paths)
            while instances:
                instances.pop().close()
            append(paths[2])
            assert_true(cache, paths)
            assert cache.status().watches == 3
            append(paths[2])
            wait_until(lambda: cache.get_file_stats(paths[2]) == truth(paths[2]))
            assert cache.alive
    finally:
        for instance in instances:
            instance.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may search; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


WITHOUT_DESCRIPTORS = """
import os, resource, sys
from fstat_cache import FStatCache
path, other = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for spare in range(6):
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        for descriptor in taken[:spare]:
            os.close(descriptor)
    with FStatCache() as cache:
        def check():
            for name in (path, other):
                os.truncate(name, os.stat(name).st_size + 1)
                cache.sync()
                assert cache.get_file_stats(name) == cache.get_file_stats_using_stat(name), (spare, name)
        check()
        check()
        for descriptor in taken[spare:]:
            os.close(descriptor)
        check()
        assert cache.status().watches == 2 and cache.status().polled == {}, (spare, cache.status())
        check()
print("right")
"""


def test_without_descriptors(tmp_path: Path) -> None:
    """With no descriptor left, or a few, files are polled and right; with some again they are watched."""
    path, other = make(tmp_path, 2)
    done = run_in([], WITHOUT_DESCRIPTORS, str(path), str(other))
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


WITHOUT_PERMISSION = """
import logging, os, sys
from fstat_cache import FStatCache
logging.basicConfig(format="%(message)s", level="WARNING")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
path, readable = sys.argv[1:]
with FStatCache() as cache:
    assert cache.build([path, readable]) == []
    assert cache.status().polled == {"permission": 1} and cache.status().watches == 1
    print("ready", flush=True)
    for size in map(int, sys.stdin):
        assert cache.get_file_stats(path).size == size
        cache.sync()
        assert cache.survey({path}) == {} and cache._life.engine.files.find(path).stats.size == size
        print(len(cache.status().polled), flush=True)
"""


@as_root
def test_without_permission_to_watch(open_folder: Path) -> None:
    """A file that may be stat'ed but not read is polled and right; one warning names the capability."""
    path, readable = make(open_folder, 2)
    path.chmod(0o600)
    watcher = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", WITHOUT_PERMISSION, path, readable],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    with watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        assert watcher.stderr is not None
        answers = [watcher.stdout.readline()]
        for number in range(3):
            append(path, b"1")
            if number == 2:
                path.chmod(0o644)
            print(path.stat().st_size, file=watcher.stdin, flush=True)
            answers.append(watcher.stdout.readline())
        watcher.stdin.close()
        errors = watcher.stderr.read()
    assert answers == ["ready\n", "1\n", "1\n", "0\n"], errors
    assert errors.count("\n") == errors.count("CAP_DAC_READ_SEARCH") == 1


def test_files_made_by_the_kernel_are_polled(caplog: pytest.LogCaptureFixture) -> None:
    """Files of /proc change without an event: they hold no watch, and that is no failure to warn of."""
    with FStatCache() as cache:
        cache.build(["/proc/self/stat"])
        assert cache.status().polled == {"filesystem": 1}
        assert cache.status().watches == 0
        assert cache.status().watch_failures == {}
        assert cache.get_file_stats("/proc/self/stat") == truth("/proc/self/stat")
        assert caplog.text == ""


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A folder to mount on; unmounted at the end, whatever is on it."""
    point = tmp_path / "mount"
    point.mkdir()
    yield point
    # os.path.ismount() says no of a filesystem whose process is dead.
    while f" {point} " in Path("/proc/self/mounts").read_text():
        subprocess.run(["umount", "--lazy", point], check=True)


def serve(source: Path, mount: Path) -> subprocess.Popen[bytes]:
    """Mount a real FUSE filesystem that remembers nothing, so that every look at it asks its process."""
    daemon = subprocess.Popen([program("bindfs"), "-f", "-o", "attr_timeout=0,entry_timeout=0", source, mount])
    wait_until(lambda: f" {mount} " in Path("/proc/self/mounts").read_text())
    return daemon


@as_root
def test_a_mount_and_its_end_are_seen_at_once(tmp_path: Path, mount: Path) -> None:
    """A filesystem mounted over a watched file hides it at the next sync(), and unmounting brings it back."""
    path = mount / "file.log"
    path.write_bytes(b"below the mount")
    with FStatCache() as cache:
        assert_true(cache, [path])
        subprocess.run(["mount", "-t", "tmpfs", "none", mount], check=True)
        assert not path.exists()
        assert_true(cache, [path])
        path.write_bytes(b"on the mount")
        assert_true(cache, [path])
        append(path)
        assert_true(cache, [path])
        subprocess.run(["umount", mount], check=True)
        assert_true(cache, [path])
        append(path)
        assert_true(cache, [path])
        append(path)
        wait_until(lambda: cache.get_file_stats(path) == truth(path))
        assert cache.status().watches == 1


@as_root
@pytest.mark.parametrize("name", ["\r", "\x85", "\x1c", "\u2028", "a b\tc\nd\\e", "\udcff"])
def test_a_mount_point_of_any_name(tmp_path: Path, name: str) -> None:
    """However a mount point is called, mounts are understood and the cache lives."""
    point = tmp_path / f"mount{name}point"
    point.mkdir()
    path = point / "file.log"
    path.touch()
    with FStatCache() as cache:
        assert_true(cache, [path])
        subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
        try:
            path.write_bytes(b"on the mount")
            assert_true(cache, [path])
        finally:
            subprocess.run(["umount", point], check=True)
        assert_true(cache, [path])
        assert cache.alive
        append(path)
        wait_until(lambda: cache.get_file_stats(path) == truth(path))


@as_root
def test_a_mount_behind_a_link_is_seen_at_once(tmp_path: Path, mount: Path) -> None:
    """The path that counts is the one that the kernel walks, not the one as written; bind mounts tell their roots."""
    link = tmp_path / "link"
    link.symlink_to(mount)
    for number in (1, 2):
        (tmp_path / f"source-{number}").mkdir()
        (tmp_path / f"source-{number}" / "file.log").write_bytes(b"x" * number)
    path = link / "file.log"
    (mount / "file.log").touch()
    with FStatCache() as cache:
        assert_true(cache, [path])
        subprocess.run(["mount", "--bind", tmp_path / "source-1", mount], check=True)
        assert_true(cache, [path])
        with cache._life.lock:  # both changes in one batch, and the mount's number is given again
            subprocess.run(["umount", mount], check=True)
            subprocess.run(["mount", "--bind", tmp_path / "source-2", mount], check=True)
        assert_true(cache, [path])
        append(path)
        assert_true(cache, [path])


@as_root
def test_a_remote_filesystem_that_goes(tmp_path: Path, mount: Path) -> None:
    """Its files go with it, also those behind a link; a new one in its place is asked, and the old thread ends."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "remote.log").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(mount)
    path = tmp_path / "link" / "remote.log"

    def remote_threads() -> int:
        return sum(thread.name.startswith("fstat-cache-remote") for thread in threading.enumerate())

    with FStatCache(remote_timeout_s=0.3) as cache:
        daemons = []
        try:
            for stopped in (False, True, False):
                daemons.append(serve(source, mount))
                assert_true(cache, [path])
                assert cache.status().polled == {"remote": 1}
                if stopped:
                    daemons[-1].send_signal(signal.SIGSTOP)
                    assert isinstance(survey(cache, {str(path)})[str(path)], TimeoutError)
                subprocess.run(["umount", "--lazy", mount], check=True)
                assert survey(cache, {str(path)}) == {}
                assert cache.list_files_in_cache() == []
                assert cache.status().polled == {}
            for daemon in daemons:
                daemon.kill()
            wait_until(lambda: remote_threads() == 0)
        finally:
            for daemon in daemons:
                daemon.kill()
                daemon.wait()


@pytest.mark.alone
@as_root
def test_a_remote_filesystem_that_answers_no_more(tmp_path: Path, mount: Path) -> None:
    """Its files are polled; when it hangs nothing else waits for it, its files are late, and it recovers.

    A real FUSE filesystem, whose process is stopped. Reached by its own name and through a link to its folder.
    """
    source = tmp_path / "source"
    source.mkdir()
    remote = mount / "remote.log"
    (source / "remote.log").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(mount)
    linked = tmp_path / "link" / "remote.log"
    local = tmp_path / "local.log"
    local.touch()
    timeout_s = 1.5  # so that a machine that is busy otherwise is not taken for a filesystem that hangs
    daemon = serve(source, mount)
    try:
        with FStatCache(remote_timeout_s=timeout_s) as cache:
            paths = [remote, linked, local]
            assert cache.build(paths) == []
            assert cache.status().polled == {"remote": 2}
            append(source / "remote.log")
            assert_true(cache, paths)
            assert cache.get_file_stats(linked) == truth(linked)
            assert cache.status().late == 0

            daemon.send_signal(signal.SIGSTOP)
            append(local)
            waits = []
            for _ in range(5):
                watch = Stopwatch()
                errors = survey(cache, {*map(str, paths), str(mount / "unknown")})
                waits.append(watch.seconds())
                assert known(cache, local) == truth(local)
                assert {type(error) for error in errors.values()} == {TimeoutError}
                assert set(errors) == {str(remote), str(linked), str(mount / "unknown")}
            assert waits[0] < 2 * timeout_s
            assert statistics.median(waits[1:]) < timeout_s / 4, "who is late is not waited for again"
            assert cache.status().late == 2
            with pytest.raises(TimeoutError, match="timed out"):
                cache.get_file_stats(mount / "unknown")
            with pytest.raises(TimeoutError, match="timed out"):
                cache.get_file_stats(remote)

            daemon.send_signal(signal.SIGCONT)
            append(source / "remote.log")
            wait_until(lambda: not survey(cache, {str(remote)}))
            assert_true(cache, paths)
    finally:
        daemon.kill()
        daemon.wait()


@as_root
def test_looks_at_a_remote_file_are_told_in_their_order(fuse: Mount) -> None:
    """A look that was asked for later is not told before one whose answer is older."""
    remote = fuse("remote")
    append(remote.source / "file.log", b"12345")
    path = remote.path / "file.log"
    answered, go_on = threading.Event(), threading.Event()
    with FStatCache(keep_changes=True) as cache:
        cache.build([path])
        look, threads = cache._life.workers.stat, []

        def slow_look(paths: Mapping[MountLine, Sequence[str]]) -> dict[str, Found]:
            found = look(paths)
            if not answered.is_set():
                answered.set()
                go_on.wait(10)
            return found

        cache._life.workers.stat = slow_look  # type: ignore[method-assign]
        threads.append(threading.Thread(target=cache.look, args=(str(path),)))
        threads[0].start()
        answered.wait(10)
        append(remote.source / "file.log")
        for overtake in (cache.sync, lambda: cache.look(str(path)), lambda: survey(cache, {str(path)})):
            threads.append(threading.Thread(target=overtake))
            threads[-1].start()
            threads[-1].join(0.1)
        go_on.set()
        for thread in threads:
            thread.join()
        told = [stats.size if stats else 0 for _, stats in stats_taken(cache)]
    assert told == sorted(told)
    assert told[-1] == 9


@pytest.mark.alone
@as_root
def test_closing_does_not_wait_for_a_filesystem_that_hangs(tmp_path: Path, mount: Path) -> None:
    """close(), and the exit of a process whose thread hangs, take no longer than otherwise."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "remote.log").touch()
    daemon = serve(source, mount)
    try:
        code = """
            import os, signal, sys, time
            from fstat_cache import FStatCache
            cache = FStatCache(remote_timeout_s=0.1)
            cache.build([sys.argv[1]])
            os.kill(int(sys.argv[2]), signal.SIGSTOP)
            cache.sync()
            began = time.monotonic()
            if sys.argv[3] == "close":
                cache.close()
            print(time.monotonic() - began < 0.5)
            """
        for end in ("close", "leave"):
            daemon.send_signal(signal.SIGCONT)
            began = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(code), mount / "remote.log", str(daemon.pid), end],
                stdout=subprocess.PIPE,
                text=True,
                cwd=REPOSITORY,
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            # A process is not gone before its last thread has left the kernel, for which this one needs an answer.
            status = Path(f"/proc/{process.pid}/status")
            wait_until(lambda status=status: "State:\tZ" in status.read_text(), 3)
            assert time.monotonic() - began < 5
            daemon.send_signal(signal.SIGCONT)
            process.wait()
            process.stdout.close()
    finally:
        daemon.kill()
        daemon.wait()


def test_logging_is_left_to_the_application() -> None:
    """The package's loggers have no handlers and no level of their own."""
    for name in ("fstat_cache", "fstat_cache.follower", "fstat_cache.pump"):
        assert logging.getLogger(name).handlers == []
        assert logging.getLogger(name).level == logging.NOTSET
