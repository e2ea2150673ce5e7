"""The kernel boundary: one inotify(7) instance, its masks, and the parser of its events."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import termios
from array import array
from collections.abc import Callable
from typing import NamedTuple

from inotify_simple import INotify, flags

IN_MODIFY = int(flags.MODIFY)
IN_ATTRIB = int(flags.ATTRIB)
IN_CLOSE_WRITE = int(flags.CLOSE_WRITE)
IN_CLOSE_NOWRITE = int(flags.CLOSE_NOWRITE)
IN_DELETE_SELF = int(flags.DELETE_SELF)
IN_MOVE_SELF = int(flags.MOVE_SELF)
IN_CREATE = int(flags.CREATE)
IN_DELETE = int(flags.DELETE)
IN_MOVED_FROM = int(flags.MOVED_FROM)
IN_MOVED_TO = int(flags.MOVED_TO)
IN_ONLYDIR = int(flags.ONLYDIR)
IN_MASK_ADD = int(flags.MASK_ADD)
IN_ISDIR = int(flags.ISDIR)
IN_IGNORED = int(flags.IGNORED)
IN_UNMOUNT = int(flags.UNMOUNT)

NO_WATCH = -1
"""The watch descriptor of what is not watched; in a batch, that of IN_Q_OVERFLOW (inotify(7))."""

_HEADER = struct.Struct("=iIII")  # struct inotify_event without its name: wd, mask, cookie, len


class NameEvent(NamedTuple):
    """An event of a name in a watched directory."""

    wd: int
    mask: int
    cookie: int
    """The number of a rename, equal in its IN_MOVED_FROM and IN_MOVED_TO; else 0."""
    name: bytes


class Events(NamedTuple):
    """One batch of events from the queue."""

    notes: dict[int, int]
    """Watch descriptor -> the or-ed masks of all events of the inode itself, ordered by each watch's first event. The
    key :data:`NO_WATCH` stands for an overflow."""
    names: list[NameEvent]
    """The events of names in directories, in order."""
    total: int = 0
    """How many events there were, of both kinds."""

    @property
    def are_writes(self) -> bool:
        """Whether there are events, and all are IN_MODIFY of inodes with a watch of their own."""
        return bool(self.notes) and not self.names and set(self.notes.values()) == {IN_MODIFY}


def parse_events(data: bytes) -> Events:
    """Parse raw inotify events.

    Args:
        data: whole ``struct inotify_event`` records, as read(2) gives them.
    """
    notes: dict[int, int] = {}
    names: list[NameEvent] = []
    words = array("i", data)
    if not any(words[3::4]):  # no event has a name, because until the first one with a name every fourth word is `len`
        # Busy files repeat the same pair of words; dict.fromkeys() drops the repetitions in C.
        for wd, mask in dict.fromkeys(zip(words[0::4], words[1::4], strict=True)):
            notes[wd] = notes.get(wd, 0) | mask
        return Events(notes, names, len(words) // 4)
    position = total = 0
    header, header_bytes = _HEADER.unpack_from, _HEADER.size
    while position < len(data):
        wd, mask, cookie, name_bytes = header(data, position)
        position += header_bytes
        total += 1
        if name_bytes:
            names.append(NameEvent(wd, mask, cookie, data[position : position + name_bytes].rstrip(b"\0")))
            position += name_bytes
        else:
            notes[wd] = notes.get(wd, 0) | mask
    return Events(notes, names, total)


def max_user_watches(path: str = "/proc/sys/fs/inotify/max_user_watches") -> int:
    """Return how many watches the kernel allows one user in all processes; unbounded where it has no such sysctl."""
    try:
        with open(path, encoding="utf-8") as limit:
            return int(limit.read())
    except FileNotFoundError:
        return sys.maxsize


class Inotify:
    """One inotify instance.

    Raises:
        OSError: EMFILE when the user has no instance left (``fs.inotify.max_user_instances``) or the process no
            descriptor.
    """

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self.fd = self._inotify.fileno()
        self._pending_bytes = array("i", [0])
        self.add_watch: Callable[[str, int], int] = self._inotify.add_watch
        """``add_watch(path, mask) -> wd``; for an inode already watched: replaces the mask, returns the same wd."""

    def watch_fd(self, fd: int, mask: int) -> int:
        """Do as `add_watch` for an open file, of an O_PATH descriptor too."""
        wd: int = self._inotify.add_watch(f"/proc/self/fd/{fd}", mask)
        return wd

    def rm_watch(self, wd: int) -> None:
        """Remove a watch; one that the kernel has already removed (its inode is gone) is no error."""
        try:
            self._inotify.rm_watch(wd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def watches(self) -> set[int]:
        """Return the watches that exist: the kernel ends that of a gone inode, also when its IN_IGNORED is lost.

        Raises:
            OSError: there is no /proc.
        """
        with open(f"/proc/self/fdinfo/{self.fd}", encoding="ascii") as info:
            return {int(line.split(" ", 2)[1][3:], 16) for line in info if line.startswith("inotify wd:")}

    def read(self) -> Events:
        """Read all events queued now, without waiting for more."""
        fcntl.ioctl(self.fd, termios.FIONREAD, self._pending_bytes)  # inlines pending_bytes(), as this is called most
        pending = self._pending_bytes[0]
        return parse_events(os.read(self.fd, pending)) if pending else Events({}, [])

    def pending_bytes(self) -> int:
        """Return how many bytes of events are queued, at a third of the cost of a read that raises."""
        fcntl.ioctl(self.fd, termios.FIONREAD, self._pending_bytes)
        return self._pending_bytes[0]

    def close(self) -> None:
        """Close the descriptor, which removes every watch; may be called twice."""
        self._inotify.close()
