"""FileStats and read_stats: one immutable value, one system call."""

import copy
import json
import os
import pickle
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fstat_cache import DetailedStats, FileStats, file_time_ns, is_settled
from fstat_cache.stats import read_stats


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.log"
    path.write_bytes(b"12345")
    return path


def test_stats_are_those_of_os_stat(file: Path) -> None:
    """Every attribute and key is what os.stat says of the file."""
    expected = os.stat(file)
    stats = read_stats(file)
    assert stats is not None
    assert (stats.size, stats["size"]) == (5, 5)
    assert (stats.mtime, stats["ts"], stats["mtime"]) == (expected.st_mtime,) * 3
    assert stats.mtime_ns == stats["mtime_ns"] == expected.st_mtime_ns
    assert stats.inode == stats["inode"] == expected.st_ino
    assert stats.device == stats["device"] == expected.st_dev


@given(mtime_ns=st.integers(-(10**18), 4 * 10**18))
def test_mtime_is_the_float_that_os_stat_gives(tmp_path_factory: pytest.TempPathFactory, mtime_ns: int) -> None:
    """The float of a time is the same to the last bit as os.stat's, before 1970 as well."""
    path = tmp_path_factory.getbasetemp() / "any-time"
    path.touch()
    os.utime(path, ns=(mtime_ns, mtime_ns))
    stats = read_stats(path)
    assert stats is not None
    assert stats.mtime == os.stat(path).st_mtime


def test_stats_convert_to_json(file: Path) -> None:
    """dict(stats) and as_dict() are equal, new each time, and can be sent as JSON."""
    stats = read_stats(file)
    assert stats is not None
    assert dict(stats) == stats.as_dict()  # type: ignore[call-overload]
    assert stats.as_dict() is not stats.as_dict()
    assert json.loads(json.dumps(stats.as_dict()))["size"] == 5
    assert set(stats.as_dict()) == {"size", "ts", "mtime", "mtime_ns", "inode", "device", "birth_ns"}
    assert len(stats) == len(list(stats)) == 7


def test_stats_are_immutable(file: Path) -> None:
    """No attribute can be set, added or deleted, no item assigned."""
    stats = read_stats(file)
    assert stats is not None
    for attribute in ("size", "mtime", "mtime_ns", "inode", "device", "birth_ns", "identity"):
        with pytest.raises(AttributeError):
            setattr(stats, attribute, 6)
        with pytest.raises(AttributeError):
            delattr(stats, attribute)
    with pytest.raises(AttributeError):
        stats.colour = "red"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        stats["size"] = 6  # type: ignore[index]
    assert stats.size == 5


def test_stats_compare_and_hash_by_value() -> None:
    """Two equal snapshots are one key; a difference anywhere makes them unequal; other types are never equal."""
    values = (5, 10, 2, 1, 7)
    assert FileStats(*values) == FileStats(*values)
    assert len({FileStats(*values), FileStats(*values)}) == 1
    for position in range(5):
        other = list(values)
        other[position] += 1
        assert FileStats(*other) != FileStats(*values)
    assert FileStats(*values) != values


def test_stats_print_readably_and_copy() -> None:
    """repr() names every field and evaluates to an equal value; pickling and copying keep the value."""
    stats = FileStats(size=5, mtime_ns=10, inode=2, device=1, birth_ns=7)
    assert repr(stats) == "FileStats(size=5, mtime_ns=10, inode=2, device=1, birth_ns=7)"
    assert pickle.loads(pickle.dumps(stats)) == copy.deepcopy(stats) == stats


def test_unknown_key_is_a_key_error() -> None:
    """What is no field is a KeyError, though it may be an attribute."""
    stats = FileStats(5, 10, 2, 1)
    for key in ("colour", "as_dict", "__class__"):
        with pytest.raises(KeyError, match=key):
            stats[key]


def test_no_change_gets_an_earlier_time_than_now(file: Path) -> None:
    """Neither of a file nor of a directory, and none is ahead of the time of day."""
    for number in range(1_000):
        before_ns = file_time_ns()
        with file.open("a") as appended:
            appended.write("x")
        (file.parent / str(number)).touch()
        times_ns = file.stat().st_mtime_ns, file.parent.stat().st_ctime_ns
        assert before_ns <= min(times_ns)
        assert max(times_ns) <= time.time_ns()


@pytest.mark.parametrize("rounding_ns", [1, 100, 1_000, 10_000_000, 1_000_000_000, 2_000_000_000])
@given(began_ns=st.integers(10**18, 2 * 10**18), later=st.lists(st.integers(0, 3 * 10**9), min_size=2, max_size=2))
def test_what_is_settled_is_told_apart(rounding_ns: int, began_ns: int, later: list[int]) -> None:
    """However a filesystem rounds: a change after a moment of which the one before is settled has another time."""
    changed_ns, as_of_ns, changed_again_ns = (began_ns + sum(later[:count]) for count in range(3))
    time_ns, time_again_ns = (each - each % rounding_ns for each in (changed_ns, changed_again_ns))
    assert time_again_ns > time_ns or not is_settled(time_ns, as_of_ns)
    assert is_settled(time_ns, changed_ns + 2_000_000_001)


def test_absence_is_none_and_the_rest_raises(tmp_path: Path, file: Path) -> None:
    """Nothing there, a file where a directory is needed, and what is no regular file give None; the rest raises."""
    os.mkfifo(tmp_path / "fifo")
    os.symlink("loop", tmp_path / "loop")
    os.symlink("nowhere", tmp_path / "dangling")
    for path in (tmp_path / "missing", file / "below", tmp_path, tmp_path / "fifo", tmp_path / "dangling"):
        assert read_stats(path) is None, path
    with pytest.raises(OSError, match="symbolic links"):
        read_stats(tmp_path / "loop")


def test_details_are_read_where_they_are_asked_for(file: Path) -> None:
    """They are those of os.stat; a later stat is the same object while nothing differs, and another one if they do."""
    os.chmod(file, 0o640)
    plain, stats = read_stats(file), read_stats(file, is_detailed=True)
    assert type(plain) is FileStats
    assert isinstance(stats, DetailedStats)
    expected = os.stat(file)
    assert stats.disk_bytes == expected.st_blocks * 512
    assert stats.access == (0o640, expected.st_uid, expected.st_gid)
    assert (stats.size, stats.mtime_ns, stats.identity) == (plain.size, plain.mtime_ns, plain.identity)
    assert read_stats(file, stats, is_detailed=True) is stats
    assert stats != plain != stats
    os.chmod(file, 0o600)
    later = read_stats(file, stats, is_detailed=True)
    assert isinstance(later, DetailedStats)
    assert later.access[0] == 0o600
    assert later != stats
    assert later.equals_without_details(stats)
    assert read_stats(file.with_name("no"), is_detailed=True) is None
    file.write_text("123456")
    other = read_stats(file, stats, is_detailed=True)
    assert isinstance(other, DetailedStats)
    assert not other.equals_without_details(stats)
    assert copy.copy(other) == other
