"""Files that lost their names while the agent did not run are found by their handles, and lost ones are reported."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from io import FileIO
from pathlib import Path

import pytest

from tests.exporter.tracking import append, appended, deleted, running, tick, uncertain
from tests.support import as_root


class Place:
    """Where an agent has a state file and watches one directory.

    Attributes:
        state: the state file.
        path: of a log that was written while the agent ran.
        log: that file, open; 5 bytes of it count.
        elsewhere: a directory that nobody watches.
    """

    def __init__(self, top: Path) -> None:
        self.state, self.path, self.elsewhere = top / "state", top / "logs/a.log", top / "elsewhere/from/here"
        self.path.parent.mkdir()
        self.elsewhere.mkdir(parents=True)
        self.pattern = f"{self.path.parent}/*.log"
        with running(self.state, self.pattern) as tracker:
            self.log = FileIO(self.path, "a")
            self.log.write(b"12345")
            tick()  # else it might have been born after the state was saved
            assert appended(tracker) == 5


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An agent ran there, and has ended."""
    place = Place(tmp_path)
    yield place
    place.log.close()


@as_root
def test_moved_away(place: Place) -> None:
    """A log that was moved to a directory that nobody watches counts, with what was written then and later."""
    place.path.rename(place.elsewhere / "a")
    place.log.write(b"67")
    append(place.path, "123")
    with running(place.state, place.pattern) as tracker:
        assert appended(tracker) == 10
        place.log.write(b"8")
        assert appended(tracker) == 11
        assert uncertain(tracker) == {}


@as_root
def test_deleted_while_open(place: Place) -> None:
    """A log that was deleted but is open counts to its last byte, over one more restart too."""
    place.path.unlink()
    place.log.write(b"67")
    with running(place.state, place.pattern) as tracker:
        assert appended(tracker) == 7
        assert deleted(tracker) == [4096]
        place.log.write(b"8")
        assert appended(tracker) == 8
    place.log.write(b"9")
    with running(place.state, place.pattern) as tracker:
        assert appended(tracker) == 9
        assert deleted(tracker) == [4096]
        place.log.write(b"0")
        place.log.close()
        assert appended(tracker) == 10
        assert deleted(tracker) == []
        assert uncertain(tracker) == {}


def test_absence(place: Place) -> None:
    """A log that was deleted with its last opener while the agent did not run is uncertain, once and for good."""
    place.path.unlink()
    place.log.write(b"lost")
    place.log.close()
    for _ in range(3):
        with running(place.state, place.pattern) as tracker:
            assert appended(tracker) == 5
            assert uncertain(tracker) == {"absence": 1}


def test_deleted_before(place: Place) -> None:
    """A log that was deleted while the agent ran is not uncertain after a restart; its successor is a rotation."""
    with running(place.state, place.pattern) as tracker:
        place.log.write(b"6")
        place.log.close()
        assert appended(tracker) == 6
        place.path.unlink()
        assert uncertain(tracker) == {}
    for _ in range(2):
        with running(place.state, place.pattern) as tracker:
            assert uncertain(tracker) == {}
    append(place.path, "78")
    with running(place.state, place.pattern) as tracker:
        assert appended(tracker) == 8
        assert tracker.publication.groups[0].rotations == 1
        assert uncertain(tracker) == {}


def test_never_written(tmp_path: Path) -> None:
    """A log without a handle, because it was never written, is uncertain too if it was deleted meanwhile."""
    path = tmp_path / "a.log"
    append(path, "12345")
    path.touch()
    os.utime(path, (1_000_000_000, 1_000_000_000))
    with running(tmp_path / "state", f"{tmp_path}/*.log"):
        pass
    path.unlink()
    for _ in range(2):
        with running(tmp_path / "state", f"{tmp_path}/*.log") as tracker:
            assert uncertain(tracker) == {"absence": 1}


def test_truncated_while_down(place: Place) -> None:
    """A log that is smaller than before is uncertain."""
    place.log.write(b"lost")
    place.log.truncate(0)
    place.log.write(b"12")
    for _ in range(2):
        with running(place.state, place.pattern) as tracker:
            assert appended(tracker) == 7
            assert uncertain(tracker) == {"absence": 1}


@as_root
def test_written_and_deleted_at_once_after_the_restart(place: Place) -> None:
    """The first write after a restart counts too, if the log is deleted or moved away right after it."""
    with (
        FileIO(place.path.with_name("b.log"), "a") as other,
        running(place.state, place.pattern) as tracker,
    ):
        other.write(b"12")
        place.log.write(b"67")
        place.path.unlink()
        place.path.with_name("b.log").rename(place.elsewhere / "b")
        other.write(b"3")
        assert appended(tracker) == 10
        assert deleted(tracker) == [4096]
        other.write(b"4")
        place.log.write(b"8")
        assert appended(tracker) == 12
        assert uncertain(tracker) == {}


@as_root
def test_a_state_file_without_handles(place: Place) -> None:
    """The state file of the program before this one loads: what has a name goes on."""
    with closing(sqlite3.connect(place.state)) as connection:
        for table in ("handles", "uncertain"):
            connection.execute(f"DROP TABLE {table}")
    append(place.path, "67")
    with running(place.state, place.pattern) as tracker:
        assert appended(tracker) == 7
        place.path.rename(place.elsewhere / "a")
        place.log.write(b"8")
        assert appended(tracker) == 8
        assert uncertain(tracker) == {}
    place.log.write(b"9")
    with running(place.state, place.pattern) as tracker:
        assert appended(tracker) == 9
        assert uncertain(tracker) == {}


@as_root
@pytest.mark.parametrize("what", ["renamed", "moved", "deleted", "there"])
def test_another_device_number(place: Place, what: str) -> None:
    """A device may have another number after a reboot; the same number, birth and handle are the same inode."""
    with closing(sqlite3.connect(place.state)) as connection, connection:
        for table in ("handles", "inodes", "series"):
            connection.execute(f"UPDATE {table} SET device = device + 1")
    match what:
        case "renamed":
            place.path.rename(place.path.with_name("a.log.1"))
        case "moved":
            place.path.rename(place.elsewhere / "a")
        case "deleted":
            place.path.unlink()
    place.log.write(b"67")
    append(place.path, "12")
    with running(place.state, place.pattern) as tracker:
        assert appended(tracker) == 9
        assert uncertain(tracker) == {}
        place.log.write(b"8")
        assert appended(tracker) == 10
        assert deleted(tracker) == [4096] * (what == "deleted")
