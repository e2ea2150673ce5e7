"""Deleted files that are still open count to their last byte, and nobody is kept from unmounting their filesystem."""

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import exporter.nameless
from fstat_cache import FileStats, nameless
from tests.exporter.tracking import Track, append, appended, deleted, present, tick, uncertain
from tests.support import StartAgent, as_root, wait_until

CLOSED_WITHIN_S = 10.0


def held() -> list[str]:
    """The deleted files that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if target.endswith(" (deleted)") and ".log" in target:
            found.append(target)
    return found


@as_root
def test_to_the_last_byte(tmp_path: Path, track: Track) -> None:
    """What is written right before the last close counts; until then its disk space is published. Nothing is left."""
    tracker = track()
    for number in range(20):
        path = tmp_path / f"{number}.log"
        writer = path.open("ab", buffering=0)
        writer.write(b"x" * 5000)
        before = appended(tracker)
        path.unlink()
        assert deleted(tracker) == [8192]
        writer.write(b"x" * 5000)
        assert deleted(tracker) == [12288]
        assert appended(tracker) == before + 5000
        writer.write(b"the last")
        writer.close()
        assert deleted(tracker) == []
        assert appended(tracker) == before + 5008
        assert held() == []
    assert uncertain(tracker) == {}


@pytest.mark.parametrize("comes_to_an_end", [os.unlink, lambda path: path.rename(f"{path}.1")])
def test_after_a_truncation(tmp_path: Path, track: Track, comes_to_an_end: Callable[[Path], object]) -> None:
    """A file that outgrew its size before a truncation when its name went counts in full, because it has no hole."""
    path = tmp_path / "a.log"
    tracker = track()
    with path.open("ab", buffering=0) as writer:
        writer.write(b"123")
        assert appended(tracker) == 3
        os.truncate(path, 0)
        assert appended(tracker) == 3
        writer.write(b"x" * 100)
        comes_to_an_end(path)
        assert appended(tracker) == 103


@as_root
def test_last_byte_while_nobody_looks(tmp_path: Path, track: Track) -> None:
    """A deleted file that was written and closed between two turns of the thread counts whole: it was held."""
    path = tmp_path / "a.log"
    tracker = track(has_thread=False)
    writer = path.open("ab", buffering=0)
    writer.write(b"12345")
    assert appended(tracker) == 5
    path.unlink()
    assert deleted(tracker) == [4096]
    writer.write(b"678")
    writer.close()
    assert appended(tracker) == 8
    assert deleted(tracker) == []
    assert held() == []


@as_root
def test_a_reader_keeps_it(tmp_path: Path, track: Track) -> None:
    """A file that a reader still has open after its writer closed takes its space until the reader closes it too."""
    path = tmp_path / "a.log"
    tracker = track()
    append(path, "12345")
    assert appended(tracker) == 5
    with path.open("rb"):
        with path.open("ab", buffering=0) as writer:
            path.unlink()
            assert deleted(tracker) == [4096]
            writer.write(b"x" * 4096)
        assert deleted(tracker) == [8192]
        assert appended(tracker) == 5 + 4096
    assert deleted(tracker) == []
    assert held() == []


def test_old_stats_of_another_name(tmp_path: Path, track: Track) -> None:
    """What a name was stat'ed with long ago is no truncation, when it is the last to go and nothing can be read."""
    path, link = tmp_path / "a.log", tmp_path / "b.log"
    tracker = track(has_thread=False)
    with path.open("ab", buffering=0) as log:
        log.write(b"12345")
        os.link(path, link)
        assert appended(tracker) == 5
        log.write(b"678")
        tracker.cache.look(str(path))  # not by the other name
        tracker.cache._life.engine.files.handles.clear()
        link.unlink()
        path.unlink()
        assert appended(tracker) == 8
        assert tracker.publication.groups[0].truncations == 0


