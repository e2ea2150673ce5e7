"""A position: how far a shipper has read one log."""

from __future__ import annotations

from typing import NamedTuple


class StateFormatError(Exception):
    """A state file is damaged, torn or of an unknown version. The message says what, and never quotes content."""


class Position(NamedTuple):
    """How far a shipper has read one log. What identifies the log differs by format; an inode is better than a path.

    Attributes:
        offset: how many bytes the shipper has read, or its output has acknowledged.
        path: of the log as the shipper sees it; None: the format has none.
        inode: inode number of the log; None: the format has none.
        device: device number of the log, as ``st_dev``; None: the format has none.
        fingerprint: of the log's first bytes, in the format's own terms; None: the format has none.
    """

    offset: int
    path: str | None = None
    inode: int | None = None
    device: int | None = None
    fingerprint: Fingerprint | None = None


class Fingerprint(NamedTuple):
    """Identifies a log by its first bytes.

    Attributes:
        kind: how it is computed, such as "sha256" or "crc64-first-line".
        value: its value.
        size: of how many bytes it is, if that is fixed; else 0.
    """

    kind: str
    value: int | str | bytes
    size: int = 0
