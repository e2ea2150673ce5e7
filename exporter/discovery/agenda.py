"""The directories to enter next, and in which order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import NamedTuple

from exporter.discovery.folders import Folder
from fstat_cache import CacheClosedError

_log = logging.getLogger(__name__)

LAST = -2
"""In :attr:`Agenda.to_enter`: as MAYBE_LINK, and all other directories have been entered before."""
MAYBE_LINK = -1
"""In :attr:`Agenda.to_enter`: the path may be a symbolic link to a directory."""
DIRECTORY = 0
"""In :attr:`Agenda.to_enter`: an event or a listing has shown a directory. (Also a mount point, even a remote one.)"""


class Suspect(NamedTuple):
    """A difference that a rescan has found: a listed name that is unknown, or a known name that was not listed."""

    folder: Folder
    name: str
    is_directory: bool


class Agenda:
    """The directories to enter, and how to treat differences between a listing and the known names.

    Args:
        scan: the agenda of the scan; None: this is it.

    Attributes:
        to_enter: directory -> MAYBE_LINK, DIRECTORY, or the moment of the listing that showed it.
        last: paths with another way to their directory, or with a link, for ``**`` that follows links: they are entered
            after all others. They are shared with the agenda `scan`, and left to that during the first scan.
        suspects: gets the names that differ; None: they are checked at once.
        is_scan: whether known directories in each directory are entered too.
    """

    __slots__ = ("_scan", "is_scan", "last", "suspects", "to_enter")

    def __init__(self, scan: Agenda | None = None) -> None:
        self.to_enter: dict[str, int] = {}
        self.last: dict[str, None] = {} if scan is None else scan.last
        self.suspects: dict[str, Suspect] | None = None
        self.is_scan = scan is None
        self._scan = self if scan is None else scan

    def __bool__(self) -> bool:
        """Return whether a directory is left to enter."""
        return bool(self.to_enter or (self.last and (self._scan.suspects is not None or not self._scan.to_enter)))

    def pop(self, in_order: Callable[[Collection[str]], list[str]]) -> tuple[str, int]:
        """Take the latest directory to enter; at the end the first of :attr:`last`.

        Args:
            in_order: sorts the paths of :attr:`last`.

        Returns:
            The directory, and how it is entered, as in :attr:`to_enter`.
        """
        if not self.to_enter:
            self.to_enter = dict.fromkeys(reversed(in_order(self.last)), LAST)
            self.last.clear()
        return self.to_enter.popitem()


class Failures:
    """The directories with an unexpected error since the latest scan began: the next one lists them again."""

    def __init__(self) -> None:
        self._directories: dict[str, None] = {}

    def note(self, error: Exception, directory: str) -> None:
        """Note an error, so that other work continues; log the first one."""
        if isinstance(error, CacheClosedError):
            raise error  # nothing can be stat'ed any more
        if not self._directories:
            _log.error("an unexpected error in a directory: the next scan lists it again", exc_info=error)
        self._directories[directory] = None

    def take(self) -> Collection[str]:
        """Return and forget the directories."""
        directories, self._directories = self._directories, {}
        return directories
