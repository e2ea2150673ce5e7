"""The OpenTelemetry Collector's checkpoints, in a bbolt database."""

import base64
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers import otel_filelog
from exporter.shippers.positions import Fingerprint, Position, StateFormatError
from tests.exporter.shippers.state_files import JSON_BOMBS, cases, check, damaged, find_offset, logs_of, state_of

PAGE = 4096
KEY = b"$.file_input.knownFiles"
PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(lambda name: f"/{name}")


def first_bytes(head: bytes) -> Fingerprint:
    """The fingerprint of a log that begins so."""
    return Fingerprint("first-bytes", head, len(head))


POSITIONS = st.builds(
    lambda offset, path, head: Position(offset, path, fingerprint=first_bytes(head)),
    st.integers(0, 2**63 - 1),
    st.one_of(st.none(), PATHS),
    st.binary(min_size=1, max_size=1000),
)


def checkpoints(positions: list[Position]) -> bytes:
    """Write the value: a count, then an object a line."""
    lines = [str(len(positions))]
    for each in positions:
        assert each.fingerprint is not None
        assert isinstance(each.fingerprint.value, bytes)
        fingerprint = {"first_bytes": base64.b64encode(each.fingerprint.value).decode()}
        attributes = {} if each.path is None else {"log.file.path": each.path}
        lines.append(json.dumps({"Fingerprint": fingerprint, "Offset": each.offset, "FileAttributes": attributes}))
    return "".join(line + "\n" for line in lines).encode()


def meta(number: int, txid: int, root: int, *, version: int = 2) -> bytes:
    """A meta page."""
    body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, version, PAGE, 0, root, 0, 2**64 - 1, 9, txid)
    checksum = 0xCBF29CE484222325
    for byte in body:
        checksum = (checksum ^ byte) * 0x100000001B3 % 2**64
    return (struct.pack("<QHHI", number, 4, 0, 0) + body + struct.pack("<Q", checksum)).ljust(PAGE, b"\0")


