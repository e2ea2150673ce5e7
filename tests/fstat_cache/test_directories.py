"""Directories that are watched, against the real kernel: after sync(), all that came and went is told."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fstat_cache import AUTOFS, CacheClosedError, Change, DirectoryEvent, FileChange, FStatCache
from fstat_cache.changes import MOST_PENDING
from fstat_cache.directories import Directories
from fstat_cache.engine import Engine
from fstat_cache.inotify import Inotify
from fstat_cache.mounts import Mount as MountLine
from fstat_cache.states import DIRECTORIES
from tests.fstat_cache.driven import driven, events_taken
from tests.fstat_cache.kernel import kernel_watches, resident_bytes, times_woken_when_idle
from tests.support import Mount, Stopwatch, as_root, wait_until


@pytest.fixture
def cache() -> Iterator[FStatCache]:
    """One without a thread, so that sync() alone is seen."""
    with FStatCache(keep_changes=True) as cache:
        yield cache


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder for more files than a disk makes in a moment."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def told(cache: FStatCache) -> list[DirectoryEvent]:
    """What is told as of now, but for whether a name was created."""
    cache.sync()
    return [event._replace(is_created=False) for event in events_taken(cache)]


def listed(path: Path | str) -> DirectoryEvent:
    return DirectoryEvent(str(path), None)


def paired(events: list[DirectoryEvent]) -> list[tuple[str | None, int]]:
    """The names in order, each with a number that is negative for the old name and positive for the new one."""
    numbers: dict[int, int] = {}
    pairs = []
    for event in events:
        cookie = event.moved_from or event.moved_to
        number = numbers.setdefault(cookie, len(numbers) + 1) if cookie else 0
        pairs.append((event.name, -number if event.moved_from else number))
    return pairs


def test_names_that_come_and_go_are_told_in_order(cache: FStatCache, folder: Path) -> None:
    """Each file, directory, link and hard link that appears or vanishes is told by name, and what it is."""
    assert cache.watch_directory(str(folder)) is None
    assert told(cache) == []
    (folder / "file").touch()
    (folder / "below").mkdir()
    (folder / "link").symlink_to("below")
    (folder / "hard").hardlink_to(folder / "file")
    (folder / "below").rmdir()
    (folder / "file").unlink()
    directory = str(folder)
    assert told(cache) == [
        DirectoryEvent(directory, "file"),
        DirectoryEvent(directory, "below", is_directory=True),
        DirectoryEvent(directory, "link"),
        DirectoryEvent(directory, "hard"),
        DirectoryEvent(directory, "below", is_directory=True),
        DirectoryEvent(directory, "file"),
    ]
    assert told(cache) == [], "once"


def test_what_was_created_is_told_apart(cache: FStatCache, folder: Path, tmp_path: Path) -> None:
    """Names of new files and links are created; those that a rename has reached are not, nor those that go."""
    cache.watch_directory(str(folder))
    (tmp_path / "old").touch()
    (tmp_path / "old").rename(folder / "moved")
    (folder / "hard").hardlink_to(folder / "moved")
    (folder / "moved").rename(folder / "again")
    (folder / "again").unlink()
    cache.sync()
    names = [(event.name, event.is_created) for event in events_taken(cache)]
    assert names == [("moved", False), ("hard", True), ("moved", False), ("again", False), ("again", False)]


def test_what_is_written_is_not_told(cache: FStatCache, folder: Path) -> None:
    """A directory is watched for names: writes, modes and reads in it cost nothing."""
    (folder / "file").touch()
    cache.watch_directory(str(folder))
    (folder / "file").write_bytes(b"x")
    (folder / "file").chmod(0o600)
    (folder / "file").read_bytes()
    list(folder.iterdir())
    assert cache._life.session.news() == []


def test_a_rename_is_told_as_a_pair(cache: FStatCache, tmp_path: Path, folder: Path) -> None:
    """The old and the new name carry the same number, within a directory and between two; alone it leads elsewhere."""
    other = tmp_path / "other"
    other.mkdir()
    cache.watch_directory(str(folder))
    cache.watch_directory(str(other))
    (tmp_path / "from outside").touch()
    (tmp_path / "from outside").rename(folder / "in")
    (folder / "in").rename(folder / "within")
    (folder / "within").rename(other / "across")
    (other / "across").rename(tmp_path / "out")
    events = told(cache)
    assert paired(events) == [("in", 1), ("in", -2), ("within", 2), ("within", -3), ("across", 3), ("across", -4)]
    assert [Path(event.directory).name for event in events] == ["folder"] * 4 + ["other"] * 2


def test_a_rotation_is_told_in_order(cache: FStatCache, folder: Path) -> None:
    """A shift of numbered names is a chain of pairs, and the new file comes after it."""
    for name in ("log", "log.1", "log.2"):
        (folder / name).touch()
    cache.watch_directory(str(folder))
    (folder / "log.2").rename(folder / "log.3")
    (folder / "log.1").rename(folder / "log.2")
    (folder / "log").rename(folder / "log.1")
    (folder / "log").touch()
    pairs = [("log.2", -1), ("log.3", 1), ("log.1", -2), ("log.2", 2), ("log", -3), ("log.1", 3), ("log", 0)]
    assert paired(told(cache)) == pairs


def test_names_of_any_bytes(cache: FStatCache, tmp_path: Path) -> None:
    """Names and directories that are no text come as os.fsdecode gives them, in full length."""
    directory = os.fsencode(tmp_path) + b"/\xff\n'"
    os.mkdir(directory)
    cache.watch_directory(os.fsdecode(directory))
    names = [b"\xfe\xff", b"a\nb", b"x" * 255, b" ", b"a"]
    for name in names:
        with open(directory + b"/" + name, "wb"):
            pass
    assert told(cache) == [DirectoryEvent(os.fsdecode(directory), os.fsdecode(name)) for name in names]


def delete(folder: Path) -> None:
    folder.rmdir()


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("aside"))


def recreate(folder: Path) -> None:
    folder.rmdir()
    folder.mkdir()


def exchange(folder: Path) -> None:
    other = folder.with_name("other")
    other.mkdir()
    folder.rename(folder.with_name("aside"))
    other.rename(folder)


def become_a_file(folder: Path) -> None:
    folder.rmdir()
    folder.touch()


@pytest.mark.parametrize("change", [delete, rename, recreate, exchange, become_a_file])
def test_a_directory_that_goes_is_told(cache: FStatCache, folder: Path, change: Callable[[Path], None]) -> None:
    """Who is told to list it watches again what is there now: the new directory is followed, the old one is not."""
    cache.watch_directory(str(folder))
    change(folder)
    assert set(told(cache)) == {listed(folder)}
    if folder.is_dir():
        assert cache.watch_directory(str(folder)) is None
        assert cache.status().directories == kernel_watches() == 1
        (folder / "new").touch()
        assert told(cache) == [DirectoryEvent(str(folder), "new")]
    else:
        with pytest.raises((FileNotFoundError, NotADirectoryError)):
            cache.watch_directory(str(folder))
        cache.unwatch_directory(str(folder))
        assert cache.status().directories == kernel_watches() == 0
    aside = folder.with_name("aside")
    if aside.exists():
        (aside / "unseen").touch()
        assert told(cache) == []


def test_only_directories_are_watched(cache: FStatCache, tmp_path: Path) -> None:
    """Nothing there, a file, a dangling link: raised, and nothing stays behind."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name, error in (("file", NotADirectoryError), ("missing", FileNotFoundError), ("link", FileNotFoundError)):
        with pytest.raises(error):
            cache.watch_directory(str(tmp_path / name))
    with pytest.raises(NotADirectoryError):
        cache.watch_directory(str(tmp_path / "file" / "below"))
    cache.unwatch_directory(str(tmp_path / "file"))
    assert kernel_watches() == cache.status().directories == 0


