"""syslog-ng's persist file."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers import syslog_ng
from exporter.shippers.positions import Position, StateFormatError
from tests.exporter.shippers.state_files import cases, check, damaged, find_offset, logs_of, state_of

NAMES = st.binary(min_size=1, max_size=200).filter(lambda name: b"\0" not in name)
MAGIC = b"SLP4"


def value(
    raw_stream_pos: int = 0,
    buffer_pos: int = 0,
    raw_buffer_size: int = 0,
    inode: int = 5,
    *,
    order: str = "<",
    version: int = 0,
) -> bytes:
    """A position, as syslog-ng lays it out in memory."""
    numbers = (buffer_pos, 0, 65_536, 0, 0, raw_stream_pos, 0, raw_buffer_size, 0, 0, inode)
    return struct.pack(f"{order}BB2xIIIIIqqii8xqq", version, order == ">", *numbers)


def persist(*entries: tuple[bytes, bytes], in_use: int = 1, version: int = 4, magic: bytes = MAGIC) -> bytes:
    """Write a persist file as syslog-ng does: a chain of blocks of keys, and values between them."""
    data = bytearray(magic + struct.pack(">II", 0, len(entries))).ljust(4096, b"\0")
    at, end = 64, 4096

    def allocate(content: bytes, used: int) -> int:
        data.extend(struct.pack(">IBB2x", len(content), used, version))
        handle = len(data)
        data.extend(content + bytes(-len(content) % 8))
        return handle

    for key, content in entries:
        handle = allocate(content, in_use)
        if at + 4 + len(key) + 4 > end - 8:
            block = allocate(bytes(4096), 1)
            data[at : at + 8] = struct.pack(">II", 0, block)
            at, end = block, block + 4096
        record = struct.pack(">I", len(key)) + key + struct.pack(">I", handle)
        data[at : at + len(record)] = record
        at += len(record)
    return bytes(data)


def curpos(path: bytes) -> bytes:
    """The key of a path."""
    return b"affile_sd_curpos(" + path + b")"


@pytest.mark.parametrize("case", cases("syslog-ng"))
def test_samples(case: Path) -> None:
    """Each log of a sample has its offset; a rotated log, whose path has another inode now, has none."""
    (data,) = state_of(case, syslog_ng).values()
    positions = syslog_ng.parse(data)
    for log in logs_of(case):
        assert find_offset(positions, case, log, syslog_ng) == log["offset"]


@given(
    st.lists(
        st.tuples(NAMES, st.integers(0, 2**62), st.integers(0, 2**31 - 1), st.integers(1, 2**63 - 1)), max_size=60
    ),
    st.sampled_from("<>"),
)
def test_written_is_read(logs: list[tuple[bytes, int, int, int]], order: str) -> None:
    """What syslog-ng writes is read back, over many blocks of keys, of both byte orders; a key's last value counts."""
    entries = [(curpos(b"/" + name), value(raw, size, size, inode, order=order)) for name, raw, size, inode in logs]
    expected = {name: (raw + size, inode) for name, raw, size, inode in logs}
    positions = syslog_ng.parse(persist(*entries))
    assert [(each.path or "").encode("utf-8", "surrogateescape") for each in positions] == [
        b"/" + each for each in expected
    ]
    assert [(each.offset, each.inode) for each in positions] == list(expected.values())


def test_offset() -> None:
    """The offset is the buffer's place and how much of it is acknowledged, of the file's bytes at most."""
    converted = value(raw_stream_pos=1000, buffer_pos=150, raw_buffer_size=100)
    assert syslog_ng.parse(persist((curpos(b"/a"), value(1000, 50, 100)))) == [Position(1050, "/a", 5)]
    assert syslog_ng.parse(persist((curpos(b"/a"), converted))) == [Position(1100, "/a", 5)]


def test_persist_name() -> None:
    """A source with a name of its own says no path; one whose name was cut off neither."""
    keys = b"affile_sd.web.curpos", curpos(b"/" + b"x" * 2000)[:1023]
    assert syslog_ng.parse(persist(*((key, value(3, inode=7)) for key in keys))) == [Position(3, None, 7)] * 2


