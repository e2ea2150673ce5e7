"""Which small files have changed since their checksum was computed. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable, Set

from exporter.ledger.facts import Facts
from exporter.ledger.records import Content, Inode, Path
from fstat_cache import FileStats, is_settled

MOST_FAILURES = 10
"""How often in a row a checksum may fail; then the file's next change has it computed."""
_FUTURE_NS = 1_000_000_000  # more than the clock of files is behind


class Checksums:
    """Keeps the checksums of the files in some groups. The caller holds the facts' lock.

    A checksum belongs to the stats of its file: size, modification time and inode.

    Args:
        facts: have the paths.

    Attributes:
        realms: of the groups whose files have checksums.
        max_size: of such a file, bytes.
    """

    def __init__(self, facts: Facts) -> None:
        self.realms: Set[int] = frozenset()
        self.max_size = 0
        self._facts = facts
        self._waiting: dict[Path, int] = {}  # path -> how often its checksum has failed

    def __bool__(self) -> bool:
        """Whether there is something to compute."""
        return bool(self._waiting)

    def update(self, inodes: Iterable[Inode]) -> None:
        """Take over that inodes have changed."""
        for inode in inodes if self.realms else ():
            for name in inode.names:
                path = self._facts.paths.get(name)
                if path is not None and self._is_due(path):
                    self._waiting[path] = 0

    def due(self, as_of_ns: int) -> tuple[Path, FileStats] | None:
        """Return the next path to read, and its stats; None if the rest must wait.

        Args:
            as_of_ns: the present time of files. A file that was just modified may be modified at the same time again.
        """
        for path in tuple(self._waiting):
            if not self._is_due(path):
                del self._waiting[path]
            elif path.stats is not None and _is_distinct(path.stats.mtime_ns, as_of_ns):
                self._waiting[path] = self._waiting.pop(path)
                return path, path.stats
        return None

    def book(self, path: Path, stats: FileStats, crc32: int) -> None:
        """Book the checksum that a path's file had with these stats."""
        self._waiting.pop(path, None)
        content = path.content = path.content or Content()
        content.crc32, content.summed = crc32, stats
        if path.inode is not None:
            self._facts.inodes.note_content(path.inode, path)

    def fail(self, path: Path, *, is_final: bool) -> None:
        """Book that a file could not be read.

        Args:
            path: its path.
            is_final: whether it cannot be read at all; else it may be readable in a moment.
        """
        failures = self._waiting.pop(path, MOST_FAILURES) + 1
        if not is_final and failures <= MOST_FAILURES:
            self._waiting[path] = failures

    def _is_due(self, path: Path) -> bool:
        return (
            path.is_present
            and path.realm in self.realms
            and path.stats is not None
            and path.stats.size <= self.max_size
            and (path.content is None or not path.content.has_checksum_of(path.stats))
        )


def _is_distinct(time_ns: int, as_of_ns: int) -> bool:
    """Return whether a change from now on gets another time. A time of the future may have been set by hand."""
    return is_settled(time_ns, as_of_ns) or time_ns > as_of_ns + _FUTURE_NS
