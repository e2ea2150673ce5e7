"""Deflate blocks that are compressed once and joined to gzip members many times. Pure.

A block ends with a full flush: at a whole byte, and no later block refers to it. So any sequence of blocks is a deflate
stream. Its CRC-32 is computed from the blocks' CRC-32s and lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zlib_ng import zlib_ng

LEVEL = 1
"""The compression level. The next one saves a fifth of the bytes, but takes twice the time."""
_RAW = -zlib_ng.MAX_WBITS  # neither header nor trailer
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952: deflated, no name, no time, any system
_LAST_BLOCK = b"\x03\x00"  # final and empty


class Checksum(NamedTuple):
    """The CRC-32 and the length of some bytes; see :func:`join`."""

    crc: int
    length: int


class Block(NamedTuple):
    """Some bytes as a deflate block, and their checksum."""

    deflated: bytes
    checksum: Checksum


class Deflater:
    """Makes blocks. Only one thread at a time may use it. Keep it: allocating one takes longer than a block."""

    def __init__(self) -> None:
        self._compressor = zlib_ng.compressobj(LEVEL, zlib_ng.DEFLATED, _RAW)

    def block(self, data: bytes) -> Block:
        """Compress `data` to a block."""
        deflated = self._compressor.compress(data) + self._compressor.flush(zlib_ng.Z_FULL_FLUSH)
        return Block(deflated, checksum(data))


def inflate(block: Block) -> bytes:
    """Return the uncompressed bytes of a block."""
    return zlib_ng.decompress(block.deflated + _LAST_BLOCK, _RAW, block.checksum.length)


def join_blocks(blocks: Sequence[Block]) -> Block:
    """Return a sequence of blocks as one block."""
    return Block(b"".join([block.deflated for block in blocks]), join(block.checksum for block in blocks))


def checksum(data: bytes) -> Checksum:
    """Return the checksum of `data`."""
    return Checksum(zlib_ng.crc32(data), len(data))


def join(checksums: Iterable[Checksum]) -> Checksum:
    """Return the checksum of concatenated bytes from the checksums of the parts, in order."""
    whole_crc = whole_length = 0
    for crc, length in checksums:
        whole_crc = zlib_ng.crc32_combine(whole_crc, crc, length)
        whole_length += length
    return Checksum(whole_crc, whole_length)


def gzip_member(deflated: Sequence[bytes], whole: Checksum) -> list[bytes]:
    """Return the parts of a gzip file.

    Args:
        deflated: its blocks.
        whole: the checksum of all uncompressed bytes.
    """
    trailer = whole.crc.to_bytes(4, "little") + (whole.length & 0xFFFFFFFF).to_bytes(4, "little")
    return [_HEADER, *deflated, _LAST_BLOCK + trailer]
