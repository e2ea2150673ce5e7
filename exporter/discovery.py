"""Finds the files that the patterns mean, and hears of those that come and go: directory watches and listings.

What is heard is never believed, only taken as a place to look: the name is looked at again, and what is found then
counts. So neither the order of events nor their number matters, and a listing can stand in for any that were lost.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from exporter.log import fields
from exporter.patterns import Directory, Match, PathMatcher
from exporter.transitions import Transitions
from fstat_cache import AUTOFS, REMOTE, DirectoryEvent

_log = logging.getLogger(__name__)

MOST_LINKS = 40
"""How many symbolic links the kernel follows, path_resolution(7)."""
MOST_MOVES = 1_000
"""How many renames are remembered of which the new name has not been told yet."""


class Watcher(Protocol):
    """What is needed of :class:`fstat_cache.FStatCache`."""

    def watch_directory(self, path: str) -> str | None:
        """Watch a directory, or say why not."""

    def unwatch_directory(self, path: str) -> None:
        """Watch it no longer."""


class Listener(Protocol):
    """Who wants to know of files."""

    def examine(self, path: str, match: Match) -> bool:
        """Look at a path that may have become a file, another one, or none.

        Returns:
            Whether there is a file, as far as one can know.
        """

    def follow(self, path: str, origin: str | None) -> bool:
        """Look at a path that matches no pattern but leads to a file that had a name which does.

        Args:
            path: the path.
            origin: the name that a file had which is not known otherwise.

        Returns:
            Whether it does.
        """

    def drop(self, path: str) -> None:
        """Follow such a path no longer."""

    def lost_in(self, directory: str) -> set[int]:
        """The inode numbers of files that were seen in this directory last and have no known name now."""


class Place(NamedTuple):
    """A directory, if it is one, and what can match in it."""

    path: str
    state: Directory


class _Folder:
    """What is known of one directory."""

    __slots__ = ("files", "folders", "followed", "links", "path", "state")

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: Directory | None = None  # None: only single names in it matter, those in `links` and `followed`
        self.files: dict[str, Match] = {}  # those that match
        self.folders: set[str] = set()
        self.followed: dict[str, str | None] = {}  # names of rotated files that match nothing -> the path they had
        self.links: dict[str, set[str]] = {}  # names that symbolic links lead over -> the links' paths

    def origin_of(self, name: str) -> str | None:
        """The path under which what has this name was, or would have been, seen first; None for one of no interest."""
        if name in self.followed:
            return self.followed[name]
        if name in self.links:
            return min(self.links[name])
        if self.state is not None and self.state.match(name) is not None:
            return os.path.join(self.path, name)
        return None


@dataclass(frozen=True, slots=True)
class _Suspect:
    """A difference between what is known and what a rescan has listed."""

    folder: _Folder
    name: str
    match: Match | None
    below: Directory | None
    is_link: bool


class Discovery:
    """Knows the declared files. Not to be called by two threads at once.

    Args:
        matcher: what to look for.
        names: the groups' names, by number, for the log.
        watcher: watches directories.
        listener: is told of files, in the order of their paths where several are found at once.
    """

    def __init__(self, matcher: PathMatcher, names: Sequence[str], watcher: Watcher, listener: Listener) -> None:
        self.matches = Counter[int]()
        """Pattern number -> files that it matches now."""
        self.missed = 0
        """Files and directories that a rescan has found come or gone unheard, since the start."""
        self.remote: dict[str, Directory] = {}
        """The directories that have to be listed by somebody who may hang."""
        self._matcher = matcher
        self._names = names
        self._watcher = watcher
        self._listener = listener
        self._folders: dict[str, _Folder] = {}
        self._links: dict[str, list[tuple[str, str]]] = {}  # link -> folder and name of each place on its way
        self._link_matches: dict[str, Match] = {}
        self._moves: dict[int, str] = {}  # cookies of renames away from names of interest -> their origins
        self._remote_files: dict[str, Match] = {}
        self._to_examine: dict[str, tuple[_Folder, str, Match, bool | None]] = {}
        self._to_enter: list[Place] = []
        self._to_follow: dict[str, tuple[_Folder, str]] = {}
        self._to_rescan: list[Place] = []
        self._suspects: list[_Suspect] = []
        self._is_rescan = False
        self._faults: dict[str, OSError] = {}
        self._told_faults = Transitions()
        self._overlaps: set[tuple[int, ...]] = set()

    def __len__(self) -> int:
        """How many directories are known."""
        return len(self._folders)

    @property
    def unreadable(self) -> int:
        """How many directories can not be listed."""
        return len(self._faults)

    def followed(self) -> Iterator[str]:
        """The paths of rotated files that match no pattern and are followed."""
        for folder in self._folders.values():
            for name in folder.followed:
                yield os.path.join(folder.path, name)

    # -- looking everywhere -------------------------------------------------------------------------------------------

    def begin_scan(self) -> None:
        """Begin to look everywhere; what is known is compared, and a difference counted as missed from then on."""
        self._is_rescan = bool(self._folders)
        if self._matcher.root is not None:
            self._to_rescan = [Place("/", self._matcher.root)]

    def scan(self, directories: int) -> bool:
        """Go on with the scan that was begun.

        Args:
            directories: how many to look at.

        Returns:
            Whether there is more to do. Afterwards, and before the next step, :meth:`settle` is to be called.
        """
        for _ in range(directories):
            if not self._to_rescan:
                break
            self._enter(self._to_rescan.pop(), self._to_rescan)
        if not self._is_rescan:
            self._work_off()
        return bool(self._to_rescan)

    def settle(self) -> None:
        """Look at what a rescan has found different, after all events until then have been caught up with."""
        suspects, self._suspects = self._suspects, []
        for folder, name, match, below, is_link in (
            (each.folder, each.name, each.match, each.below, each.is_link) for each in suspects
        ):
            known = name in folder.files, name in folder.folders
            if match is not None:
                self._to_examine[os.path.join(folder.path, name)] = folder, name, match, is_link
            if below is not None:
                self._to_enter.append(Place(os.path.join(folder.path, name), below))
            self._work_off()
            if known != (name in folder.files, name in folder.folders):
                self.missed += 1
        if not self._to_rescan:
            self._is_rescan = False
            self._told_faults.tell_faults(
                _log,
                self._faults,
                "directories or files can not be reached and are left out",
                "directories or files can be reached again, or are gone",
            )

    def take_remote(self, found: dict[str, Match], left_out: set[str]) -> None:
        """Take over what was found in the remote directories.

        Args:
            found: path -> what it is matched by.
            left_out: places that did not answer: what is known at or below them is kept.
        """
        kept = tuple(os.path.join(path, "") for path in left_out)
        for path in sorted(found.keys() | self._remote_files.keys()):
            match = found.get(path)
            if match is None:
                if path in left_out or path.startswith(kept):
                    continue
                match = self._remote_files[path]
            elif path in self._remote_files:
                continue
            is_there = self._listener.examine(path, match)
            self._count(self._remote_files.get(path), match if is_there else None)
            if is_there:
                self._remote_files[path] = match
                self._tell_overlap(path, match)
            else:
                self._remote_files.pop(path, None)

    # -- hearing ------------------------------------------------------------------------------------------------------

    def catch_up(self, events: Iterable[DirectoryEvent]) -> None:
        """Look wherever something may have come or gone."""
        unsure: dict[str, None] = {}
        for event in events:
            folder = self._folders.get(event.directory)
            if folder is None:
                continue
            if event.name is None:
                unsure[folder.path] = None
            else:
                self._hear(folder, event.name, event)
        self._work_off()
        for path in unsure:
            folder = self._folders.get(path)
            if folder is not None:
                self._look_again(folder)
        self._work_off()

    def check(self, path: str) -> None:
        """Look at a file again that is known here; of another path nothing is done."""
        directory, name = os.path.split(path)
        folder = self._folders.get(directory)
        if folder is not None and name in folder.files:
            self._examine(path, folder, name, folder.files[name], None)
        elif path in self._remote_files and not self._listener.examine(path, self._remote_files[path]):
            self._count(self._remote_files.pop(path), None)

    def _hear(self, folder: _Folder, name: str, event: DirectoryEvent) -> None:
        path = os.path.join(folder.path, name)
        if event.moved_from and (origin := folder.origin_of(name)) is not None:
            self._moves[event.moved_from] = origin
            if len(self._moves) > MOST_MOVES:
                del self._moves[next(iter(self._moves))]
        for link in folder.links.get(name, ()):
            self._examine_link(link)
        if name in folder.followed:
            self._to_follow[path] = folder, name
        state = folder.state
        match = None
        if state is not None:
            below = state.enter(name, is_symlink=not event.is_directory)
            if below is not None or name in folder.folders:
                self._to_enter.append(Place(path, below or state))
            if not event.is_directory and (match := state.match(name)) is not None:
                self._to_examine[path] = folder, name, match, None
        if event.moved_to in self._moves:
            origin = self._moves.pop(event.moved_to)
            if match is None and not event.is_directory:
                folder.followed[name] = origin
                self._to_follow[path] = folder, name

    def _work_off(self) -> None:
        while self._to_enter or self._to_examine:
            while self._to_enter:
                self._enter(self._to_enter.pop(), self._to_enter)
            to_examine, self._to_examine = self._to_examine, {}
            for path in sorted(to_examine):
                folder, name, match, is_link = to_examine[path]
                self._examine(path, folder, name, match, is_link)
        to_follow, self._to_follow = self._to_follow, {}
        for path, (folder, name) in to_follow.items():
            self._follow(path, folder, name)

    def _follow(self, path: str, folder: _Folder, name: str) -> None:
        if not self._listener.follow(path, folder.followed.get(name)):
            folder.followed.pop(name, None)

    # -- files --------------------------------------------------------------------------------------------------------

    def _examine(self, path: str, folder: _Folder, name: str, match: Match, is_link: bool | None) -> None:
        if is_link is not False:
            self._mind_links(path, match)
        is_there = self._listener.examine(path, match)
        self._count(folder.files.get(name), match if is_there else None)
        if is_there:
            if name not in folder.files:
                self._tell_overlap(path, match)
            folder.files[name] = match
        else:
            folder.files.pop(name, None)

    def _count(self, before: Match | None, now: Match | None) -> None:
        if before is not now:
            self.matches.subtract(before.patterns if before else ())
            self.matches.update(now.patterns if now else ())

    def _tell_overlap(self, path: str, match: Match) -> None:
        if len(match.groups) > 1 and match.groups not in self._overlaps:
            self._overlaps.add(match.groups)
            first, *others = (self._names[group] for group in match.groups)
            _log.info(
                "groups overlap, the first one has the files",
                extra=fields(group=first, also=",".join(others), example=path),
            )

    # -- symbolic links -----------------------------------------------------------------------------------------------

    def _mind_links(self, path: str, match: Match | None) -> None:
        """Have every name watched over which a link leads, should this path be one: it may come to lead elsewhere."""
        before = self._links.pop(path, [])
        self._link_matches.pop(path, None)
        places: list[tuple[str, str]] = []
        here = path
        for _ in range(MOST_LINKS):
            try:
                target = os.readlink(here)
            except OSError:
                break  # no link, or nothing there
            here = os.path.join(os.path.dirname(here), target)
            directory, name = os.path.split(here)
            places.append((directory, name))
            if not self._watch_names(directory):
                break
        for directory, name in places:
            self._folder(directory).links.setdefault(name, set()).add(path)
        for directory, name in before:
            if (directory, name) not in places:
                folder = self._folders[directory]
                folder.links[name].discard(path)
                if not folder.links[name]:
                    del folder.links[name]
                self._forget_if_unused(folder)
        if places:
            self._links[path] = places
            if match is not None:
                self._link_matches[path] = match

    def _examine_link(self, path: str) -> None:
        directory, name = os.path.split(path)
        folder = self._folders.get(directory)
        match = self._link_matches.get(path)
        if folder is None or folder.state is None:
            return
        if match is not None:
            self._to_examine[path] = folder, name, match, True
        below = folder.state.enter(name, is_symlink=True)
        if below is not None:
            self._to_enter.append(Place(path, below))

    def _watch_names(self, directory: str) -> bool:
        """Watch a directory for single names, and go on beyond it only if that does not ask a remote filesystem."""
        try:
            return self._watcher.watch_directory(directory) not in (REMOTE, AUTOFS)
        except OSError:
            return False

    # -- directories --------------------------------------------------------------------------------------------------

    def _folder(self, path: str) -> _Folder:
        folder = self._folders.get(path)
        if folder is None:
            folder = self._folders[path] = _Folder(path)
        return folder

    def _enter(self, place: Place, ahead: list[Place]) -> None:
        """Watch a directory, then look at what is in it; directories that have to be looked at next are put ahead."""
        path, state = place
        is_needed = state.listed or any(state.match(name) is not None for name in state.names)
        reason = None
        try:
            if is_needed or (path in self._folders and self._folders[path].links):
                reason = self._watcher.watch_directory(path)
            elif not os.path.isdir(path):
                raise FileNotFoundError(path)
        except (FileNotFoundError, NotADirectoryError):
            self._leave(path)
            return
        parent = self._folders.get(os.path.dirname(path))
        if parent is not None and path != "/":
            parent.folders.add(os.path.basename(path))
        folder = self._folder(path)
        folder.state = state
        if reason in (REMOTE, AUTOFS):
            self._leave_contents(folder)
            if reason == REMOTE:
                self.remote[path] = state
            return
        self.remote.pop(path, None)
        if state.listed:
            self._list(folder, state, ahead)
        else:
            self._look_up(folder, state, ahead, is_watched=is_needed)

    def _look_again(self, folder: _Folder) -> None:
        """Look at a directory of which events may have been lost, or that may have gone."""
        if folder.state is not None:
            self._enter(Place(folder.path, folder.state), self._to_enter)
        else:
            self._watch_names(folder.path)
        if folder.path in self._folders:
            for name in tuple(folder.links):
                for link in tuple(folder.links[name]):
                    self._examine_link(link)
            for name in tuple(folder.followed):
                self._to_follow[os.path.join(folder.path, name)] = folder, name

    def _list(self, folder: _Folder, state: Directory, ahead: list[Place]) -> None:
        files: set[str] = set()
        folders: set[str] = set()
        lost = self._listener.lost_in(folder.path)
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    name = entry.name
                    match = below = None
                    is_link = False
                    # The kernel has told the type together with the name.
                    if entry.is_dir(follow_symlinks=False):
                        below = state.enter(name, is_symlink=False)
                    else:
                        match = state.match(name)
                        if entry.is_symlink():
                            is_link = True
                            below = state.enter(name, is_symlink=True)
                        elif lost and match is None and entry.inode() in lost and name not in folder.followed:
                            folder.followed[name] = None
                            self._to_follow[entry.path] = folder, name
                    if match is not None:
                        files.add(name)
                        if name not in folder.files:
                            self._differs(folder, name, match, None, is_link=is_link)
                    if below is not None:
                        folders.add(name)
                        if name in folder.folders:
                            if self._is_rescan or is_link:
                                ahead.append(Place(entry.path, below))
                        elif self._is_rescan:
                            self._differs(folder, name, None, below, is_link=is_link)
                        else:
                            ahead.append(Place(entry.path, below))
        except (FileNotFoundError, NotADirectoryError):
            self._leave(folder.path)
            return
        except OSError as error:
            self._faults[folder.path] = error
            self._look_up(folder, state, ahead, is_watched=False)  # what is spelt out may be within reach all the same
            return
        self._faults.pop(folder.path, None)
        for name in folder.files.keys() - files:
            self._differs(folder, name, folder.files[name], None, is_link=True)
        for name in folder.folders - folders:
            self._differs(folder, name, None, state, is_link=False)

    def _differs(
        self, folder: _Folder, name: str, match: Match | None, below: Directory | None, *, is_link: bool
    ) -> None:
        """A listing has shown a name that is not known, or has not shown one that is."""
        if self._is_rescan:
            self._suspects.append(_Suspect(folder, name, match, below, is_link))
        elif match is not None:
            self._to_examine[os.path.join(folder.path, name)] = folder, name, match, is_link
        elif below is not None:
            self._to_enter.append(Place(os.path.join(folder.path, name), below))

    def _look_up(self, folder: _Folder, state: Directory, ahead: list[Place], *, is_watched: bool) -> None:
        """Look at the names that the patterns spell out; watch for those that are missing or may be led elsewhere."""
        for name in state.names:
            path = os.path.join(folder.path, name)
            match = state.match(name)
            # Whether it is a symbolic link makes a difference to "**" only, which spells nothing out.
            below = state.enter(name, is_symlink=True)
            if match is not None:
                self._to_examine[path] = folder, name, match, None
            if below is None:
                continue
            is_link = os.path.islink(path)
            if not is_watched and (is_link or not os.path.isdir(path)):
                is_watched = True
                self._watch_names(folder.path)
            if is_link:
                self._mind_links(path, None)
            ahead.append(Place(path, below))

    def _leave(self, path: str) -> None:
        """Forget a directory that has gone, and what was in it."""
        folder = self._folders.get(path)
        parent = self._folders.get(os.path.dirname(path)) if path != "/" else None
        self.remote.pop(path, None)
        self._faults.pop(path, None)
        if parent is not None:
            was_known = os.path.basename(path) in parent.folders
            parent.folders.discard(os.path.basename(path))
            if was_known and parent.state is not None and not parent.state.listed:
                self._to_enter.append(Place(parent.path, parent.state))  # it is to be watched for the name now
        if folder is not None:
            self._leave_contents(folder)
            folder.state = None
            self._forget_if_unused(folder)

    def _leave_contents(self, folder: _Folder) -> None:
        for name, match in folder.files.items():
            path = os.path.join(folder.path, name)
            self._count(match, None)
            self._listener.examine(path, match)
            if path in self._links:
                self._mind_links(path, None)
        folder.files.clear()
        for name in folder.followed:
            self._listener.drop(os.path.join(folder.path, name))
        folder.followed.clear()
        for name in tuple(folder.folders):
            self._leave(os.path.join(folder.path, name))

    def _forget_if_unused(self, folder: _Folder) -> None:
        if folder.state is None and not folder.links and not folder.followed:
            del self._folders[folder.path]
            self._watcher.unwatch_directory(folder.path)

    def unfollow(self, path: str) -> None:
        """Follow a rotated file no longer."""
        directory, name = os.path.split(path)
        folder = self._folders.get(directory)
        if folder is not None and name in folder.followed:
            del folder.followed[name]
            self._listener.drop(path)
            self._forget_if_unused(folder)
