"""Positions files in YAML, of promtail and Alloy: a mapping ``positions`` of keys to offsets.

Only events of the YAML parser are read, of which the format allows few: nothing is constructed, no alias is expanded,
and nothing is nested deeper than a key.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import Any, TypeVar

import yaml

from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.values import check_offset, check_path

_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_BINARY = "tag:yaml.org,2002:binary"  # Go's YAML library writes text that is not UTF-8 in base64

# Keys of a cursor, which is no offset: of the journal, of containers, of events.
_CURSORS = ("cursor-", "journal-")
# Logs that are read decompressed. Their offset is a number of lines; only the name shows it.
_COMPRESSED = (".gz", ".z", ".bz2")

Key = str | dict[str, str]
_Event = TypeVar("_Event", bound=yaml.Event)


def is_log(path: str) -> bool:
    """Return whether a key's path is of a log that has an offset in bytes."""
    return not path.startswith(_CURSORS) and not path.endswith(_COMPRESSED)


def to_position(path: str, offset: str) -> Position:
    """Return the position of a log.

    Raises:
        StateFormatError: the offset is no number of bytes, or the path is none.
    """
    if not (offset.isascii() and offset.isdigit() and len(offset) <= 19):
        raise StateFormatError("has an offset that is no number of bytes; the file is damaged")
    return Position(check_offset(int(offset)), path=check_path(path))


def decode(content: bytes) -> str:
    """Return the text of a positions file.

    Raises:
        StateFormatError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise StateFormatError("is not UTF-8, expected YAML; the file is damaged") from None


def entries(text: str) -> Iterator[tuple[Key, str]]:
    """Iterate over the keys and offsets of a positions file; a key is a text, or a mapping of text to text.

    Raises:
        StateFormatError: the text is damaged, or is not a positions file.
    """
    try:
        yield from _entries(_LOADER(text))
    except (yaml.YAMLError, ValueError, OverflowError):  # the last two: the number of a character that does not exist
        raise StateFormatError("is not YAML; the file is damaged") from None


def _entries(parser: Any) -> Iterator[tuple[Key, str]]:
    _take(parser, yaml.StreamStartEvent)
    if parser.check_event(yaml.StreamEndEvent):
        return
    _take(parser, yaml.DocumentStartEvent)
    _take(parser, yaml.MappingStartEvent)
    while not parser.check_event(yaml.MappingEndEvent):
        if _text(parser) != "positions":
            raise StateFormatError("has another key than positions; it is no positions file")
        if parser.check_event(yaml.ScalarEvent) and parser.peek_event().value in ("", "null", "~"):
            parser.get_event()
            continue
        _take(parser, yaml.MappingStartEvent)
        while not parser.check_event(yaml.MappingEndEvent):
            yield _key(parser), _text(parser)
        parser.get_event()
    parser.get_event()
    _take(parser, yaml.DocumentEndEvent)
    _take(parser, yaml.StreamEndEvent)


def _key(parser: Any) -> Key:
    if not parser.check_event(yaml.MappingStartEvent):
        return _text(parser)
    parser.get_event()
    key = {}
    while not parser.check_event(yaml.MappingEndEvent):
        name = _text(parser)
        key[name] = _text(parser)
    parser.get_event()
    return key


def _text(parser: Any) -> str:
    event = _take(parser, yaml.ScalarEvent)
    if event.tag != _BINARY:
        return str(event.value)
    try:
        return os.fsdecode(base64.b64decode(event.value))
    except ValueError:
        raise StateFormatError("has text that is not base64; the file is damaged") from None


def _take(parser: Any, kind: type[_Event]) -> _Event:
    event = parser.get_event()
    if not isinstance(event, kind):
        raise StateFormatError("has YAML of another structure than a mapping of logs to offsets; it is damaged")
    return event
