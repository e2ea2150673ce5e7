"""Compressed once, sent many times: deflate blocks that join to a gzip member, and its CRC-32 from theirs. Pure.

A block ends with a full flush: at a whole byte, and the next one refers to nothing in it. So blocks in a row are a
deflate stream, whichever they are. The CRC-32 of bytes in a row comes from those of the parts, and their lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zlib_ng import zlib_ng

LEVEL = 1
"""Of compression. The next one saves a fifth of the bytes, for twice the time."""
_RAW = -zlib_ng.MAX_WBITS  # neither header nor trailer
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952: deflated, no name, no time, any system
_LAST_BLOCK = b"\x03\x00"  # final, and empty


class Checksum(NamedTuple):
    """What is to be known of some bytes to have the CRC-32 of more."""

    crc: int
    """The CRC-32."""
    length: int


class Block(NamedTuple):
    """Some bytes as a deflate block, and their checksum."""

    deflated: bytes
    checksum: Checksum


class Deflater:
    """Makes blocks. Not for several threads at once; to be kept, a new one's memory takes longer than a block."""

    def __init__(self) -> None:
        self._compressor = zlib_ng.compressobj(LEVEL, zlib_ng.DEFLATED, _RAW)

    def block(self, data: bytes) -> Block:
        """Compress `data`."""
        deflated = self._compressor.compress(data) + self._compressor.flush(zlib_ng.Z_FULL_FLUSH)
        return Block(deflated, checksum(data))


def inflate(block: Block) -> bytes:
    """Return what is in a block."""
    return zlib_ng.decompress(block.deflated + _LAST_BLOCK, _RAW, block.checksum.length)


def join_blocks(blocks: Sequence[Block]) -> Block:
    """Return some in a row as one."""
    return Block(b"".join([block.deflated for block in blocks]), join(block.checksum for block in blocks))


def checksum(data: bytes) -> Checksum:
    """Return the checksum of `data`."""
    return Checksum(zlib_ng.crc32(data), len(data))


def join(checksums: Iterable[Checksum]) -> Checksum:
    """Return the checksum of what these are the checksums of, in a row."""
    whole_crc = whole_length = 0
    for crc, length in checksums:
        whole_crc = zlib_ng.crc32_combine(whole_crc, crc, length)
        whole_length += length
    return Checksum(whole_crc, whole_length)


def gzip_member(deflated: Sequence[bytes], whole: Checksum) -> list[bytes]:
    """Return the parts of a gzip file.

    Args:
        deflated: its blocks.
        whole: the checksum of all that is in them.
    """
    trailer = whole.crc.to_bytes(4, "little") + (whole.length & 0xFFFFFFFF).to_bytes(4, "little")
    return [_HEADER, *deflated, _LAST_BLOCK + trailer]
