"""Finds the files that the patterns mean, and hears of those that come and go: directory watches and listings.

What is heard is never believed, only taken as a place to look: the name is looked at again, and what is found then
counts. So neither the order of events nor their number matters, and a listing can stand in for any that were lost.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from exporter.matching.automaton import Directory, Match, PathMatcher
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from fstat_cache import AUTOFS, FILESYSTEM, REMOTE, CacheClosedError, DirectoryEvent, file_time_ns, is_settled
from fstat_cache.paths import MOST_LINKS, Walk

_log = logging.getLogger(__name__)

UNHEARD_AT_ONCE = 1_000
"""How many directories that can not be watched are looked at on each occasion."""
_MAYBE_LINK = -1
"""That what is to be entered may be a symbolic link to a directory."""
_DIRECTORY = 0
"""That it was a directory when it was heard of. (A mount point is one, and is not asked if it is remote.)"""
_FEW = 4
"""Up to so many paths in a directory are kept in a tuple, which takes a quarter of what a dictionary of one does."""
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

    def follow(self, path: str, origin: str) -> bool:
        """Look at a path that matches no pattern but leads to a file that had a name which does.

        Args:
            path: the path.
            origin: the name that a file had which is not known otherwise; "" when there is none.

        Returns:
            Whether it does.
        """

    def drop(self, path: str) -> None:
        """Look at a path no longer, whatever it leads to."""

    def lost_in(self, directory: str) -> set[int]:
        """The inode numbers of files that were seen in this directory last and have no known name now."""


class _Place(NamedTuple):
    """A name in a directory, and how the kernel comes by it."""

    directory: str
    name: str


class _None(dict[str, Any]):
    """An empty dictionary that stays so."""

    def __setitem__(self, key: str, value: object) -> None:
        raise TypeError("nothing is put in here")


_NONE = _None()


class _Folder:
    """What is known of one directory."""

    __slots__ = (
        "changed_ns",
        "files",
        "folders",
        "followed",
        "identity",
        "is_watched",
        "leads",
        "links",
        "path",
        "reason",
        "state",
    )

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: Directory | None = None  # None: only single names in it matter, those in `links` and `followed`
        self.is_watched = False  # or tried to
        self.reason: str | None = None  # why it can not be watched
        self.identity: int | None = None  # which directory was looked at: device and inode number
        self.changed_ns = 0  # since when nothing has come or gone in it, if known
        # There may be as many directories as files, and most have one name or two.
        self.files: Collection[str] = ()  # the paths of those that match, see _with()
        self.folders: Collection[str] = ()
        # These are empty in nearly all directories, and then not there at all.
        self.leads: dict[str, list[_Place]] = _NONE  # symbolic links in it -> each link on the way, and the end
        self.links: dict[str, set[str]] = _NONE  # names that symbolic links lead over -> the links' paths
        self.followed: dict[str, str] = _NONE  # names of rotated files that match nothing -> their former path

    def own(self, attribute: str) -> dict[str, Any]:
        """Return one of its dictionaries to put something into."""
        names: dict[str, Any] = getattr(self, attribute)
        if names is _NONE:
            names = {}
            setattr(self, attribute, names)
        return names


def _with(paths: Collection[str], path: str) -> Collection[str]:
    """These paths and one more: a new tuple while they are few, else a dictionary, which is changed."""
    if isinstance(paths, dict):
        paths[path] = None
        return paths
    if path in paths:
        return paths
    return (*paths, path) if len(paths) < _FEW else dict.fromkeys((*paths, path))


def _without(paths: Collection[str], path: str) -> Collection[str]:
    """These paths but for one; as :func:`_with`."""
    if isinstance(paths, dict):
        paths.pop(path, None)
        return paths
    return tuple(each for each in paths if each != path)


class _Look(NamedTuple):
    """A name to be looked at, and what is taken for true of it until then."""

    folder: _Folder
    name: str
    state: Directory
    match: Match
    may_be_link: bool


class Discovery:
    """Knows the declared files. Not to be called by two threads at once.

    What listener or watcher raise unexpectedly while one path is looked at is logged; the others are looked at all the
    same, and that one by the next scan.

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
        self._root = matcher.root
        self._names = names
        self._watcher = watcher
        self._listener = listener
        self._folders: dict[str, _Folder] = {}
        self._unheard: dict[str, None] = {}  # directories that can not be watched, the one first that is looked at next
        self._left: dict[str, str] = {}  # followed names that were gone when they were looked at -> their origins
        self._just_left: dict[str, str] = {}  # the same, of the time before
        self._moves: dict[int, str] = {}  # cookies of renames away from names of interest -> their origins
        self._remote_files: dict[str, Match] = {}
        self._to_examine: dict[str, _Look] = {}
        self._to_enter: dict[str, int] = {}  # directories -> _MAYBE_LINK, _DIRECTORY, or the moment of a listing
        self._to_follow: dict[str, tuple[_Folder, str]] = {}
        self._to_scan: dict[str, int] = {}  # as `_to_enter`
        self._failed_to_enter: dict[str, int] = {}  # looks that have raised something, since the latest scan was begun
        self._failed_to_examine: dict[str, _Look] = {}
        self._failed_to_follow: dict[str, tuple[_Folder, str]] = {}
        self._has_failed = False  # since then
        self._moment = 1  # counts up when something is heard: what was listed before may be another thing now
        self._suspects: dict[str, tuple[_Folder, str, bool]] = {}  # what a rescan has listed, and is not known so
        self._heard: set[str] = set()  # since then: names, and directories in which it may have been any
        self._is_rescan = False
        self._is_comparing = False
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

    @property
    def unheard(self) -> int:
        """How many directories can not be watched, and are looked at on every occasion."""
        return len(self._unheard)

    def watches(self, path: str) -> bool:
        """Whether a directory is to be watched."""
        folder = self._folders.get(path)
        return folder is not None and folder.is_watched

    def watched(self) -> list[str]:
        """The directories that are to be watched."""
        return [folder.path for folder in self._folders.values() if folder.is_watched]

    def succeed(self, other: Discovery) -> dict[str, Match]:
        """Before the first scan: count on where another discovery is, tell no fault again, and know its remote files,
        whose directories may not answer.

        Returns:
            Those of them that are meant here, with what they are matched by.
        """
        self.missed = other.missed
        self._told_faults = other._told_faults
        for path in other._remote_files:
            match = self._matcher.match(path)
            if match is not None:
                self._remote_files[path] = match
                self._count(match, 1)
        return self._remote_files

    # -- looking everywhere -------------------------------------------------------------------------------------------

    def begin_scan(self) -> None:
        """Begin to look everywhere; what is known is compared, and a difference counted as missed from then on."""
        self._try_again()
        self._is_rescan = bool(self._folders)
        if self._root is not None:
            self._to_scan = {"/": _DIRECTORY}

    def scan(self, directories: int) -> bool:
        """Go on with the scan that was begun.

        Args:
            directories: how many to look at.

        Returns:
            Whether there is more to do. Afterwards, and before the next step, :meth:`settle` is to be called.
        """
        self._heard.clear()
        self._is_comparing = self._is_rescan
        for _ in range(directories):
            if not self._to_scan:
                break
            self._enter_apart(self._to_scan)
        self._is_comparing = False
        self._work_off()
        return bool(self._to_scan)

    def settle(self) -> None:
        """Look at what a rescan has found different, after all events until then have been caught up with."""
        suspects, self._suspects = self._suspects, {}
        for path, (folder, name, is_directory) in suspects.items():
            known = path in folder.files, path in folder.folders
            self._look_at(folder, name, is_directory=is_directory)
            self._work_off()
            is_missed = known != (path in folder.files, path in folder.folders)
            if is_missed and self._heard.isdisjoint((path, folder.path)) and folder.path not in self._unheard:
                _log.debug("missed until now", extra=fields(path=path))
                self.missed += 1
        if not self._to_scan:
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
            is_known = path in self._remote_files
            if is_there and not is_known:
                self._remote_files[path] = match
                self._count(match, 1)
                self._tell_overlap(path, match)
            elif is_known and not is_there:
                self._count(self._remote_files.pop(path), -1)

    # -- hearing ------------------------------------------------------------------------------------------------------

    def catch_up(self, events: Iterable[DirectoryEvent]) -> None:
        """Look wherever something may have come or gone."""
        # Why a name was gone is told by an event that was queued before that look: it is among these.
        self._just_left, self._left = self._left, {}
        unsure: dict[str, None] = {}
        self._moment += 1
        for event in events:
            folder = self._folders.get(event.directory)
            if folder is None:
                continue
            if event.name is None:
                unsure[folder.path] = None
                if self._suspects:
                    self._heard.add(folder.path)
            else:
                self._hear(folder, event.name, event)
        self._work_off()
        self._look_again(unsure)

    def look_at_unheard(self) -> None:
        """Look at the directories of which nothing is heard; if they are many, at some, in rotation."""
        paths = tuple(itertools.islice(self._unheard, max(UNHEARD_AT_ONCE, len(self._unheard) // 120)))
        for path in paths:
            self._unheard[path] = self._unheard.pop(path)
        self._look_again(paths)

    def check(self, path: str) -> None:
        """Look at a file again that is known here; of another path nothing is done."""
        directory, name = os.path.split(path)
        folder = self._folders.get(directory)
        if folder is not None and path in folder.files:
            self._look_at(folder, name)
            self._work_off()
        elif path in self._remote_files and not self._listener.examine(path, self._remote_files[path]):
            self._count(self._remote_files.pop(path), -1)

    def follow(self, path: str, origin: str) -> None:
        """Follow a rotated file that another discovery follows.

        Args:
            path: where it is.
            origin: the path it had, if known, else "".
        """
        directory, name = os.path.split(path)
        folder = self._folder(directory)
        if folder.state is None or folder.state.match(name) is None:
            self._watch_names(folder)
            folder.own("followed")[name] = origin
            self._to_follow[path] = folder, name
        self._work_off()

    def origin_of(self, path: str) -> str:
        """The path that a rotated file had that is followed; "" if that is not known."""
        directory, name = os.path.split(path)
        folder = self._folders.get(directory)
        return "" if folder is None else folder.followed.get(name, "")

    def unfollow(self, path: str) -> None:
        """Follow a rotated file no longer."""
        directory, name = os.path.split(path)
        folder = self._folders.get(directory)
        if folder is not None and name in folder.followed:
            del folder.followed[name]
            self._listener.drop(path)
            self._forget_if_unused(folder)

    def _hear(self, folder: _Folder, name: str, event: DirectoryEvent) -> None:
        path = os.path.join(folder.path, name)
        if self._suspects:
            self._heard.add(path)
        if event.moved_from and (origin := self._origin_of(folder, name)) is not None:
            self._moves[event.moved_from] = origin
            if len(self._moves) > MOST_MOVES:
                del self._moves[next(iter(self._moves))]
        self._look_through(folder, name)
        if path in folder.folders and (below := self._folders.get(path)) is not None:
            below.identity = None  # even if it is the same one again
        self._look_at(folder, name, is_directory=event.is_directory)
        if event.moved_to in self._moves:
            origin = self._moves.pop(event.moved_to)
            if not event.is_directory and (folder.state is None or folder.state.match(name) is None):
                folder.own("followed")[name] = origin
        if name in folder.followed:
            self._to_follow[path] = folder, name

    def _origin_of(self, folder: _Folder, name: str) -> str | None:
        """The path under which what has this name was, or would have been, seen first; None for one of no interest."""
        if name in folder.followed:
            return folder.followed[name]
        if (path := os.path.join(folder.path, name)) in self._just_left:
            return self._just_left[path]
        for link in sorted(folder.links.get(name, ())):
            directory, link_name = os.path.split(link)
            if self._folders[directory].leads[link_name][-1] == (folder.path, name):
                return link
        if folder.state is not None and folder.state.match(name) is not None:
            return path
        return None

    def _look_again(self, paths: Iterable[str]) -> None:
        """Look at directories of which events may have been lost, or that may have gone."""
        for path in paths:
            folder = self._folders.get(path)
            if folder is None:
                continue
            if folder.state is not None:
                self._to_enter[path] = _MAYBE_LINK
            else:
                self._watch_names(folder)
            self._look_through(folder)
            for name in folder.followed:
                self._to_follow[os.path.join(path, name)] = folder, name
        self._work_off()

    def _work_off(self) -> None:
        while self._to_enter or self._to_examine:
            while self._to_enter:
                self._enter_apart(self._to_enter)
            to_examine, self._to_examine = self._to_examine, {}
            for path in sorted(to_examine):
                try:
                    self._examine(path, to_examine[path])
                except Exception as error:  # noqa: BLE001 - see the class
                    self._fail(error)
                    self._failed_to_examine[path] = to_examine[path]
        to_follow, self._to_follow = self._to_follow, {}
        for path, (folder, name) in to_follow.items():
            try:
                if name in folder.followed and not self._listener.follow(path, folder.followed[name]):
                    self._left[path] = folder.followed.pop(name)
                    self._forget_if_unused(folder)
            except Exception as error:  # noqa: BLE001 - see the class
                self._fail(error)
                self._failed_to_follow[path] = folder, name

    def _enter_apart(self, to_enter: dict[str, int]) -> None:
        """Enter one of these directories; if that fails the others are entered all the same."""
        path, seen = to_enter.popitem()
        try:
            self._enter(path, seen, to_enter)
        except Exception as error:  # noqa: BLE001 - see the class
            self._fail(error)
            self._failed_to_enter[path] = _MAYBE_LINK

    def _fail(self, error: Exception) -> None:
        """Tell what one look has raised, if it is the first, so that the others are made all the same."""
        if isinstance(error, CacheClosedError):
            raise error  # no look can be made any more
        if not self._has_failed:
            self._has_failed = True
            _log.error("a look has failed, it is made again by the next scan", exc_info=error)

    def _try_again(self) -> None:
        """Have looked once more where a look has failed."""
        self._has_failed = False
        self._to_enter.update(self._failed_to_enter)
        self._to_examine.update(self._failed_to_examine)
        self._to_follow.update(self._failed_to_follow)
        self._failed_to_enter.clear()
        self._failed_to_examine.clear()
        self._failed_to_follow.clear()

    # -- files --------------------------------------------------------------------------------------------------------

    def _look_at(self, folder: _Folder, name: str, *, is_directory: bool = False) -> None:
        """Have a name looked at, if what may have it is of interest.

        Args:
            folder: where it is.
            name: the name.
            is_directory: whether it was a directory, and no symbolic link, when it was heard of or seen.
        """
        state = folder.state
        if state is None:
            return
        path = os.path.join(folder.path, name)
        if path in folder.folders or state.enter(name, is_symlink=not is_directory) is not None:
            self._to_enter[path] = _DIRECTORY if is_directory else _MAYBE_LINK
        if (not is_directory or path in folder.files) and (match := state.match(name)) is not None:
            self._to_examine[path] = _Look(folder, name, state, match, may_be_link=True)

    def _look_through(self, folder: _Folder, *names: str) -> None:
        """Have the symbolic links looked at that lead over names in a directory, by default over any."""
        for name in names or folder.links:
            for link in folder.links.get(name, ()):
                directory, link_name = os.path.split(link)
                self._look_at(self._folders[directory], link_name)

    def _examine(self, path: str, look: _Look) -> None:
        folder, name, state, match, may_be_link = look
        if folder.state is not state:  # it has gone, or become another directory
            found = None if folder.state is None else folder.state.match(name)
            if found is None:
                return
            match = found
        if may_be_link or name in folder.leads:
            self._mind_links(folder, name)
        places = folder.leads.get(name)
        # Through a link to autofs, whose filesystem a look would have mounted, nothing is looked at.
        is_on_autofs = places and self._folders[places[-1].directory].reason == AUTOFS
        is_there = not is_on_autofs and self._listener.examine(path, match)
        is_known = path in folder.files
        if is_there and not is_known:
            folder.files = _with(folder.files, path)
            self._count(match, 1)
            self._tell_overlap(path, match)
        elif not is_there:
            folder.changed_ns = 0  # a listing has shown it, or will
            if is_known:
                folder.files = _without(folder.files, path)
                self._count(match, -1)
                self._listener.drop(path)
        if places:
            self._find_lost(folder, self._folders[places[-1].directory])

    def _find_lost(self, seen_from: _Folder, folder: _Folder) -> None:
        """Look where a symbolic link leads for files that were seen through it, or there, and have been renamed."""
        lost = self._listener.lost_in(seen_from.path) | self._listener.lost_in(folder.path)
        if not lost or folder.reason is not None:
            return
        with contextlib.suppress(OSError), os.scandir(folder.path) as entries:
            for entry in entries:
                name = entry.name
                if entry.inode() not in lost or name in folder.followed or name in folder.links:
                    continue
                if folder.state is None or folder.state.match(name) is None:
                    folder.own("followed")[name] = ""
                    self._to_follow[entry.path] = folder, name

    def _count(self, match: Match, files: int) -> None:
        for pattern in match.patterns:
            self.matches[pattern] += files

    def _tell_overlap(self, path: str, match: Match) -> None:
        if len(match.groups) > 1 and match.groups not in self._overlaps:
            self._overlaps.add(match.groups)
            first, *others = (self._names[group] for group in match.groups)
            _log.info(
                "groups overlap, the first one has the files",
                extra=fields(group=first, also=",".join(others), example=path),
            )

    # -- symbolic links -----------------------------------------------------------------------------------------------

    def _mind_links(self, folder: _Folder, name: str) -> bool:
        """Have every name watched over which a symbolic link leads, for it may come to lead elsewhere.

        Returns:
            Whether it is a symbolic link at all.
        """
        path = os.path.join(folder.path, name)
        before = set(folder.leads.pop(name, ()))
        places = self._way(path)
        for _ in range(MOST_LINKS):
            if places is None or not self._hang_on(path, places):
                break
            before.update(places)
            places = self._way(path)  # watch first, then look
        if places is not None:
            folder.own("leads")[name] = places
        self._let_go(path, before.difference(places or ()))
        return places is not None

    def _way(self, path: str) -> list[_Place] | None:
        """Each symbolic link that one leads over but for itself, and the end, be something there or not.

        Where a remote filesystem begins the way ends, before it is asked. None: it is no symbolic link.
        """
        if not os.path.islink(path):
            return None
        places: list[_Place] = []
        walk = Walk(path)
        for place in walk:
            is_itself = walk.is_last  # the first time; the links before it lead to its directory
            target = walk.follow(os.readlink)
            if not (places or is_itself) or (target is None and not walk.is_last):
                continue
            places.append(_Place(*os.path.split(place)))
            if target is not None:
                directory, name = os.path.split(os.path.join(os.path.dirname(place), target))
                if self._is_remote(directory):
                    places.append(_Place(directory, name))
                    break
        return places[1:] if places else None  # none: a link before it has gone between two looks, which is an event

    def _is_remote(self, directory: str) -> bool:
        """Whether a look at what is in a directory would ask a remote filesystem."""
        try:
            reason = self._watcher.watch_directory(directory)
        except OSError:
            return False  # nothing is there, which is known without asking
        folder = self._folders.get(directory)
        if folder is None:
            self._watcher.unwatch_directory(directory)
        else:
            folder.is_watched = True
        return reason in (REMOTE, AUTOFS)

    def _hang_on(self, link: str, places: Iterable[_Place]) -> bool:
        """Watch the names over which a link leads; tell whether there are any that were not watched already."""
        is_new = False
        for directory, name in places:
            folder = self._folder(directory)
            if name not in folder.links:
                is_new = True
                folder.own("links")[name] = set()
                self._watch_names(folder)
            folder.links[name].add(link)
        return is_new

    def _let_go(self, link: str, places: Iterable[_Place]) -> None:
        for directory, name in set(places):
            folder = self._folders[directory]
            folder.links[name].discard(link)
            if not folder.links[name]:
                del folder.links[name]
                self._forget_if_unused(folder)

    def _watch_names(self, folder: _Folder) -> None:
        """Watch a directory for single names in it."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._watch(folder)

    # -- directories --------------------------------------------------------------------------------------------------

    def _folder(self, path: str) -> _Folder:
        folder = self._folders.get(path)
        if folder is None:
            folder = self._folders[path] = _Folder(path)
        return folder

    def _watch(self, folder: _Folder) -> str | None:
        reason = folder.reason = self._watcher.watch_directory(folder.path)
        folder.is_watched = True
        if reason in (None, REMOTE, AUTOFS):
            self._unheard.pop(folder.path, None)
        else:
            self._unheard[folder.path] = None
        return reason

    def _enter(self, path: str, seen: int, ahead: dict[str, int]) -> bool:
        """Watch a directory, then look at what is in it.

        Args:
            path: the directory.
            seen: what is known of it: as in `_to_enter`.
            ahead: takes those that have to be looked at next.

        Returns:
            Whether it tells by itself if it goes: it is there, local, and no symbolic link.
        """
        directory, _, name = path.rpartition("/")
        parent = self._folders.get(directory or "/") if name else None
        if name and (parent is None or parent.state is None):
            return False
        folder = self._folder(path)
        try:
            reason = self._watch(folder)
        except (FileNotFoundError, NotADirectoryError):
            if parent is not None:
                self._mind_links(parent, name)
            self._leave(path)
            return False
        is_remote = reason in (REMOTE, AUTOFS)
        is_link = False
        state = self._root
        if parent is not None and parent.state is not None:
            is_directory = seen == self._moment and parent.reason is None and name not in parent.leads
            if not is_directory and (seen == _MAYBE_LINK or not is_remote):
                is_link = self._mind_links(parent, name)
            state = parent.state.enter(name, is_symlink=is_link)
            parent.folders = _with(parent.folders, path)
        if state is None:
            self._leave(path)
            return False
        if folder.state is not None and (is_remote or folder.state is not state):
            self._leave_contents(folder)
        folder.state = state
        if is_remote:
            self._faults.pop(path, None)
            if reason == REMOTE:
                self.remote[path] = state
            return False
        self.remote.pop(path, None)
        if not state.listed:
            self._look_up(folder, state, ahead, is_needed=False)
        elif not self._list(folder, state, ahead):
            return False
        return not is_link

    def _list(self, folder: _Folder, state: Directory, ahead: dict[str, int]) -> bool:
        files: set[str] = set()
        folders: set[str] = set()
        lost = self._listener.lost_in(folder.path)
        try:
            is_another, has_changed = self._compare(folder)
            if is_another:
                self._look_through(folder)
            if not has_changed and not lost and not folder.leads:  # links are looked at each time
                if ahead is self._to_scan:
                    ahead.update(dict.fromkeys(folder.folders, _DIRECTORY))
                return True
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    # The kernel has told the type together with the name.
                    name, path = entry.name, entry.path
                    if entry.is_dir(follow_symlinks=False):
                        if state.enter(name, is_symlink=False) is not None:
                            folders.add(path)
                            is_known = path in folder.folders
                            if not is_known and self._is_comparing:
                                self._differs(folder, path, ahead, is_directory=True)
                            elif not is_known or is_another or ahead is self._to_scan:
                                ahead[path] = self._moment
                        continue
                    match = state.match(name)
                    if match is None and not lost and not state.follows_links:
                        continue  # as most names in a directory that fills up with something else
                    is_link = entry.is_symlink()
                    if match is not None:
                        files.add(path)
                        is_known = path in folder.files
                        if not is_known and self._is_comparing:
                            self._differs(folder, path, ahead, is_directory=False)
                        elif not is_known or is_another or is_link or name in folder.leads:
                            self._to_examine[path] = _Look(folder, name, state, match, is_link)
                    elif lost and not is_link and entry.inode() in lost and name not in folder.followed:
                        folder.own("followed")[name] = ""
                        self._to_follow[path] = folder, name
                    if is_link and state.enter(name, is_symlink=True) is not None:
                        folders.add(path)
                        ahead[path] = _MAYBE_LINK
        except (FileNotFoundError, NotADirectoryError):
            self._leave(folder.path)
            return False
        except OSError as error:
            folder.changed_ns = 0
            self._faults[folder.path] = error
            self._look_up(folder, state, ahead, is_needed=True)  # what is spelt out may be within reach all the same
            return True
        except BaseException:
            folder.identity, folder.changed_ns = None, 0  # to be listed again, for it was listed in part
            raise
        self._faults.pop(folder.path, None)
        for path in set(folder.files) - files:
            self._differs(folder, path, ahead, is_directory=False)
        for path in set(folder.folders) - folders:
            self._differs(folder, path, ahead, is_directory=True)
        return True

    @staticmethod
    def _compare(folder: _Folder) -> tuple[bool, bool]:
        """Look at a directory that is about to be listed.

        Returns:
            Whether its path may lead to another directory than the one that was looked at, with the same names in it.
            (The number of one that was deleted may be given again: then all that was in it had gone before, and was
            heard.) And whether any name may have come or gone since it was listed.
        """
        status = os.stat(folder.path)
        before, folder.identity = folder.identity, status.st_ino << 32 | status.st_dev
        known_ns, folder.changed_ns = folder.changed_ns, 0
        if folder.identity != before:
            known_ns = 0
        changed_ns = status.st_ctime_ns
        if folder.reason != FILESYSTEM and is_settled(changed_ns, file_time_ns()):
            folder.changed_ns = changed_ns
        return folder.identity != before, not known_ns or folder.changed_ns != known_ns

    def _differs(self, folder: _Folder, path: str, ahead: dict[str, int], *, is_directory: bool) -> None:
        """A listing has shown a name that is not known, or has not shown one that is."""
        name = os.path.basename(path)
        if self._is_comparing:
            self._suspects[path] = folder, name, is_directory
        elif is_directory:
            ahead[path] = _DIRECTORY
        else:
            self._look_at(folder, name)

    def _look_up(self, folder: _Folder, state: Directory, ahead: dict[str, int], *, is_needed: bool) -> None:
        """Look at the names that the patterns spell out; the watch is kept for those that may come, or lead elsewhere.

        Args:
            folder: where.
            state: of it.
            ahead: as in :meth:`_enter`.
            is_needed: whether to keep it in any case.
        """
        self._look_through(folder)  # it may be another directory than before, with the same names in it
        for name in state.names:
            path = os.path.join(folder.path, name)
            match = state.match(name)
            if match is not None:
                is_needed = True
                self._to_examine[path] = _Look(folder, name, state, match, may_be_link=True)
            # Whether it is a symbolic link makes a difference to "**" only, which spells nothing out.
            if state.enter(name, is_symlink=True) is not None:
                is_needed |= not self._enter(path, _DIRECTORY, ahead)
        if not is_needed and not folder.links and not folder.followed:
            self._unwatch(folder)

    def _leave(self, path: str) -> None:
        """Forget a directory that has gone, and what was in it."""
        directory, name = os.path.split(path)
        parent = self._folders.get(directory) if name else None
        if parent is not None:
            parent.changed_ns = 0  # its listing has shown it, or will
        if parent is not None and path in parent.folders:
            parent.folders = _without(parent.folders, path)
            if parent.state is not None and not parent.state.listed:
                self._to_enter[directory] = _MAYBE_LINK  # it is to be watched for the name now
        folder = self._folders.get(path)
        if folder is not None:
            self._leave_contents(folder)
            folder.state = folder.identity = None
            self._look_through(folder)
            self._forget_if_unused(folder)

    def _leave_contents(self, folder: _Folder) -> None:
        self.remote.pop(folder.path, None)
        self._faults.pop(folder.path, None)
        folder.changed_ns = 0
        for path in folder.files:
            match = None if folder.state is None else folder.state.match(os.path.basename(path))
            assert match is not None  # as when it was found
            self._count(match, -1)
            self._listener.drop(path)
        folder.files = ()
        for name in folder.followed:
            self._listener.drop(os.path.join(folder.path, name))
        folder.followed.clear()
        for path in tuple(folder.folders):
            self._leave(path)
        leads, folder.leads = folder.leads, _NONE
        for name, places in leads.items():
            self._let_go(os.path.join(folder.path, name), places)

    def _forget_if_unused(self, folder: _Folder) -> None:
        if folder.state is None and not folder.links and not folder.followed and folder.path in self._folders:
            del self._folders[folder.path]
            self._unwatch(folder)

    def _unwatch(self, folder: _Folder) -> None:
        folder.is_watched = False
        self._unheard.pop(folder.path, None)
        self._watcher.unwatch_directory(folder.path)
