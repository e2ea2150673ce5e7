"""Opens files whose content may be published: regular ones, which only trusted links lead to.

A user could link a log's name to a file that only root may read. So each symbolic link on the way must belong to root
or to the owner of the file. Links are read through descriptors, so that nobody can replace them meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat

from fstat_cache.extents import open_unnoticed
from fstat_cache.paths import MOST_LINKS
from fstat_cache.stats import read_stats

_ROOT = 0
_PATH_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class UntrustedLinkError(PermissionError):
    """A symbolic link on the way to a file belongs to neither root nor the file's owner."""


def find_trusted(path: str, root: str = "") -> int:
    """Find a file by its path, and return a descriptor without access to its content (O_PATH).

    Args:
        path: the file; absolute.
        root: the directory where all paths begin, without a slash at its end.

    Raises:
        UntrustedLinkError: see there.
        OSError: there is no such path.
    """
    owners = {_ROOT}
    ahead = path.split("/")[::-1]
    way = [os.open(root or "/", _PATH_FLAGS & ~os.O_NOFOLLOW | os.O_DIRECTORY)]  # from the root, without links
    links = 0
    try:
        while ahead:
            name = ahead.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(way) > 1:
                    os.close(way.pop())
                continue
            way.append(os.open(name, _PATH_FLAGS, dir_fd=way[-1]))
            status = os.fstat(way[-1])
            if not stat.S_ISLNK(status.st_mode):
                continue
            links += 1
            if links > MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            owners.add(status.st_uid)
            target = os.readlink("", dir_fd=way[-1])
            os.close(way.pop())
            if target.startswith("/"):
                while len(way) > 1:
                    os.close(way.pop())
            ahead += target.split("/")[::-1]
        if not owners <= {_ROOT, os.fstat(way[-1]).st_uid}:
            raise UntrustedLinkError(errno.EPERM, "a link on the way belongs to another user", path)
        return way.pop()
    finally:
        for fd in way:
            os.close(fd)


def open_for_reading(fd: int, identity: tuple[int, int, int]) -> int:
    """Open the regular file of an O_PATH descriptor for reading; see :func:`open_unnoticed`.

    Args:
        fd: the descriptor, which the caller closes.
        identity: of the inode, as in its stats.

    Raises:
        FileNotFoundError: it is another inode, or no regular file.
        OSError: it cannot be opened.
    """
    name = f"/proc/self/fd/{fd}"
    stats = read_stats(name)
    # On overlayfs the identity of the stats has no birth.
    if stats is None or identity not in (stats.identity, (*stats.identity[:2], 0)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return open_unnoticed(name)
