"""The mounts: finds the filesystems on which inotify does not report every change, or stat(2) may hang."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from fstat_cache.paths import Walk

# fmt: off
REMOTE_TYPES = frozenset({
    "9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "fuse", "fuseblk", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs",
})
"""Their files are written by other machines or programs, which causes no event (inotify(7)). Any system call may hang,
because the server may be gone."""

SILENT_TYPES = frozenset({
    "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl", "mqueue",
    "nsfs", "proc", "pstore", "resctrl", "rpc_pipefs", "securityfs", "selinuxfs", "sysfs", "tracefs",
})
"""The kernel makes the content of their files as they are read, and reports no event."""
SYNCING_TYPES = frozenset({"zfs"})
"""SEEK_DATA and SEEK_HOLE (lseek(2)) wait until the file's pending data is on the disk."""
# fmt: on


MOST_PLACES = 20_000
"""How many directories are remembered; beyond, all are forgotten. Some machines create and delete many all the time."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5)).

    Attributes:
        mount_id: unique among the present mounts, but reused.
        device: equal to ``st_dev``.
        root: the directory within the filesystem that is mounted; other than ``/`` for a bind mount.
        point: the mount point.
        fs_type: such as ``ext4`` or ``fuse.sshfs``.
    """

    mount_id: int
    device: int
    root: str
    point: str
    fs_type: str

    @property
    def is_remote(self) -> bool:
        """Whether its files are polled by a worker, because a system call may hang."""
        return self.fs_type.partition(".")[0] in REMOTE_TYPES


def parse_mountinfo(data: bytes) -> list[Mount]:
    """Parse mountinfo.

    Args:
        data: the file's content. Names may hold any byte; the kernel escapes space, tab, newline and backslash only.

    Returns:
        The mounts in the order of the file: a later one hides an earlier one on the same point.
    """
    mounts = []
    for line in data.split(b"\n"):
        # 36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw
        fields, _, rest = line.partition(b" - ")
        try:
            mount_id, _parent, device, root, point, *_ = fields.split(b" ")
            major, minor = device.split(b":")
            number = os.makedev(int(major), int(minor))
            mounts.append(
                Mount(int(mount_id), number, _unescape(root), _unescape(point), os.fsdecode(rest.split(b" ")[0]))
            )
        except ValueError:
            continue  # a line of another kind, or the end
    return mounts


def _unescape(name: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), name))


class MountTable:
    """The mounts at one time, found by path. No method accesses a remote filesystem.

    Args:
        mounts: in the order of mountinfo.
        links: the known symbolic links: path -> target, None for no link. Tables share it and add to it. A link to a
            directory that is changed later is not noticed here.
        root: the directory where the paths begin, without a slash at its end; mount points are the process's paths.
    """

    def __init__(self, mounts: Iterable[Mount], links: dict[str, str | None], root: str = "") -> None:
        self._mounts = {mount.point: mount for mount in mounts}
        self._links = links
        self._root = root
        self._places: dict[str, tuple[str, Mount | None]] = {"/": self._walk("", root[1:])}
        silent = [mount for mount in self._mounts.values() if mount.fs_type in SILENT_TYPES]
        self.silent_devices = frozenset(mount.device for mount in silent)
        self.overlays = frozenset(mount.mount_id for mount in self._mounts.values() if mount.fs_type == "overlay")
        syncing = [mount for mount in self._mounts.values() if mount.fs_type in SYNCING_TYPES]
        self.syncing_devices = frozenset(mount.device for mount in syncing)
        self.remote = frozenset(mount for mount in self._mounts.values() if mount.is_remote)

    def remote_of(self, path: str) -> Mount | None:
        """Find the remote filesystem that a stat of ``path`` would access, symbolic links followed.

        Args:
            path: absolute.

        Returns:
            Its mount; None when a stat accesses local filesystems only.
        """
        if not self.remote:
            return None
        directory, name = os.path.split(path)
        place, remote = self._place(directory)
        if remote is not None:
            return remote
        here = f"{place}/{name}"
        mount = self._mounts.get(here)
        if mount is not None:
            return mount if mount.is_remote else None
        try:
            # Not remembered, unlike a directory's: links to log files often get other targets.
            target = os.readlink(here)
        except OSError:
            return None
        return self._walk(place, target)[1]

    def successor(self, mounts: Iterable[Mount]) -> MountTable:
        """Make the table of later mounts."""
        return MountTable(mounts, self._links, self._root)

    def moved(self, later: MountTable, directories: Iterable[str]) -> set[str]:
        """Find the directories whose resolved path a mount or unmount has changed.

        Args:
            later: the table after the change.
            directories: absolute paths.
        """
        before, after = self._mounts, later._mounts
        points = tuple(
            f"{each.rstrip('/')}/" for each in before.keys() | after.keys() if before.get(each) != after.get(each)
        )
        if not points:
            return set()
        return {
            directory
            for directory in set(directories)
            if any(f"{table._place(directory)[0]}/".startswith(points) for table in (self, later))
        }

    def _place(self, directory: str) -> tuple[str, Mount | None]:
        """Resolve a directory ("" is the root), but stop where a remote filesystem begins."""
        if len(self._places) > MOST_PLACES:
            self._links.clear()
            self._places = {"/": self._places["/"]}
        unknown = []
        while directory not in self._places:
            if not directory.strip("/"):  # "//", which dirname() never shortens
                self._places[directory] = self._places["/"]
                break
            unknown.append(directory)
            directory = os.path.dirname(directory)
        for directory in reversed(unknown):
            parent, name = os.path.split(directory)
            here, remote = self._places[parent]
            self._places[directory] = (here, remote) if remote is not None else self._walk(here, name)
        return self._places[directory]

    def _walk(self, here: str, path: str) -> tuple[str, Mount | None]:
        """Resolve a path from a directory as the kernel does, but stop where a remote filesystem begins."""
        walk = Walk(path, start=here, root=self._root)
        for place in walk:
            mount = self._mounts.get(place)
            if mount is not None and mount.is_remote:
                return place, mount
            walk.follow(self._target)
        return walk.here, None

    def _target(self, path: str) -> str | None:
        if path not in self._links:
            try:
                self._links[path] = os.readlink(path)
            except OSError:
                self._links[path] = None
        return self._links[path]


class MountMonitor:
    """Reads the present mounts. A change of them wakes ``poll(2)`` for POLLPRI on mountinfo (proc_pid_mounts(5)).

    Raises:
        OSError: no descriptor is left.
        FileNotFoundError: there is no /proc.
    """

    def __init__(self, path: str = "/proc/self/mountinfo") -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - kept; close() closes it
        self.fd = self._file.fileno()
        """To be polled. The kernel reports a change once to each open descriptor."""

    def read(self) -> list[Mount]:
        """Read the present mounts."""
        self._file.seek(0)
        return parse_mountinfo(self._file.read())

    def close(self) -> None:
        """Close the descriptor; may be called twice."""
        self._file.close()
