"""Each loss that nobody can prevent moves fstat_group_uncertain_total, and by its reason only."""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from fstat_cache import changes
from tests.exporter.tracking import Track, append, appended, uncertain
from tests.support import as_root, wait_until

LONG_AGO_S = 1_000_000_000


def test_truncated_right_after_growth(tmp_path: Path, track: Track) -> None:
    """What was written just before a truncation may be lost; a file that was quiet before it has lost nothing."""
    busy, quiet = tmp_path / "busy.log", tmp_path / "quiet.log"
    tracker = track(has_thread=False)
    for path in (busy, quiet):
        append(path, "x" * 100)
    os.utime(quiet, (LONG_AGO_S, LONG_AGO_S))
    assert appended(tracker) == 200
    assert uncertain(tracker) == {}
    os.truncate(quiet, 0)
    assert uncertain(tracker) == {}
    append(busy, "lost")
    os.truncate(busy, 0)
    append(busy, "x")
    assert appended(tracker) == 201
    assert uncertain(tracker) == {"truncated": 1}


def test_allocated_ahead(tmp_path: Path, track: Track) -> None:
    """A writer that cuts off what it had only allocated has lost nothing."""
    path = tmp_path / "a.log"
    tracker = track(has_thread=False)
    with path.open("wb", buffering=0) as log:
        os.posix_fallocate(log.fileno(), 0, 1 << 20)
        log.write(b"x" * 5000)
        assert appended(tracker) == 5000
        log.write(b"x" * 5000)
        log.truncate()
        assert appended(tracker) == 10_000
        assert uncertain(tracker) == {}
        log.truncate(0)
    assert uncertain(tracker) == {"truncated": 1}


def test_gone_before_its_first_stat(tmp_path: Path, track: Track) -> None:
    """A file that was created, written and unlinked between two stats may have had any number of bytes.

    So may one that was renamed, replaced or moved away in between; one that a rename brought to its name was known.
    """
    tracker = track("logs/*.log", has_thread=False)
    folder = tmp_path / "logs"
    path = folder / "a.log"
    folder.mkdir()
    away = tmp_path / "away" / "from watches"
    away.mkdir(parents=True)
    assert uncertain(tracker) == {}

    append(path, "lost")
    path.unlink()
    assert uncertain(tracker) == {"deleted": 1}

    append(path, "lost")
    path.rename(folder / "rotated")
    (folder / "rotated").unlink()
    assert uncertain(tracker) == {"deleted": 2}

    append(path, "lost")
    append(folder / "other", "")
    (folder / "other").rename(path)
    assert uncertain(tracker) == {"deleted": 3}

    append(folder / "b.log", "lost")
    (folder / "b.log").rename(away / "b")
    assert uncertain(tracker) == {"deleted": 4}

    append(folder / "c.log", "counts")
    (folder / "c.log").rename(folder / "d.log")
    (folder / "d.log").rename(folder / "c.log.1")
    path.rename(folder / "e.log")
    assert appended(tracker) == len("counts")
    (folder / "e.log").unlink()
    (folder / "c.log.1").unlink()
    (folder / "unmatched").touch()
    (folder / "unmatched").unlink()
    assert uncertain(tracker) == {"deleted": 4}


@pytest.mark.parametrize("is_renamed", [False, True])
def test_gone_between_its_event_and_its_stat(
    tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch, *, is_renamed: bool
) -> None:
    """A new file that goes while its event is processed is missed, unless it is found under another name."""
    path = tmp_path / "a.log"
    tracker = track(has_thread=False)
    look = tracker.cache.look

    def look_too_late(name: str, *, is_detailed: bool) -> bool:
        if is_renamed and path.exists():
            path.rename(tmp_path / "a.log.1")
        path.unlink(missing_ok=True)
        return look(name, is_detailed=is_detailed)

    monkeypatch.setattr(tracker.cache, "look", look_too_late)
    append(path, "12345")
    assert uncertain(tracker) == ({} if is_renamed else {"deleted": 1})
    assert appended(tracker) == 5 * is_renamed
    append(path, "12345")
    assert uncertain(tracker) == ({} if is_renamed else {"deleted": 2})
    (tmp_path / "b.log").symlink_to("nowhere")
    tracker.refresh(0)
    (tmp_path / "b.log").unlink()
    assert uncertain(tracker) == ({} if is_renamed else {"deleted": 2})