def leaf(number: int, *elements: tuple[int, bytes, bytes], flags: int = 2) -> bytes:
    """A leaf page, with what it overflows into."""
    headers, content = b"", b""
    for at, (kind, key, value) in enumerate(elements):
        position = (len(elements) - at) * 16 + len(content)
        headers += struct.pack("<IIII", kind, position, len(key), len(value))
        content += key + value
    size = -(-(16 + len(headers + content)) // PAGE)
    return (struct.pack("<QHHI", number, flags, len(elements), size - 1) + headers + content).ljust(size * PAGE, b"\0")


def branch(number: int, *children: int) -> bytes:
    """A branch page; its keys do not matter to who reads all."""
    elements = b"".join(struct.pack("<IIQ", 0, 0, child) for child in children)
    return (struct.pack("<QHHI", number, 1, len(children), 0) + elements).ljust(PAGE, b"\0")


def database(value: bytes, key: bytes = KEY) -> bytes:
    """A database whose root is a branch, and whose bucket has pages of its own."""
    root = branch(2, 3, 4) + leaf(3, (0, b"a", b"")) + leaf(4, (1, b"default", struct.pack("<QQ", 5, 0)))
    return meta(0, 7, 2) + meta(1, 6, 99) + root + leaf(5, (0, b"other", b"x"), (0, key, value))


def inline_database(value: bytes) -> bytes:
    """A database whose bucket is small enough to be in its parent's page."""
    bucket = struct.pack("<QQ", 0, 0) + leaf(0, (0, KEY, value))[: 32 + len(KEY) + len(value)]
    return meta(0, 6, 99) + meta(1, 7, 2) + leaf(2, (1, b"default", bucket))


@pytest.mark.parametrize("case", cases("otel-filelog"))
def test_samples(case: Path) -> None:
    """Each log of a sample has its offset, by its first bytes."""
    (data,) = state_of(case, otel_filelog).values()
    positions = otel_filelog.parse(data)
    for log in logs_of(case):
        assert find_offset(positions, case, log, otel_filelog) == log["offset"]
    assert positions[0].path == "/srv/shop/otel/logs/app.log"


@given(st.lists(POSITIONS, max_size=20))
def test_written_is_read(positions: list[Position]) -> None:
    """What the collector writes is read back, from a bucket of its own pages and from a small one."""
    value = checkpoints(positions)
    assert otel_filelog.parse(database(value)) == positions
    assert otel_filelog.parse(inline_database(value)) == positions


def test_newest_meta() -> None:
    """The valid meta page with the higher transaction counts; one that is being written does not."""
    data = database(checkpoints([Position(5, None, fingerprint=first_bytes(b"a"))]))
    second = meta(0, 5, 99) + meta(1, 8, 2) + data[2 * PAGE :]
    assert otel_filelog.parse(second) == otel_filelog.parse(data)
    broken = bytearray(meta(1, 9, 99))
    broken[40] ^= 1
    assert otel_filelog.parse(data[:PAGE] + broken + data[2 * PAGE :]) == otel_filelog.parse(data)
    assert otel_filelog.parse(bytes(PAGE) + second[PAGE:]) == otel_filelog.parse(data)
    within = data[:1024] + meta(1, 9, 99)[:1024] + data[2048:]
    assert otel_filelog.parse(within) == otel_filelog.parse(data)


def test_no_checkpoints_yet() -> None:
    """A database without a bucket, or without the key, has no positions; an archive is not the present."""
    assert otel_filelog.parse(meta(0, 1, 2) + meta(1, 0, 2) + leaf(2)) == []
    assert otel_filelog.parse(database(b"0\n", b"$.file_input.knownFiles0")) == []
    assert otel_filelog.parse(database(b"0\n")) == []


def test_compressed_logs_are_left_out() -> None:
    """The offset of a compressed log is one of its unpacked bytes."""
    value = b'1\n{"Fingerprint":{"first_bytes":"YQ=="},"Offset":5,"FileType":".gz"}\n'
    assert otel_filelog.parse(database(value)) == []


def test_prefix() -> None:
    """The stored bytes are a prefix of the log; the longest counts, and no bytes match nothing."""
    expected = [first_bytes(b"abc"), first_bytes(b"a")]
    assert list(otel_filelog.fingerprints(b"abcd", [1, 3, 5, 0, 3])) == expected
    value = b'1\n{"Fingerprint":{"first_bytes":null},"Offset":5}\n'
    assert otel_filelog.parse(database(value)) == [Position(5)]


DATA = database(checkpoints([Position(5, "/a", fingerprint=first_bytes(b"a"))]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a bbolt"),
        (bytes(2 * PAGE), "not a bbolt"),
        (meta(0, 1, 2, version=3), "version"),
        (meta(0, 1, 2), "page is damaged"),
        (meta(0, 1, 2**60), "page is damaged"),
        (DATA[: 4 * PAGE], "page is damaged"),
        (meta(0, 1, 2) + meta(1, 1, 2) + leaf(3), "page is damaged"),
        (meta(0, 1, 2) + meta(1, 1, 2) + leaf(2, flags=16), "page is damaged"),
        (meta(0, 1, 2) + meta(1, 1, 2) + branch(2, 2), "page is damaged"),
        (
            database(b"0\n").replace(struct.pack("<II", len(KEY), 2), struct.pack("<II", len(KEY), 9999)),
            "page is damaged",
        ),
        (database(b'1\n{"Fingerprint":'), "JSON"),
        (database(b"2\n{}\n"), "number of its checkpoints"),
        (database(b"1\n{}\n"), "fingerprint"),
        (database(b'1\n{"Fingerprint":{},"Offset":-1}'), "offset"),
        (database(b'1\n{"Fingerprint":{"first_bytes":"*"},"Offset":1}'), "fingerprint"),
        (database(b'1\n{"Fingerprint":{"first_bytes":["a"]},"Offset":1}'), "fingerprint"),
        (database(b"\x0a\x00"), "protobufCheckpointEncoding"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    """What cannot be right is refused, with its fault."""
    with pytest.raises(StateFormatError, match=message):
        otel_filelog.parse(data)


@pytest.mark.parametrize("data", JSON_BOMBS)
def test_bombs(data: bytes) -> None:
    """What is no database, or no JSON in one, is refused soon."""
    assert check(lambda: otel_filelog.parse(data), otel_filelog) is None
    assert check(lambda: otel_filelog.parse(database(b"1\n" + data)), otel_filelog) is None
    assert check(lambda: otel_filelog.parse(database(data + b"\n")), otel_filelog) is None


@pytest.mark.parametrize("case", cases("otel-filelog"))
def test_damage(case: Path) -> None:
    """A damaged database gives positions or one sentence."""
    (sample,) = state_of(case, otel_filelog).values()
    value = checkpoints([Position(5, "/a", fingerprint=first_bytes(b"a" * 20))])
    for data in (sample, database(value), inline_database(value)):
        for changed in damaged(data, 17, 200):
            check(lambda changed=changed: otel_filelog.parse(changed), otel_filelog)
        used = b"".join(data[at : at + 200] for at in range(0, len(data), PAGE))  # the rest of most pages is zeros
        for changed in damaged(used, 18, 400):
            pages = [changed[at : at + 200].ljust(PAGE, b"\0") for at in range(0, len(changed), 200)]
            check(lambda pages=pages: otel_filelog.parse(b"".join(pages)), otel_filelog)


def test_overlapping_pages() -> None:
    """Pages that lead to each other many times, or overlap, do not keep the parser busy."""
    many = branch(2, *[3] * 255) + branch(3, *[4] * 255) + branch(4, *[5] * 255) + leaf(5)
    assert check(lambda: otel_filelog.parse(meta(0, 1, 2) + meta(1, 1, 2) + many), otel_filelog) is None
    count = 2000
    pages = bytearray(meta(0, 1, 2) + meta(1, 1, 2) + branch(2, *range(3, 253)) + bytes(count * PAGE))
    for number in range(3, count):
        struct.pack_into("<QHHI", pages, number * PAGE, number, 2, 65_535, count - number)
    assert check(lambda: otel_filelog.parse(bytes(pages)), otel_filelog) is None
