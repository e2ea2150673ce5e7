"""OpenTelemetry Collector: ``receiver_filelog_<name>`` of the ``file_storage`` extension, a bbolt database.

An offset says what was read, at each poll. A log's first bytes identify it, and the path if the receiver adds it to the
attributes. The collector keeps an entry for about three polls after its log was rotated out of the patterns or deleted.
It holds an exclusive lock on the file: read all of the file at once, without a lock, and again if it does not parse.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Collection, Iterator

from exporter.shippers.positions import Fingerprint, Position, StateFormatError
from exporter.shippers.values import as_count, as_path, load_json

FLUSH_INTERVAL_S = 1.0
HEAD_BYTES = 1000
"""The default ``fingerprint_size``. `fingerprints` needs as many first bytes of a log as the longest one has."""

_KIND = "first-bytes"
_KEY = b"file_input.knownFiles"  # with a prefix since 2023
_PAGE = struct.Struct("<QHHI")  # number, flags, count of elements, overflow
_META = struct.Struct(
    "<IIIIQQQQQQ"
)  # magic, version, page size, flags, root, sequence, freelist, pages, txid, checksum
_BRANCH = struct.Struct("<IIQ")  # position of the key, its size, page
_LEAF = struct.Struct("<IIII")  # flags, position of the key, its size, the value's size
_BUCKET = struct.Struct("<QQ")  # page of its root, sequence
_MAGIC, _VERSION = 0xED0CDAED, 2
_BRANCH_PAGE, _LEAF_PAGE = 1, 2
_IS_BUCKET = 1
_DAMAGED = "a page is damaged, cut off, or was written while it was read"
_Element = tuple[bool, memoryview, memoryview]  # whether it is a bucket; its key, its value
_LEAST_PAGE_SIZE, _LARGEST_PAGE_SIZE = 1024, 65_536


def is_state_file(name: str) -> bool:
    """Tell whether a file of this name, in the extension's directory, has positions."""
    return name.startswith("receiver_filelog_")


def parse(data: bytes) -> list[Position]:
    """Parse a database of the ``file_storage`` extension.

    Returns:
        Positions with fingerprint, and with path if it is stored. Compressed logs are left out.

    Raises:
        StateFormatError: it is damaged, torn or of an unknown version.
    """
    page_size, root = _newest_meta(data)
    pages = _Pages(data, page_size)
    for is_bucket, name, bucket in pages.elements(root):
        if is_bucket and bytes(name[:8]) == b"default":
            for _, key, value in pages.bucket_elements(bucket):
                if bytes(key[-len(_KEY) :]) == _KEY:
                    return _parse_known_files(bytes(value))
    return []


def _newest_meta(data: bytes) -> tuple[int, int]:
    """Find the valid meta page with the higher transaction; return the size of pages and the root's number.

    The second one begins where the first page ends.
    """
    size, newest = _LEAST_PAGE_SIZE, None
    starts = [0]
    while size <= _LARGEST_PAGE_SIZE:
        starts.append(size)
        size *= 2
    for start in starts:
        if len(data) < start + _PAGE.size + _META.size:
            break
        meta = data[start + _PAGE.size : start + _PAGE.size + _META.size]
        magic, version, page_size, _, root, _, _, _, txid, checksum = _META.unpack(meta)
        if magic != _MAGIC or checksum != _fnv1a(meta[:-8]):
            continue
        if version != _VERSION:
            raise StateFormatError("its version is unknown; expected version 2 of bbolt")
        if page_size not in starts[1:] or start not in (0, page_size):
            continue
        if newest is None or txid > newest[0]:
            newest = txid, page_size, root
    if newest is None:
        raise StateFormatError("it is not a bbolt database, or both of its meta pages are damaged")
    return newest[1], newest[2]


def _fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


