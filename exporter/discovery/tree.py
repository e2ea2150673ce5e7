"""The tree of directories in which files can match: enters and lists directories, and stats names.

An event only names the place to stat; the result of the stat counts. So the order and number of events do not matter,
and a listing can replace lost events.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Mapping, Set
from typing import NamedTuple

from exporter.discovery.agenda import DIRECTORY, LAST, MAYBE_LINK, Agenda, Failures, Suspect
from exporter.discovery.findings import Appeared, Findings, Gone, Rematched
from exporter.discovery.folders import Folder, Folders, identity_of
from exporter.discovery.links import Links
from exporter.discovery.matches import Matches
from exporter.discovery.renames import Renames
from exporter.discovery.strays import Strays, find_strays
from exporter.discovery.swaps import Swaps
from exporter.discovery.ways import Ways
from exporter.matching.automaton import Directory, Match, PathMatcher
from fstat_cache import AUTOFS, REMOTE, FStatCache


class _Candidate(NamedTuple):
    """A name to stat, and what is assumed of it until then."""

    folder: Folder
    name: str
    state: Directory
    match: Match
    may_be_link: bool


class Tree:
    """The known directories and the files in them. Its methods queue work; :meth:`work_off` yields the findings.

    Attributes:
        matches: the matches of the known files.
        folders, links, renames: the known directories, symbolic links and renamed files.
        ways: by which path each ``**`` that follows links enters a directory.
        agenda: the directories to enter next.
        scan: those of the scan.
        remote: remote directory -> what can match in it. Only a worker may list it, because that may hang.
        faults: directory that cannot be listed -> why.
        failures: directories with an unexpected error.
        lost: directory -> inode numbers of files that were last seen in it and have no known name now.
        doubts: directory that is to be listed -> since when names may have come and gone in it unseen.
        moment: the number of event batches. A listing of an earlier moment may be outdated.
    """

    def __init__(self, matcher: PathMatcher, cache: FStatCache) -> None:
        self.matches = Matches(matcher)
        self.folders = Folders(cache)
        self.links = Links(self.folders, cache.root)
        self.renames = Renames(self.folders, self.links)
        self.scan = Agenda()
        self.agenda = Agenda(self.scan)
        self.ways = Ways(self.matches, self.links.leads, self.agenda.last)
        self.remote: dict[str, Directory] = {}
        self.faults: dict[str, OSError] = {}
        self.failures = Failures()
        self.lost: Mapping[str, set[int]] = {}
        self.doubts: Mapping[str, int] = {}
        self.moment = 1
        self._root = cache.root
        self._swaps = Swaps(self.folders)
        self._to_stat: dict[str, _Candidate] = {}
        self._unanswered: deque[Gone | Rematched] = deque()  # findings that need no answer

    # -- working off --------------------------------------------------------------------------------------------------

    def work_off(self) -> Findings:
        """Enter the queued directories and stat the queued names, until nothing is queued."""
        agenda, to_stat = self.agenda, self._to_stat
        while agenda or to_stat or self._unanswered:
            while agenda:
                self.enter_next(agenda)
            while self._unanswered:
                finding = self._unanswered.popleft()
                try:
                    yield finding
                except Exception as error:  # noqa: BLE001 - see Failures
                    self.failures.note(error, os.path.dirname(finding.path))
            for path in sorted(to_stat):
                candidate = to_stat.pop(path)
                try:
                    yield from self._stat(path, candidate)
                except Exception as error:  # noqa: BLE001 - see Failures
                    self.failures.note(error, candidate.folder.path)
        yield from self.renames.work_off(self.failures)

    def enter_next(self, agenda: Agenda) -> None:
        """Enter the next directory of an agenda."""
        path, seen = agenda.pop(self.ways.in_order)
        try:
            self._enter(path, seen, agenda)
        except Exception as error:  # noqa: BLE001 - see Failures
            self.failures.note(error, os.path.dirname(path))

    def retry(self) -> None:
        """Queue the directories with an error, to be listed again."""
        failed = self.failures.take()
        for directory in failed:
            folder = self.folders.get(directory)
            if folder is not None:
                folder.forget_listing()
        self.queue_directories(failed)

    # -- queueing -----------------------------------------------------------------------------------------------------

    def queue_directories(self, paths: Iterable[str]) -> None:
        """Queue directories whose events may have been lost, or that may be gone."""
        for path in paths:
            folder = self.folders.get(path)
            if folder is None:
                continue
            if folder.state is not None:
                self.agenda.to_enter[path] = MAYBE_LINK
            else:
                self.folders.watch_names(folder)
            self.queue_links_over(folder)
            self.renames.stat_again(path)

    def queue_name(self, folder: Folder, name: str, *, is_directory: bool = False) -> None:
        """Queue a name in a directory, if something can match at or below it.

        Args:
            folder: the directory.
            name: the name.
            is_directory: whether an event or a listing has shown a directory, and no symbolic link.
        """
        state = folder.state
        if state is None:
            return
        path = os.path.join(folder.path, name)
        if path in folder.folders or (is_directory and state.enter(name, is_symlink=False) is not None):
            self.agenda.to_enter[path] = DIRECTORY if is_directory else MAYBE_LINK
        elif not is_directory and (
            path in self._swaps.emptied
            or (state.follows_links and state.enter(name, is_symlink=True) is not None and self._root.is_link(path))
        ):
            self.agenda.to_enter[path] = MAYBE_LINK
        if (not is_directory or path in folder.files) and (match := state.match(name)) is not None:
            self._to_stat[path] = _Candidate(folder, name, state, match, may_be_link=True)

    def queue_links_over(self, folder: Folder, *names: str) -> None:
        """Queue the symbolic links that lead over these names in a directory, by default over any name in it."""
        crossed = self.folders.crossed.get(folder.path, {})
        for name in names or crossed:
            for link in crossed.get(name, ()):
                directory, link_name = os.path.split(link)
                self.queue_name(self.folders[directory], link_name)

    # -- files --------------------------------------------------------------------------------------------------------

    def _stat(self, path: str, candidate: _Candidate) -> Findings:
        folder, name, state, match, may_be_link = candidate
        if folder.state is not state:  # the directory is gone, or has another state by now
            found = folder.match(name)
            if found is None:
                return
            match = found
        leads = self.links.leads
        if name in leads.get(folder.path, ()) or (may_be_link and self._root.is_link(path)):
            self.links.resolve(folder.path, name)
        places = leads.get(folder.path, {}).get(name)
        end = self.folders[places[-1].directory] if places else None
        # A stat through a link to autofs would mount a filesystem there.
        is_there = (end is None or end.reason != AUTOFS) and (
            yield Appeared(path, match, self.renames.arrived.pop(path, ""))
        )
        if is_there and path not in folder.files:
            self.matches.set(folder.files, path, match)
        elif not is_there:
            folder.changed_ns = 0  # so that the directory is listed again
            if path in folder.files:
                self.matches.set(folder.files, path, None)
                self._swaps.note_loss(folder.path)
                yield Gone(path)
        if end is not None and end.reason is None:
            self._find_strays(end, self.lost.get(folder.path, set()) | self.lost.get(end.path, set()))

    def _find_strays(self, folder: Folder, lost: Set[int]) -> None:
        crossed, doubt_ns = self.folders.crossed.get(folder.path, ()), self.doubts.get(folder.path)
        find_strays(folder, self._root, lost, doubt_ns, besides=crossed, renames=self.renames)

    # -- directories --------------------------------------------------------------------------------------------------

    def _enter(self, path: str, seen: int, agenda: Agenda) -> None:
        """Watch a directory, then list it or check its single names; add the next directories to the agenda."""
        directory, _, name = path.rpartition("/")
        parent = self.folders.get(directory or "/") if name else None
        if name and (parent is None or parent.state is None):
            return
        folder = self.folders.make(path)
        try:
            reason = self.folders.watch(folder)
        except (FileNotFoundError, NotADirectoryError):
            if (
                parent is not None
                and parent.state is not None
                and parent.state.enter(name, is_symlink=True) is not None
            ):
                self.links.resolve(parent.path, name)
            self._leave(path)
            return
        is_remote = reason in (REMOTE, AUTOFS)
        state = self.matches.matcher.root
        is_link = is_swapped = False
        if parent is not None and parent.state is not None:
            leads = self.links.leads.get(parent.path, ())
            is_directory = seen == self.moment and parent.reason is None and name not in leads
            may_be_link = not is_directory and (seen < DIRECTORY or not is_remote)
            was_link = name in leads
            is_link = may_be_link and self.links.resolve(parent.path, name)
            state = parent.state.enter(name, is_symlink=is_link)
            is_swapped = is_link and not was_link and state is not parent.state.enter(name, is_symlink=False)
            parent.folders[path] = None
            if state is None and parent.state.match(name) is None:
                self.links.forget(parent.path, name)
        if state is None:
            self._leave(path)
        if is_swapped:
            self._swaps.warn(folder)
        if state is None:
            return
        if is_link and state.loops and seen != LAST:
            agenda.last[path] = None
            return
        if state.loops or path in self.ways:
            with contextlib.suppress(OSError):  # then the listing fails too
                status = None if is_remote else os.stat(self._root.real(path))
                state = self.ways.choose(path, status and identity_of(status), state)
        if folder.state is not None:
            if is_remote:
                self._leave_contents(folder)
            elif folder.state is not state:
                self.restate(folder, state)
                agenda.to_enter.update(dict.fromkeys(folder.folders, DIRECTORY))
        folder.state = state
        if is_remote:
            self.faults.pop(path, None)
            if reason == REMOTE:
                self.remote[path] = state
            return
        self.remote.pop(path, None)
        if not state.listed:
            self._check_names(folder, state, agenda)
            self._find_strays(folder, self.lost.get(folder.path, set()))
            self.links.unwatch_if_unneeded(folder, state)
        else:
            self._list(folder, state, agenda)

    def _list(self, folder: Folder, state: Directory, agenda: Agenda) -> None:
        files: set[str] = set()
        folders: set[str] = set()
        lost = self.lost.get(folder.path, set())
        leads = self.links.leads.get(folder.path, {})
        suspects = agenda.suspects if folder.is_listed else None
        try:
            real_path = self._root.real(folder.path)
            is_another, has_changed = folder.compare(real_path)
            if is_another:
                self.queue_links_over(folder)
            if not has_changed and not lost and not leads:  # links are checked each time
                if agenda.is_scan:
                    agenda.to_enter.update(dict.fromkeys(folder.folders, DIRECTORY))
                return
            strays = Strays(folder, self._root, lost, self.doubts.get(folder.path), is_first=not folder.is_listed)
            above = os.path.join(folder.path, "")
            with os.scandir(real_path) as entries:
                for entry in entries:
                    name, path = entry.name, f"{above}{entry.name}"
                    # A listing includes the type, so no stat is needed.
                    if entry.is_dir(follow_symlinks=False):
                        if state.enter(name, is_symlink=False) is not None:
                            folders.add(path)
                            is_known = path in folder.folders
                            if not is_known and suspects is not None:
                                suspects[path] = Suspect(folder, name, is_directory=True)
                            elif not is_known or is_another or agenda.is_scan:
                                agenda.to_enter[path] = self.moment
                        continue
                    match = state.match(name)
                    if match is None and not strays and not state.follows_links:
                        continue  # the most frequent case in a directory full of other files
                    is_link = entry.is_symlink()
                    if match is not None:
                        files.add(path)
                        is_known = path in folder.files
                        if not is_known and suspects is not None:
                            suspects[path] = Suspect(folder, name, is_directory=False)
                        elif not is_known or is_another or is_link or name in leads:
                            self._to_stat[path] = _Candidate(folder, name, state, match, is_link)
                    elif strays and not is_link:
                        strays.note(entry)
                    if is_link and state.enter(name, is_symlink=True) is not None:
                        folders.add(path)
                        agenda.to_enter[path] = MAYBE_LINK
            strays.follow(self.renames)
        except (FileNotFoundError, NotADirectoryError):
            self._leave(folder.path)
            return
        except OSError as error:
            folder.changed_ns, folder.is_listed = 0, True
            self.faults[folder.path] = error
            self._check_names(folder, state, agenda)  # names without wildcards need no listing
            return
        except BaseException:
            # The listing is incomplete, so the next scan lists it again.
            folder.forget_listing()
            raise
        folder.is_listed = True
        self.faults.pop(folder.path, None)
        for name in tuple(leads):
            path = os.path.join(folder.path, name)
            if path not in files and path not in folders:
                self.links.forget(folder.path, name)
        missing = [(path, False) for path in folder.files.keys() - files]
        missing += [(path, True) for path in folder.folders.keys() - folders]
        for path, is_directory in missing:
            name = os.path.basename(path)
            if suspects is not None:
                suspects[path] = Suspect(folder, name, is_directory)
            else:
                self.queue_name(folder, name, is_directory=is_directory)

    def _check_names(self, folder: Folder, state: Directory, agenda: Agenda) -> None:
        """Queue the names without wildcards in the patterns."""
        self.queue_links_over(folder)  # it may be another directory than before, with the same names in it
        for name in state.names:
            path = os.path.join(folder.path, name)
            match = state.match(name)
            if match is not None:
                self._to_stat[path] = _Candidate(folder, name, state, match, may_be_link=True)
            # Whether it is a symbolic link matters to "**" only, which has no names.
            if state.enter(name, is_symlink=True) is not None:
                self._enter(path, DIRECTORY, agenda)

    def restate(self, folder: Folder, state: Directory | None) -> None:
        """Set another state for a directory. Files in it that still match are kept; directories in it do not change."""
        before, folder.state = folder.state, state
        directory = folder.path
        for path, old in tuple(folder.files.items()):
            match = folder.match(os.path.basename(path))
            if match == old:
                continue
            self.matches.set(folder.files, path, match)
            if match is None:
                self.renames.follow(folder, os.path.basename(path))  # it may be a renamed file that still grows
            else:
                self._unanswered.append(Rematched(path, match))
        for name in tuple(self.links.leads.get(directory, ())):
            if state is None or (state.match(name) is None and state.enter(name, is_symlink=True) is None):
                self.links.forget(directory, name)
        if self.remote.pop(directory, None) is not None and state is not None:
            self.remote[directory] = state
        if state is None or not state.listed:
            self.faults.pop(directory, None)
        if state is None:
            self.ways.forget(directory)
        if state is None or before is None:
            folder.forget_listing()
            return
        if state.reaches_more_than(before):
            folder.changed_ns, folder.is_listed = 0, False
        for name in tuple(self.folders.followed.get(directory, ())):
            if (match := state.match(name)) is not None:
                self.folders.followed.take(directory, name)
                self._to_stat[os.path.join(directory, name)] = _Candidate(folder, name, state, match, may_be_link=True)

    def drop(self, folder: Folder) -> None:
        """Forget a directory in which nothing can match any more, after the directories in it."""
        parent = self.folders.get(os.path.dirname(folder.path))
        if parent is not None:
            parent.folders.pop(folder.path, None)
        self.restate(folder, None)
        self.folders.forget_if_unused(folder)

    def _leave(self, path: str) -> None:
        """Forget a directory that is gone, and everything in it."""
        directory, name = os.path.split(path)
        parent = self.folders.get(directory) if name else None
        if parent is not None:
            parent.changed_ns = 0  # so that the parent is listed again
            if path in parent.folders:
                del parent.folders[path]
                if parent.state is not None and not parent.state.listed:
                    self.agenda.to_enter[directory] = MAYBE_LINK  # to watch it, because the name may come again
        folder = self.folders.get(path)
        if folder is not None:
            self._leave_contents(folder)
            self.queue_links_over(folder)
            self.folders.forget_if_unused(folder)
        if parent is not None and path in self._swaps.emptied:
            self._swaps.note_loss(directory)

    def _leave_contents(self, folder: Folder) -> None:
        for name in tuple(self.folders.followed.get(folder.path, ())):
            self.folders.followed.take(folder.path, name)
            self._unanswered.append(Gone(os.path.join(folder.path, name)))
        if folder.files:
            self._swaps.note_loss(folder.path)
        for path in tuple(folder.files):
            self.matches.set(folder.files, path, None)
            self._unanswered.append(Gone(path))
        for path in tuple(folder.folders):
            self._leave(path)
        self.restate(folder, None)
