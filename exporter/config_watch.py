"""Reports changes of the configuration file: rewritten, replaced, or a symbolic link swapped."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import stat
from collections.abc import AsyncIterator

from inotify_simple import INotify, flags

from exporter.ops.log import fields
from exporter.ops.threads import call_in_thread
from fstat_cache.paths import Walk

_log = logging.getLogger(__name__)

SETTLE_S = 1.0
"""How long there must be no event before the file is read: an editor may change it in several steps."""
DEADLINE_S = 30.0
"""How long a writer may have the file open without writing before it is read anyway."""
MISSING_S = 5.0
"""How often to check for a missing file, whose directory may be missing too."""
RETRY_S = 30.0
"""How often to try again to watch a file that cannot be watched, for example because a limit is reached."""

# For the directory IN_CLOSE_WRITE instead of IN_MODIFY: a file that is half written is not read. The watch of the file
# itself reports writes by any name, also where the file alone is mounted; that of the directory reports new files too.
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
    """Watches a file with an inotify instance of its own in the running event loop; sleeps while nothing happens.

    It reports nothing where the kernel reports nothing (filesystems that other machines write to).

    Args:
        path: the file, absolute.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        # Watch -> directory, and the names in it that the path leads through; none for the watch of the file itself.
        self._watched: dict[int, tuple[str, set[str]]] = {}
        self._is_being_written = False
        self._has_events = asyncio.Event()  # that concern the path
        self._is_unwatchable = False

    async def changes(self) -> AsyncIterator[None]:
        """Yield when the file may have changed and nobody is writing it.

        Also yields once at the beginning, as the file may have changed since it was read, once after it is gone, and
        once when it can be watched again.

        Ends at once for a pipe or the like, from which nothing more can be read.
        """
        if os.path.exists(self._path) and not os.path.isfile(self._path):
            return
        while (inotify := self._open()) is None:
            await asyncio.sleep(RETRY_S)
        loop = asyncio.get_running_loop()
        loop.add_reader(inotify.fileno(), self._on_events, inotify)
        try:
            was_there = True
            while True:
                is_there = await call_in_thread(functools.partial(self._arm, inotify), "config-watch")
                has_news = is_there and self._is_being_written and await self._has_event_within(DEADLINE_S)
                if not has_news:
                    self._is_being_written = False
                    if is_there or was_there:
                        yield
                    was_there = is_there
                    has_news = await self._wait(inotify, None if is_there else MISSING_S)
                while has_news:
                    has_news = await self._has_event_within(SETTLE_S)
        finally:
            loop.remove_reader(inotify.fileno())
            inotify.close()

    def _open(self) -> INotify | None:
        try:
            return INotify(nonblocking=True)
        except OSError as error:
            self._log_fault(error)
            return None

    async def _wait(self, inotify: INotify, timeout_s: float | None) -> bool:
        """Wait for an event, or until a file that cannot be watched can be; return whether it came to that."""
        while self._is_unwatchable:
            if await self._has_event_within(RETRY_S):
                return True
            await call_in_thread(functools.partial(self._arm, inotify), "config-watch")
            if not self._is_unwatchable:
                return True
        return await self._has_event_within(timeout_s)

    async def _has_event_within(self, timeout_s: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_events.wait()
        except TimeoutError:
            return False
        self._has_events.clear()
        return True

    def _on_events(self, inotify: INotify) -> None:
        with contextlib.suppress(BlockingIOError):
            for wd, mask, _, name in inotify.read(timeout=0):
                if self._concerns_path(wd, mask, name):
                    self._has_events.set()

    def _concerns_path(self, wd: int, mask: int, name: str) -> bool:
        if mask & flags.IGNORED:
            return False
        if name:
            directory, names = self._watched.get(wd, ("", {name}))
            if name not in names:
                return False
            # A new link is complete. A new file is complete at its IN_CLOSE_WRITE.
            self._is_being_written = bool(mask & flags.CREATE) and _is_new_file(os.path.join(directory, name))
        elif mask & (flags.MODIFY | flags.CLOSE_WRITE):
            self._is_being_written = bool(mask & flags.MODIFY)
        return True

    def _arm(self, inotify: INotify) -> bool:
        """Watch all that the path leads through now; return whether there is a file at its end."""
        watched: dict[int, tuple[str, set[str]]] = {}
        is_there = False
        error: OSError | None = None
        try:
            for directory, names in _way(self._path).items():
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    watched[inotify.add_watch(directory, _OF_DIRECTORY)] = directory, names
            # After the directories: they report whatever replaces it from now on.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                watched[inotify.add_watch(self._path, _OF_FILE)] = "", set()
                is_there = True
            before, self._watched = self._watched, watched
            for wd in before.keys() - watched.keys():
                with contextlib.suppress(OSError):  # removed with its directory or file
                    inotify.rm_watch(wd)
        except ValueError:
            return is_there  # closed meanwhile
        except OSError as failure:
            error = failure
            is_there = os.path.exists(self._path)
        self._log_fault(error)
        return is_there

    def _log_fault(self, error: OSError | None) -> None:
        if error is not None and not self._is_unwatchable:
            text = "the configuration file cannot be watched: after a change send SIGHUP"
            _log.warning(text, extra=fields(path=self._path, error=error))
        if error is None and self._is_unwatchable:
            _log.info("the configuration file is watched again", extra=fields(path=self._path))
        self._is_unwatchable = error is not None


def _way(path: str) -> dict[str, set[str]]:
    """Return the directories of the file and of all symbolic links to it, each with the names that matter in it."""
    found: dict[str, set[str]] = {}
    walk = Walk(path)
    for place in walk:
        is_link = walk.follow(os.readlink) is not None
        if is_link or walk.is_last:
            directory, name = os.path.split(place)
            found.setdefault(directory, set()).add(name)
    return found


def _is_new_file(path: str) -> bool:
    """Return whether this is a regular file, and not a new name of an old one."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
