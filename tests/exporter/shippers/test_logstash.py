"""Logstash's sincedb."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers import logstash
from exporter.shippers.positions import Position, StateFormatError
from tests.exporter.shippers.state_files import cases, check, damaged, find_offset, logs_of, state_of

PATHS = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"])).map(lambda name: f"/{name}")
COUNTS = st.integers(0, 2**63 - 1)


def line(position: Position) -> str:
    """Write what Logstash would write."""
    assert position.device is not None
    place = f"{position.inode} {os.major(position.device)} {os.minor(position.device)} {position.offset}"
    return place + ("\n" if position.path is None else f" 1787392800.123456 {position.path}\n")


@pytest.mark.parametrize("case", cases("logstash"))
def test_samples(case: Path) -> None:
    """Each log of a sample has its offset; a path with a space is whole."""
    (data,) = state_of(case, logstash).values()
    positions = logstash.parse(data)
    for log in logs_of(case):
        assert find_offset(positions, case, log, logstash) == log["offset"]
        assert log["path"] in [each.path for each in positions]


DEVICES = st.integers(1, 4095).map(lambda major: os.makedev(major, 7))
POSITIONS = st.builds(lambda *numbers: Position(*numbers), COUNTS, st.one_of(st.none(), PATHS), COUNTS, DEVICES)


@given(st.lists(POSITIONS))
def test_written_is_read(positions: list[Position]) -> None:
    """What Logstash writes is read back, with paths and, of its version 1, without."""
    assert logstash.parse("".join(map(line, positions)).encode()) == positions


def test_names() -> None:
    """The sincedbs that Logstash names itself count, and not the temporary files beside them."""
    assert logstash.is_state_file(".sincedb_452905a167cf4509fd08acb964fdb20c")
    assert not logstash.is_state_file(".sincedb_452905a167cf4509fd08acb964fdb20c.17.2120.558042")


def test_device_of_jruby() -> None:
    """JRuby says the whole device as the minor number."""
    assert logstash.parse(b"5 0 65024 7\n5 254 0 7\n5 0 44 7") == [
        Position(7, None, 5, 65024),
        Position(7, None, 5, 65024),
        Position(7, None, 5, 44),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"5 254 0\n", "sincedb"),
        (b"5 254 0 -7\n", "sincedb"),
        (b"unknown 0 0 7\n", "sincedb"),
        (b"5 254 0 7 now /a\n", "sincedb"),
        (b"5 254 0 99999999999999999999\n", "impossible"),
        (b"5 99999999999 0 7\n", "impossible"),
        (b"5 254 0 7\n" + b"9" * 1_000_000, "sincedb"),
        (b"\0" * 1000, "sincedb"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    """What cannot be right is refused, with its fault."""
    with pytest.raises(StateFormatError, match=message):
        logstash.parse(data)


@pytest.mark.parametrize("case", cases("logstash"))
def test_damage(case: Path) -> None:
    """A damaged file gives positions or one sentence."""
    (data,) = state_of(case, logstash).values()
    for changed in damaged(data, 17, 1000):
        check(lambda changed=changed: logstash.parse(changed), logstash)
