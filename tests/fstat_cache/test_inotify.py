"""The kernel boundary: what inotify's bytes say."""

import os
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from inotify_simple import flags

from fstat_cache.inotify import (
    IN_ATTRIB,
    IN_CREATE,
    IN_IGNORED,
    IN_MODIFY,
    NO_WATCH,
    Events,
    Inotify,
    NameEvent,
    parse_events,
)

names = st.sampled_from([b"", b"", b"a", b"a-name-of-16-byt", b"a longer name than that \xff"])


@given(st.lists(st.tuples(st.integers(1, 5), st.sampled_from([IN_MODIFY, IN_ATTRIB, IN_IGNORED]), names)))
def test_events_of_inodes_fold_and_those_of_names_do_not(events: list[tuple[int, int, bytes]]) -> None:
    """Without a name a watch's masks are or-ed, watches in order of first event; with one each is told, in order."""
    data = b""
    notes: dict[int, int] = {}
    named: list[NameEvent] = []
    for cookie, (wd, mask, name) in enumerate(events):
        padded = name + bytes(-len(name) % 16)
        data += struct.pack("iIII", wd, mask, cookie, len(padded)) + padded
        if name:
            named.append(NameEvent(wd, mask, cookie, name))
        else:
            notes[wd] = notes.get(wd, 0) | mask
    assert parse_events(data) == Events(notes, named, len(events))
    assert list(parse_events(data).notes) == list(notes)


def test_writes_alone_are_told_from_all_else() -> None:
    """Only where every event is of a write to a watched inode, and there is one."""
    name = NameEvent(3, IN_MODIFY, 0, b"name")
    assert Events({1: IN_MODIFY, 2: IN_MODIFY}, []).are_writes
    for events in (
        Events({}, []),
        Events({1: IN_MODIFY, 2: IN_ATTRIB}, []),
        Events({1: IN_MODIFY | IN_ATTRIB}, []),
        Events({1: IN_MODIFY}, [name]),
        Events({NO_WATCH: int(flags.Q_OVERFLOW)}, []),
    ):
        assert not events.are_writes


def test_overflow_is_a_value() -> None:
    """The record of a lost event is a note like others, under the descriptor that no watch has."""
    data = struct.pack("iIII", 3, IN_MODIFY, 0, 0) + struct.pack("iIII", -1, int(flags.Q_OVERFLOW), 0, 0)
    assert parse_events(data) == Events({3: IN_MODIFY, NO_WATCH: int(flags.Q_OVERFLOW)}, [], 2)


def test_read_takes_what_is_there_and_never_waits(tmp_path: Path) -> None:
    """Events are there when the write returns; an empty queue reads as no events."""
    inotify = Inotify()
    try:
        path = tmp_path / "file"
        path.touch()
        wd = inotify.add_watch(str(path), IN_MODIFY)
        folder = inotify.add_watch(str(tmp_path), IN_CREATE)
        assert inotify.read() == Events({}, [])
        path.write_bytes(b"x")
        (tmp_path / "new").touch()
        path.write_bytes(b"yy")
        assert inotify.pending_bytes() > 0
        assert inotify.read() == Events({wd: IN_MODIFY}, [NameEvent(folder, IN_CREATE, 0, b"new")], 3)
        assert inotify.pending_bytes() == 0
        assert inotify.read() == Events({}, [])
    finally:
        inotify.close()


def test_removing_a_watch_that_has_gone_is_no_error(tmp_path: Path) -> None:
    """The kernel removes the watch of a deleted inode by itself; removing it once more does no harm."""
    inotify = Inotify()
    try:
        path = tmp_path / "file"
        path.touch()
        wd = inotify.add_watch(str(path), IN_MODIFY)
        os.unlink(path)
        inotify.rm_watch(wd)
        inotify.rm_watch(wd)
    finally:
        inotify.close()
        inotify.close()
