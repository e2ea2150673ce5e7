"""Where writers may go on, if that is not the end of the file; and how much was appended accordingly."""

from __future__ import annotations

from typing import NamedTuple

from exporter.ledger.records import Identity, Inode
from fstat_cache import Data

LARGE_BYTES = 1 << 16
"""Growth in one stat beyond which the tracker searches it for holes. That costs as much as booking the stat does."""
PAGE_BYTES = 4096
"""Files are allocated ahead in multiples of it."""


class Question(NamedTuple):
    """Asks which data lies between an offset and the size of a file.

    Attributes:
        begin: the offset.
        is_resumed: whether a hole may end within the block at `begin`.
    """

    begin: int
    is_resumed: bool = False


class Offsets(dict[Identity, int]):
    """Inode -> the offset where its writer may go on, only if that is not its size.

    - Above the size: the size before the inode was cut. A writer that goes on there leaves a hole.
    - Below the size: the end of its data. The rest is a hole or only allocated, and a writer fills it without growth.
    """

    def ask(self, inode: Inode, size: int) -> Question | None:
        """Return the question to answer before :meth:`append`; None: what the inode grew by is known.

        Args:
            inode: as it was known.
            size: by a stat that found a change, bytes.
        """
        known = inode.size
        at = self.get(inode.identity, known) if self else known
        if at < known:
            return Question(at, is_resumed=True) if size > at else None
        if size > at > known:
            return Question(known, is_resumed=True)
        return Question(known) if size - known > LARGE_BYTES else None

    def append(self, inode: Inode, size: int, data: Data | None) -> int:
        """Note a new size, and return how many bytes were appended.

        A stat does not show how a file became smaller, so it counts as emptied and written again.

        Args:
            inode: as it was known.
            size: of the latest stat, bytes.
            data: the answer to :meth:`ask`; None if it is unknown or was not asked for.
        """
        known = inode.size
        at = self.pop(inode.identity, known)
        if data is not None:
            if data.end < size:
                self[inode.identity] = data.end
            elif at > size:
                self[inode.identity] = at
            return data.size
        if size < known:
            if at <= size:
                return size - at  # only what was allocated ahead was cut off
            self[inode.identity] = at
            return size
        if at > known:
            if size > at:
                return size - at
            self[inode.identity] = at
        elif at < size == known:
            self[inode.identity] = at  # unknown this time
        return size - known
