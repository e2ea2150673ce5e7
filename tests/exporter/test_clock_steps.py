"""New files and old ones where births do not show it: the clock steps, or the filesystem has no births."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.ops.file_clock import FileClock
from exporter.tracker import Tracker
from tests.exporter.tracking import Track, append, appended, tick, touch
from tests.support import wait_until

OLD, NEW = 100_000, 200


class Lie:
    """Gives the agent a wrong time, which the filesystem does not have."""

    def __init__(self) -> None:
        self.seconds = 0

    def read(self, clock: int) -> int:
        """As clock_gettime(2)."""
        wrong_ns = 0 if clock == time.CLOCK_BOOTTIME else self.seconds * 10**9
        return time.clock_gettime_ns(clock) + wrong_ns


@pytest.fixture
def lie(monkeypatch: pytest.MonkeyPatch) -> Lie:
    """The time that the agent sees."""
    lie = Lie()
    monkeypatch.setattr("exporter.tracker.FileClock", functools.partial(FileClock, lie.read))
    return lie


@pytest.fixture
def no_births(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filesystems have no births."""
    monkeypatch.setattr("fstat_cache.stats._statx", lambda: None)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A big old file outside of the watched directories."""
    path = tmp_path / "elsewhere/big"
    touch(path)
    path.write_bytes(b"x" * OLD)
    return path


@pytest.mark.parametrize("seconds", [0, 3600, -3600, -86400])
def test_a_clock_that_is_set_after_the_start(
    tmp_path: Path, track: Track, lie: Lie, elsewhere: Path, seconds: int
) -> None:
    """What was there before is no growth; what is made after the step counts in full, a whole directory too."""
    path = tmp_path / "app.log"
    path.write_bytes(b"x" * OLD)
    tick()
    lie.seconds = seconds
    tracker = track("**/*.log")
    assert appended(tracker) == 0
    lie.seconds = 0
    path.rename(tmp_path / "app.log.1")
    path.write_bytes(b"x" * NEW)
    elsewhere.rename(elsewhere.parent / "moved.log")
    new = elsewhere.parent / "new/new.log"
    touch(new)
    new.write_bytes(b"x" * NEW)
    new.parent.rename(tmp_path / "moved")
    assert appended(tracker) == 2 * NEW


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_created_before_the_step(tmp_path: Path, track: Track, lie: Lie, elsewhere: Path, seconds: int) -> None:
    """A file whose creation is reported is new whatever its birth; one that is moved in is not."""
    lie.seconds = seconds
    tracker = track("*.log")
    (tmp_path / "new.log").write_bytes(b"x" * NEW)
    (tmp_path / "unmatched").write_bytes(b"x" * NEW)
    (tmp_path / "unmatched").rename(tmp_path / "renamed.log")
    elsewhere.rename(tmp_path / "moved.log")
    assert appended(tracker) == 2 * NEW


def test_an_old_file_gets_another_name(tmp_path: Path, track: Track, elsewhere: Path) -> None:
    """A created name is no created file: by a hard link or a symbolic one, an old file counts from its size."""
    other = elsewhere.with_name("other")
    other.write_bytes(b"x" * OLD)
    tick()
    tracker = track("*.log")
    (tmp_path / "hard.log").hardlink_to(elsewhere)
    (tmp_path / "symbolic.log").symlink_to(other)
    assert appended(tracker) == 0
    append(elsewhere, "more")
    append(other, "more")
    assert appended(tracker) == 8


def moved_over(tmp_path: Path, elsewhere: Path) -> None:
    """A big old file takes the place of the log."""
    elsewhere.rename(tmp_path / "app.log")


def moved_in(tmp_path: Path, elsewhere: Path) -> None:
    """A big old file appears."""
    elsewhere.rename(tmp_path / "new.log")


def created(tmp_path: Path, _: Path) -> None:
    """A new log."""
    (tmp_path / "new.log").write_bytes(b"x" * NEW)


def rotated(tmp_path: Path, _: Path) -> None:
    """A new log in the place of one that was renamed."""
    (tmp_path / "app.log").rename(tmp_path / "app.log.1")
    (tmp_path / "app.log").write_bytes(b"x" * NEW)


def replaced(tmp_path: Path, _: Path) -> None:
    """A new log in the place of one, made under another name."""
    (tmp_path / ".app").write_bytes(b"x" * NEW)
    (tmp_path / ".app").rename(tmp_path / "app.log")


def created_again(tmp_path: Path, elsewhere: Path) -> None:
    """A new log in the place of one that was moved in."""
    elsewhere.rename(tmp_path / "new.log")
    (tmp_path / "new.log").unlink()
    (tmp_path / "new.log").write_bytes(b"x" * NEW)


WAYS = [(moved_over, 0), (moved_in, 0), (created, NEW), (rotated, NEW), (replaced, NEW), (created_again, NEW)]


@pytest.mark.usefixtures("no_births")
@pytest.mark.parametrize(("way", "growth"), WAYS, ids=lambda way: getattr(way, "__name__", ""))
@pytest.mark.parametrize("is_noticed_at_once", [True, False])
def test_without_births(
    tmp_path: Path,
    track: Track,
    elsewhere: Path,
    way: Callable[[Path, Path], None],
    growth: int,
    is_noticed_at_once: bool,
) -> None:
    """What is created is new; what is moved in from an unknown place is old, at a known path too."""
    append(tmp_path / "app.log", "x" * 50)
    tracker = track("*.log")
    if is_noticed_at_once:
        way(tmp_path, elsewhere)
    else:
        with tracker.lock:  # the thread cannot book yet
            way(tmp_path, elsewhere)
    assert appended(tracker) == growth
    append(tmp_path / ("new.log" if way in (created, created_again, moved_in) else "app.log"), "more")
    assert appended(tracker) == growth + 4


@pytest.mark.usefixtures("no_births")
def test_names_are_forgotten_when_others_match(tmp_path: Path, track: Track) -> None:
    """A file that was created long before a pattern matched it is old."""
    tracker = track("*.log")
    (tmp_path / "old.txt").write_bytes(b"x" * OLD)
    appended(tracker)
    wait_until(lambda: noted(tracker))
    tracker.match(tracker.matcher)
    assert not noted(tracker)


def noted(tracker: Tracker) -> dict[str, str]:
    """The names whose files have had no stat yet."""
    return tracker._keeper.arrivals.names
