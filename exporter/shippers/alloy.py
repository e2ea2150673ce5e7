"""Alloy: positions files in YAML, one for each component ``loki.source.file``; offsets by path and labels.

The offset is of what Alloy has read, in whole lines. Alloy writes the file every ten seconds, by renaming. Since 1.13
an offset moves only with a line that comes ten seconds after its last move: what came between waits for that line.
"""

from __future__ import annotations

import re

from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.yaml_positions import decode, entries, is_log, to_position

FLUSH_INTERVAL_S = 20.0
QUIET_S = 10.0
DIRECTORIES = ("loki.source.file.*", "")
"""Where the files are, below the storage path or in the directory of one component."""

# What nearly all files look like, read seven times as fast: plain paths, labels in quotes over any number of lines.
# The quantifiers "*+" never backtrack.
_HEAD = "positions:\n"
_ENTRY = re.compile(
    r"""  \? path: (/[\w./@%=,~+-]*+)\n    labels: '[^']*+(?:''[^']*+){0,999}'\n  : "([0-9]{1,18})"\n""", re.ASCII
)


def is_state_file(name: str) -> bool:
    """Return whether a file of a directory is a positions file."""
    return name == "positions.yml"


def parse(content: bytes) -> list[Position]:
    """Parse a positions file. A path that is read with several sets of labels has several positions.

    Skips what is no file, such as the cursor of a container, and compressed files, whose offset is a number of lines.

    Raises:
        StateFormatError: the content is damaged, or is not a positions file of Alloy.
    """
    text = decode(content)
    parts = _ENTRY.split(text.removeprefix(_HEAD))  # what is between entries, the groups of an entry, and so on
    if text.startswith(_HEAD) and not any(parts[::3]):
        found = zip(parts[1::3], parts[2::3], strict=True)
        return [Position(int(offset), path) for path, offset in found if is_log(path)]
    positions = []
    for key, offset in entries(text):
        if isinstance(key, str):
            raise StateFormatError("is a positions file of promtail; use type: promtail")
        path = key.get("path")
        if path is None:
            raise StateFormatError("has a key without a path; it is no positions file of Alloy")
        if is_log(path):
            positions.append(to_position(path, offset))
    return positions
