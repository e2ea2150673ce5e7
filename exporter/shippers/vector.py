"""Vector: ``checkpoints.json`` in ``<data_dir>/<component>``, replaced by a rename.

An offset says what was read; of a ``file`` source with acknowledgements, what the sinks have acknowledged. There are no
paths. Vector removes an entry a minute after its log was deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache

from exporter.shippers.positions import Fingerprint, Position, StateFormatError
from exporter.shippers.values import as_count, load_json

FLUSH_INTERVAL_S = 1.0
"""Of a ``file`` source: its ``glob_minimum_cooldown_ms``."""
KUBERNETES_LOGS_FLUSH_INTERVAL_S = 60.0
"""Of a ``kubernetes_logs`` source, which keeps the same file."""
DIRECTORIES = ("*", "")
"""Where the files are, below ``data_dir`` or in the directory of one component."""
HEAD_BYTES = 102_400
"""How many first bytes of a log `fingerprints` may need: the default longest line of a ``file`` source."""

_LONGEST_LINES = (32_768, HEAD_BYTES)
"""The default ``max_line_bytes`` of ``kubernetes_logs`` and ``file``: a longer first line counts with so many bytes."""
_KIND = "crc64-first-line"
_CHECKSUMS = ("first_lines_checksum", "first_line_checksum")  # today's name and the one before


def is_state_file(name: str) -> bool:
    """Tell whether a file of this name, in the component's directory, has positions."""
    return name == "checkpoints.json"


def parse(data: bytes) -> list[Position]:
    """Parse ``checkpoints.json``.

    Returns:
        Positions with inode and device, or with a fingerprint. Entries of other, older fingerprints are left out.

    Raises:
        StateFormatError: it is damaged or of an unknown version.
    """
    state = load_json(data)
    if not isinstance(state, dict) or state.get("version") != "1":
        raise StateFormatError("its version is unknown; expected version 1 of Vector's checkpoints")
    checkpoints = state.get("checkpoints")
    if not isinstance(checkpoints, list):
        raise StateFormatError("it has no list of checkpoints")
    positions = [position for each in checkpoints if (position := _parse_checkpoint(each)) is not None]
    if checkpoints and not positions:
        raise StateFormatError("all of its fingerprints are of unknown kinds")
    return positions


def _parse_checkpoint(checkpoint: object) -> Position | None:
    if not isinstance(checkpoint, dict) or not isinstance(fingerprint := checkpoint.get("fingerprint"), dict):
        raise StateFormatError("a checkpoint has no fingerprint")
    offset = as_count(checkpoint.get("position"))
    if offset is None:
        raise StateFormatError("a checkpoint has no valid position")
    for kind, value in fingerprint.items():
        if kind == "dev_inode":
            numbers = [as_count(each) for each in value] if isinstance(value, list) else []
            if len(numbers) != 2 or None in numbers:
                raise StateFormatError("a checkpoint has no valid device and inode")
            return Position(offset, device=numbers[0], inode=numbers[1])
        if kind in _CHECKSUMS:
            if type(value) is not int or not 0 <= value < 2**64:
                raise StateFormatError("a checkpoint has no valid checksum")
            return Position(offset, fingerprint=Fingerprint(_KIND, value))
    return None


def fingerprints(head: bytes, sizes: Collection[int] = ()) -> Iterator[Fingerprint]:
    """Compute the fingerprints that a log may have in a state file.

    Vector takes logs with equal first lines for one: it reads only one of them, and nothing says which.

    Args:
        head: the log's first `HEAD_BYTES` bytes, or all of it.
        sizes: not used; the size of the first line is not in the state file.
    """
    end = head.find(b"\n") + 1
    lines = [head[: end or size][:size] for size in _LONGEST_LINES if end or len(head) >= size]
    for line in dict.fromkeys(lines):
        yield Fingerprint(_KIND, crc64(line))


def crc64(data: bytes) -> int:
    """Compute the CRC-64 of ECMA-182."""
    table = _crc64_table()
    crc = 0
    for byte in data:
        crc = table[crc >> 56 ^ byte] ^ crc << 8 & 0xFFFFFFFFFFFFFFFF
    return crc


@cache
def _crc64_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 56
        for _ in range(8):
            crc = (crc << 1 ^ (0x42F0E1EBA9EA3693 if crc >> 63 else 0)) & 0xFFFFFFFFFFFFFFFF
        table.append(crc)
    return table
