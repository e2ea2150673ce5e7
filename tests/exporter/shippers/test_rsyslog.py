"""rsyslog's state files of imfile."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.rsyslog import is_state_file, parse
from tests.exporter.shippers.sample_cases import SAMPLES, cases, check_offsets, check_plausible, damaged

NAME = "imfile-state:1556745:2c679aa2b9f15a7a"
STATE = b'{ "filename": "\\/var\\/log\\/a.log", "prev_was_nl": 0, "curr_offs": 6987, "strt_offs": 6980 }'


@pytest.mark.parametrize("case", cases("rsyslog"))
def test_finds_the_offsets_of_samples(case: Path) -> None:
    """Each log of a sample has the offset that rsyslog stored, under the inode number of the state file's name."""
    states = [path for path in case.iterdir() if is_state_file(path.name)]
    check_offsets(case, [position for path in states for position in parse(path.read_bytes(), path.name)])


@given(st.binary(min_size=1).filter(lambda path: 0 not in path), st.integers(0, (1 << 63) - 1))
def test_reads_what_was_written(path: bytes, offset: int) -> None:
    """Paths of any bytes, which rsyslog writes as they are, and offsets of all sizes are read."""
    quoted = b"".join(b"\\u%04x" % byte if byte < 32 or byte in b'"\\/' else bytes([byte]) for byte in path)
    content = b'{ "filename": "%s", "curr_offs": %d, "strt_offs": 0, "prev_msg_segment": "a" }' % (quoted, offset)
    assert parse(content, "imfile-state:7") == [Position(offset, os.fsdecode(path), 7)]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (STATE, "imfile-state:-var-log-a.log"),
        (STATE, "imfile-state:0"),
        (STATE, "imfile-state:99999999999999999999"),
        (b"", NAME),
        (STATE[:-1], NAME),
        (STATE + STATE, NAME),
        (STATE.replace(b"6987", b"-1"), NAME),
        (STATE.replace(b"6987", b"9223372036854775808"), NAME),
        (STATE.replace(b"6987", b"9" * 5000), NAME),
        (STATE.replace(b"6987", b"6987.0"), NAME),
        (STATE.replace(b"6987", b"true"), NAME),
        (STATE.replace(b"curr_offs", b"curr"), NAME),
        (STATE.replace(b"a.log", b"\\u0000"), NAME),
        (STATE.replace(b"a.log", b"\\ud800"), NAME),
        (STATE.replace(b'"\\/var\\/log\\/a.log"', b"7"), NAME),
        (b"<Obj:1:strm:1:\n", NAME),
        (b"[" * 100_000, NAME),
        (b"[]", NAME),
        (STATE.decode().encode("utf-16"), NAME),
    ],
)
def test_refuses_what_is_torn_or_damaged(content: bytes, name: str) -> None:
    """An empty file, which rsyslog is about to write, and one that is no state raise, and quote nothing of it."""
    with pytest.raises(StateFormatError) as caught:
        parse(content, name)
    assert "var" not in str(caught.value)


def test_damage_raises_nothing_else() -> None:
    """Of any damaged file the positions are possible ones, or it is refused."""
    refused = 0
    for content in damaged([path.read_bytes() for path in SAMPLES.glob("rsyslog/*/imfile-state:*")], 3000):
        try:
            check_plausible(parse(content, NAME))
        except StateFormatError:
            refused += 1
    assert refused > 1000


def test_the_last_of_two_equal_keys_counts() -> None:
    """As it does when rsyslog reads its state."""
    assert parse(json.dumps({"filename": "/a", "curr_offs": 1})[:-1].encode() + b',"curr_offs":2}', NAME)[0].offset == 2


def test_names() -> None:
    """Of the work directory, files of imfile are state files; those of queues are none."""
    assert is_state_file(NAME)
    assert not is_state_file("mainqueue.qi")
    assert not is_state_file(f"{NAME}.tmp")
