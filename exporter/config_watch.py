"""Tells when the configuration file has changed, however that is done: rewritten, replaced, a symbolic link swapped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable

from inotify_simple import INotify, flags

from exporter.ops.log import fields
from exporter.ops.threads import call_in_thread
from exporter.ops.transitions import Transitions
from fstat_cache.paths import Walk

_log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""How long it must have been quiet before the file is read: an editor may do several things to it."""
PATIENCE_S = 30.0
"""How long somebody may have it open without writing before it is read all the same."""
MISSING_S = 5.0
"""How often to look for a file that has gone, of which the directory may have gone too."""

# IN_CLOSE_WRITE instead of IN_MODIFY: what is half written is none of our business. Those of the file itself come
# however it was opened, also where it is mounted alone; those of the directory come for files that are new, too.
_OF_DIRECTORY = (
    flags.CREATE
    | flags.MOVED_TO
    | flags.MOVED_FROM
    | flags.DELETE
    | flags.CLOSE_WRITE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)
_OF_FILE = flags.MODIFY | flags.CLOSE_WRITE | flags.ATTRIB


class ConfigWatch:
    """Watches a file, by an inotify instance of its own in the running event loop. Asleep while nothing happens.

    Where the kernel reports nothing (filesystems that other machines write to) it tells nothing.

    Args:
        path: the file, absolute.
        on_change: called when it may have changed and nobody is writing it, also once after the start: it may have
            changed since it was read; and once after it has gone.
    """

    def __init__(self, path: str, on_change: Callable[[], object]) -> None:
        self._path = path
        self._on_change = on_change
        self._inotify: INotify | None = None
        # Watch -> directory, and the names in it over which the path leads; none for the watch of the file itself.
        self._watched: dict[int, tuple[str, set[str]]] = {}
        self._is_being_written = False
        self._is_missing = False
        self._timer: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None
        self._faults = Transitions()

    def start(self) -> None:
        """Begin to watch, unless it is a pipe or the like, of which there is nothing more to read."""
        if os.path.exists(self._path) and not os.path.isfile(self._path):
            return
        try:
            self._inotify = INotify(nonblocking=True)
        except OSError as error:
            self._tell(error)
            return
        asyncio.get_running_loop().add_reader(self._inotify.fileno(), self._hear)
        self._check_after(0)

    def close(self) -> None:
        """End; idempotent."""
        if self._inotify is None:
            return
        asyncio.get_running_loop().remove_reader(self._inotify.fileno())
        for pending in (self._timer, self._check):
            if pending is not None:
                pending.cancel()
        self._inotify.close()
        self._inotify = None

    def _hear(self) -> None:
        if self._inotify is None:
            return
        with contextlib.suppress(BlockingIOError):
            events = self._inotify.read(timeout=0)
            concern_us = [self._concerns_us(wd, mask, name) for wd, mask, _, name in events]  # each: they are noted
            if any(concern_us):
                self._check_after(SETTLE_S)

    def _concerns_us(self, wd: int, mask: int, name: str) -> bool:
        if mask & flags.IGNORED:
            return False
        if name:
            directory, names = self._watched.get(wd, ("", {name}))
            if name not in names:
                return False
            # A new link is complete; a new file is when whoever made it closes it, which is told as well.
            self._is_being_written = bool(mask & flags.CREATE) and _is_new_file(os.path.join(directory, name))
        elif mask & (flags.MODIFY | flags.CLOSE_WRITE):
            self._is_being_written = bool(mask & flags.MODIFY)
        return True

    def _check_after(self, seconds: float, *, is_patience: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin_check, is_patience)

    def _begin_check(self, is_patience: bool) -> None:
        if self._check is not None and not self._check.done():
            self._check_after(SETTLE_S, is_patience=is_patience)
            return
        if is_patience:
            self._is_being_written = False
        self._check = asyncio.create_task(self._check_now())

    async def _check_now(self) -> None:
        is_there = await call_in_thread(self._arm, "config-watch")
        if not is_there:
            self._check_after(MISSING_S)
        elif self._is_being_written:
            self._check_after(PATIENCE_S, is_patience=True)
            return
        if is_there or not self._is_missing:
            self._on_change()
        self._is_missing = not is_there

    def _arm(self) -> bool:
        """Watch all that the path leads over now; return whether a file is at its end."""
        inotify = self._inotify
        if inotify is None:
            return True
        watched: dict[int, tuple[str, set[str]]] = {}
        is_there = False
        error: Exception | None = None
        try:
            for directory, names in _way(self._path).items():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    watched[inotify.add_watch(directory, _OF_DIRECTORY)] = directory, names
            # After the directories: what takes its place from now on is heard of.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                wd = inotify.add_watch(self._path, _OF_FILE)
                watched[wd] = "", set()
                is_there = True
            before, self._watched = self._watched, watched
            for wd in before.keys() - watched.keys():
                with contextlib.suppress(OSError):  # it went with what it was on
                    inotify.rm_watch(wd)
        except (OSError, ValueError) as failure:  # ValueError: closed meanwhile
            error = failure
            is_there = os.path.exists(self._path)
        if self._inotify is not None:
            self._tell(error)
        return is_there

    def _tell(self, error: Exception | None) -> None:
        changed = self._faults.update(() if error is None else ("it",))
        if changed.begun:
            text = "the configuration file can not be watched: after a change send SIGHUP"
            _log.warning(text, extra=fields(path=self._path, error=error))
        if changed.ended:
            _log.info("the configuration file is watched again", extra=fields(path=self._path))


def _way(path: str) -> dict[str, set[str]]:
    """The directories of the file and of all symbolic links that lead there, each with the names that matter in it."""
    found: dict[str, set[str]] = {}
    walk = Walk(path)
    for place in walk:
        is_link = walk.follow(os.readlink) is not None
        if is_link or walk.is_last:
            directory, name = os.path.split(place)
            found.setdefault(directory, set()).add(name)
    return found


def _is_new_file(path: str) -> bool:
    """Whether it is a regular file, and no other name of one that was there before."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
