"""Filebeat: a registry directory with a log of changes, ``log.json``, and the checkpoint that it begins after.

An offset says what the output has acknowledged. Entries of rotated and deleted logs stay until Filebeat cleans up.
When Filebeat has written a new checkpoint, it truncates the log: read ``log.json`` first, then list the directory and
read the checkpoints. In another order changes may be missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from exporter.shippers.files import read_file
from exporter.shippers.positions import Fingerprint, Position, StateFormatError
from exporter.shippers.values import as_count, as_path, load_json

FLUSH_INTERVAL_S = 1.0
DIRECTORIES = ("registry/filebeat", "filebeat", "")
"""Where a registry is, below Filebeat's data directory, below ``registry``, or in the directory that has it."""
IS_DIRECTORY = True
"""The files of a directory are one state."""
HEAD_BYTES = 1024
"""How many first bytes of a log `fingerprints` needs: the default ``length`` of the fingerprint, from offset 0."""

_LOG = "log.json"
_STATE_FILE = re.compile(r"log\.json|meta\.json|(\d{1,20})\.json", re.ASCII)
_ACTION = re.compile(rb'\{"op":\s*"(set|remove)",\s*"id":\s*(\d{1,20})\}\s*')
_CHANGE = re.compile(rb'\{"k":\s*("(?:[^"\\]|\\.)*+")\s*[,}]', re.IGNORECASE)
_NATIVE = re.compile(r"(\d{1,20})-(\d{1,20})(?:-.*)?", re.DOTALL | re.ASCII)
_NUMBER = re.compile(r"\d{1,20}", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_state_file(name: str) -> bool:
    """Tell whether a file of this name, in ``registry/filebeat``, has positions or the version."""
    return _STATE_FILE.fullmatch(name) is not None


def read(directory: str, _copies: str, _before: Sequence[Position] = ()) -> list[Position]:
    """Read a registry directory beside a running Filebeat.

    Raises:
        OSError: a file cannot be read; FileNotFoundError: Filebeat has replaced a checkpoint meanwhile.
        StateFormatError: as by `parse`.
    """
    files = {}
    with contextlib.suppress(FileNotFoundError):
        files[_LOG] = read_file(f"{directory}/{_LOG}")  # first: what it loses meanwhile is in the checkpoint
    files |= {
        name: read_file(f"{directory}/{name}") for name in os.listdir(directory) if is_state_file(name) and name != _LOG
    }
    return parse(files)


def parse(files: Mapping[str, bytes]) -> list[Position]:
    """Parse a registry directory.

    The newest checkpoint counts. Of the log, changes up to the checkpoint's are ignored, and nothing counts after a gap
    in their numbers. A change at its end that is cut off is still being written.

    Args:
        files: content by name, of all files of the directory that `is_state_file` names.

    Returns:
        Positions of the ``log`` and ``filestream`` inputs, with what identifies the log, and the path. Logs of which
        nothing is acknowledged yet have none; neither have entries that Filebeat is about to remove (``ttl`` 0).

    Raises:
        StateFormatError: a file is damaged, or the registry is of an unknown version.
    """
    if "meta.json" in files:
        meta = load_json(files["meta.json"])
        if not isinstance(meta, dict) or meta.get("version") != "1":
            raise StateFormatError("meta.json has an unknown version; expected version 1 of Filebeat's registry")
    if not files.keys() - {"meta.json"}:
        raise StateFormatError("it has neither log.json nor a checkpoint")
    checkpoints = {int(match[1]): name for name in files if (match := _STATE_FILE.fullmatch(name)) and match[1]}
    transaction = max(checkpoints, default=0)
    entries = _read_checkpoint(files[checkpoints[transaction]]) if checkpoints else {}
    _apply_log(files.get(_LOG, b""), transaction, entries)
    positions = {key: position for key, value in entries.items() if (position := _parse_entry(key, value)) is not None}
    # An input's move from `log` to `filestream` leaves the old entry, whose ttl is -2 from the next start on.
    moved = Counter((each.inode, each.device) for each in positions.values())
    return [
        each for key, each in positions.items() if not (_is_unused(entries[key]) and moved[each.inode, each.device] > 1)
    ]


def _is_unused(entry: object) -> bool:
    return isinstance(entry, dict) and entry.get("ttl") == -2


def _read_checkpoint(data: bytes) -> dict[str, object]:
    states = load_json(data)
    if not isinstance(states, list):
        raise StateFormatError("the checkpoint is not a list")
    entries: dict[str, object] = {}
    for state in states:
        if not isinstance(state, dict) or not isinstance(key := state.get("_key"), str):
            raise StateFormatError("the checkpoint has an entry without a key")
        entries[key] = state
    return entries


def _apply_log(data: bytes, transaction: int, entries: dict[str, object]) -> None:
    """Apply the changes. Of each key only the last one is parsed: the log may have many thousands."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    if lines and lines[-1].startswith(b"{") and not _is_json(lines[-1]):
        lines.pop()  # still being written
    if len(lines) % 2 and not _ACTION.fullmatch(lines[-1]):  # an action alone: its change is still to come
        raise StateFormatError("log.json has a damaged change")
    latest: dict[bytes, bytes | None] = {}
    for action_line, change_line in zip(lines[::2], lines[1::2], strict=False):
        action, change = _ACTION.fullmatch(action_line), _CHANGE.match(change_line)
        if action is None or change is None:
            raise StateFormatError("log.json has a damaged change")
        distance = (int(action[2]) - transaction) % 2**64  # the numbers overflow, as Filebeat's do
        if distance == 0 or distance >= 2**63:
            continue
        if distance > 1:
            break
        transaction += 1
        latest[change[1]] = change_line if action[1] == b"set" else None
    for raw_key, line in latest.items():
        key = load_json(raw_key)
        assert isinstance(key, str)  # by the pattern
        entries.pop(key, None)
        if line is not None:
            state = load_json(line)
            entries[key] = state.get("v", state.get("V")) if isinstance(state, dict) else None


def _is_json(line: bytes) -> bool:
    try:
        load_json(line)
    except StateFormatError:
        return False
    return True


def _parse_entry(key: str, value: object) -> Position | None:
    is_log_input = key.startswith("filebeat::logs::")
    if not is_log_input and not key.startswith("filestream::"):
        return None  # of an input that reads no files
    if not isinstance(value, dict):
        raise StateFormatError("an entry has no state")
    if value.get("ttl") == 0:
        return None
    if is_log_input:
        if not isinstance(state := value.get("FileStateOS"), dict):
            raise StateFormatError("an entry has no inode")
        inode, device = as_count(state.get("inode")), as_count(state.get("device"))
        return Position(_offset(value), as_path(value.get("source")), inode, device)
    if value.get("cursor") is None:
        return None
    if not isinstance(cursor := value["cursor"], dict) or not isinstance(meta := value.get("meta"), dict):
        raise StateFormatError("an entry has no cursor or no meta data")
    inode, device, fingerprint = _parse_identity(key)
    return Position(_offset(cursor), as_path(meta.get("source")), inode, device, fingerprint)


def _offset(state: dict[object, object]) -> int:
    offset = as_count(state.get("offset"))
    if offset is None:
        raise StateFormatError("an entry has no valid offset")
    return offset


def _parse_identity(key: str) -> tuple[int | None, int | None, Fingerprint | None]:
    """Parse ``filestream::<id of the input>::<kind>::<identity>``: native, inode_marker, fingerprint or path."""
    _, _, kind, identity = (key.split("::", 3) + [""] * 3)[:4]
    numbers = _NATIVE.fullmatch(identity)
    if kind == "native" and numbers is not None:
        return as_count(int(numbers[1])), as_count(int(numbers[2])), None
    inode = identity.partition("-")[0]
    if kind == "inode_marker" and _NUMBER.fullmatch(inode):
        return as_count(int(inode)), None, None
    checksum = _SHA256.match(identity)
    if kind == "fingerprint" and checksum is not None:
        return None, None, Fingerprint("sha256", checksum[0], HEAD_BYTES)
    return None, None, None


def fingerprints(head: bytes, sizes: Collection[int] = ()) -> Iterator[Fingerprint]:
    """Compute the fingerprint that a log has in a registry. A shorter log has none.

    Args:
        head: the log's first `HEAD_BYTES` bytes, or all of it.
        sizes: not used; all fingerprints of a registry are of `HEAD_BYTES` bytes.
    """
    if len(head) >= HEAD_BYTES:
        yield Fingerprint("sha256", hashlib.sha256(head[:HEAD_BYTES]).hexdigest(), HEAD_BYTES)
