"""Deflate blocks and checksums, against zlib, gzip, and the program of that name."""

import gzip
import subprocess
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.deflate import Block, Deflater, checksum, gzip_member, inflate, join, join_blocks
from tests.support import program

TEXTS = st.lists(st.one_of(st.binary(max_size=100), st.binary(max_size=20).map(lambda data: data * 300)), max_size=40)


def blocks_of(texts: list[bytes]) -> list[Block]:
    """Each as a block, by one deflater."""
    deflater = Deflater()
    return [deflater.block(text) for text in texts]


@given(TEXTS)
def test_checksums_join(texts: list[bytes]) -> None:
    """The checksum of bytes in a row comes from those of the parts, empty ones and none at all included."""
    joined = join(checksum(text) for text in texts)
    assert joined == checksum(b"".join(texts))
    assert joined.crc == zlib.crc32(b"".join(texts))


@pytest.mark.parametrize("parts", [15, 16, 17, 256, 257, 1000])
def test_many_checksums_join(parts: int) -> None:
    """However many there are."""
    texts = [b"%d\n" % number * 50 for number in range(parts)]
    assert join(checksum(text) for text in texts).crc == zlib.crc32(b"".join(texts))


def test_large_parts() -> None:
    """As large as a whole scrape."""
    text = bytes(range(256)) * 400_000
    assert join([checksum(b"head"), checksum(text), checksum(b"tail")]).crc == zlib.crc32(b"head" + text + b"tail")


@given(TEXTS)
def test_blocks_join(texts: list[bytes]) -> None:
    """Blocks in a row are one; each gives back what was put in, whatever was compressed before."""
    blocks = blocks_of(texts)
    assert [inflate(block) for block in blocks] == texts
    joined = join_blocks(blocks)
    assert inflate(joined) == b"".join(texts)
    assert joined.checksum == checksum(b"".join(texts))


@given(TEXTS, st.randoms())
def test_gzip_member(texts: list[bytes], random: object) -> None:
    """Blocks in any order are one member that gzip and zlib read to the end."""
    blocks = blocks_of(texts)
    random.shuffle(blocks)  # type: ignore[attr-defined]
    whole = join_blocks(blocks)
    file = b"".join(gzip_member([block.deflated for block in blocks], whole.checksum))
    assert gzip.decompress(file) == inflate(whole)
    reader = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert reader.decompress(file) == inflate(whole)
    assert reader.eof
    assert not reader.unused_data


def test_the_program_reads_it() -> None:
    """gzip -t finds nothing wrong, but does with one bit of the checksum."""
    blocks = blocks_of([b"one\n" * 100, b"", b"two\n"])
    whole = join_blocks(blocks)
    file = b"".join(gzip_member([block.deflated for block in blocks], whole.checksum))
    assert subprocess.run([program("gzip"), "-t"], input=file, check=False).returncode == 0
    broken = bytearray(file)
    broken[-8] ^= 1
    done = subprocess.run([program("gzip"), "-t"], input=broken, capture_output=True, check=False)
    assert done.returncode == 1
