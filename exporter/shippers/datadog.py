"""Datadog Agent: ``registry.json`` in ``<run_path>``, replaced by a rename.

An offset says what the intake has acknowledged. A path is all that identifies a log; the Agent keeps an entry for 23
hours.
"""

from __future__ import annotations

import re

from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.values import as_count, as_path, load_json

FLUSH_INTERVAL_S = 1.0

_DIGITS = re.compile(r"[0-9]{1,20}")


def is_state_file(name: str) -> bool:
    """Tell whether a file of this name, in the Agent's run directory, has positions."""
    return name == "registry.json"


def parse(data: bytes) -> list[Position]:
    """Parse ``registry.json``.

    Returns:
        Positions with path. Left out are entries of the journal, of containers and the like.

    Raises:
        StateFormatError: it is damaged or of an unknown version.
    """
    state = load_json(data)
    if not isinstance(state, dict) or type(state.get("Version")) is not int or not 1 <= state["Version"] <= 3:
        raise StateFormatError("its version is unknown; expected version 1 to 3 of the Datadog Agent's registry")
    registry = state.get("Registry")
    if not isinstance(registry, dict):
        raise StateFormatError("it has no registry")
    positions = []
    for key, entry in registry.items():
        path = as_path(key.removeprefix("file:"))
        if path is None:
            continue
        offset = entry.get("Offset") if isinstance(entry, dict) else None
        if isinstance(offset, str) and _DIGITS.fullmatch(offset):  # since version 2
            offset = int(offset)
        count = as_count(offset)
        if count is None:
            raise StateFormatError("an entry has no valid offset")
        positions.append(Position(count, path))
    return positions
