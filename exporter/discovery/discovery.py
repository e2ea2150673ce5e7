"""Finds the files that match; tracks their creation and removal."""

from __future__ import annotations

import itertools
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from exporter.discovery.agenda import DIRECTORY, Suspect
from exporter.discovery.findings import Findings
from exporter.discovery.folders import Folder
from exporter.discovery.remote_files import RemoteFiles
from exporter.discovery.tree import Tree
from exporter.matching.automaton import Directory, Match, PathMatcher
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from fstat_cache import DirectoryEvent, FStatCache

_log = logging.getLogger(__name__)

UNWATCHABLE_AT_ONCE = 1_000
"""How many unwatchable directories are checked at each sync."""


class Discovery:
    """Keeps the set of matching files up to date. Only one thread at a time may call it.

    An operation yields findings in order; files that are found together are ordered by path. The caller performs each,
    sends the answer, and finishes the operation before it begins another one. An error that it throws in, or that a
    listing raises, is logged once and stops nothing else; the next scan lists that directory again.

    Args:
        matcher: decides which files match.
        cache: watches directories.
    """

    def __init__(self, matcher: PathMatcher, cache: FStatCache) -> None:
        self.missed = 0
        """Files and directories that a rescan has found created or deleted without an event, since the start."""
        self._tree = Tree(matcher, cache)
        self.matches: Counter[int] = self._tree.matches.counts
        """Pattern number -> number of files that it matches now; a missing number means 0."""
        self.shadowed: Counter[int] = self._tree.matches.shadowed
        """Pattern number -> number of those of them that belong to an earlier group."""
        self._remote_files = RemoteFiles(self._tree)
        self._scan = self._tree.scan
        self._suspects: dict[str, Suspect] = {}
        self._notified: set[str] = set()  # paths with an event since the scan step; directories with unnamed events
        self._flooded: set[str] = set()  # directories whose latest event had no name: they are perhaps sampled now
        self._to_restate: list[tuple[str, Directory | None]] = []
        self._faults = Transitions()

    def __len__(self) -> int:
        """Return how many directories are known."""
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
        """How many directories cannot be watched; they are checked at each sync instead."""
        return len(self._tree.folders.unwatchable)

    @property
    def remote(self) -> dict[str, Directory]:
        """Remote directory -> what can match in it, the paths with the fewest links first.

        Only a worker may list it, because that may hang.
        """
        remote = dict(self._tree.remote)
        return {path: remote[path] for path in self._tree.ways.in_order(remote)}

    def is_directory(self, path: str) -> bool:
        """Return whether there is a directory; False on a remote filesystem, which is not asked."""
        return self._tree.folders.is_directory(path)

    def groups_in(self, directory: str) -> Collection[int]:
        """Return the numbers of the groups that can match in a directory or below it."""
        folder = self._tree.folders.get(directory)
        return () if folder is None or folder.state is None else folder.state.groups

    # -- scanning -----------------------------------------------------------------------------------------------------

    def begin_scan(self, lost: Mapping[str, set[int]]) -> None:
        """Begin a scan of all directories. From the second scan on, differences without an event count as missed.

        Args:
            lost: directory -> inode numbers of files that were last seen in it and have no known name now.
        """
        tree = self._tree
        tree.lost = lost
        tree.retry()
        self._scan.suspects = self._suspects if tree.folders else None
        if tree.matches.matcher.root is not None:
            self._scan.to_enter = {"/": DIRECTORY}

    @property
    def is_scanning(self) -> bool:
        """Whether the scan is not finished yet."""
        return bool(self._scan)

    def scan(self, directories: int) -> Findings:
        """Take one step of the scan. Process pending events and call :meth:`settle` before the next step.

        Args:
            directories: how many directories to enter.
        """
        self._notified.clear()
        for _ in range(directories):
            if self._scan:
                self._tree.enter_next(self._scan)
        yield from self._tree.work_off()

    def settle(self) -> Findings:
        """Check the differences that a rescan step has found, after all events up to it have been processed."""
        for path in tuple(self._suspects):
            folder, name, is_directory = self._suspects.pop(path)
            known = path in folder.files, path in folder.folders
            self._tree.queue_name(folder, name, is_directory=is_directory)
            yield from self._tree.work_off()
            is_missed = known != (path in folder.files, path in folder.folders)
            is_explained = folder.path in self._flooded or not self._notified.isdisjoint((path, folder.path))
            if is_missed and not is_explained and folder.path not in self._tree.folders.unwatchable:
                _log.debug("missed until now", extra=fields(path=path))
                self.missed += 1
        if not self._scan:
            self._flooded = {path for path in self._flooded if self._tree.folders.get(path) is not None}
            self._faults.log_faults(
                _log,
                self._tree.faults,
                "directories or files cannot be read and are skipped",
                "directories or files can be read again, or are gone",
            )

    def take_remote(self, found: Mapping[str, Match], left_out: Collection[str]) -> Findings:
        """Update the remote files by the result of a scan.

        Args:
            found: path -> its match.
            left_out: places that did not answer: known files at or below them are kept.
        """
        return self._remote_files.take(found, left_out)

    # -- following ----------------------------------------------------------------------------------------------------

    def catch_up(self, events: Iterable[DirectoryEvent], lost: Mapping[str, set[int]]) -> Findings:
        """Process events: check the names that they may concern.

        Args:
            events: of directories, in order.
            lost: see :meth:`begin_scan`.
        """
        tree = self._tree
        if lost or not self._scan:  # else the scan still looks for what was lost when it began
            tree.lost = lost
        tree.moment += 1
        tree.renames.begin_batch()
        unsure: dict[str, int] = {}
        for event in events:
            folder = tree.folders.get(event.directory)
            if folder is not None and event.name is not None:
                self._take_in(folder, event.name, event)
            elif folder is not None:
                unsure[folder.path] = min(event.since_ns, unsure.get(folder.path) or event.since_ns)
                self._flooded.add(folder.path)
                if self._suspects:
                    self._notified.add(folder.path)
        yield from tree.work_off()
        if unsure:
            tree.doubts = unsure
            tree.queue_directories(unsure)
            yield from tree.work_off()
            tree.doubts = {}

    def _take_in(self, folder: Folder, name: str, event: DirectoryEvent) -> None:
        tree = self._tree
        path = os.path.join(folder.path, name)
        self._flooded.discard(folder.path)
        if self._suspects:
            self._notified.add(path)
        if event.moved_from:
            tree.renames.move_away(folder, name, event.moved_from)
        if folder.path in tree.folders.crossed:
            tree.queue_links_over(folder, name)
        if path in folder.folders and (below := tree.folders.get(path)) is not None:
            below.identity = None  # treat it as another directory, even if it is the same
        tree.queue_name(folder, name, is_directory=event.is_directory)
        if event.moved_to and not event.is_directory:
            is_matched = folder.match(name) is not None
            if is_matched and self._to_restate:  # the directory may still have the old matcher
                is_matched = tree.matches.matcher.match(path) is not None
            tree.renames.move_to(folder, name, event.moved_to, is_matched=is_matched)
        if folder.path in tree.folders.followed:
            tree.renames.stat_again(folder.path, name)

    def check_unwatchable(self) -> Findings:
        """Check the directories that cannot be watched; if they are many, some of them in rotation."""
        unwatchable = self._tree.folders.unwatchable
        paths = tuple(itertools.islice(unwatchable, max(UNWATCHABLE_AT_ONCE, len(unwatchable) // 120)))
        for path in paths:
            unwatchable[path] = unwatchable.pop(path)
        self._tree.queue_directories(paths)
        return self._tree.work_off()

    def check(self, path: str) -> Findings:
        """Stat a known file again; an unknown path is ignored."""
        directory, name = os.path.split(path)
        folder = self._tree.folders.get(directory)
        if folder is not None and path in folder.files:
            self._tree.queue_name(folder, name)
            yield from self._tree.work_off()
        elif path in self._remote_files:
            yield from self._remote_files.stat(path, self._remote_files[path])

    def unfollow(self, path: str) -> None:
        """Stop following a renamed file."""
        self._tree.renames.unfollow(path)

    # -- other patterns -----------------------------------------------------------------------------------------------

    def restate(self, matcher: PathMatcher) -> Findings:
        """Begin to switch to another matcher without a scan; known files that it matches are kept.

        Call :meth:`restate_some` until :attr:`is_restating` is False; no scan may run meanwhile. A later scan finds the
        files that only the new matcher matches.
        """
        tree = self._tree
        tree.matches.switch_to(matcher)
        self._to_restate = [("/", matcher.root)]
        return self._remote_files.restate(matcher)

    @property
    def is_restating(self) -> bool:
        """Whether some directories have not switched to the latest matcher yet."""
        return bool(self._to_restate)

    def restate_some(self, directories: int) -> Findings:
        """Switch some directories to the latest matcher.

        Args:
            directories: how many, from the root down.
        """
        tree = self._tree
        for _ in range(directories):
            if not self._to_restate:
                break
            path, state = self._to_restate.pop()
            folder = tree.folders.get(path)
            if folder is None:
                continue
            if state is not None and (state.loops or path in tree.ways):
                state = tree.ways.choose(path, tree.ways.identity(path) or folder.identity, state)
            if state is None:
                if not folder.folders:
                    tree.drop(folder)
                    continue
                self._to_restate.append((path, None))  # again, after all directories below it were dropped
            leads = tree.links.leads.get(path, ())
            for below in folder.folders:
                name = os.path.basename(below)
                at = None
                # In a directory that cannot be listed only names without wildcards are known.
                if state is not None and (path not in tree.faults or name in state.names):
                    at = state.enter(name, is_symlink=name in leads)
                self._to_restate.append((below, at))
            if state is not None and folder.state is not None and folder.state is not state:
                tree.restate(folder, state)
        if not self._to_restate:
            tree.matches.forget_unused()
            # A link that matches no more may have been the only need for a watch.
            for folder in tree.folders.values():
                if folder.is_watched and folder.state is not None and not folder.state.listed:
                    tree.links.unwatch_if_unneeded(folder, folder.state)
        yield from tree.work_off()
