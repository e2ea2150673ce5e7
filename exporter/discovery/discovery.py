"""Finds the files that match; tracks their creation and removal."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from exporter.discovery.findings import Findings
from exporter.discovery.folders import Folder
from exporter.discovery.remote_files import RemoteFiles
from exporter.discovery.tree import DIRECTORY, Agenda, Suspect, Tree
from exporter.matching.automaton import Directory, Match, PathMatcher
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from fstat_cache import DirectoryEvent, FStatCache

_log = logging.getLogger(__name__)

UNWATCHABLE_AT_ONCE = 1_000
"""How many directories that cannot be watched are looked at on each occasion."""


class Discovery:
    """Knows the files that match. Not to be called by two threads at once.

    An operation gives findings, in order; files that are found together come in the order of their paths. The caller
    performs each, sends the answer, and runs the operation to its end before it begins another one. An error that is
    thrown in, or that a listing raises, is logged once; all else goes on, and the next scan lists that directory again.

    Args:
        matcher: what to look for.
        cache: watches directories.
    """

    def __init__(self, matcher: PathMatcher, cache: FStatCache) -> None:
        self.missed = 0
        """Files and directories that a rescan has found come or gone without an event, since the start."""
        self._tree = Tree(matcher, cache)
        self.matches: Counter[int] = self._tree.matches.counts
        """Pattern number -> files that it matches now; 0 for a number that is not in it."""
        self.shadowed: Counter[int] = self._tree.matches.shadowed
        """Pattern number -> those of them that belong to an earlier group."""
        self.remote: Mapping[str, Directory] = self._tree.remote
        """Directories that a thread has to list that may hang -> what can match there."""
        self._remote_files = RemoteFiles(self._tree)
        self._scan = Agenda(is_scan=True)
        self._suspects: dict[str, Suspect] = {}
        self._notified: set[str] = set()  # since they were listed: names, and directories in which it may be any
        self._to_restate: list[tuple[str, Directory | None]] = []
        self._told_faults = Transitions()

    def __len__(self) -> int:
        """How many directories are known."""
        return len(self._tree.folders)

    @property
    def unreadable(self) -> int:
        """How many directories cannot be listed."""
        return len(self._tree.faults)

    @property
    def faults(self) -> list[tuple[str, OSError]]:
        """The directories that cannot be listed, each with its error, in no particular order."""
        return list(self._tree.faults.items())

    @property
    def unwatchable(self) -> int:
        """How many directories cannot be watched; they are listed on every occasion."""
        return len(self._tree.folders.unwatchable)

    def is_directory(self, path: str) -> bool:
        """Return whether there is a directory; False on a remote filesystem, which is not asked."""
        return self._tree.folders.is_directory(path)

    # -- scanning -----------------------------------------------------------------------------------------------------

    def begin_scan(self, lost: Mapping[str, set[int]]) -> None:
        """Begin to look everywhere; in what is known already a difference counts as missed from now on.

        Args:
            lost: directory -> the inode numbers of files that were seen in it last and have no known name now.
        """
        tree = self._tree
        tree.lost = lost
        tree.retry()
        self._scan.suspects = self._suspects if tree.folders else None
        if tree.matches.matcher.root is not None:
            self._scan.to_enter = {"/": DIRECTORY}

    @property
    def is_scanning(self) -> bool:
        """Whether the scan has directories left."""
        return bool(self._scan.to_enter)

    def scan(self, directories: int) -> Findings:
        """Go on with the scan; afterwards, and before the next step, :meth:`settle` is to be called.

        Args:
            directories: how many to enter.
        """
        self._notified.clear()
        for _ in range(directories):
            if self._scan.to_enter:
                self._tree.enter_next(self._scan)
        yield from self._tree.work_off()

    def settle(self) -> Findings:
        """Look at what a rescan has found different, when all events until then have been taken in."""
        for path in tuple(self._suspects):
            folder, name, is_directory = self._suspects.pop(path)
            known = path in folder.files, path in folder.folders
            self._tree.look_at(folder, name, is_directory=is_directory)
            yield from self._tree.work_off()
            is_missed = known != (path in folder.files, path in folder.folders)
            is_explained = not self._notified.isdisjoint((path, folder.path))
            if is_missed and not is_explained and folder.path not in self._tree.folders.unwatchable:
                _log.debug("missed until now", extra=fields(path=path))
                self.missed += 1
        if not self._scan.to_enter:
            self._told_faults.tell_faults(
                _log,
                self._tree.faults,
                "directories or files can not be reached and are left out",
                "directories or files can be reached again, or are gone",
            )

    def take_remote(self, found: Mapping[str, Match], left_out: Collection[str]) -> Findings:
        """Take over what was found in the remote directories.

        Args:
            found: path -> what matches it.
            left_out: places that did not answer: what is known at or below them is kept.
        """
        return self._remote_files.take(found, left_out)

    # -- following ----------------------------------------------------------------------------------------------------

    def catch_up(self, events: Iterable[DirectoryEvent], lost: Mapping[str, set[int]]) -> Findings:
        """Look wherever something may have come or gone.

        Args:
            events: what has happened in directories.
            lost: as in :meth:`begin_scan`.
        """
        tree = self._tree
        tree.lost = lost
        tree.moment += 1
        tree.renames.begin_batch()
        unsure: dict[str, None] = {}
        for event in events:
            folder = tree.folders.get(event.directory)
            if folder is not None and event.name is not None:
                self._take_in(folder, event.name, event)
            elif folder is not None:
                unsure[folder.path] = None
                if self._suspects:
                    self._notified.add(folder.path)
        yield from tree.work_off()
        if unsure:
            tree.look_again(unsure)
            yield from tree.work_off()

    def _take_in(self, folder: Folder, name: str, event: DirectoryEvent) -> None:
        tree = self._tree
        path = os.path.join(folder.path, name)
        if self._suspects:
            self._notified.add(path)
        if event.moved_from:
            tree.renames.move_away(folder, name, event.moved_from)
        if folder.path in tree.folders.crossed:
            tree.look_through(folder, name)
        if path in folder.folders and (below := tree.folders.get(path)) is not None:
            below.identity = None  # even if it is the same one again
        tree.look_at(folder, name, is_directory=event.is_directory)
        if event.moved_to and not event.is_directory:
            is_matched = folder.match(name) is not None
            if is_matched and self._to_restate:  # the directory may not have gone over to the latest matcher
                is_matched = tree.matches.matcher.match(path) is not None
            tree.renames.move_to(folder, name, event.moved_to, is_matched=is_matched)
        if folder.path in tree.folders.followed:
            tree.renames.stat_again(folder.path, name)

    def look_at_unwatchable(self) -> Findings:
        """Look at the directories that cannot be watched; if they are many, at some, in rotation."""
        unwatchable = self._tree.folders.unwatchable
        paths = tuple(itertools.islice(unwatchable, max(UNWATCHABLE_AT_ONCE, len(unwatchable) // 120)))
        for path in paths:
            unwatchable[path] = unwatchable.pop(path)
        self._tree.look_again(paths)
        return self._tree.work_off()

    def check(self, path: str) -> Findings:
        """Stat a known file again; of another path nothing is done."""
        directory, name = os.path.split(path)
        folder = self._tree.folders.get(directory)
        if folder is not None and path in folder.files:
            self._tree.look_at(folder, name)
            yield from self._tree.work_off()
        elif path in self._remote_files:
            yield from self._remote_files.stat(path, self._remote_files[path])

    def unfollow(self, path: str) -> None:
        """Follow a renamed file no longer."""
        self._tree.renames.unfollow(path)

    # -- other patterns -----------------------------------------------------------------------------------------------

    def restate(self, matcher: PathMatcher) -> Findings:
        """Begin to go over to another matcher, with what is known kept as far as it matches, and without a scan.

        Until :attr:`is_restating` is False, :meth:`restate_some` has to be called; meanwhile all but a scan may go on.
        A scan then finds what only the new matcher matches.
        """
        tree = self._tree
        tree.matches.go_over(matcher)
        self._to_restate = [("/", matcher.root)]
        return self._remote_files.restate(matcher)

    @property
    def is_restating(self) -> bool:
        """Whether there are directories that have not gone over to the latest matcher."""
        return bool(self._to_restate)

    def restate_some(self, directories: int) -> Findings:
        """Go on with going over to another matcher.

        Args:
            directories: how many to take, from the root down.
        """
        tree = self._tree
        for _ in range(directories):
            if not self._to_restate:
                break
            path, state = self._to_restate.pop()
            folder = tree.folders.get(path)
            if folder is None:
                continue
            if state is None:
                if not folder.folders:
                    tree.drop(folder)
                    continue
                self._to_restate.append((path, None))  # when all below it has been left
            leads = tree.links.leads.get(path, ())
            for below in folder.folders:
                name = os.path.basename(below)
                at = None
                # Where a directory cannot be listed only the names are known that the patterns spell out.
                if state is not None and (path not in tree.faults or name in state.names):
                    at = state.enter(name, is_symlink=name in leads)
                self._to_restate.append((below, at))
            if state is not None and folder.state is not None and folder.state is not state:
                tree.restate(folder, state)
        if not self._to_restate:
            tree.matches.forget_what_was()
            # A link that was left may have been all that needed a watch.
            for folder in tree.folders.values():
                if folder.is_watched and folder.state is not None and not folder.state.listed:
                    tree.links.unwatch_if_unneeded(folder, folder.state)
        yield from tree.work_off()
