"""The nameless inodes: watched ones to which no tracked path leads any more. Their handles read them.

Renamed, moved and deleted files are among them while their writers go on. Nothing of them is held open, or a filesystem
could not be unmounted, with one exception: a deleted inode whose handle still opens is open elsewhere. It is held
until its last opener closes it, so that its last bytes count, and not a moment longer.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import time
from collections.abc import Collection, Mapping

from fstat_cache.changes import Changes, DirectoryEvent, InodeChange
from fstat_cache.handles import RefusedError, open_handle, take_handle
from fstat_cache.inotify import (
    IN_ATTRIB,
    IN_CLOSE_NOWRITE,
    IN_CLOSE_WRITE,
    IN_IGNORED,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_UNMOUNT,
    NO_WATCH,
    Inotify,
)
from fstat_cache.session import Session
from fstat_cache.states import Sampled
from fstat_cache.stats import FileStats, file_time_ns, status_of
from fstat_cache.watches import ARMED_MASK, DISARMED_MASK, Entry, Watches

log = logging.getLogger(__name__)

MOST_NAMELESS = 10_000
"""How many nameless inodes are watched; the one that lost its name first makes room."""
HELD_SHARE = 4
"""At most a quarter of the descriptors that the process may have hold deleted inodes: others need some too."""
QUIET_S = 600.0
"""How long a nameless inode that is not deleted stays watched after its last change."""
NAME_S = 1.0
"""Within how long after an inode lost its last tracked name a new one is found, if it has one."""

_CLOSED = IN_CLOSE_WRITE | IN_CLOSE_NOWRITE


class Nameless:
    """A nameless inode.

    Attributes:
        stats: of the latest read.
        handle: None where it cannot be read.
        directory: in which it was seen last; only its filesystem matters.
        links: how many names it has; None: unknown.
        disk_bytes: how much of the disk it takes.
        fd: the descriptor that holds a deleted inode; None: it is not held.
        closes_wd: its watch in :attr:`Session.closes`.
        is_complete: whether it was read after its last opener had closed it.
        changed_at: when it changed last, by the monotonic clock in seconds.
        is_dirty: whether it was written after its latest read.
        is_uncounted: whether that was reported, because it cannot be read.
        has_moved: whether it was renamed.
    """

    __slots__ = (
        *("changed_at", "closes_wd", "directory", "disk_bytes", "fd", "handle", "has_moved", "is_complete"),
        *("is_dirty", "is_uncounted", "links", "stats"),
    )

    def __init__(self, stats: FileStats, handle: bytes | None, directory: str) -> None:
        self.stats = stats
        self.handle = handle
        self.directory = directory
        self.links: int | None = None
        self.disk_bytes = stats.size
        self.fd: int | None = None
        self.closes_wd = NO_WATCH
        self.is_complete = False
        self.changed_at = time.monotonic()
        self.is_dirty = False
        self.is_uncounted = False
        self.has_moved = False

    def release(self) -> None:
        """Close the descriptor that holds it, if any."""
        fd, self.fd = self.fd, None
        if fd is not None:
            os.close(fd)


class NamelessInodes(dict[int, Nameless]):
    """Watch descriptor -> nameless inode. Takes no lock.

    Args:
        session: has the inotify instance.
        watches: of files; those of nameless inodes count too.
        changes: what is read is added to these. Where none are kept, no inode is followed without a name.
        sampled: the disarmed watches of files.

    Attributes:
        handles: watch descriptor of a file with a name -> its handle, None where it has none.
        known: identity -> its handle, from before the start.
        active_ns: files that were written since then get their handles when they are tracked.
        are_refused: whether this process may not use handles.
        by_closes: watch in :attr:`Session.closes` of a held inode -> its watch here.
        overlays: the IDs of the mounts of overlayfs.
        are_missing: whether there are files without a handle, because their filesystem has none.
    """

    def __init__(self, session: Session, watches: Watches, changes: Changes, sampled: Sampled) -> None:
        self.handles: dict[int, bytes | None] = {}
        self.are_refused = False
        self.are_missing = False
        self.overlays: Collection[int] = ()
        self.by_closes: dict[int, int] = {}
        self.known: Mapping[tuple[int, int, int], bytes] = {}
        self.active_ns = file_time_ns()
        self._session = session
        self._real = session.root.real
        self._watches = watches
        self._changes = changes
        self._sampled = sampled

    def probe(self) -> None:
        """Find out whether this process may use handles, where a filesystem has some."""
        for directory in (self._real("/"), "/dev") if self._changes.is_kept else ():
            try:
                fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if (handle := take_handle(fd)) is not None:
                    os.close(open_handle(fd, handle))
                    return
            except RefusedError as error:
                self._refuse(error)
                return
            except OSError:
                continue
            finally:
                os.close(fd)

    # -- while an inode has a name ------------------------------------------------------------------------------------

    def learn(self, entry: Entry) -> None:
        """Take the handle of a watched file, for the time when its name leads elsewhere; once for each watch."""
        if self.are_refused or not self._changes.is_kept or entry.wd == NO_WATCH:
            return
        try:
            fd = os.open(self._real(entry.path), os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            # An inode's number is given again at once, but no birth; without births its IN_IGNORED is queued before.
            status, stats = os.fstat(fd), entry.stats
            assert self._session.inotify is not None
            if (status.st_dev, status.st_ino) != (stats.device, stats.inode):
                return
            if self._session.inotify.pending_bytes():
                birth_ns = status_of(f"/proc/self/fd/{fd}")[-2]
                if not birth_ns or birth_ns != stats.birth_ns:
                    return
            handle = take_handle(fd)
        except RefusedError as error:
            self._refuse(error)
            return
        except OSError:
            return
        finally:
            os.close(fd)
        self.handles[entry.wd] = handle
        if handle is not None:
            self._changes.add(InodeChange(entry.stats, handle))
        elif not self.are_missing:
            self.are_missing = True
            log.warning("deleted and moved files cannot be read where the filesystem has no handles: %s", entry.path)

    def _refuse(self, error: RefusedError) -> None:
        self.are_refused = True
        log.warning("deleted and moved files cannot be read; grant CAP_DAC_READ_SEARCH: %s", error.strerror)

    # -- when its last name is gone -----------------------------------------------------------------------------------

    def adopt(self, wd: int, stats: FileStats, directory: str) -> None:
        """Follow a watched inode whose last tracked path leads elsewhere now. The event of that has it read.

        Args:
            wd: its watch.
            stats: the known ones.
            directory: of that path.
        """
        handle = self.handles.pop(wd, None) or self.known.get(stats.identity) or None
        self[wd] = Nameless(stats, handle, directory)
        if not self._changes.is_kept:
            self.drop(wd)
            return
        limit = self._watches.limit
        if len(self) > MOST_NAMELESS or (limit is not None and len(self._watches) >= limit):
            self.give_up_a_watch()

    def find(self, known: FileStats, handle: bytes, directory: str) -> bool:
        """Read an inode by its handle, and :meth:`follow` it.

        Args:
            known: its stats.
            handle: of the inode.
            directory: in which it was seen last.

        Returns:
            Whether it was found.
        """
        try:
            fd = self._open(handle, directory, known.device)
        except OSError as error:
            if isinstance(error, RefusedError):
                self._refuse(error)
            elif error.errno == errno.ESTALE:
                self._changes.add(InodeChange(known, is_gone=True))
            return False
        return self._find(fd, known, handle, directory)

    def is_open(self, known: FileStats, handle: bytes | None, directory: str) -> bool:
        """Return whether an inode whose watch has ended is open, and follow it then: see :meth:`find`.

        The kernel ends a watch with the inode's last name, unless it is open by that one.
        """
        if handle is None or self.are_refused:
            return False
        try:
            fd = self._open(handle, directory, known.device)
        except OSError:
            return False
        return self._find(fd, known, handle, directory)

    def _find(self, fd: int, known: FileStats, handle: bytes, directory: str) -> bool:
        try:
            return os.fstat(fd).st_ino == known.inode and bool(self.follow(fd, directory))
        except OSError as error:  # it must not end the thread: there is no /proc, or no descriptor left
            log.debug("an inode cannot be read by its handle: %s", error)
            return False
        finally:
            os.close(fd)

    def follow(self, fd: int, directory: str) -> FileStats:
        """Read and report an open inode, and follow it if it was written lately, or is deleted.

        Args:
            fd: its descriptor, which the caller closes.
            directory: in which it was seen last.
        """
        _, size, mtime_ns, number, device, birth_ns, _ = status_of(f"/proc/self/fd/{fd}")
        keeps_birth = not (self.overlays and self._is_on_overlay(directory))
        status, stats = os.fstat(fd), FileStats(size, mtime_ns, number, device, birth_ns, keeps_birth=keeps_birth)
        try:
            handle = None if self.are_refused else take_handle(fd)
        except RefusedError as error:
            handle = None
            self._refuse(error)
        self._changes.add(InodeChange(stats, handle, status.st_nlink, 512 * status.st_blocks))
        is_idle = file_time_ns() - mtime_ns > QUIET_S * 1e9
        if not (status.st_nlink and is_idle) and self._watches.open() is None:
            with contextlib.suppress(OSError):
                wd = self._watch(fd, ARMED_MASK)
                if wd not in self._watches.files:
                    self.setdefault(wd, Nameless(stats, handle, directory)).handle = handle
                    self._read(wd)
        return stats

    # -- while it has none --------------------------------------------------------------------------------------------

    def take_in(self, wd: int, mask: int) -> None:
        """Process the events of a nameless inode."""
        inode = self[wd]
        inode.is_dirty |= bool(mask & IN_MODIFY) or (wd in self._sampled and inode.links != 0)
        if mask & IN_IGNORED:
            self.drop(wd)
            if mask & IN_UNMOUNT or not self.is_open(inode.stats, inode.handle, inode.directory):
                is_exact = inode.is_complete or inode.is_uncounted or not inode.is_dirty
                self._changes.add(InodeChange(inode.stats, is_gone=not mask & IN_UNMOUNT, is_exact=is_exact))
            return
        self._read(wd)
        inode.has_moved |= bool(mask & IN_MOVE_SELF)
        if inode.links is None and mask & IN_ATTRIB and not inode.has_moved:
            # It cannot be read. It is deleted, unless it has another name in its directory (link(2)).
            inode.links = 0
            self._changes.add(InodeChange(inode.stats, links=0, disk_bytes=inode.disk_bytes, is_read=False))
            self._changes.add(DirectoryEvent(inode.directory, None))

    def take_in_closes(self, closes: Inotify) -> None:
        """Read the held inodes that were closed elsewhere, and let go of those that nobody else has open.

        Kernels before Linux 6.10 report this process's own closes as well. If they were taken in, each would cause
        another one, without end.

        Args:
            closes: :attr:`Session.closes`.
        """
        others: set[int] = set()
        for closes_wd in closes.read().notes:
            wd = self.by_closes.get(closes_wd, NO_WATCH)
            if wd in self:
                self._read(wd)
                self[wd].release()
                # A close elsewhere may be among these events. Whether the inode opens again shows if it was the last.
                others |= closes.read().notes.keys() - {closes_wd}
                self._renew(wd)
        for closes_wd in others:
            wd = self.by_closes.get(closes_wd, NO_WATCH)
            if wd in self:
                self._read(wd)
                self._renew(wd)

    def check(self, wd: int) -> None:
        """Read an inode again, after events were lost or at intervals; drop an idle one. An unknown one is no error."""
        inode = self.get(wd)
        if inode is None:
            return
        if inode.links != 0 and time.monotonic() - inode.changed_at > QUIET_S:
            self.drop(wd)
        else:
            self._read(wd)
            self._renew(wd)

    def sample(self) -> list[int]:
        """Read the sampled ones; return the watches of those that have changed."""
        return [wd for wd in self._sampled if wd in self and self._read(wd)]

    def disarm(self, wd: int) -> None:
        """Sample an inode that is written all the time, because an armed watch slows its writer down."""
        self._sampled.add(wd, time.monotonic())
        self._set_mask(wd)

    def arm(self, wd: int) -> None:
        """Watch a sampled inode again, then read it."""
        self._sampled.pop(wd, None)
        self._set_mask(wd)
        self._read(wd)

    def drop(self, wd: int) -> None:
        """Follow an inode no more; its watch stays if a path leads to it again."""
        inode = self.pop(wd)
        inode.release()
        if self.by_closes.pop(inode.closes_wd, None) is not None and self._session.closes is not None:
            self._session.closes.rm_watch(inode.closes_wd)
        if wd in self._watches.files:
            if inode.handle is not None:  # else it is not known yet, perhaps
                self.handles[wd] = inode.handle
        else:
            self._sampled.pop(wd, None)
            self._watches.remove(wd)

    def give_up_a_watch(self) -> bool:
        """Drop the inode that lost its name first, so that a file can have its watch; return whether there was one."""
        for wd in self:
            self.drop(wd)
            return True
        return False

    def forget(self) -> None:
        """Drop all but remove no watch, because the session is about to close."""
        for inode in self.values():
            inode.release()
        self.clear()
        self.handles.clear()
        self.by_closes.clear()

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, wd: int) -> bool:
        """Read an inode and report it; return whether it has changed."""
        inode = self[wd]
        if inode.fd is None:
            try:
                if inode.handle is None:
                    raise RefusedError
                inode.fd = self._open(inode.handle, inode.directory, inode.stats.device)
            except OSError as error:
                # ESTALE: it is gone, and IN_IGNORED will say so. In the first moments its new name may yet be found.
                if error.errno != errno.ESTALE and time.monotonic() - inode.changed_at > NAME_S:
                    self._note_uncounted(inode)
                return False
        has_changed = self._take_over(inode, os.fstat(inode.fd))
        inode.is_dirty = False
        if inode.links == 0 and inode.closes_wd == NO_WATCH:
            self._watch_closes(wd)
            self._renew(wd)  # its last opener may have closed it before that was watched
        elif inode.links != 0:
            inode.release()
        return has_changed

    def _watch_closes(self, wd: int) -> None:
        inode = self[wd]
        assert inode.fd is not None
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and len(self.by_closes) >= most // HELD_SHARE:
            return  # it is read at each write, but its last bytes may be missing
        try:
            inode.closes_wd = self._session.open_closes().watch_fd(inode.fd, _CLOSED)
            self.by_closes[inode.closes_wd] = wd
        except OSError as error:  # it cannot be held then, because nothing would say for how long
            log.debug("the last bytes of a deleted file may be missing: %s", error)

    def _note_uncounted(self, inode: Nameless) -> None:
        if inode.is_dirty and not inode.is_uncounted:
            inode.is_uncounted = True
            self._changes.add(InodeChange(inode.stats, is_exact=False))

    def _take_over(self, inode: Nameless, status: os.stat_result) -> bool:
        known = inode.stats
        if (status.st_dev, status.st_ino) != known.identity[:2]:
            return False
        size, mtime_ns, disk_bytes = status.st_size, status.st_mtime_ns, 512 * status.st_blocks
        has_changed = (size, mtime_ns) != (known.size, known.mtime_ns)
        if has_changed:
            inode.stats = known.later(size, mtime_ns)
            inode.changed_at = time.monotonic()
        if has_changed or (status.st_nlink, disk_bytes) != (inode.links, inode.disk_bytes):
            inode.links, inode.disk_bytes = status.st_nlink, disk_bytes
            self._changes.add(InodeChange(inode.stats, inode.handle, inode.links, disk_bytes))
        return has_changed

    def _renew(self, wd: int) -> None:
        """Let go of a deleted inode, and hold it again if somebody else still has it open."""
        inode = self[wd]
        inode.release()
        if inode.links == 0 and inode.closes_wd != NO_WATCH:
            self._read(wd)
            inode.is_complete = inode.fd is None

    def _set_mask(self, wd: int) -> None:
        inode = self[wd]
        mask = DISARMED_MASK if wd in self._sampled else ARMED_MASK
        with contextlib.suppress(OSError):
            if inode.fd is not None:
                self._watch(inode.fd, mask)
            elif inode.handle is not None:
                fd = self._open(inode.handle, inode.directory, inode.stats.device)
                try:
                    self._watch(fd, mask)
                finally:
                    os.close(fd)

    def _watch(self, fd: int, mask: int) -> int:
        assert self._session.inotify is not None
        return self._session.inotify.watch_fd(fd, mask)

    def _open(self, handle: bytes, directory: str, device: int) -> int:
        """Open an inode by its handle, from the nearest directory above its last place that is still there.

        Raises:
            OSError: ESTALE: the inode is gone. EXDEV: another device is there now, because its own may be unmounted.
        """
        at = self._open_directory(directory)
        try:
            return open_handle(at, handle)
        except OSError as error:
            if error.errno == errno.ESTALE and os.fstat(at).st_dev != device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), directory) from None
            raise
        finally:
            os.close(at)

    def _is_on_overlay(self, directory: str) -> bool:
        at = self._open_directory(directory)  # an open file's mount may be that of a process with other mounts
        try:
            return status_of(f"/proc/self/fd/{at}")[-1] in self.overlays
        finally:
            os.close(at)

    def _open_directory(self, directory: str) -> int:
        """Open a directory, or the nearest one above it that is still there."""
        while True:
            try:
                return os.open(self._real(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                if directory == "/":
                    raise
                directory = os.path.dirname(directory)
