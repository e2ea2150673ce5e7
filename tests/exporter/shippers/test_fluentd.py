"""fluentd's pos_file."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers.fluentd import is_state_file, parse
from exporter.shippers.positions import Position, StateFormatError
from tests.exporter.shippers.sample_cases import SAMPLES, cases, check_offsets, check_plausible, damaged

LINE = b"/var/log/a.log\t0000000000001b4b\t000000000017c159\n"
PATHS = st.binary(min_size=1).filter(lambda path: not {0, 10} & set(path))


@pytest.mark.parametrize("case", cases("fluentd"))
def test_finds_the_offsets_of_samples(case: Path) -> None:
    """Each log of a sample has the offset that fluentd stored."""
    check_offsets(case, parse((case / "app.log.pos").read_bytes()))


@given(st.lists(st.tuples(PATHS, st.integers(0, (1 << 63) - 1), st.integers(1, (1 << 64) - 1))))
def test_reads_what_was_written(logs: list[tuple[bytes, int, int]]) -> None:
    """Paths of any bytes, tabs included, and numbers of all sizes are read as fluentd's format has them."""
    content = b"".join(b"%s\t%016x\t%016x\n" % log for log in logs)
    assert parse(content) == [Position(offset, os.fsdecode(path), inode) for path, offset, inode in logs]


def test_skips_logs_that_are_not_watched_or_not_yet_known() -> None:
    """An offset of all ones says that fluentd no longer reads the log; a new line has no inode number yet."""
    unwatched = b"/var/log/a.log\tffffffffffffffff\t000000000017c159\n"
    new = b"/var/log/b.log\t0000000000000000\t0000000000000000\n"
    assert parse(unwatched + new + LINE) == [Position(0x1B4B, "/var/log/a.log", 0x17C159)]


def test_reads_inode_numbers_of_eight_digits() -> None:
    """So they were before version 0.14."""
    assert parse(b"/a\t0000000000000007\t0017c159\n") == [Position(7, "/a", 0x17C159)]


def test_an_empty_file_has_no_positions() -> None:
    """fluentd creates its file empty."""
    assert parse(b"") == []


@pytest.mark.parametrize(
    "content",
    [
        LINE[:-1],
        LINE + LINE[:20],
        LINE.replace(b"\n", b"\r\n"),
        b"\n" + LINE,
        LINE.replace(b"\t00000", b" 00000"),
        LINE.replace(b"000001b4b", b"00001b4b"),
        LINE.replace(b"a.log", b"a\0log"),
        b"\t0000000000001b4b\t000000000017c159\n",
        b"/a\t8000000000000000\t000000000017c159\n",
        b"\0" * 4096,
        b"\t" * 1_000_000,
    ],
)
def test_refuses_what_is_torn_or_damaged(content: bytes) -> None:
    """A file that is not entirely lines of path, offset and inode raises, without a part of it in the message."""
    with pytest.raises(StateFormatError) as caught:
        parse(content)
    assert "a.log" not in str(caught.value)


def test_damage_raises_nothing_else() -> None:
    """Of any damaged file the positions are possible ones, or it is refused."""
    refused = 0
    for content in damaged([path.read_bytes() for path in SAMPLES.glob("fluentd/*/app.log.pos")], 3000):
        try:
            check_plausible(parse(content))
        except StateFormatError:
            refused += 1
    assert refused > 1000


def test_names() -> None:
    """Of a directory, files with the usual suffix are position files."""
    assert is_state_file("app.log.pos")
    assert not is_state_file("app.log")