class _Pages:
    """The pages of a database. Reads no more of them than there are, whatever their numbers say."""

    def __init__(self, data: bytes, page_size: int) -> None:
        self._data = memoryview(data)
        self._page_size = page_size
        self._unread = len(data) // page_size

    def elements(self, root: int) -> Iterator[_Element]:
        """Read all elements of the tree below a page."""
        todo = [root]
        while todo:
            number = todo.pop()
            start = number * self._page_size
            stored_number, flags, count, overflow = _unpack(_PAGE, self._data, start)
            self._unread -= overflow + 1
            if stored_number != number or self._unread < 0:
                raise StateFormatError(_DAMAGED)
            page = self._data[start : start + (overflow + 1) * self._page_size]
            if flags == _LEAF_PAGE:
                yield from _leaf_elements(page, count)
            elif flags == _BRANCH_PAGE:
                todo += [_unpack(_BRANCH, page, _PAGE.size + at * _BRANCH.size)[2] for at in range(count)]
            else:
                raise StateFormatError(_DAMAGED)

    def bucket_elements(self, bucket: memoryview) -> Iterator[_Element]:
        """Read the elements of a bucket: a tree of its own, or one small page in the bucket's value."""
        root, _ = _unpack(_BUCKET, bucket, 0)
        if root:
            yield from self.elements(root)
            return
        page = bucket[_BUCKET.size :]
        _, flags, count, _ = _unpack(_PAGE, page, 0)
        if flags != _LEAF_PAGE:
            raise StateFormatError(_DAMAGED)
        yield from _leaf_elements(page, count)


def _leaf_elements(page: memoryview, count: int) -> Iterator[_Element]:
    for at in range(count):
        element = _PAGE.size + at * _LEAF.size
        flags, position, key_size, value_size = _unpack(_LEAF, page, element)
        value = element + position + key_size
        if value + value_size > len(page):
            raise StateFormatError(_DAMAGED)
        yield bool(flags & _IS_BUCKET), page[value - key_size : value], page[value : value + value_size]


def _unpack(layout: struct.Struct, data: memoryview, at: int) -> tuple[int, ...]:
    if at + layout.size > len(data):
        raise StateFormatError(_DAMAGED)
    return layout.unpack_from(data, at)


def _parse_known_files(content: bytes) -> list[Position]:
    """Parse a count, then one JSON object a line."""
    if not content[:1].isdigit():
        raise StateFormatError("its checkpoints are not JSON; disable the gate filelog.protobufCheckpointEncoding")
    count, *lines = content.split(b"\n")
    files = [load_json(line) for line in lines if line]
    if as_count(load_json(count)) != len(files):
        raise StateFormatError("the number of its checkpoints is wrong")
    return [position for each in files if (position := _parse_file(each)) is not None]


def _parse_file(file: object) -> Position | None:
    if not isinstance(file, dict) or not isinstance(fingerprint := file.get("Fingerprint"), dict):
        raise StateFormatError("a checkpoint has no fingerprint")
    offset = as_count(file.get("Offset"))
    if offset is None:
        raise StateFormatError("a checkpoint has no valid offset")
    if file.get("FileType") == ".gz":  # the offset is one of the unpacked bytes
        return None
    try:
        head = base64.b64decode(fingerprint.get("first_bytes") or "", validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise StateFormatError("a checkpoint has no valid fingerprint") from None
    attributes = file.get("FileAttributes")
    path = as_path(attributes.get("log.file.path")) if isinstance(attributes, dict) else None
    return Position(offset, path, fingerprint=Fingerprint(_KIND, head, len(head)) if head else None)


def fingerprints(head: bytes, sizes: Collection[int]) -> Iterator[Fingerprint]:
    """Compute the fingerprints that a log may have in a state file, the longest first.

    The stored bytes are the log's first ones, or were all of it when the collector read it.

    Args:
        head: the log's first bytes, as many as the largest of ``sizes``, or all of it.
        sizes: of the fingerprints in the state file.
    """
    for size in sorted(set(sizes), reverse=True):
        if 0 < size <= len(head):
            yield Fingerprint(_KIND, head[:size], size)