def test_other_entries_are_left_out() -> None:
    """Entries of other drivers, ones without an inode yet, and ones that the running syslog-ng does not use."""
    entries = (b"run_id", b"12345678"), (curpos(b"/a"), value(inode=0)), (b"afsocket.x", b"")
    assert syslog_ng.parse(persist(*entries)) == []
    assert syslog_ng.parse(persist((curpos(b"/a"), value(3)), in_use=0)) == []


def put(data: bytes, *numbers: tuple[int, int]) -> bytes:
    """Overwrite numbers: where, and by what."""
    changed = bytearray(data)
    for at, number in numbers:
        changed[at : at + 4] = struct.pack(">I", number)
    return bytes(changed)


ENTRY = curpos(b"/a"), value(3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a persist file"),
        (b"SLP4", "cut off"),
        (persist(ENTRY, magic=b"SLP3"), "version"),
        (persist(ENTRY, magic=b"SLP5"), "version"),
        (persist(ENTRY, version=3), "unknown version"),
        (persist((curpos(b"/a"), value(3, version=1))), "unknown version"),
        (persist((curpos(b"/a"), value(-3))), "impossible"),
        (persist((curpos(b"/a"), value(2**63 - 1, 5, 5))), "impossible"),
        (persist((curpos(b"/a"), value(inode=-3))), "impossible"),
        (persist(ENTRY)[:4100], "place"),
        (put(persist(ENTRY), (8, 2)), "blocks of keys"),
        (put(persist(ENTRY), (8, 2**32 - 1)), "blocks of keys"),
        (put(persist(ENTRY), (64, 5000)), "key is cut off"),
        (put(persist(ENTRY), (64 + 4 + len(ENTRY[0]), 2**32 - 1)), "place"),
        (put(persist(ENTRY), (64 + 4 + len(ENTRY[0]), 0)), "place"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    """What cannot be right is refused, with its fault."""
    with pytest.raises(StateFormatError, match=message):
        syslog_ng.parse(data)


def test_torn_read() -> None:
    """The count of keys is written before or after the key: either is refused, or is the state before."""
    before, after = persist(ENTRY), persist(ENTRY, (curpos(b"/b"), value(4)))
    torn = put(after, (8, 1))
    assert syslog_ng.parse(torn) == syslog_ng.parse(before)
    assert check(lambda: syslog_ng.parse(put(before, (8, 2))), syslog_ng) is None


@pytest.mark.parametrize("case", cases("syslog-ng"))
def test_damage(case: Path) -> None:
    """A damaged file gives positions or one sentence."""
    data = (case / "syslog-ng.persist").read_bytes()
    for changed in damaged(data, 17, 100):
        check(lambda changed=changed: syslog_ng.parse(changed), syslog_ng)
    used = data[:200] + data[4096:4300]  # where damage hits: the rest of the file is zeros
    for changed in damaged(used, 18, 400):
        whole = changed[:200].ljust(4096, b"\0") + changed[200:].ljust(12_288, b"\0")
        check(lambda whole=whole: syslog_ng.parse(whole), syslog_ng)


def test_blocks_form_a_circle() -> None:
    """Blocks of keys that lead to each other, or overlap, do not keep the parser busy."""
    zeros = persist().ljust(2**20, b"\0")
    endless = (8, 2**32 - 1), (68, 4104)  # the count of keys; the first block leads to the one at 4104
    one_key = (8, 1), (68, 4104), (4104, 1)
    assert syslog_ng.parse(put(zeros, *one_key, (4096, 4096))) == []
    with pytest.raises(StateFormatError, match="blocks of keys"):
        syslog_ng.parse(put(zeros, *one_key, (4096, 4000)))
    with pytest.raises(StateFormatError, match="blocks of keys"):
        syslog_ng.parse(put(zeros, (8, 1), (2**20 - 8, 4096)))
    circle = put(zeros, *endless, (4096, 4096), (4108, 4104))
    with pytest.raises(StateFormatError, match="blocks of keys"):
        syslog_ng.parse(circle)
    overlapping = list(endless)
    for at in range(4104, 2**20 - 32, 16):  # each block leads to one 16 bytes on
        overlapping += [(at - 8, 4096), (at + 4, at + 16)]
    with pytest.raises(StateFormatError, match="blocks of keys"):
        syslog_ng.parse(put(zeros, *overlapping))
