"""Lines of samples in chunks: a value that moves costs its chunk, not the whole.

A row is a file, or whatever else has one sample in each of several families. A chunk is some rows. A page is what a
chunk has in one family: its lines as text, or compressed, or both, until one of their values moves.

Labels are not kept but rendered again for a page with other lines than before. In any other only the values that have
moved are written, into their lines: the shortest digits of a modification time take longer to find than all else.
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
"""In place of a value: no sample."""
CHUNK_ROWS = 32
"""With 64, a fifth less is sent, and a change costs a third more."""
_RUN_CHUNKS = 16  # whose blocks are kept joined too: to join those of all chunks would cost more than what has changed
_ALL_LINES = -1
_PYTHON_BELOW = 1e6  # such a number the library writes as Python does


@dataclass(frozen=True, slots=True)
class Section:
    """Lines in parts; with the checksum of all when the parts are deflate blocks."""

    parts: list[bytes]
    checksum: Checksum | None = None

    @property
    def has_lines(self) -> bool:
        """Whether there is any."""
        return any(self.parts) if self.checksum is None else self.checksum.length > 0


class Rows(Generic[K]):
    """Rows with a sample each in the same families. Not for several threads at once.

    Args:
        names: of the samples, one a family.
        label_text: gives the labels of a row as they stand in a line, braces included.
    """

    def __init__(self, names: Sequence[str], label_text: Callable[[K], str]) -> None:
        self.names = tuple(names)
        self._label_text = label_text
        self._places: dict[K, int] = {}  # number of the chunk times CHUNK_ROWS, plus the row in it
        self._chunks: list[_Chunk[K]] = []  # all are full but the last one
        self._stale: set[_Chunk[K]] = set()  # those with pages to be written
        self._runs: list[list[Block | None]] = [[] for _ in self.names]  # of each family

    def __len__(self) -> int:
        return len(self._places)

    @property
    def chunks(self) -> int:
        """How many chunks there are: no more than are needed."""
        return len(self._chunks)

    def put(self, key: K, values: Iterable[float]) -> None:
        """Set the values of a row, new or not: one a family, :data:`ABSENT` where there is no sample."""
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
        """Take a row out, if it is there; the last one takes its place."""
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
        """Return the lines of the families asked for.

        Args:
            names: of their samples.
            deflater: for what is not compressed yet; None to have it as text.
            keeps_text: whether to keep the text too of what is compressed now.
        """
        families = [self.names.index(name) for name in names]
        self._write(families, deflater, keeps_text=keeps_text)
        if deflater is None:
            return [Section([chunk.pages[family].text() for chunk in self._chunks]) for family in families]
        return [self._compressed(family, deflater, keeps_text=keeps_text) for family in families]

    def drop_text(self) -> None:
        """Keep only the blocks of what is compressed."""
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
        """Write what is stale in some families, and compress each page at once: the text of all may be much."""
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
        """A chunk has got other rows."""
        chunk = self._chunks[number]
        if not chunk.has_new_rows:
            chunk.has_new_rows = True
            for page, runs in zip(chunk.pages, self._runs, strict=True):
                page.stale = _ALL_LINES
                runs[number // _RUN_CHUNKS] = None
            self._stale.add(chunk)


class _Chunk(Generic[K]):
    """Some rows: what they are, and in each family their values and what they look like."""

    __slots__ = ("columns", "has_new_rows", "keys", "pages")

    def __init__(self, families: int) -> None:
        self.keys: list[K] = []
        self.columns = [array("d") for _ in range(families)]
        self.pages = [_Page() for _ in range(families)]
        self.has_new_rows = False  # than when it was written last


class _Page:
    """The lines of a chunk in one family; ``stale`` has a bit for each row whose line is to be written."""

    __slots__ = ("_text", "block", "stale")

    def __init__(self) -> None:
        self.stale = _ALL_LINES
        self.block: Block | None = None
        self._text = b""  # empty when only the block is kept

    def text(self) -> bytes:
        """The lines."""
        if self.block is not None and not self._text:
            self._text = inflate(self.block)
        return self._text

    def compress(self, deflater: Deflater, *, keeps_text: bool) -> Block:
        """Make the block, of which there is none since the lines were written."""
        self.block = deflater.block(self._text)
        if not keeps_text:
            self._text = b""
        return self.block

    def drop_text(self) -> None:
        """Keep only the block, if there is one."""
        if self.block is not None:
            self._text = b""

    def write(self, name: str, labels: Sequence[str], column: Sequence[float]) -> None:
        """Write all lines, and forget the block."""
        lines = [
            f"{name}{label} {_digits(value)}\n" for label, value in zip(labels, column, strict=True) if value != ABSENT
        ]
        self._text, self.block, self.stale = "".join(lines).encode(), None, 0

    def patch(self, column: Sequence[float]) -> None:
        """Write the values into the stale lines, and forget the block. The rows are those of the text."""
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