def test_one_directory_by_two_paths(cache: FStatCache, tmp_path: Path, folder: Path) -> None:
    """Through a link as well, each path is told; taking one away leaves the other."""
    link = tmp_path / "link"
    link.symlink_to(folder)
    cache.watch_directory(str(folder))
    cache.watch_directory(str(link))
    assert cache.status().directories == kernel_watches() == 1
    (folder / "a").touch()
    assert told(cache) == [DirectoryEvent(str(folder), "a"), DirectoryEvent(str(link), "a")]
    (folder / "a").rename(folder / "b")
    assert paired(told(cache)) == [("a", -1), ("a", -1), ("b", 1), ("b", 1)]
    cache.unwatch_directory(str(folder))
    (folder / "c").touch()
    assert told(cache) == [DirectoryEvent(str(link), "c")]
    cache.unwatch_directory(str(link))
    cache.unwatch_directory(str(link))
    assert kernel_watches() == 0
    (folder / "d").touch()
    assert told(cache) == []


def test_a_file_that_leads_to_a_watched_directory_takes_nothing_from_it(cache: FStatCache, folder: Path) -> None:
    """Asking for the stats of a watched directory, or of a link to it, leaves its watch as it was."""
    link = folder.with_name("link")
    link.touch()
    cache.watch_directory(str(folder))
    assert cache.get_file_stats(link) is not None
    link.unlink()
    link.symlink_to(folder)
    cache.audit()
    for path in (folder, link):
        assert cache.get_file_stats(path) is None
        assert not cache.look(str(path))
        told(cache)
        (folder / "name").touch()
        assert DirectoryEvent(str(folder), "name") in told(cache)
        (folder / "name").unlink()
    assert cache.list_files_in_cache() == []
    assert cache.status().watches == cache.status().directories == kernel_watches() == 1


