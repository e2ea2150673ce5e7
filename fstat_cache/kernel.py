"""The kernel boundary: one inotify(7) instance, its masks, and its bytes folded to one note a watch."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import termios
from array import array

from inotify_simple import INotify, flags

IN_MODIFY = int(flags.MODIFY)
IN_ATTRIB = int(flags.ATTRIB)
IN_DELETE_SELF = int(flags.DELETE_SELF)
IN_MOVE_SELF = int(flags.MOVE_SELF)
IN_Q_OVERFLOW = int(flags.Q_OVERFLOW)
IN_IGNORED = int(flags.IGNORED)

NO_WATCH = -1
"""The watch descriptor of what is not watched; in a batch, the one that IN_Q_OVERFLOW comes with (inotify(7))."""

_HEADER_BYTES = 16  # struct inotify_event without its name: int wd; uint32_t mask, cookie, len


def fold_events(data: bytes) -> dict[int, int]:
    """Fold raw inotify events to one note a watch.

    Args:
        data: whole ``struct inotify_event`` records, as read(2) gives them.

    Returns:
        Watch descriptor -> all its events' masks or-ed together, in the order of each watch's first event. An
        overflow is the key :data:`NO_WATCH`.
    """
    notes: dict[int, int] = {}
    words = array("i", data)
    named = any(words[3::4])  # events on a directory: until the first of them every fourth word is a `len`
    # A file that floods the queue sends the same two words again and again: C code drops the repetitions.
    events = _named_events(data) if named else dict.fromkeys(zip(words[0::4], words[1::4], strict=True))
    for wd, mask in events:
        notes[wd] = notes.get(wd, 0) | mask
    return notes


def _named_events(data: bytes) -> dict[tuple[int, int], None]:
    events: dict[tuple[int, int], None] = {}
    position = 0
    while position < len(data):
        wd, mask, _cookie, name_bytes = array("i", data[position : position + _HEADER_BYTES])
        events[wd, mask] = None
        position += _HEADER_BYTES + name_bytes
    return events


def max_user_watches(path: str = "/proc/sys/fs/inotify/max_user_watches") -> int:
    """How many watches the kernel allows all processes of one user together; no bound where there is no such file."""
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

    __slots__ = ("_inotify", "_pending_bytes", "add_watch", "fd")

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self.fd = self._inotify.fileno()
        self._pending_bytes = array("i", [0])
        self.add_watch = self._inotify.add_watch
        """``add_watch(path, mask) -> wd``; of an inode that is watched already, the same wd and the mask replaced."""

    def rm_watch(self, wd: int) -> None:
        """Remove a watch; that the kernel has removed it already (its inode is gone) is no error."""
        try:
            self._inotify.rm_watch(wd)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def read(self) -> dict[int, int]:
        """Read and fold all events that are queued at the moment of the call, without waiting for more."""
        # FIONREAD on an empty queue costs a third of a non-blocking read that raises.
        fcntl.ioctl(self.fd, termios.FIONREAD, self._pending_bytes)
        pending = self._pending_bytes[0]
        return fold_events(os.read(self.fd, pending)) if pending else {}

    def close(self) -> None:
        """Close the descriptor, and with it every watch; may be called twice."""
        self._inotify.close()
