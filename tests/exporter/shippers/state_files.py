"""What the tests of the parsers have in common: samples of real state files, and damage to state files."""

import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from exporter.shippers.positions import Position, StateFormatError

SOURCE_OF_VALUES = Path(__file__).parents[3] / "exporter" / "shippers" / "values.py"
SAMPLES = Path(__file__).parent / "samples"

MAX_CPU_S = 5.0  # a usual state file takes a hundredth of a second, one of a MiB takes some


def cases(shipper: str) -> list[Any]:
    """The samples of a shipper, as parameters of a test."""
    return [pytest.param(path, id=path.name) for path in sorted((SAMPLES / shipper).iterdir())]


def state_of(case: Path, module: ModuleType) -> dict[str, bytes]:
    """The state files of a sample, by name."""
    return {path.name: path.read_bytes() for path in case.iterdir() if module.is_state_file(path.name)}


def logs_of(case: Path) -> list[dict[str, Any]]:
    """What is expected of each log of a sample."""
    expected = json.loads((case / "expected.json").read_text())
    return expected.get("files") or [expected]


def find_offset(positions: list[Position], case: Path, log: Mapping[str, Any], module: ModuleType) -> int | None:
    """Find a log's offset: by inode, else by its first bytes, else by path. A position of another inode is none."""
    for position in positions:
        if position.inode == log["inode"] and position.device in (None, log["device"]):
            return position.offset
    others = [position for position in positions if position.inode is None]
    content = case / Path(log["path"]).name
    if content.exists():
        stored = [position.fingerprint for position in others if position.fingerprint is not None]
        for fingerprint in module.fingerprints(content.read_bytes(), {each.size for each in stored}):
            for position in others:
                if position.fingerprint == fingerprint:
                    return position.offset
    return next((position.offset for position in others if position.path == log["path"]), None)


def damaged(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Damage a state file in many ways: cut it off, flip bytes, put a piece elsewhere, repeat one, put numbers in."""
    rng = random.Random(seed)
    for _ in range(count):
        at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        changed = bytearray(data)
        kind = rng.randrange(6)
        if kind == 0:
            del changed[at:]
        elif kind == 1:
            for _ in range(rng.randrange(1, 9)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
        elif kind == 2:
            changed[at:at] = data[rng.randrange(len(data)) :][: rng.randrange(1, 200)]
        elif kind == 3:
            del changed[at : min(to, at + 50)]
        elif kind == 4:
            changed[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\0\0\x10\0", b"9999", b'":[{'])
        else:
            changed[at:to] = rng.randbytes(min(to - at, 40))
        yield bytes(changed)


def check(parse: Callable[[], list[Position]], module: ModuleType) -> list[Position] | None:
    """Parse; None where the parser refuses, with a sentence from its source, so that it quotes nothing.

    Every position that it returns is possible, and it is soon done.
    """
    positions, refusal = None, None
    began = time.process_time()
    try:
        positions = parse()
    except StateFormatError as error:
        refusal = error
    assert time.process_time() - began < MAX_CPU_S
    if refusal is not None:
        sources = [Path(str(each)).read_text() for each in (module.__file__, SOURCE_OF_VALUES)]
        assert any(f'"{refusal}"' in source for source in sources)
        assert refusal.__suppress_context__ or refusal.__context__ is None
    for position in positions or []:
        assert 0 <= position.offset < 2**63
        assert position.inode is None or 0 <= position.inode < 2**63
        assert position.device is None or 0 <= position.device < 2**63
        assert position.path is None or (position.path.startswith("/") and "\0" not in position.path)
    return positions


JSON_BOMBS = [
    pytest.param(b"[" * 1_000_000, id="nested lists"),
    pytest.param(b'{"a":' * 200_000, id="nested mappings"),
    pytest.param(
        b'{"version":"1","Version":2,"checkpoints":' + b"9" * 1_000_000 + b"}", id="number of a million digits"
    ),
    pytest.param(b'{"version":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="valid, nested deeply"),
    pytest.param(b"", id="empty"),
    pytest.param(b"null", id="null"),
    pytest.param(b"NaN", id="NaN"),
    pytest.param(b"\0" * 1_000_000, id="zeros"),
    pytest.param(b"\xff\xfe{\0}\0", id="UTF-16"),
]
"""What a parser of JSON has to survive."""