def overflow(folder: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(limit // 2 + 10):
        (folder / str(number % 2)).touch()
        (folder / str(number % 2)).unlink()


def test_after_an_overflow_all_are_to_be_listed(cache: FStatCache, in_memory: Path) -> None:
    """The name that was lost may be in any directory, in one without a watch as well; what comes later is told."""
    folders = [in_memory / str(number) for number in range(5)]
    for folder in folders:
        folder.mkdir()
        cache.watch_directory(str(folder))
    cache.watch_directory("/proc/self")
    overflow(folders[0])
    (folders[1] / "lost").touch()
    events = told(cache)
    assert {*map(listed, folders), listed("/proc/self")} <= set(events)
    assert cache.status().queue_overflows == 1
    (folders[1] / "later").touch()
    assert DirectoryEvent(str(folders[1]), "later") in told(cache)


def test_who_made_the_queue_overflow_is_told_by_name_no_longer(cache: FStatCache, in_memory: Path) -> None:
    """A hundred directories that fill the queue together, none of them very busy by itself, go hot; a quiet one not."""
    folders = [in_memory / str(number) for number in range(100)]
    quiet = in_memory / "quiet"
    for folder in (*folders, quiet):
        folder.mkdir()
        cache.watch_directory(str(folder))
    (quiet / "name").touch()
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(limit // 200 + 10):
        for folder in folders:
            (folder / str(number)).touch()
            (folder / str(number)).unlink()
    events = told(cache)
    assert cache.status().queue_overflows == 1
    assert cache.status().hot_directories == 100
    assert DirectoryEvent(str(quiet), "name") in events
    for number in range(limit // 200 + 10):
        for folder in folders:
            (folder / str(number)).touch()
            (folder / str(number)).unlink()
    assert set(told(cache)) == set(map(listed, folders))
    assert cache.status().queue_overflows == 1


def test_an_overflow_by_writes_disarms_no_directory(cache: FStatCache, in_memory: Path) -> None:
    """A directory that had a few events when writes to files filled the queue is told of by name before and after."""
    folder, files = in_memory / "folder", [in_memory / str(number) for number in range(2)]
    folder.mkdir()
    cache.watch_directory(str(folder))
    for file in files:
        file.touch()
        assert cache.get_file_stats(str(file)) is not None
    told(cache)
    for number in range(3):
        (folder / str(number)).touch()
    with files[0].open("ab", buffering=0) as one, files[1].open("ab", buffering=0) as other:
        for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 10):
            one.write(b"x")
            other.write(b"x")
    events = told(cache)
    assert cache.status().queue_overflows == 1
    assert cache.status().hot_directories == 0
    assert {DirectoryEvent(str(folder), str(number)) for number in range(3)} <= set(events)
    (folder / "later").touch()
    assert DirectoryEvent(str(folder), "later") in told(cache)


def flood(folder: Path, names: int = DIRECTORIES.events) -> None:
    for number in range(names):
        (folder / f"flood-{number}").touch()


def test_a_directory_that_floods_is_listed_instead(cache: FStatCache, tmp_path: Path, folder: Path) -> None:
    """Its names are not told any more, only that it has changed, at each sync() at which it has; others are told."""
    other = tmp_path / "other"
    other.mkdir()
    cache.watch_directory(str(folder))
    cache.watch_directory(str(other))
    flood(folder)
    (other / "name").touch()
    events = told(cache)
    assert set(events) == {listed(folder), DirectoryEvent(str(other), "name")}
    assert cache.status().hot_directories == 1
    told(cache)
    for number in range(50):  # many in the same tick of the kernel's clock as the listing before
        (folder / f"one-{number}").touch()
        assert listed(folder) in told(cache)
    (other / "one more").touch()
    (folder / "one-0").rename(other / "from the hot one")
    assert {listed(folder), DirectoryEvent(str(other), "one more")} <= set(told(cache))
    wait_until(lambda: told(cache) == [], DIRECTORIES.quiet_s)
    assert cache.status().hot_directories == 1, "quiet for long enough that nothing is new, not yet to be armed"
    (folder / "after a pause").touch()
    assert set(told(cache)) == {listed(folder)}


def test_a_change_in_the_same_tick_as_the_listing_is_told(cache: FStatCache, folder: Path) -> None:
    """Where the clock of a directory's time is coarse, the time says nothing of what came right after a listing."""
    cache.watch_directory(str(folder))
    flood(folder)
    tick_ns = time.time_ns() + 10**9  # ahead, so that the listing is in it however slow this machine is
    for number in range(3):
        (folder / str(number)).touch()
        os.utime(folder, ns=(tick_ns, tick_ns))
        assert listed(folder) in told(cache)


def test_a_flood_that_ends_is_told_by_name_again(tmp_path: Path, folder: Path) -> None:
    """By the cache's own thread, without a sync(): it is armed, then listed, by each of its paths."""
    link = tmp_path / "link"
    link.symlink_to(folder)
    heard: list[Change] = []

    def hear(change: Change) -> None:
        heard.append(change._replace(since_ns=0) if isinstance(change, DirectoryEvent) else change)

    with driven(FStatCache(keep_changes=True), hear) as cache:
        cache.watch_directory(str(folder))
        cache.watch_directory(str(link))
        with cache._life.lock:
            flood(folder)
        wait_until(lambda: cache.status().hot_directories == 1)
        wait_until(lambda: listed(folder) in heard)
        (folder / "unheard").touch()
        heard.clear()
        wait_until(lambda: cache.status().hot_directories == 0)
        (folder / "heard").touch()
        wait_until(lambda: DirectoryEvent(str(folder), "heard", is_created=True) in heard)
        assert {listed(folder), listed(link)} <= set(heard)
        assert DirectoryEvent(str(link), "heard", is_created=True) in heard


def test_another_path_of_a_hot_directory_has_the_others_listed(cache: FStatCache, tmp_path: Path, folder: Path) -> None:
    """Watching it by one more path arms it, and what came before was told to nobody; by the same path it stays hot."""
    link = tmp_path / "link"
    link.symlink_to(folder)
    cache.watch_directory(str(folder))
    flood(folder)
    told(cache)
    cache.watch_directory(str(folder))
    assert cache.status().hot_directories == 1
    (folder / "unheard").touch()
    cache.watch_directory(str(link))
    assert events_taken(cache) == [listed(folder)]
    (folder / "name").touch()
    assert told(cache) == [DirectoryEvent(str(folder), "name"), DirectoryEvent(str(link), "name")]


def test_a_hot_directory_that_can_not_be_reached_stops_nothing(cache: FStatCache, tmp_path: Path, folder: Path) -> None:
    """It is to be listed, by which its owner learns what is wrong; the rest goes on."""
    cache.watch_directory(str(tmp_path))
    cache.watch_directory(str(folder))
    flood(folder)
    told(cache)
    folder.rename(tmp_path / "aside")
    folder.symlink_to(folder)
    deadline = time.monotonic() + DIRECTORIES.quiet_s + 0.5
    while time.monotonic() < deadline:
        assert listed(folder) in told(cache)
    with pytest.raises(OSError, match="symbolic links"):
        os.listdir(folder)
    assert cache.watch_directory(str(folder)) == "unsupported"
    assert cache.status().hot_directories == 0
    (tmp_path / "name").touch()
    assert told(cache) == [DirectoryEvent(str(tmp_path), "name")]


def test_a_flood_in_a_directory_that_was_exchanged_deafens_nobody(
    cache: FStatCache, tmp_path: Path, folder: Path
) -> None:
    """What its path leads to now, another watched directory, is to be listed, and goes on being told by name."""
    other = tmp_path / "other"
    other.mkdir()
    cache.watch_directory(str(folder))
    cache.watch_directory(str(other))
    flood(folder)
    folder.rename(tmp_path / "aside")
    other.rename(folder)
    other.symlink_to(folder)
    assert {listed(folder), listed(other)} <= set(told(cache))
    (folder / "name").touch()
    assert told(cache) == [DirectoryEvent(str(other), "name")]
    cache.watch_directory(str(folder))
    (folder / "another").touch()
    assert told(cache) == [DirectoryEvent(str(other), "another"), DirectoryEvent(str(folder), "another")]


def test_what_nobody_asks_for_does_not_pile_up(cache: FStatCache, tmp_path: Path) -> None:
    """Beyond some thousand events only the directories are remembered, each once."""
    folders = [tmp_path / str(number) for number in range(30)]
    for folder in folders:
        folder.mkdir()
        cache.watch_directory(str(folder))
    while cache._life.changes._directory_events < MOST_PENDING - 30 * 200:
        for folder in folders:
            for number in range(100):
                (folder / str(number)).touch()
                (folder / str(number)).unlink()
        cache.sync()
        time.sleep(1.1)  # so that none of them floods
    for _ in range(MOST_PENDING):
        cache._life.engine.files.distrust()
    events = events_taken(cache)
    assert set(events) == set(map(listed, folders))
    assert len(events) <= MOST_PENDING


def test_directories_take_the_watches_of_files(tmp_path: Path) -> None:
    """At the limit a directory comes before a file, which then is polled and right; the last ones get no watch."""
    folders = [tmp_path / str(number) for number in range(5)]
    files = [tmp_path / f"{number}.log" for number in range(3)]
    for file in files:
        file.write_bytes(b"x")
    with FStatCache(max_watches=4, gather_s=60) as cache:
        cache.build(files)
        reasons = []
        for folder in folders:
            folder.mkdir()
            reasons.append(cache.watch_directory(str(folder)))
        assert reasons == [None, None, None, None, "watch_limit"]
        assert cache.status().watches == cache.status().directories == kernel_watches() == 4
        assert cache.status().polled == {"watch_limit": 3}
        for file in files:
            file.write_bytes(b"longer")
        cache.sync()
        for file in files:
            assert cache._life.engine.files.polled[str(file)].stats == cache.get_file_stats_using_stat(file)
        assert cache.watch_directory(str(folders[0])) is None, "it has one already"
        for folder in folders[:3]:
            cache.unwatch_directory(str(folder))
        assert cache.watch_directory(str(folders[4])) is None
        cache.sync()
        assert cache.status().watches == 4
        assert cache.status().polled == {"watch_limit": 1}


def test_a_shared_watch_frees_nothing(tmp_path: Path, folder: Path) -> None:
    """Two names of one file hold one watch: both give it up for a directory."""
    (tmp_path / "one").touch()
    (tmp_path / "two").hardlink_to(tmp_path / "one")
    with FStatCache(max_watches=1, gather_s=60) as cache:
        cache.build([tmp_path / "one", tmp_path / "two"])
        assert cache.watch_directory(str(folder)) is None
        assert cache.status().polled == {"watch_limit": 2}
        assert kernel_watches() == 1


@pytest.mark.alone
def test_without_an_instance(folder: Path) -> None:
    """Without an inotify instance a directory says so, and can be watched once there is one."""
    instances: list[Inotify] = []
    try:
        while True:
            try:
                instances.append(Inotify())
            except OSError:
                break
        with FStatCache() as cache:
            assert cache.watch_directory(str(folder)) == "instance_limit"
            assert cache.status().directories == 0
            instances.pop().close()
            assert cache.watch_directory(str(folder)) is None
    finally:
        for instance in instances:
            instance.close()


def test_without_a_thread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no more threads nothing would be told in time, so a directory is not watched."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with FStatCache() as cache:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert cache.watch_directory(str(folder)) == "thread_failed"
        assert not cache.alive
        assert cache.watch_directory(str(folder)) == "thread_failed"
        assert cache.status().directories == kernel_watches() == 0


def test_directories_made_by_the_kernel(cache: FStatCache) -> None:
    """Those of /proc change without an event."""
    assert cache.watch_directory("/proc/self") == "filesystem"
    assert kernel_watches() == 0


WITHOUT_PERMISSION = """
import os, sys
from fstat_cache import FStatCache
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with FStatCache() as cache:
    print(cache.watch_directory(sys.argv[1]), cache.status().directories)
    try:
        cache.watch_directory(sys.argv[1] + "/below")
    except FileNotFoundError:
        print("missing")
"""


@as_root
def test_without_permission_to_list(tmp_path: Path, folder: Path) -> None:
    """A directory that may be searched but not read is not watched, and says why."""
    folder.chmod(0o711)
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_PERMISSION, folder],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout, done.stderr) == ("permission 0\nmissing\n", "")


@pytest.mark.alone
@as_root
def test_a_remote_directory_is_not_touched(tmp_path: Path, fuse: Mount, folder: Path) -> None:
    """It says so at once, though its filesystem hangs; by a link too. Its end is told, and what was there before."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "remote" / "below")
    with FStatCache(keep_changes=True) as cache:
        for path in (folder, tmp_path):
            assert cache.watch_directory(str(path)) is None
        remote = fuse("remote")
        (remote.source / "below").mkdir()
        remote.hang()
        watch = Stopwatch()
        for path in (remote.path, remote.path / "below", remote.path / "missing", link):
            assert cache.watch_directory(str(path)) == "remote"
        cache.sync()
        assert watch.seconds() < 0.5
        told(cache)
        subprocess.run(["umount", "--lazy", remote.path], check=True)
        try:
            assert set(told(cache)) == set(
                map(listed, (remote.path, remote.path / "below", remote.path / "missing", link))
            )
            assert cache.watch_directory(str(remote.path)) is None
            (remote.path / "name").touch()
            assert told(cache) == [DirectoryEvent(str(remote.path), "name")]
        finally:
            subprocess.run(["mount", "--bind", remote.path, remote.path], check=True)  # for the fixture to unmount


@as_root
def test_a_mount_over_a_watched_directory_is_told(tmp_path: Path, folder: Path) -> None:
    """Something mounted on it or above it, or unmounted, has it listed, and then watched where it is now."""
    below = folder / "below"
    below.mkdir()
    with FStatCache(keep_changes=True) as cache:
        for path in (tmp_path, folder, below):
            cache.watch_directory(str(path))
        subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
        try:
            assert set(told(cache)) == {listed(folder), listed(below)}
            assert cache.watch_directory(str(folder)) is None
            (folder / "name").touch()
            assert told(cache) == [DirectoryEvent(str(folder), "name")]
        finally:
            subprocess.run(["umount", folder], check=True)
        assert set(told(cache)) == {listed(folder), listed(below)}
        assert cache.watch_directory(str(folder)) is None
        (folder / "name").touch()
        assert told(cache) == [DirectoryEvent(str(folder), "name")]


def test_autofs_is_not_triggered(tmp_path: Path, folder: Path) -> None:
    """A directory that a look would have mounted is told from other remote ones, and not looked at: no system call
    touches its path. The mount table is made up, no autofs can be had here."""
    with FStatCache() as cache:
        cache.watch_directory(str(tmp_path))
        follower: Engine = cache._life.engine
        mounts = [MountLine(1, 1, "/", str(folder), "autofs"), MountLine(2, 2, "/", str(folder / "on"), "nfs4")]
        follower.mounts = follower.mounts.successor(mounts)
        before = kernel_watches()
        assert cache.watch_directory(str(folder)) == AUTOFS
        assert cache.watch_directory(str(folder / "missing" / "below")) == AUTOFS
        assert kernel_watches() == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_watches_no_directory(folder: Path) -> None:
    """It is told nothing of its parent's directories and takes no events from it, and can watch for itself."""
    with FStatCache(keep_changes=True) as cache:
        cache.watch_directory(str(folder))
        (folder / "before").touch()
        pid = os.fork()
        if pid == 0:
            right = told(cache) == [] and cache.watch_directory(str(folder)) is None
            (folder / "child").touch()
            os._exit(0 if right and told(cache) == [DirectoryEvent(str(folder), "child")] else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert told(cache) == [DirectoryEvent(str(folder), "before"), DirectoryEvent(str(folder), "child")]


def test_closing_and_invalidating_forget_directories(folder: Path) -> None:
    """Both remove the watches; afterwards a directory is watched again only by who asks for it, or not at all."""
    with FStatCache(keep_changes=True) as cache:
        cache.watch_directory(str(folder))
        (folder / "name").touch()
        cache.invalidate()
        assert kernel_watches() == cache.status().directories == 0
        assert told(cache) == []
        assert cache.watch_directory(str(folder)) is None
        cache.close()
        assert kernel_watches() == 0
        assert cache.take() == []
        with pytest.raises(CacheClosedError):
            cache.watch_directory(str(folder))


class Interruption(BaseException):
    pass


def test_an_interruption_has_all_directories_listed(
    cache: FStatCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a signal's handler raises in the middle costs the watches, and who follows directories is told of it."""
    cache.watch_directory(str(folder))
    (folder / "lost").touch()

    def interrupt(*_: object, **__: object) -> None:
        raise Interruption

    with monkeypatch.context() as patch:
        patch.setattr(Directories, "take_in_names", interrupt)
        with pytest.raises(Interruption):
            cache.sync()
    assert set(told(cache)) == {listed(folder)}
    assert cache.watch_directory(str(folder)) is None
    (folder / "name").touch()
    assert DirectoryEvent(str(folder), "name") in told(cache)
    wait_until(lambda: kernel_watches() == 1)


def test_a_failing_thread_has_all_directories_listed(folder: Path) -> None:
    """After the thread has failed sync() still tells, beginning with the directories themselves."""
    with FStatCache(keep_changes=True) as cache:
        cache.watch_directory(str(folder))
        with cache._life.lock:
            cache._life.engine.fail()
        assert told(cache) == [listed(folder)]
        (folder / "name").touch()
        assert DirectoryEvent(str(folder), "name") in told(cache)


def test_the_owner_wakes_up_by_itself(folder: Path) -> None:
    """wait() returns when something happens, not for nothing, and takes no lock while it sleeps."""
    heard: list[Change] = []
    with driven(FStatCache(keep_changes=True), heard.append) as cache:
        cache.watch_directory(str(folder))
        (folder / "file").write_bytes(b"x")
        wait_until(lambda: DirectoryEvent(str(folder), "file", is_created=True) in heard)
        cache.get_file_stats(folder / "file")
        heard.clear()
        (folder / "file").write_bytes(b"longer")
        wait_until(
            lambda: FileChange(str(folder / "file"), FStatCache.get_file_stats_using_stat(folder / "file")) in heard
        )
        assert not [change for change in heard if isinstance(change, DirectoryEvent)]


def test_closing_ends_the_owners_loop(folder: Path) -> None:
    """Another thread may close the cache at any moment: advance() does nothing then, and wait() ends the loop."""
    file = folder / "file"
    with FStatCache(keep_changes=True) as cache:
        file.write_bytes(b"x")
        cache.build([file])
        file.write_bytes(b"longer")
        assert cache.wait()
        cache.close()
        cache.advance()
        assert not cache.wait()


def test_an_owner_that_cannot_follow_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When advance() fails it raises; from then on wait() ends the loop and nothing is served from memory."""
    file = folder / "file"
    file.touch()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with FStatCache(keep_changes=True) as cache:
        cache.build([file])
        assert cache.alive
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "take_in", fail)
            with pytest.raises(ZeroDivisionError):
                cache.advance()
        assert not cache.alive
        assert not cache.wait()
        file.write_bytes(b"changed")
        assert cache.get_file_stats(file) == FStatCache.get_file_stats_using_stat(file)


def test_after_sync_everything_complete_is_told(tmp_path: Path, folder: Path) -> None:
    """However busy the cache's own thread is with other events: what was made before the sync() is given after it."""
    busy = tmp_path / "busy"
    busy.mkdir()
    script = "import itertools, os, sys\nfor n in itertools.count(): open(f'{sys.argv[1]}/{n % 50}', 'ab').write(b'x')"
    writer = subprocess.Popen([sys.executable, "-c", script, busy])
    try:
        with FStatCache(keep_changes=True) as cache:
            cache.watch_directory(str(busy))
            cache.watch_directory(str(folder))
            for number in range(500):
                (folder / str(number)).touch()
                cache.sync()
                assert DirectoryEvent(str(folder), str(number), is_created=True) in events_taken(cache)
    finally:
        writer.kill()
        writer.wait()


def test_sync_against_the_owner(folder: Path) -> None:
    """Threads that sync and take changes while the owner does the same: each name is given once, to one of them."""
    heard: list[Change] = []
    lock = threading.Lock()
    stop = threading.Event()

    def take() -> None:
        with lock:  # taking and keeping are one step, or the order is lost
            heard.extend(events_taken(cache))

    def sync() -> None:
        while not stop.is_set():
            cache.sync()
            take()

    def drive() -> None:
        while cache.wait():
            cache.advance()
            take()

    with FStatCache(gather_s=0, keep_changes=True) as cache:
        cache.watch_directory(str(folder))
        threads = [threading.Thread(target=sync) for _ in range(3)]
        owner = threading.Thread(target=drive)
        for thread in (*threads, owner):
            thread.start()
        for number in range(700):  # no flood
            (folder / str(number)).touch()
        stop.set()
        for thread in threads:
            thread.join()
        cache.sync()
        take()
    owner.join()
    assert heard == [DirectoryEvent(str(folder), str(number), is_created=True) for number in range(700)]


@pytest.mark.timeout(120)
def test_a_hundred_thousand_directories_leave_nothing_behind(in_memory: Path) -> None:
    """Directories made, watched, looked into, and removed: no watch, no descriptor and no memory stays."""
    with FStatCache() as cache:
        cache.watch_directory(str(in_memory))
        remote = MountLine(1, 1, "/", "/nowhere", "nfs4")  # with any remote mount, each path is walked
        cache._life.engine.mounts = cache._life.engine.mounts.successor([remote])
        descriptors = len(os.listdir("/proc/self/fd"))
        for number in range(100_000):
            path = f"{in_memory}/{number}"
            os.mkdir(path)
            if number % 2:
                cache.watch_directory(path)
            cache.look(f"{path}/missing")
            os.rmdir(path)
            if number % 2:
                cache.unwatch_directory(path)
            if number == 50_000:
                before = resident_bytes()
        cache.sync()
        assert resident_bytes() - before < 4 << 20
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert kernel_watches() == cache.status().watches == 1


@pytest.mark.alone
def test_idle_means_asleep(folder: Path) -> None:
    """With directories watched, one of which was hot, the thread does not wake up when nothing happens."""
    with driven(FStatCache(keep_changes=True), lambda _: None) as cache:
        cache.watch_directory(str(folder))
        with cache._life.lock:
            flood(folder)
        wait_until(lambda: cache.status().hot_directories == 1)
        wait_until(lambda: cache.status().hot_directories == 0)
        (owner,) = (thread for thread in threading.enumerate() if thread.name == "owner")
        assert times_woken_when_idle(owner) == 0
