"""The records of a declared path and of an inode."""

from __future__ import annotations

from dataclasses import dataclass

from fstat_cache import FileStats

Identity = tuple[int, int, int]
"""Device, inode number, birth: see :attr:`fstat_cache.FileStats.identity`."""


@dataclass(slots=True, eq=False)
class Content:
    """What was read of a path's files.

    Attributes:
        lines: how many newlines were appended, as far as they were read.
        has_lines: whether the present file can be read for them.
        crc32: the checksum of the file while it had `summed`.
        summed: the stats; None: no checksum is known.
    """

    lines: int = 0
    has_lines: bool = False
    crc32: int = 0
    summed: FileStats | None = None

    def has_checksum_of(self, stats: FileStats | None) -> bool:
        """Return whether the checksum is of a file with these stats. Details do not matter, such as permissions."""
        return self.summed is not None and stats is not None and self.summed.equals_without_details(stats)


@dataclass(slots=True, eq=False)
class Path:
    """A declared path.

    Attributes:
        name: the path itself.
        realm: the number of the name of the group that shows it.
        groups: the numbers of all groups that match it.
        stats: of the latest stat, None before the first one; kept when the file is gone.
        inode: the inode found last, None before the first one; kept when the file is gone.
        is_present: whether the file is there.
        is_hidden: whether its file currently fails to stat, so that its present stats are unknown.
        is_counting: whether it is or was the home of an inode; other paths count nothing.
        has_ended: whether it was dropped for good; another path of the same name may follow.
        since_ns, is_new, is_shown: see :meth:`Facts.declare`.
        changes, appended_bytes, truncations, rotations: the counters.
        content: what was read of its files; None: nothing was to be read.
    """

    name: str
    realm: int
    groups: tuple[int, ...] = ()
    since_ns: int = 0
    is_new: bool = False
    is_shown: bool = True
    stats: FileStats | None = None
    inode: Inode | None = None
    is_present: bool = False
    is_hidden: bool = False
    is_counting: bool = False
    has_ended: bool = False
    changes: int = 0
    appended_bytes: int = 0
    truncations: int = 0
    rotations: int = 0
    content: Content | None = None


@dataclass(slots=True, eq=False)
class Inode:
    """A file by its identity.

    Attributes:
        identity: unique among all inodes.
        size: by the latest stat, bytes.
        mtime_ns: by the latest stat, nanoseconds since the epoch.
        homes: for each realm the path to which its growth is booked.
        holders: for each realm the path for which its size counts.
        names: the known paths that lead to it now.
        last_name: the path at which it was seen last.
    """

    identity: Identity
    size: int
    mtime_ns: int
    homes: tuple[Path, ...]
    last_name: str
    holders: tuple[Path, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def realms(self) -> list[int]:
        """The realms in which it has a home."""
        return [home.realm for home in self.homes]
