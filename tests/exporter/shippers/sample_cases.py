"""Sample state files of shippers, the offsets that have to be found in them, and damaged copies of contents."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from exporter.shippers.positions import Position

SAMPLES = Path(__file__).parent / "samples"


def cases(shipper: str) -> list[Any]:
    """The directories of a shipper's samples, as parameters."""
    return [pytest.param(case, id=case.name) for case in sorted((SAMPLES / shipper).iterdir())]


def check_offsets(case: Path, positions: Sequence[Position]) -> None:
    """Each log of the sample has the offset that is expected, or no position."""
    expected = json.loads((case / "expected.json").read_text())
    logs = expected.get("files", [expected] if expected["path"] else [])
    if "offset" in expected.get("deleted", ()):
        logs = [*logs, expected["deleted"]]
    for log in logs:
        assert _offset(log, positions) == log["offset"], log
    if not logs:
        assert not positions


def _offset(log: Mapping[str, Any], positions: Sequence[Position]) -> int | None:
    """A position with an inode is of that inode, one without of its path; the least of several."""
    path = log.get("state_path", log["path"])
    found = [p.offset for p in positions if (p.inode == log["inode"] if p.inode else p.path == path)]
    return min(found, default=None)


def damaged(contents: Sequence[bytes], count: int) -> Iterator[bytes]:
    """Contents that are cut off, have wrong bytes, or have parts of each other."""
    dice = random.Random(17)
    for _ in range(count):
        content = bytearray(dice.choice(contents))
        for _ in range(dice.randint(1, 3)):
            at = dice.randint(0, len(content))
            match dice.randint(0, 4):
                case 0:
                    del content[at:]
                case 1:
                    del content[at : at + dice.randint(1, 40)]
                case 2:
                    other = dice.choice(contents)
                    begin = dice.randint(0, len(other))
                    content[at:at] = other[begin : begin + dice.randint(1, 200)]
                case 3:
                    content[at : at + 1] = dice.randbytes(1)
                case 4:
                    content[at:at] = dice.choice(ODD)
        yield bytes(content)


ODD = (b"\0" * 40, b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\t", b"-", b"&a [*a]", b"[" * 3000, b'"', b"'", b"9" * 30)


def check_plausible(positions: Sequence[Position]) -> None:
    """What a damaged file gives is at least possible."""
    for position in positions:
        assert 0 <= position.offset < 1 << 63
        assert position.inode is None or 0 < position.inode < 1 << 64
        assert position.path
        position.path.encode("utf-8", "surrogateescape")