@as_root
def test_too_many(tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted file that makes room for another one is uncertain from then on, and ends when it is gone."""
    monkeypatch.setattr(nameless, "MOST_NAMELESS", 1)
    tracker = track("*.log", has_thread=False)
    with (tmp_path / "a.log").open("ab", buffering=0) as first, (tmp_path / "b.log").open("ab", buffering=0) as second:
        for writer in (first, second):
            writer.write(b"12345")
        assert appended(tracker) == 10
        (tmp_path / "a.log").unlink()
        assert uncertain(tracker) == {}
        (tmp_path / "b.log").unlink()
        assert uncertain(tracker) == {"unwatched": 1}
        first.write(b"6")
        second.write(b"7")
        assert appended(tracker) == 11
        assert len(deleted(tracker)) == 2
    tracker.scan()
    assert deleted(tracker) == []
    assert uncertain(tracker) == {"unwatched": 1}


@as_root
def test_two_openers(tmp_path: Path, track: Track) -> None:
    """The second of two writers goes on after the first has closed, and counts."""
    path = tmp_path / "a.log"
    tracker = track()
    one, other = path.open("ab", buffering=0), path.open("ab", buffering=0)
    one.write(b"12345")
    assert appended(tracker) == 5
    path.unlink()
    assert deleted(tracker) == [4096]
    one.close()
    for size in range(6, 10):
        other.write(b"x")
        assert appended(tracker) == size
        assert deleted(tracker) == [4096]
    other.write(b"last")
    other.close()
    assert appended(tracker) == 13
    assert deleted(tracker) == []
    assert held() == []
    assert uncertain(tracker) == {}


@as_root
def test_another_name_elsewhere(tmp_path: Path, track: Track) -> None:
    """A file with a hard link in a directory that nobody watches is not deleted; its growth counts. Then it is."""
    path, other = tmp_path / "logs/a.log", tmp_path / "elsewhere/b"
    for folder in (path.parent, other.parent):
        folder.mkdir()
    tracker = track("logs/*.log")
    with path.open("ab", buffering=0) as writer:
        writer.write(b"12345")
        assert appended(tracker) == 5
        os.link(path, other)
        path.unlink()
        writer.write(b"678")
        assert appended(tracker) == 8
        assert deleted(tracker) == []
        other.unlink()
        writer.write(b"9")
        assert appended(tracker) == 9
        assert deleted(tracker) == [4096]
    assert deleted(tracker) == []
    assert held() == []


@as_root
def test_moved_away_and_deleted(tmp_path: Path, track: Track) -> None:
    """A log that was moved to a directory that nobody watches counts there, and after its deletion there."""
    path, away = tmp_path / "logs/a.log", tmp_path / "elsewhere/from/here/a"
    path.parent.mkdir()
    away.parent.mkdir(parents=True)
    tracker = track("logs/*.log")
    with path.open("ab", buffering=0) as writer:
        writer.write(b"12345")
        assert appended(tracker) == 5
        path.rename(away)
        writer.write(b"67")
        assert appended(tracker) == 7
        assert deleted(tracker) == []
        away.unlink()
        away.parent.rmdir()
        writer.write(b"8")
        assert appended(tracker) == 8
        assert deleted(tracker) == [4096]
    assert deleted(tracker) == []
    assert uncertain(tracker) == {}


@as_root
def test_moved_with_its_directory(tmp_path: Path, track: Track) -> None:
    """No event says so of the file itself, but what is written to it counts, until it is deleted and closed."""
    folder, away = tmp_path / "logs/app", tmp_path / "away"
    folder.mkdir(parents=True)
    tracker = track("logs/*/*.log")
    with (folder / "a.log").open("ab", buffering=0) as writer:
        writer.write(b"12345")
        assert appended(tracker) == 5
        folder.rename(away)
        assert present(tracker) == {}
        writer.write(b"678")
        assert appended(tracker) == 8
        (away / "a.log").unlink()
        assert deleted(tracker) == [4096]
        writer.write(b"9")
    assert deleted(tracker) == []
    assert appended(tracker) == 9
    assert uncertain(tracker) == {}


@as_root
def test_scrapes_during_a_rescan(tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rescan that reads the files that were moved away lets scrapes go on in between."""
    monkeypatch.setattr(exporter.nameless, "INODES_AT_ONCE", 2)
    for folder in ("logs", "away"):
        (tmp_path / folder).mkdir()
    tracker = track("logs/*.log", has_thread=False)
    for number in range(5):
        append(tmp_path / f"logs/{number}.log", "12345")
    assert appended(tracker) == 25
    for number in range(5):
        (tmp_path / f"logs/{number}.log").rename(tmp_path / f"away/{number}")
    tick()
    with monkeypatch.context() as patch:
        patch.setattr(nameless, "QUIET_S", 0.0)
        tracker.scan()  # none of them is watched any more
    for number in range(5):
        append(tmp_path / f"away/{number}", "678")
    find, release, seen = tracker.cache.inodes.find, tracker.lock.release, list[int]()

    def noted_find(known: Iterable[tuple[FileStats, bytes, str]]) -> list[bool]:
        seen.append(len(batch := list(known)))
        return find(batch)

    def noted_release() -> None:
        seen.append(0)
        release()

    monkeypatch.setattr(tracker.cache.inodes, "find", noted_find)
    monkeypatch.setattr(tracker.lock, "release", noted_release)
    tracker.scan()
    assert seen[-7:] == [2, 0, 2, 0, 1, 0, 0]
    assert appended(tracker) == 5 * 8


@as_root
def test_deleted_with_its_directory(tmp_path: Path, track: Track) -> None:
    """As a pod's logs are: the directory goes, and the handle is opened by one above it."""
    path = tmp_path / "pod" / "container" / "0.log"
    path.parent.mkdir(parents=True)
    tracker = track()
    with path.open("ab", buffering=0) as writer:
        writer.write(b"12345")
        assert appended(tracker) == 5
        path.unlink()
        path.parent.rmdir()
        path.parent.parent.rmdir()
        writer.write(b"6")
        assert appended(tracker) == 6
        assert deleted(tracker) == [4096]
        writer.write(b"7")
    assert appended(tracker) == 7
    assert deleted(tracker) == []


@as_root
def test_close_lets_go(tmp_path: Path, track: Track) -> None:
    """invalidate() and close() leave no descriptor of a deleted file behind."""
    path = tmp_path / "a.log"
    tracker = track()
    with path.open("ab", buffering=0) as writer, (tmp_path / "b.log").open("ab", buffering=0) as other:
        for file in (writer, other):
            file.write(b"12345")
        assert appended(tracker) == 10
        path.unlink()
        assert deleted(tracker) == [4096]
        assert len(held()) == 2  # the writer's too
        tracker.cache.invalidate()
        assert len(held()) == 1
        (tmp_path / "b.log").unlink()
        tracker.refresh(0)
        tracker.close()
        assert len(held()) == 2


@as_root
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_lets_go(tmp_path: Path, track: Track) -> None:
    """A child has none of the descriptors, so that it keeps no space; the parent's go on."""
    path = tmp_path / "a.log"
    tracker = track()
    with path.open("ab", buffering=0) as writer:
        writer.write(b"12345")
        assert appended(tracker) == 5
        path.unlink()
        assert deleted(tracker) == [4096]
        pid = os.fork()
        if pid == 0:
            os._exit(len(held()))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1  # the writer's
        writer.write(b"6")
        assert appended(tracker) == 6
    assert deleted(tracker) == []
    assert held() == []


@as_root
def test_a_busy_writer_is_sampled(tmp_path: Path, track: Track) -> None:
    """A deleted file that is written all the time is stat'ed by a clock, so that its writer is not slowed down.

    It still counts to the last byte, and is let go.
    """
    path = tmp_path / "a.log"
    tracker = track()
    written = 0
    nameless = tracker.cache._life.engine.files.nameless
    sampled = tracker.cache._life.engine.files.sampled
    with path.open("ab", buffering=0) as writer:
        written += writer.write(b"12345")
        assert appended(tracker) == written
        path.unlink()

        def is_sampled() -> bool:
            nonlocal written
            written += writer.write(b"x")
            return any(wd in sampled for wd in nameless)

        wait_until(is_sampled)
        written += writer.write(b"x" * 10)
        assert appended(tracker) == written
        wait_until(lambda: not any(wd in sampled for wd in nameless))
        written += writer.write(b"x" * 10)
        assert appended(tracker) == written
        wait_until(is_sampled)
    assert deleted(tracker) == []
    assert appended(tracker) == written
    assert held() == []
    assert uncertain(tracker) == {}


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of its own."""
    path = tmp_path / "volume"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    yield path
    if os.path.ismount(path):
        subprocess.run(["umount", "--lazy", path], check=True)


def seconds_until_unmounted(path: Path) -> float:
    """Unmount; return how long that was refused."""
    began_s = time.monotonic()
    while subprocess.run(["umount", path], capture_output=True, check=False).returncode:
        assert time.monotonic() - began_s < CLOSED_WITHIN_S, "busy"
        time.sleep(0.005)
    return time.monotonic() - began_s


@as_root
@pytest.mark.parametrize("is_busy", [False, True])
def test_umount(tmp_path: Path, volume: Path, start_agent: StartAgent, *, is_busy: bool) -> None:
    """The moment the writers have closed their deleted, renamed and moved files, nothing keeps the filesystem."""
    logs, away, others = volume / "logs", volume / "away/from/here", tmp_path / "others"
    for folder in (logs, away, others):
        folder.mkdir(parents=True)
    agent = start_agent(f"{logs}/*.log", f"{others}/*.log")
    writers = []
    for number in range(30):
        path = logs / f"{number}.log"
        writers.append(path.open("ab", buffering=0))
        writers[-1].write(b"12345")
    assert agent.scrape().value("fstat_group_appended_bytes_total") == 150
    for number, writer in enumerate(writers):
        path = logs / f"{number}.log"
        if number % 3 == 0:
            path.unlink()
        else:
            path.rename((logs if number % 3 == 1 else away) / f"{number}.old")
        writer.write(b"678")
    scrape = agent.scrape()  # what is written afterwards to those with a name may go with the filesystem
    assert scrape.value("fstat_group_deleted_files") == 10
    assert scrape.value("fstat_group_deleted_disk_bytes") == 10 * 4096
    assert scrape.value("fstat_group_appended_bytes_total") == 240
    if is_busy:
        for number in range(3_000):
            (others / f"{number}.log").write_bytes(b"x")
    for number, writer in enumerate(writers):
        if number % 3 == 0:
            writer.write(b"9")
        writer.close()
    took_s = seconds_until_unmounted(volume)
    print(f"unmounted after {1000 * took_s:.0f} ms")
    scrape = agent.scrape()
    assert scrape.value("fstat_group_appended_bytes_total") == 250 + 3_000 * is_busy
    assert scrape.value("fstat_group_deleted_files") == 0
