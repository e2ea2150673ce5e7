"""Files that were renamed away from matching names: follows them, and knows under which path each was seen first."""

from __future__ import annotations

import os

from exporter.discovery.agenda import Failures
from exporter.discovery.arrivals import Moves
from exporter.discovery.findings import Findings, Moved
from exporter.discovery.folders import Folder, Folders
from exporter.discovery.links import Links


class Renames:
    """Follows renamed files, and pairs the two events of each rename.

    A file's origin is the path under which it was seen first.

    Attributes:
        to_stat: path of a followed file to stat again -> its birth if only that tells where it was, else 0.
        numbered: paths to stat that have the inode number of a lost file, and may be another one that was rotated too.
        arrived: matching path that a rename has reached -> the file's origin, until it is stat'ed.
    """

    def __init__(self, folders: Folders, links: Links) -> None:
        self.to_stat: dict[str, int] = {}
        self.numbered: set[str] = set()
        self.arrived: dict[str, str] = {}
        self._folders = folders
        self._links = links
        self._moves = Moves[str]()  # away from names of interest: the file's origin
        self._left: dict[str, str] = {}  # followed path that was gone at its stat -> the file's origin
        self._just_left: dict[str, str] = {}  # the same, of the batch before

    def begin_batch(self) -> None:
        """Begin a batch of events. They may explain why a followed file was gone at its stat in the batch before."""
        self._just_left, self._left = self._left, {}

    def move_away(self, folder: Folder, name: str, cookie: int) -> None:
        """Remember a rename away from a name, if its file is of interest."""
        if (origin := self._origin_of(folder, name)) is not None:
            self._moves.put(cookie, folder.path, origin)

    def move_to(self, folder: Folder, name: str, cookie: int, *, is_matched: bool) -> None:
        """Follow a file that was renamed to this name, if it is of interest and no pattern matches the name."""
        origin = self._moves.pair(cookie, folder.path)
        if origin is not None and is_matched:
            self.arrived[os.path.join(folder.path, name)] = origin
        elif origin is not None:
            self.follow(folder, name, origin)

    def follow(self, folder: Folder, name: str, origin: str = "", birth_ns: int = 0) -> None:
        """Begin to follow a file."""
        self._folders.followed.put(folder.path, name, origin)
        self.to_stat[os.path.join(folder.path, name)] = birth_ns

    def stat_again(self, directory: str, *names: str) -> None:
        """Queue a stat of the followed files in a directory, all or those with these names."""
        followed = self._folders.followed.get(directory, {})
        for name in names or followed:
            if name in followed:
                self.to_stat.setdefault(os.path.join(directory, name), 0)

    def work_off(self, failures: Failures) -> Findings:
        """Stat the queued files; stop following those that are gone or others.

        Args:
            failures: gets the errors.
        """
        for path in tuple(self.to_stat):
            birth_ns = self.to_stat.pop(path)
            if (origin := self.origin_of(path)) is not None:
                try:
                    is_followed = yield Moved(path, origin, birth_ns)
                    if not is_followed and path in self.numbered:
                        is_followed = yield Moved(path, "")
                    if not is_followed:
                        self.unfollow(path, is_gone=True)
                except Exception as error:  # noqa: BLE001 - see Failures
                    failures.note(error, os.path.dirname(path))
        self.numbered.clear()

    def origin_of(self, path: str) -> str | None:
        """Return a followed file's origin, "" if unknown; None if it is not followed."""
        directory, name = os.path.split(path)
        return self._folders.followed.get(directory, {}).get(name)

    def unfollow(self, path: str, *, is_gone: bool = False) -> None:
        """Stop following a file."""
        directory, name = os.path.split(path)
        origin = self._folders.followed.take(directory, name)
        if origin is not None:
            if is_gone:
                self._left[path] = origin
            self._links.release(self._folders[directory])

    def _origin_of(self, folder: Folder, name: str) -> str | None:
        """Return the origin of the file with this name; None if the file is not of interest."""
        path = os.path.join(folder.path, name)
        if (origin := self.origin_of(path)) is not None:
            return origin
        if path in self.arrived:  # renamed again before it was stat'ed
            return self.arrived.pop(path)
        if path in self._just_left:
            return self._just_left[path]
        for link in sorted(self._folders.crossed.get(folder.path, {}).get(name, ())):
            directory, link_name = os.path.split(link)
            if self._links.leads[directory][link_name][-1] == (folder.path, name):
                return link
        return None if folder.match(name) is None else path
