"""Vector's checkpoints."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers import vector
from exporter.shippers.positions import Fingerprint, Position, StateFormatError
from tests.exporter.shippers.state_files import (
    JSON_BOMBS,
    SAMPLES,
    cases,
    check,
    damaged,
    find_offset,
    logs_of,
    state_of,
)

COUNTS = st.integers(0, 2**63 - 1)
POSITIONS = st.one_of(
    st.builds(lambda offset, device, inode: Position(offset, device=device, inode=inode), COUNTS, COUNTS, COUNTS),
    st.builds(
        lambda offset, value: Position(offset, fingerprint=Fingerprint("crc64-first-line", value)),
        COUNTS,
        st.integers(0, 2**64 - 1),
    ),
)


def write(positions: list[Position]) -> bytes:
    """Write what Vector would write."""
    checkpoints = [
        {
            "fingerprint": {"dev_inode": [each.device, each.inode]}
            if each.fingerprint is None
            else {"first_lines_checksum": each.fingerprint.value},
            "position": each.offset,
            "modified": "2026-08-22T10:00:00Z",
        }
        for each in positions
    ]
    return json.dumps({"version": "1", "checkpoints": checkpoints}, separators=(",", ":")).encode()


@pytest.mark.parametrize("case", cases("vector"))
def test_samples(case: Path) -> None:
    """Each log of a sample has its offset."""
    (data,) = state_of(case, vector).values()
    positions = vector.parse(data)
    for log in logs_of(case):
        assert find_offset(positions, case, log, vector) == log["offset"]
        if "fingerprint" in log:
            head = (case / Path(log["path"]).name).read_bytes()
            assert log["fingerprint"] in [each.value for each in vector.fingerprints(head)]


@given(st.lists(POSITIONS, max_size=20))
def test_written_is_read(positions: list[Position]) -> None:
    """What Vector writes is read back; checksums beyond 2^53 too."""
    assert vector.parse(write(positions)) == positions


@pytest.mark.parametrize("data", JSON_BOMBS)
def test_bombs(data: bytes) -> None:
    """JSON that is no state file is refused soon."""
    assert check(lambda: vector.parse(data), vector) is None


@pytest.mark.parametrize("case", cases("vector"))
def test_damage(case: Path) -> None:
    """A damaged file gives positions or one sentence."""
    for data in damaged((case / "checkpoints.json").read_bytes(), 17, 500):
        check(lambda data=data: vector.parse(data), vector)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"version": "2", "checkpoints": []}, "version"),
        ({"version": "1"}, "no list"),
        ({"version": "1", "checkpoints": [{"fingerprint": {"unknown": 1}, "position": 1}]}, "unknown kinds"),
        ({"version": "1", "checkpoints": [{"fingerprint": {"dev_inode": [1]}, "position": 1}]}, "device and inode"),
        ({"version": "1", "checkpoints": [{"fingerprint": {"dev_inode": [1, 2]}, "position": -1}]}, "position"),
        ({"version": "1", "checkpoints": [{"fingerprint": {"dev_inode": [1, 2]}, "position": True}]}, "position"),
        (
            {"version": "1", "checkpoints": [{"fingerprint": {"first_lines_checksum": 2**64}, "position": 1}]},
            "checksum",
        ),
    ],
)
def test_refused(state: object, message: str) -> None:
    """What cannot be right is refused, with its fault."""
    with pytest.raises(StateFormatError, match=message):
        vector.parse(json.dumps(state).encode())


def test_older_entries_are_left_out() -> None:
    """Entries of a kind that Vector no longer uses do not hide the others; the older name of the checksum is read."""
    checkpoints = [
        {"fingerprint": {"modification_time": [1, 2]}, "position": 3},
        {"fingerprint": {"first_line_checksum": 4}, "position": 5},
    ]
    state = json.dumps({"version": "1", "checkpoints": checkpoints}).encode()
    assert vector.parse(state) == [Position(5, fingerprint=Fingerprint("crc64-first-line", 4))]


def test_checksum_is_of_ecma() -> None:
    """The checksum is CRC-64/ECMA-182, whose check value is published."""
    assert vector.crc64(b"123456789") == 0x6C40DF5F0B497347


def test_first_line() -> None:
    """The first line counts with its newline; without one a log has no fingerprint before the longest line."""
    whole = next(vector.fingerprints(b"one\n"))
    assert list(vector.fingerprints(b"one\ntwo\n")) == [whole]
    assert whole.value == vector.crc64(b"one\n")
    assert list(vector.fingerprints(b"one")) == []
    assert list(vector.fingerprints(b"")) == []


def test_long_first_line() -> None:
    """A line longer than a source reads counts with as much of it as each kind of source takes."""
    head = b"x" * vector.HEAD_BYTES
    expected = [vector.crc64(head[:32_768]), vector.crc64(head)]
    assert [each.value for each in vector.fingerprints(head)] == expected
    assert [each.value for each in vector.fingerprints(head[:40_000])] == expected[:1]
    line = head[:40_000] + b"\n"
    assert [each.value for each in vector.fingerprints(line)] == [expected[0], vector.crc64(line)]


def test_collision_is_visible() -> None:
    """Two logs with the same first line have the same fingerprint: the caller sees that one position has two logs."""
    case = SAMPLES / "vector" / "03-same-first-line-collision"
    first, second = (list(vector.fingerprints((case / name).read_bytes())) for name in ("c1.log", "c2.log"))
    assert first == second
