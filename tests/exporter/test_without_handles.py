"""Where handles cannot be used, files are followed by their names, and one log line says what is missing."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import exporter.nameless
from fstat_cache import changes, nameless
from tests.exporter.tracking import Track, append, appended, deleted, running, uncertain
from tests.support import as_root, without_capability

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2  # capabilities(7)
LOG_LINE = "deleted and moved files cannot be read"

pytestmark = as_root


@pytest.fixture(params=["no capability", "overlayfs"])
def top(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory whose files have no handles, or none that this thread may open."""
    top = tmp_path / "top"
    top.mkdir()
    if request.param == "no capability":
        with without_capability(CAP_DAC_READ_SEARCH):
            yield top
        return
    layers = tmp_path / "layers"
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    for each in (top, layers / "lower", layers / "upper", layers / "work"):
        each.mkdir(parents=True)
    options = f"lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/work"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", top], check=True)
    yield top
    subprocess.run(["umount", "--lazy", top], check=True)
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_names_are_followed(top: Path, track: Track, caplog: pytest.LogCaptureFixture) -> None:
    """A renamed log goes on counting; one line says what to grant, and the status that deleted files are not read."""
    path = top / "a.log"
    tracker = track("top/*.log", has_thread=False)
    for number in range(5):
        with path.open("ab", buffering=0) as log:
            log.write(b"12345")
            if number % 2:
                assert appended(tracker) == 7 * number + 5
            path.rename(top / f"a.log.{number}")
            log.write(b"6")
            assert appended(tracker) == 7 * number + 6
            log.write(b"7")
            assert appended(tracker) == 7 * number + 7
    assert caplog.text.count(LOG_LINE) == 1
    assert not tracker.cache.status().reads_deleted_files
    assert uncertain(tracker) == {}


def test_a_file_that_may_not_be_read_any_more(tmp_path: Path, track: Track) -> None:
    """It is polled, and it is not deleted."""
    path = tmp_path / "a.log"
    path.touch()
    with without_capability(CAP_DAC_READ_SEARCH), without_capability(CAP_DAC_OVERRIDE):
        tracker = track("*.log", has_thread=False)
        with path.open("a") as log:
            path.chmod(0)
            log.write("12345")
        assert appended(tracker) == 5
        assert tracker.cache.status().polled == {"permission": 1}
        assert deleted(tracker) == []


def test_savelog(top: Path, track: Track) -> None:
    """A log that has another name in its directory when it is replaced is found at once, without a rescan."""
    path, made = top / "a.log", top / "new"
    tracker = track("top/*.log", has_thread=False)
    with path.open("ab", buffering=0) as log:
        log.write(b"12345")
        assert appended(tracker) == 5
        os.link(path, top / "a.log.0")
        made.touch()
        log.write(b"6")
        made.rename(path)
        log.write(b"7")
        assert appended(tracker) == 7
        log.write(b"8")
        assert appended(tracker) == 8
        assert deleted(tracker) == []
    assert uncertain(tracker) == {}


def test_deleted_files_by_the_watch_alone(top: Path, track: Track) -> None:
    """A deleted file that is still open is published with its latest known size; its last bytes are uncertain."""
    path = top / "a.log"
    tracker = track("top/*.log", has_thread=False)
    with path.open("ab", buffering=0) as log:
        log.write(b"12345")
        assert appended(tracker) == 5
        path.unlink()
        assert deleted(tracker) in ([5], [4096])  # /proc may show what it takes
        assert uncertain(tracker) == {}
        log.write(b"lost")
        assert deleted(tracker) in ([5], [4096])
    assert deleted(tracker) == []
    assert appended(tracker) == 5
    assert uncertain(tracker) == {"deleted": 1}


