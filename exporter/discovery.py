"""Finds the files that the patterns mean by listing directories."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from exporter.log import fields
from exporter.patterns import Directory, PathMatcher
from exporter.transitions import Transitions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found.

    Attributes:
        files: the regular files (symbolic links to one included), each with the number of its group.
        unreadable: how many directories (or links to files) could not be looked at.
    """

    files: dict[str, int]
    unreadable: int


class Scanner:
    """Scans for the files of a :class:`PathMatcher`, and logs what is in its way once.

    Args:
        matcher: what to look for.
        names: the groups' names, by number, for the log.
    """

    def __init__(self, matcher: PathMatcher, names: Sequence[str]) -> None:
        self._matcher = matcher
        self._names = names
        self._faults = Transitions()
        self._overlaps: set[tuple[int, ...]] = set()

    def scan(self) -> Scan:
        """Look for the files now. Nothing that is met on the way is fatal; not to be called by two threads at once."""
        run = _Run()
        if self._matcher.root is not None:
            run.visit(self._matcher.root)
        self._tell_faults(run.faults)
        self._tell_overlaps(run.overlaps)
        return Scan(run.files, len(run.faults))

    def _tell_faults(self, faults: dict[str, OSError]) -> None:
        changed = self._faults.update(faults)
        if changed.begun:
            example = min(changed.begun)
            _log.warning(
                "directories or files can not be reached and are left out",
                extra=fields(count=len(changed.begun), example=example, error=faults[example].strerror),
            )
        if changed.ended:
            _log.info(
                "directories or files can be reached again, or are gone",
                extra=fields(count=len(changed.ended), example=min(changed.ended)),
            )

    def _tell_overlaps(self, overlaps: dict[tuple[int, ...], str]) -> None:
        for groups, example in overlaps.items():
            if groups not in self._overlaps:
                self._overlaps.add(groups)
                first, *others = (self._names[group] for group in groups)
                _log.warning(
                    "groups overlap, the first one has the files",
                    extra=fields(group=first, also=",".join(others), example=example),
                )


class _Run:
    """One scan under way."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.faults: dict[str, OSError] = {}
        self.overlaps: dict[tuple[int, ...], str] = {}
        self._pending: list[tuple[str, Directory]] = []

    def visit(self, root: Directory) -> None:
        self._pending.append(("/", root))
        while self._pending:
            path, directory = self._pending.pop()
            try:
                if directory.listed:
                    self._list(path, directory)
                else:
                    self._look_up(path, directory)
            except (FileNotFoundError, NotADirectoryError):
                pass  # gone since it was seen, or never there
            except OSError as error:
                self.faults[path] = error
                self._look_up(path, directory)  # what is spelt out may be within reach all the same

    def _list(self, path: str, directory: Directory) -> None:
        pending, found = self._pending, self._found
        with os.scandir(path) as entries:
            for entry in entries:
                # The kernel has told the type together with the name; only a symbolic link costs a stat.
                name = entry.name
                if entry.is_file(follow_symlinks=False):
                    if groups := directory.groups_of(name):
                        found(entry.path, groups)
                elif entry.is_dir(follow_symlinks=False):
                    if (below := directory.enter(name, is_symlink=False)) is not None:
                        pending.append((entry.path, below))
                elif entry.is_symlink():
                    groups = directory.groups_of(name)
                    below = directory.enter(name, is_symlink=True)
                    if groups or below is not None:
                        self._follow(entry.path, groups, below)

    def _look_up(self, path: str, directory: Directory) -> None:
        for name in directory.names:
            child = os.path.join(path, name)
            groups = directory.groups_of(name)
            # Whether it is a symbolic link makes a difference to "**" only, which spells nothing out.
            below = directory.enter(name, is_symlink=True)
            if groups:
                self._follow(child, groups, below)
            elif below is not None:
                # Without a look: listing it tells as well whether it is there.
                self._pending.append((child, below))

    def _follow(self, path: str, groups: tuple[int, ...], below: Directory | None) -> None:
        try:
            mode = os.stat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self.faults[path] = error
            return
        if stat.S_ISREG(mode):
            if groups:
                self._found(path, groups)
        elif stat.S_ISDIR(mode) and below is not None:
            self._pending.append((path, below))

    def _found(self, path: str, groups: tuple[int, ...]) -> None:
        self.files[path] = groups[0]
        if len(groups) > 1:
            self.overlaps.setdefault(groups, path)
