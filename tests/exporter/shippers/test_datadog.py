"""The Datadog Agent's registry."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers import datadog
from exporter.shippers.positions import Position, StateFormatError
from tests.exporter.shippers.state_files import JSON_BOMBS, cases, check, damaged, find_offset, logs_of, state_of

PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(lambda name: f"/{name}")


def registry(entries: dict[str, object], version: object = 2) -> bytes:
    """Write a registry with an offset a key."""
    return json.dumps(
        {"Version": version, "Registry": {key: {"Offset": each} for key, each in entries.items()}}
    ).encode()


@pytest.mark.parametrize("case", cases("datadog"))
def test_samples(case: Path) -> None:
    """Each log of a sample has its offset; the journal is no log."""
    (data,) = state_of(case, datadog).values()
    positions = datadog.parse(data)
    assert [find_offset(positions, case, log, datadog) for log in logs_of(case)] == [6987]
    assert len(positions) == 1


def test_other_entries_are_left_out() -> None:
    """Entries that are of no file have no positions, whatever their offsets are."""
    assert datadog.parse(registry({"journald:default": "s=abc", "docker:0a1b": "2026-08-22T10:00:00Z"})) == []


@given(st.dictionaries(PATHS, st.integers(0, 2**63 - 1)), st.integers(1, 3))
def test_written_is_read(offsets: dict[str, int], version: int) -> None:
    """What the Agent writes is read back, also of its version 1, where offsets are numbers."""
    entries = {f"file:{path}": each if version == 1 else str(each) for path, each in offsets.items()}
    assert datadog.parse(registry(entries, version)) == [Position(each, path) for path, each in offsets.items()]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (registry({}, 0), "version"),
        (registry({}, 4), "version"),
        (registry({}, True), "version"),
        (b'{"Version":2}', "no registry"),
        (registry({"file:/a": "-1"}), "offset"),
        (registry({"file:/a": "1_0"}), "offset"),
        (registry({"file:/a": "99999999999999999999"}), "offset"),
        (registry({"file:/a": None}), "offset"),
        (b'{"Version":2,"Registry":{"file:/a":5}}', "offset"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    """What cannot be right is refused, with its fault."""
    with pytest.raises(StateFormatError, match=message):
        datadog.parse(data)


@pytest.mark.parametrize("data", JSON_BOMBS)
def test_bombs(data: bytes) -> None:
    """JSON that is no state file is refused soon."""
    assert check(lambda: datadog.parse(data), datadog) is None


@pytest.mark.parametrize("case", cases("datadog"))
def test_damage(case: Path) -> None:
    """A damaged file gives positions or one sentence."""
    (data,) = state_of(case, datadog).values()
    for changed in damaged(data, 17, 1000):
        check(lambda changed=changed: datadog.parse(changed), datadog)
