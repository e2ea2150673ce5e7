"""Lines of samples in chunks: a changed value costs the rendering of its chunk, not of all lines.

A row is a file or another object with one sample in each of several families. A chunk is a number of rows. A page is
the lines of a chunk in one family: as text, compressed, or both, until one of the values changes.

Labels are not kept; they are rendered again when a page gets other lines. Otherwise only the changed values are written
into their lines, because the digits of a modification time take longest to render.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client.utils import floatToGoString

from exporter.exposition.deflate import Block, Checksum, Deflater, inflate, join, join_blocks

K = TypeVar("K", bound=Hashable)

ABSENT = -math.inf
"""The value of a row without a sample."""
CHUNK_ROWS = 32
"""Rows in a chunk. With 64, a fifth less is sent, but a change costs a third more."""
_RUN_CHUNKS = 16  # chunks in a run, whose joined block is kept: joining all chunks each time would cost too much
_ALL_LINES = -1
_PYTHON_BELOW = 1e6  # the library writes smaller numbers as Python does


@dataclass(frozen=True, slots=True)
class Section:
    """Lines in parts; with their checksum if the parts are deflate blocks."""

    parts: list[bytes]
    checksum: Checksum | None = None

    @property
    def has_lines(self) -> bool:
        """Whether it has any line."""
        return any(self.parts) if self.checksum is None else self.checksum.length > 0


class Rows(Generic[K]):
    """Rows with one sample each in the same families. Only one thread at a time may use it.

    Args:
        names: of the samples, one for each family.
        label_text: returns the labels of a row as they stand in a line, with braces.
    """

    def __init__(self, names: Sequence[str], label_text: Callable[[K], str]) -> None:
        self.names = tuple(names)
        self._label_text = label_text
        self._places: dict[K, int] = {}  # number of the chunk times CHUNK_ROWS, plus the row in it
        self._chunks: list[_Chunk[K]] = []  # all are full but the last one
        self._stale: set[_Chunk[K]] = set()  # chunks with pages to be written
        self._runs: list[list[Block | None]] = [[] for _ in self.names]  # for each family

    def __len__(self) -> int:
        return len(self._places)

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return len(self._chunks)

    def put(self, key: K, values: Iterable[float]) -> None:
        """Set the values of a new or known row: one for each family, :data:`ABSENT` where it has no sample."""
        place = self._places.get(key)
        if place is None:
            self._append(key, values)
            return
        number, row = divmod(place, CHUNK_ROWS)
        chunk = self._chunks[number]
        line = 1 << row
        for value, column, page, runs in zip(values, chunk.columns, chunk.pages, self._runs, strict=True):
            before = column[row]
            if value != before:
                column[row] = value
                if not page.stale:
                    runs[number // _RUN_CHUNKS] = None
                    self._stale.add(chunk)
                page.stale |= _ALL_LINES if before == ABSENT or value == ABSENT else line

    def discard(self, key: K) -> None:
        """Remove a row if it exists; the last row moves to its place."""
        place = self._places.pop(key, None)
        if place is None:
            return
        number, row = divmod(place, CHUNK_ROWS)
        chunk, last = self._chunks[number], self._chunks[-1]
        moved = last.keys.pop()
        values = [column.pop() for column in last.columns]
        self._touch(len(self._chunks) - 1)
        if row < len(chunk.keys):
            chunk.keys[row] = moved
            self._places[moved] = place
            for column, value in zip(chunk.columns, values, strict=True):
                column[row] = value
            self._touch(number)
        if not last.keys:
            self._stale.discard(self._chunks.pop())
            if len(self._chunks) % _RUN_CHUNKS == 0:
                for runs in self._runs:
                    runs.pop()

    def sections(
        self, names: Iterable[str], deflater: Deflater | None = None, *, keeps_text: bool = True
    ) -> list[Section]:
        """Return the lines of some families.

        Args:
            names: the names of their samples.
            deflater: compresses pages that are not compressed yet; None: return text.
            keeps_text: whether to keep also the text of pages that are compressed now.
        """
        families = [self.names.index(name) for name in names]
        self._write(families, deflater, keeps_text=keeps_text)
        if deflater is None:
            return [Section([chunk.pages[family].text() for chunk in self._chunks]) for family in families]
        return [self._compressed(family, deflater, keeps_text=keeps_text) for family in families]

    def drop_text(self) -> None:
        """Drop the text of all compressed pages."""
        for chunk in self._chunks:
            for page in chunk.pages:
                page.drop_text()

    def _compressed(self, family: int, deflater: Deflater, *, keeps_text: bool) -> Section:
        runs = self._runs[family]
        for number, run in enumerate(runs):
            if run is None:
                chunks = self._chunks[number * _RUN_CHUNKS : (number + 1) * _RUN_CHUNKS]
                pages = [chunk.pages[family] for chunk in chunks]
                runs[number] = join_blocks(
                    [page.block or page.compress(deflater, keeps_text=keeps_text) for page in pages]
                )
        known = [run for run in runs if run is not None]
        return Section([run.deflated for run in known], join(run.checksum for run in known))

    def _write(self, families: Sequence[int], deflater: Deflater | None, *, keeps_text: bool) -> None:
        """Write the stale pages of some families, and compress each at once, because the text of all may be large."""
        for chunk in tuple(self._stale):
            chunk.has_new_rows = False
            labels: list[str] = []
            for family in families:
                page, column = chunk.pages[family], chunk.columns[family]
                if not page.stale:
                    continue
                if page.stale == _ALL_LINES:
                    labels = labels or [self._label_text(key) for key in chunk.keys]
                    page.write(self.names[family], labels, column)
                else:
                    page.patch(column)
                if deflater is not None:
                    page.compress(deflater, keeps_text=keeps_text)
            if not any(page.stale for page in chunk.pages):
                self._stale.remove(chunk)

    def _append(self, key: K, values: Iterable[float]) -> None:
        place = len(self._places)
        number = place // CHUNK_ROWS
        if number == len(self._chunks):
            self._chunks.append(_Chunk(len(self.names)))
            if number % _RUN_CHUNKS == 0:
                for runs in self._runs:
                    runs.append(None)
        chunk = self._chunks[number]
        self._places[key] = place
        chunk.keys.append(key)
        for column, value in zip(chunk.columns, values, strict=True):
            column.append(value)
        self._touch(number)

    def _touch(self, number: int) -> None:
        """Mark all pages of a chunk as stale, because its rows have changed."""
        chunk = self._chunks[number]
        if not chunk.has_new_rows:
            chunk.has_new_rows = True
            for page, runs in zip(chunk.pages, self._runs, strict=True):
                page.stale = _ALL_LINES
                runs[number // _RUN_CHUNKS] = None
            self._stale.add(chunk)


class _Chunk(Generic[K]):
    """A number of rows: their keys, and for each family their values and their page."""

    __slots__ = ("columns", "has_new_rows", "keys", "pages")

    def __init__(self, families: int) -> None:
        self.keys: list[K] = []
        self.columns = [array("d") for _ in range(families)]
        self.pages = [_Page() for _ in range(families)]
        self.has_new_rows = False  # since it was written last


class _Page:
    """The lines of a chunk in one family; ``stale`` has a bit for each row whose line must be written."""

    __slots__ = ("_text", "block", "stale")

    def __init__(self) -> None:
        self.stale = _ALL_LINES
        self.block: Block | None = None
        self._text = b""  # empty when only the block is kept

    def text(self) -> bytes:
        """Return the lines as text."""
        if self.block is not None and not self._text:
            self._text = inflate(self.block)
        return self._text

    def compress(self, deflater: Deflater, *, keeps_text: bool) -> Block:
        """Compress the lines, which have no block yet."""
        self.block = deflater.block(self._text)
        if not keeps_text:
            self._text = b""
        return self.block

    def drop_text(self) -> None:
        """Drop the text if there is a block."""
        if self.block is not None:
            self._text = b""

    def write(self, name: str, labels: Sequence[str], column: Sequence[float]) -> None:
        """Write all lines, and drop the block."""
        lines = [
            f"{name}{label} {_digits(value)}\n" for label, value in zip(labels, column, strict=True) if value != ABSENT
        ]
        self._text, self.block, self.stale = "".join(lines).encode(), None, 0

    def patch(self, column: Sequence[float]) -> None:
        """Write the values into the stale lines, and drop the block. The text must have the same rows."""
        lines = (self._text or self.text()).split(b"\n")
        has_gaps = len(lines) <= len(column)
        for row in range(self.stale.bit_length()):
            if self.stale >> row & 1:
                number = row - column[:row].count(ABSENT) if has_gaps else row
                line = lines[number]
                lines[number] = line[: line.rindex(b" ") + 1] + _digits(column[row]).encode()
        self._text, self.block, self.stale = b"\n".join(lines), None, 0


def _digits(value: float) -> str:
    return repr(value) if value < _PYTHON_BELOW else floatToGoString(value)  # type: ignore[no-untyped-call]
