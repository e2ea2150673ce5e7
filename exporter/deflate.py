"""Compressed once, sent many times: deflate blocks that join to a gzip member, and its CRC-32 from theirs. Pure.

A block ends with a full flush: at a whole byte, and the next one refers to nothing in it. So blocks in a row are a
deflate stream, whichever they are. A CRC-32 is the remainder of a polynomial, and n bytes appended multiply that by
x^(8n); so the CRC-32 of bytes in a row comes from those of the parts, and their lengths.

To multiply two polynomials term by term takes Python 10 us. Here a polynomial is a number with a byte a term: the
product of two such numbers is that of the polynomials, but for what is to be cut off, all bits of a byte except the
lowest. (It never overflows: one of the factors has no more than 32 terms.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

LEVEL = 1
"""Of compression. The lines are so much alike that zlib's default, 6, saves 5 % of the bytes for twice the time."""
_RAW = -zlib.MAX_WBITS  # neither header nor trailer
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952: deflated, no name, no time, any system
_LAST_BLOCK = b"\x03\x00"  # final, and empty
_AT_ONCE = 16  # checksums are joined: the product grows by 31 terms with each
_TERMS = 1024  # of the longest product, which is one of 32 powers
_ORDER = (1 << 32) - 1  # x^_ORDER is 1
_LOWEST_BITS = int.from_bytes(b"\x01" * _TERMS, "little")
_DIGITS = int.from_bytes(b"0" * _TERMS, "little")


class Checksum(NamedTuple):
    """What is to be known of some bytes to have the CRC-32 of more."""

    remainder: int
    """The CRC-32, a byte a term."""
    shift: int
    """x^(8 length), likewise."""
    length: int

    @property
    def crc(self) -> int:
        """The CRC-32."""
        return _packed(self.remainder)


class Block(NamedTuple):
    """Some bytes as a deflate block, and their checksum."""

    deflated: bytes
    checksum: Checksum


class Deflater:
    """Makes blocks. Not for several threads at once; to be kept, a new one's memory takes longer than a block."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, _RAW)

    def block(self, data: bytes) -> Block:
        """Compress `data`."""
        deflated = self._compressor.compress(data) + self._compressor.flush(zlib.Z_FULL_FLUSH)
        return Block(deflated, checksum(data))


def inflate(block: Block) -> bytes:
    """Return what is in a block."""
    return zlib.decompress(block.deflated + _LAST_BLOCK, _RAW, block.checksum.length)


def join_blocks(blocks: Sequence[Block]) -> Block:
    """Return some in a row as one."""
    return Block(b"".join([block.deflated for block in blocks]), join(block.checksum for block in blocks))


def checksum(data: bytes) -> Checksum:
    """Return the checksum of `data`."""
    return Checksum(_spread(zlib.crc32(data)), _power(len(data)), len(data))


def join(checksums: Iterable[Checksum]) -> Checksum:
    """Return the checksum of what these are the checksums of, in a row."""
    parts = list(checksums)
    while len(parts) > _AT_ONCE:
        parts = [_join_few(parts[first : first + _AT_ONCE]) for first in range(0, len(parts), _AT_ONCE)]
    return _join_few(parts)


def gzip_member(deflated: Sequence[bytes], whole: Checksum) -> list[bytes]:
    """Return the parts of a gzip file.

    Args:
        deflated: its blocks.
        whole: the checksum of all that is in them.
    """
    trailer = whole.crc.to_bytes(4, "little") + (whole.length & 0xFFFFFFFF).to_bytes(4, "little")
    return [_HEADER, *deflated, _LAST_BLOCK + trailer]


def _join_few(checksums: Sequence[Checksum]) -> Checksum:
    remainder = length = 0
    for each in checksums:
        remainder = (remainder * each.shift & _LOWEST_BITS) ^ each.remainder
        length += each.length
    return Checksum(_spread(_packed(remainder)), _power(length), length)


def _spread(crc: int) -> int:
    """The polynomial of a CRC-32, in which the highest bit is the constant term."""
    return int.from_bytes(f"{crc:032b}".encode(), "little") & _LOWEST_BITS


def _packed(polynomial: int) -> int:
    """The remainder of a polynomial as a CRC-32 has it."""
    terms = max(32, -(-polynomial.bit_length() // 64) * 8)
    digits = (polynomial | _DIGITS >> 8 * (_TERMS - terms)).to_bytes(terms, "little")
    low, high = divmod(int(digits, 2), 1 << terms - 32)  # the lowest term is the first digit
    # zlib negates what it begins with and what it ends with, and multiplies by x^32.
    return low ^ zlib.crc32(high.to_bytes(terms // 8 - 4, "little"), 0xFFFFFFFF) ^ 0xFFFFFFFF


@lru_cache(maxsize=4096)  # chunks of lines are much alike in length
def _power(length: int) -> int:
    """x^(8 length)."""
    high, low = divmod(length % _ORDER, 256)
    return _spread(_packed(_low_power(low) * _high_power(high) & _LOWEST_BITS))


@cache
def _low_power(length: int) -> int:
    return _product_of_squares(length, 0)


@lru_cache(maxsize=4096)
def _high_power(length: int) -> int:
    """x^(8 256 length)."""
    return _product_of_squares(length, 8)


def _product_of_squares(length: int, first: int) -> int:
    polynomial = 1
    for exponent in range(length.bit_length()):
        if length >> exponent & 1:
            polynomial = polynomial * _square(first + exponent) & _LOWEST_BITS
    return _spread(_packed(polynomial))


@cache
def _square(exponent: int) -> int:
    """x^(8 2^exponent)."""
    if not exponent:
        return 1 << 64
    half = _square(exponent - 1)
    return _spread(_packed(half * half & _LOWEST_BITS))
