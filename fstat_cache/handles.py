"""File handles: read an inode wherever its name went (name_to_handle_at(2), open_by_handle_at(2))."""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import struct
from collections.abc import Collection, Mapping

from fstat_cache.changes import Changes, InodeChange
from fstat_cache.inotify import NO_WATCH
from fstat_cache.session import Session
from fstat_cache.stats import file_time_ns, status_of
from fstat_cache.watches import Entry

log = logging.getLogger(__name__)

_AT_EMPTY_PATH = 0x1000
_MAX_HANDLE_BYTES = 128
_HEADER = struct.Struct("=Ii")  # struct file_handle without its bytes: their number, and their type
_REFUSED = (errno.EPERM, errno.ENOSYS)
"""What both calls say to a process that lacks CAP_DAC_READ_SEARCH, or whose seccomp profile forbids them."""
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.EOVERFLOW)
"""What name_to_handle_at(2) says of a filesystem without handles. The second one also if a handle is too long."""


def take_handle(fd: int) -> bytes | None:
    """Return the handle of an open file, of an O_PATH descriptor too; None where its filesystem has none (overlayfs).

    A handle stays valid after renames, moves and restarts, until the inode is gone.

    Raises:
        OSError: EPERM, ENOSYS: this process may not use handles. Else only this file's failed.
    """
    handle = ctypes.create_string_buffer(_HEADER.size + _MAX_HANDLE_BYTES)
    _HEADER.pack_into(handle, 0, _MAX_HANDLE_BYTES, 0)
    try:
        _call("name_to_handle_at", fd, b"", handle, ctypes.byref(ctypes.c_int()), _AT_EMPTY_PATH)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    size, _ = _HEADER.unpack_from(handle)
    return handle.raw[: _HEADER.size + size]


def open_handle(directory: int, handle: bytes) -> int:
    """Open an inode, without access to its content (O_PATH); return the descriptor.

    Args:
        directory: a descriptor of any directory on the inode's filesystem.
        handle: what :func:`take_handle` has returned.

    Raises:
        OSError: EPERM, ENOSYS: this process may not use handles. ESTALE: the inode is gone.
    """
    return _call("open_by_handle_at", directory, handle, os.O_PATH | os.O_CLOEXEC)


def _call(name: str, *args: object) -> int:
    result: int = getattr(_libc(), name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Handles(dict[int, bytes | None]):
    """Watch descriptor of a file with a name -> its handle, None where it has none. Takes no lock.

    Args:
        session: has the inotify instance.
        changes: handles are added to these. Where none are kept, none are taken.

    Attributes:
        known: identity -> its handle, from before the start.
        active_ns: files that were written since then get their handles when they are tracked.
        are_refused: whether this process may not use handles.
        are_missing: whether there are files without a handle, because their filesystem has none.
        overlays: the IDs of the mounts of overlayfs.
    """

    def __init__(self, session: Session, changes: Changes) -> None:
        self.known: Mapping[tuple[int, int, int], bytes] = {}
        self.active_ns = file_time_ns()
        self.are_refused = False
        self.are_missing = False
        self.overlays: Collection[int] = ()
        self._session = session
        self._real = session.root.real
        self._changes = changes

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
            except OSError as error:
                self._note(error)
            finally:
                os.close(fd)

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
        except OSError as error:
            self._note(error)
            return
        finally:
            os.close(fd)
        self[entry.wd] = handle
        if handle is not None:
            self._changes.add(InodeChange(entry.stats, handle))
        elif not self.are_missing:
            self.are_missing = True
            log.warning("deleted and moved files cannot be read where the filesystem has no handles: %s", entry.path)

    def take(self, fd: int) -> bytes | None:
        """Return the handle of an open file; None where it has none, or this process may not use handles."""
        try:
            return None if self.are_refused else take_handle(fd)
        except OSError as error:
            self._note(error)
            return None

    def open(self, handle: bytes, directory: str, device: int) -> int:
        """Open an inode by its handle, from the nearest directory above its last place that is still there.

        Args:
            handle: of the inode.
            directory: in which it was seen last.
            device: the inode's.

        Raises:
            OSError: ESTALE: the inode is gone. EXDEV: another device is there now, because its own may be unmounted.
        """
        at = self._open_directory(directory)
        try:
            return open_handle(at, handle)
        except OSError as error:
            self._note(error)
            if error.errno == errno.ESTALE and os.fstat(at).st_dev != device:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), directory) from None
            raise
        finally:
            os.close(at)

    def is_on_overlay(self, directory: str) -> bool:
        """Return whether files seen last in a directory are on overlayfs."""
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

    def _note(self, error: OSError) -> None:
        """Use no handles from now on if an error says that this process may not."""
        if error.errno in _REFUSED and not self.are_refused:
            self.are_refused = True
            log.warning("deleted and moved files cannot be read; grant CAP_DAC_READ_SEARCH: %s", error.strerror)
