"""Files that were renamed away from names that match: where they are followed, and under which name they were seen."""

from __future__ import annotations

import os

from exporter.discovery.folders import Folder, Folders
from exporter.discovery.links import Links

MOST_MOVES = 1_000
"""How many renames are remembered of which the event of the new name has not come."""


class Renames:
    """Knows the renamed files that are followed, and the renames under way.

    Attributes:
        to_stat: paths of followed files to stat again.
    """

    def __init__(self, folders: Folders, links: Links) -> None:
        self.to_stat: dict[str, None] = {}
        self.arrived: dict[str, str] = {}  # names that match, until they are stat'ed -> their origins
        self._folders = folders
        self._links = links
        self._moves: dict[int, str] = {}  # cookies of renames away from names of interest -> their origins
        self._left: dict[str, str] = {}  # followed names that were gone when they were stat'ed -> their origins
        self._just_left: dict[str, str] = {}  # the same, of the time before

    def begin_batch(self) -> None:
        """Before the events that have come since: an event that was queued before a stat explains what it found."""
        self._just_left, self._left = self._left, {}

    def move_away(self, folder: Folder, name: str, cookie: int) -> None:
        """Remember a rename away from a name, if what had it matters."""
        if (origin := self._origin_of(folder, name)) is not None:
            self._moves[cookie] = origin
            if len(self._moves) > MOST_MOVES:
                del self._moves[next(iter(self._moves))]

    def move_to(self, folder: Folder, name: str, cookie: int, *, is_matched: bool) -> None:
        """Follow what a rename has brought to a name, if it matters and no pattern matches it there."""
        origin = self._moves.pop(cookie, None)
        if origin is not None and is_matched:
            self.arrived[os.path.join(folder.path, name)] = origin
        elif origin is not None:
            self.follow(folder, name, origin)

    def follow(self, folder: Folder, name: str, origin: str = "") -> None:
        """Follow a file from now on."""
        self._folders.followed.put(folder.path, name, origin)
        self.to_stat[os.path.join(folder.path, name)] = None

    def stat_again(self, directory: str, *names: str) -> None:
        """Have the followed files of a directory stat'ed, all or those of these names."""
        followed = self._folders.followed.get(directory, {})
        for name in names or followed:
            if name in followed:
                self.to_stat[os.path.join(directory, name)] = None

    def origin_of(self, path: str) -> str | None:
        """The path that a followed file had, "" if not known; None if it is not followed."""
        directory, name = os.path.split(path)
        return self._folders.followed.get(directory, {}).get(name)

    def unfollow(self, path: str, *, is_gone: bool = False) -> None:
        """Follow a file no longer."""
        directory, name = os.path.split(path)
        origin = self._folders.followed.take(directory, name)
        if origin is not None:
            if is_gone:
                self._left[path] = origin
            self._folders.forget_if_unused(self._folders[directory])

    def _origin_of(self, folder: Folder, name: str) -> str | None:
        """The path under which what has this name was, or would have been, seen first; None if it does not matter."""
        path = os.path.join(folder.path, name)
        if (origin := self.origin_of(path)) is not None:
            return origin
        if path in self.arrived:  # and it goes on before it was stat'ed
            return self.arrived.pop(path)
        if path in self._just_left:
            return self._just_left[path]
        for link in sorted(self._folders.crossed.get(folder.path, {}).get(name, ())):
            directory, link_name = os.path.split(link)
            if self._links.leads[directory][link_name][-1] == (folder.path, name):
                return link
        return None if folder.match(name) is None else path