def test_deleted_and_open_behind_a_link(tmp_path: Path, track: Track) -> None:
    """A file that was unlinked before its first stat is found where the kernel has it, not by the pattern's path."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    tracker = track("link/*.log", has_thread=False)
    with (tmp_path / "link" / "a.log").open("ab", buffering=0) as log:
        log.write(b"12345")
        (tmp_path / "link" / "a.log").unlink()
        assert appended(tracker) == 5
    assert uncertain(tracker) == {}


def test_several_deleted_before_their_first_stat(tmp_path: Path, track: Track) -> None:
    """All that are still open are found by one search."""
    tracker = track(has_thread=False)
    with ExitStack() as stack:
        for number in range(3):
            path = tmp_path / f"{number}.log"
            stack.enter_context(path.open("ab", buffering=0)).write(b"12345")
            path.unlink()
        assert appended(tracker) == 15
    assert uncertain(tracker) == {}


def test_large_and_deleted_before_its_first_stat(tmp_path: Path, track: Track) -> None:
    """A file that is still open counts whole, even if it is so large that it may have holes."""
    tracker = track(has_thread=False)
    with (tmp_path / "a.log").open("ab", buffering=0) as log:
        log.write(b"x" * 100_000)
        (tmp_path / "a.log").unlink()
        assert appended(tracker) == 100_000
    assert uncertain(tracker) == {}


def test_written_and_deleted_between_two_stats(tmp_path: Path, track: Track) -> None:
    """A known file that was written and then deleted with its last opener has lost bytes; an unwritten one none."""
    written, replaced, idle = (tmp_path / f"{name}.log" for name in ("written", "replaced", "idle"))
    tracker = track(has_thread=False)
    for path in (written, replaced, idle):
        append(path, "123")
    assert appended(tracker) == 9
    idle.unlink()
    assert uncertain(tracker) == {}
    append(written, "lost")
    written.unlink()
    assert uncertain(tracker) == {"deleted": 1}
    append(replaced, "lost")
    append(tmp_path / "new", "12345")
    (tmp_path / "new").rename(replaced)
    assert uncertain(tracker) == {"deleted": 2}
    assert appended(tracker) == 9 + 5


def test_overflow(tmp_path: Path, track: Track) -> None:
    """An overflow counts once for each group with files."""
    one, other, empty = (LogGroup(name, (f"{tmp_path}/{name}/*.log",)) for name in ("one", "other", "empty"))
    paths = [tmp_path / "one" / "1.log", tmp_path / "one" / "2.log", tmp_path / "other" / "3.log"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    tracker = track(groups=(one, other, empty), has_thread=False)
    files = [path.open("ab", buffering=0) for path in paths]
    for number in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) + 100):
        files[number % 3].write(b"x")
    for file in files:
        file.close()
    assert uncertain(tracker) == {"overflow": 2}
    assert sum(group.appended_bytes for group in tracker.publication.groups) == sum(p.stat().st_size for p in paths)


def test_flood(tmp_path: Path, track: Track) -> None:
    """More names in a directory than are processed count for the groups that can match there, and only for these."""
    flooded, calm = (LogGroup(name, (f"{tmp_path}/{name}/*.log",)) for name in ("flooded", "calm"))
    for name in ("flooded", "calm"):
        (tmp_path / name).mkdir()
    (tmp_path / "calm" / "0.log").touch()
    tracker = track(groups=(flooded, calm), has_thread=False)
    for _ in range(2_000):
        (tmp_path / "flooded" / "name").touch()
        (tmp_path / "flooded" / "name").unlink()
    assert uncertain(tracker) == {"flood": 1}
    assert tracker.facts.inodes.uncertain[tracker.realms["flooded"], "flood"] == 1


def test_more_events_than_are_kept(tmp_path: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing finds files that were created, but not those that are gone again."""
    monkeypatch.setattr(changes, "MOST_PENDING", 10)
    tracker = track(has_thread=False)
    paths = [tmp_path / f"{number}.log" for number in range(20)]
    for path in paths:
        append(path, "x")
    assert appended(tracker) == 20
    assert uncertain(tracker) == {}
    for path in paths:
        path.unlink()
        append(path, "y")
        path.unlink()
    assert uncertain(tracker) == {"flood": 1}


def test_a_directory_deleted_with_its_files(tmp_path: Path, track: Track) -> None:
    """Files that were not written since their latest stat have lost nothing, when their directory goes too."""
    tracker = track(has_thread=False)
    pod = tmp_path / "pod"
    pod.mkdir()
    append(pod / "0.log", "123")
    assert appended(tracker) == 3
    shutil.rmtree(pod)
    assert uncertain(tracker) == {}


@as_root
def test_a_busy_log_is_rotated(tmp_path: Path, track: Track) -> None:
    """Nothing is uncertain when a log is renamed or deleted while it is open, whatever the thread does meanwhile."""
    tracker = track()
    path = tmp_path / "a.log"
    written = 0
    for number in range(50):
        with path.open("ab", buffering=0) as log:
            written += log.write(b"12345")
            if number % 2:
                path.rename(tmp_path / f"a.log.{number}")
            else:
                wait_until(lambda written=written: appended(tracker) == written)  # type: ignore[misc]
                path.unlink()
            written += log.write(b"678")
            wait_until(lambda written=written: appended(tracker) == written)  # type: ignore[misc]
    assert uncertain(tracker) == {}
