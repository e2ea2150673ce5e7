"""The kernel boundary: what inotify's bytes fold to."""

import os
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fstat_cache.kernel import (
    IN_ATTRIB,
    IN_IGNORED,
    IN_MODIFY,
    IN_Q_OVERFLOW,
    NO_WATCH,
    Inotify,
    fold_events,
)

names = st.sampled_from([b"", b"", b"a", b"a-name-of-16-byt", b"a longer name than that \xff"])


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([IN_MODIFY, IN_ATTRIB, IN_IGNORED]), names)))
def test_events_fold_to_one_note_a_watch(events: list[tuple[int, int, bytes]]) -> None:
    """With names (of a directory's entries) or without, a watch's masks are or-ed, watches in order of first event."""
    data = b""
    expected: dict[int, int] = {}
    for cookie, (wd, mask, name) in enumerate(events):
        padded = name + bytes(-len(name) % 16)
        data += struct.pack("iIII", wd, mask, cookie, len(padded)) + padded
        expected[wd] = expected.get(wd, 0) | mask
    assert fold_events(data) == expected
    assert list(fold_events(data)) == list(expected)


def test_overflow_is_a_value() -> None:
    """The record of a lost event is a note like others, under the descriptor that no watch has."""
    data = struct.pack("iIII", 3, IN_MODIFY, 0, 0) + struct.pack("iIII", -1, IN_Q_OVERFLOW, 0, 0)
    assert fold_events(data) == {3: IN_MODIFY, NO_WATCH: IN_Q_OVERFLOW}


def test_read_takes_what_is_there_and_never_waits(tmp_path: Path) -> None:
    """Events are there when the write returns; an empty queue reads as no notes."""
    inotify = Inotify()
    try:
        path = tmp_path / "file"
        path.touch()
        wd = inotify.add_watch(path, IN_MODIFY)
        assert inotify.read() == {}
        path.write_bytes(b"x")
        assert inotify.read() == {wd: IN_MODIFY}
        assert inotify.read() == {}
    finally:
        inotify.close()


def test_removing_a_watch_that_has_gone_is_no_error(tmp_path: Path) -> None:
    """The kernel removes the watch of a deleted inode by itself; removing it once more does no harm."""
    inotify = Inotify()
    try:
        path = tmp_path / "file"
        path.touch()
        wd = inotify.add_watch(path, IN_MODIFY)
        os.unlink(path)
        inotify.rm_watch(wd)
        inotify.rm_watch(wd)
    finally:
        inotify.close()
        inotify.close()
