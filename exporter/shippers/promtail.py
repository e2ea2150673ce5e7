"""promtail, Grafana Agent in static mode: a positions file in YAML, the offset of each path.

The offset is of what promtail has read, in whole lines. promtail writes the file every ten seconds, by renaming.
"""

from __future__ import annotations

import re

from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.yaml_positions import decode, entries, is_log, to_position

FLUSH_INTERVAL_S = 20.0

# What nearly all files look like, read four times as fast: plain keys, those of more than 128 characters after "? ".
# The quantifiers "*+" never backtrack.
_HEAD = "positions:\n"
_ENTRY = re.compile(r'  (?:(/[\w./@%=,~+-]*+): |\? (/[\w./@%=,~+-]*+)\n  : )"([0-9]{1,18})"\n', re.ASCII)


def is_state_file(name: str) -> bool:
    """Return whether a file of a directory is a positions file, and not a temporary one."""
    return name.endswith((".yaml", ".yml")) and not name.startswith(".")


def parse(content: bytes) -> list[Position]:
    """Parse a positions file.

    Skips what is no file, such as the cursor of a journal, and compressed files, whose offset is a number of lines.

    Raises:
        StateFormatError: the content is damaged, or is not a positions file of promtail.
    """
    text = decode(content)
    parts = _ENTRY.split(text.removeprefix(_HEAD))  # what is between entries, the groups of an entry, and so on
    if text.startswith(_HEAD) and not any(parts[::4]):
        found = zip(parts[1::4], parts[2::4], parts[3::4], strict=True)
        return [Position(int(offset), key or long_key) for key, long_key, offset in found if is_log(key or long_key)]
    positions = []
    for key, offset in entries(text):
        if not isinstance(key, str):
            raise StateFormatError("is a positions file of Alloy; use type: alloy")
        if is_log(key):
            positions.append(to_position(key, offset))
    return positions