def test_deleted_files_through_their_processes(top: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has a deleted file open shows in /proc what was written to it, and what it takes."""
    monkeypatch.setattr(exporter.nameless, "SEARCH_S", 0.0)
    path = top / "a.log"
    tracker = track("top/*.log", has_thread=False)
    with path.open("ab", buffering=0) as log:
        log.write(b"12345")
        assert appended(tracker) == 5
        path.unlink()
        assert deleted(tracker) == [4096]
        log.write(b"x" * 4096)
        assert deleted(tracker) == [8192]
        assert appended(tracker) == 5 + 4096
    assert deleted(tracker) == []


def test_two_deleted_files_of_one_name(top: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was never stat'ed counts beside a known one, which does not count again."""
    monkeypatch.setattr(exporter.nameless, "SEARCH_S", 0.0)
    path = top / "a.log"
    tracker = track("top/*.log", has_thread=False)
    with path.open("ab", buffering=0) as first:
        first.write(b"12345")
        assert appended(tracker) == 5
        path.unlink()
        assert deleted(tracker) == [4096]
        with path.open("ab", buffering=0) as second:
            second.write(b"678")
            path.unlink()
            assert appended(tracker) == 8
            first.write(b"9")
            assert deleted(tracker) == [4096, 4096]
            assert appended(tracker) == 9
    assert deleted(tracker) == []


def test_new_files_beside_a_deleted_one(top: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many directory events are pending, none of them goes because a file has lost its name."""
    monkeypatch.setattr(changes, "MOST_PENDING", 1)
    path = top / "a.log"
    tracker = track("top/*.log", has_thread=False)
    with path.open("ab", buffering=0) as log:
        log.write(b"12345")
        assert appended(tracker) == 5
        path.unlink()
        for number in range(10):
            append(top / f"{number}.log", "6")
        assert appended(tracker) == 5 + 10


def test_deleted_and_quiet(top: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deleted file is published until it is closed, however long nothing is written to it."""
    path = top / "a.log"
    tracker = track("top/*.log", has_thread=False)
    with path.open("ab", buffering=0) as log:
        log.write(b"12345")
        assert appended(tracker) == 5
        path.unlink()
        assert len(deleted(tracker)) == 1
        monkeypatch.setattr(nameless, "QUIET_S", 0.0)
        tracker.scan()
        assert len(deleted(tracker)) == 1
    assert deleted(tracker) == []


def test_moved_to_where_nobody_watches(top: Path, track: Track, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that goes on growing there is uncertain, once. It is not deleted, and counts again when it comes back."""
    path, away = top / "logs/a.log", top / "elsewhere/from/here/a"
    for each in (path, away):
        each.parent.mkdir(parents=True)
    tracker = track("top/logs/*.log", has_thread=False)
    with path.open("ab", buffering=0) as log:
        log.write(b"12345")
        assert appended(tracker) == 5
        path.rename(away)
        log.write(b"6")
        assert uncertain(tracker) == {}  # its name may yet be found
        monkeypatch.setattr(nameless, "NAME_S", 0.0)
        for _ in range(3):
            log.write(b"7")
            assert uncertain(tracker) == {"unwatched": 1}
        assert appended(tracker) == 5
        assert deleted(tracker) == []
        away.rename(path)
        assert appended(tracker) == 9
        log.write(b"0")
        assert appended(tracker) == 10
    assert uncertain(tracker) == {"unwatched": 1}


def test_restarts(top: Path, tmp_path: Path) -> None:
    """A log that was moved away while the agent did not run is uncertain, once over several restarts."""
    path, away = top / "logs/a.log", top / "elsewhere/from/here/a"
    for each in (path, away):
        each.parent.mkdir(parents=True)
    with running(tmp_path / "state", f"{path.parent}/*.log") as tracker:
        append(path, "12345")
        assert appended(tracker) == 5
    path.rename(away)
    for _ in range(3):
        with running(tmp_path / "state", f"{path.parent}/*.log") as tracker:
            assert uncertain(tracker) == {"absence": 1}
    away.rename(path)
    append(path, "6")
    with running(tmp_path / "state", f"{path.parent}/*.log") as tracker:
        assert appended(tracker) == 6
        assert uncertain(tracker) == {"absence": 1}
