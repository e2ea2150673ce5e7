"""Which filesystems tell inotify of every change, which must be polled, and which may not even answer a stat(2)."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

MOUNTINFO = "/proc/self/mountinfo"

# fmt: off
REMOTE_TYPES = frozenset({
    "9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs",
})
"""Their files are written by other machines or by a program, of which inotify(7) hears nothing, and whoever is to
answer may be gone: any system call may hang."""

SILENT_TYPES = frozenset({
    "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl", "mqueue",
    "nsfs", "proc", "pstore", "resctrl", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs",
})
"""Their files are made by the kernel as they are read, without an event."""
# fmt: on


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    mount_id: int
    device: int
    point: str
    fs_type: str

    @property
    def is_remote(self) -> bool:
        """Whether its files are polled, and only by a thread that may hang."""
        return self.fs_type.partition(".")[0] in REMOTE_TYPES

    @property
    def is_silent(self) -> bool:
        """Whether its files are polled, though a look at them never hangs."""
        return self.fs_type in SILENT_TYPES


def parse_mountinfo(text: str) -> list[Mount]:
    """Parse mountinfo.

    Args:
        text: the file's content, with undecodable bytes as os.fsdecode() gives them.

    Returns:
        The mounts in the order of the file: of two on one point the later covers the earlier.
    """
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        mount_id, _parent, device, _root, point, *_ = before.split(" ")
        major, _, minor = device.partition(":")
        mounts.append(Mount(int(mount_id), os.makedev(int(major), int(minor)), _unescape(point), after.split(" ")[0]))
    return mounts


def _unescape(text: str) -> str:
    # The kernel writes space, tab, newline and backslash as three octal digits.
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


class MountTable:
    """The mounts at one time, asked by path. Asking never touches a remote filesystem.

    Args:
        mounts: in the order of mountinfo.
    """

    def __init__(self, mounts: Iterable[Mount]) -> None:
        self._mounts = {mount.point: mount for mount in mounts}
        self.silent_devices = frozenset(mount.device for mount in self._mounts.values() if mount.is_silent)
        self._remote = tuple(point for point, mount in self._mounts.items() if mount.is_remote)
        self._remote_of_directory = functools.lru_cache(maxsize=10_000)(self._first_remote_on_the_way)

    @classmethod
    def read(cls, path: str = MOUNTINFO) -> MountTable:
        """Read the present mounts.

        Raises:
            OSError: there is no /proc.
        """
        with open(path, encoding="utf-8", errors="surrogateescape") as mountinfo:
            return cls(parse_mountinfo(mountinfo.read()))

    def remote_of(self, path: str) -> str | None:
        """Find the remote filesystem that a look at ``path`` would ask, symbolic links followed.

        Args:
            path: absolute.

        Returns:
            Its mount point, or None: a look at the path asks this machine only.
        """
        if not self._remote:
            return None
        directory = self._remote_of_directory(os.path.dirname(path))
        if directory is not None:
            return directory
        try:
            target = os.readlink(path)
        except OSError:
            return None
        return self._first_remote_on_the_way(os.path.join(os.path.dirname(path), target))

    def points_that_differ(self, other: MountTable) -> tuple[str, ...]:
        """The mount points at which something was mounted, unmounted or mounted over between the two."""
        points = self._mounts.keys() | other._mounts.keys()
        return tuple(point for point in points if self._mounts.get(point) != other._mounts.get(point))

    def _first_remote_on_the_way(self, path: str) -> str | None:
        """Walk the components as the kernel does, but stop before the first step onto a remote filesystem."""
        ahead = [name for name in reversed(path.split("/")) if name not in ("", ".")]
        here = ""
        links = 0
        while ahead:
            name = ahead.pop()
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            step = f"{here}/{name}"
            remote = self._remote_above(step)
            if remote is not None:
                return remote
            try:
                target = os.readlink(step)
            except OSError:
                here = step
                continue
            links += 1
            if links > 40:  # as in the kernel, path_resolution(7)
                return None
            if target.startswith("/"):
                here = ""
            ahead += [name for name in reversed(target.split("/")) if name not in ("", ".")]
        return None

    def _remote_above(self, path: str) -> str | None:
        candidates = [point for point in self._remote if is_below(path, point)]
        if not candidates:
            return None
        nearest = max((point for point in self._mounts if is_below(path, point)), key=len)
        return nearest if nearest in candidates else None


def is_below(path: str, point: str) -> bool:
    """Whether ``path`` is ``point`` or beneath it, by name."""
    return path == point or path.startswith(point if point.endswith("/") else point + "/")


class MountMonitor:
    """Tells when a mount appeared or went: ``poll(2)`` for POLLPRI on mountinfo (proc_pid_mounts(5)).

    Raises:
        OSError: there is no /proc.
    """

    def __init__(self, path: str = MOUNTINFO) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - kept; close() closes it
        self.fd = self._file.fileno()
        """To be polled. A change is told once to each open descriptor."""

    @classmethod
    def open(cls) -> MountMonitor | None:
        """Open a monitor; None where there is no /proc, and every filesystem is taken for a local one."""
        try:
            return cls()
        except OSError:
            return None

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        self._file.close()
