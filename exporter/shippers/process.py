"""Any shipper: how far its processes have read their open logs, from ``/proc/<pid>/fdinfo``.

An offset says what was read, now, an unfinished line included. A descriptor that the shipper has closed has none. It is
wrong for a shipper that reads with ``pread`` or ``mmap``. Reading another user's ``fdinfo`` takes CAP_SYS_PTRACE.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase

from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.values import as_count
from fstat_cache.mounts import parse_mountinfo

FLUSH_INTERVAL_S = 1.0

_OWN_DEVICES = frozenset({"btrfs", "bcachefs", "overlay"})
"""Their files may have another ``st_dev`` than their mount."""
_LONGEST_COMM = 15
"""The kernel cuts a process's name off after so many bytes."""


def find_positions(match: str, *, proc: str = "/proc") -> list[Position]:
    """Find how far the processes of a name have read their open files.

    Accesses no file but those in ``proc``: a stat of another process's files may hang.

    Args:
        match: a glob on the process's name, such as ``otelcol*``.
        proc: where proc(5) is mounted.

    Returns:
        One position for each file, with inode; the furthest of all descriptors. The device is None where the mount does
        not tell it: on btrfs, bcachefs and overlayfs.

    Raises:
        StateFormatError: the kernel is older than Linux 5.14, and shows no inodes.
        PermissionError: the agent may not read a process's descriptors.
        ProcessLookupError: no process has this name.
        OSError: ``proc`` cannot be read.
    """
    devices = _read_devices(f"{proc}/self")
    furthest: dict[tuple[int | None, int], int] = {}
    found = False
    for process in _processes(match, proc):
        try:
            places = _read_descriptors(process)
            if any(mount_id not in devices for _, mount_id, _ in places):
                # Mounts of another namespace; ids are unique over all of them. No table has those of pipes and sockets.
                devices = _read_devices(process) | devices
        except PermissionError:
            raise PermissionError(f"no permission to read {process}/fdinfo: it takes the user or SYS_PTRACE") from None
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        found = True
        for offset, mount_id, inode in places:
            if mount_id in devices:
                log = devices[mount_id], inode
                furthest[log] = max(offset, furthest.get(log, 0))
    if not found:
        raise ProcessLookupError("no process has this name")
    return [Position(offset, inode=inode, device=device) for (device, inode), offset in furthest.items()]


def _read_descriptors(process: str) -> list[tuple[int, int, int]]:
    descriptors = os.listdir(f"{process}/fdinfo")
    if not descriptors:
        raise ProcessLookupError("it has ended, and waits for its parent")
    infos = (_read(f"{process}/fdinfo/{descriptor}") for descriptor in descriptors)
    return [place for info in infos if info and (place := parse_fdinfo(info)) is not None]


def parse_fdinfo(data: bytes) -> tuple[int, int, int] | None:
    """Parse one file of ``fdinfo`` (proc_pid_fdinfo(5)).

    Returns:
        Offset, mount id and inode number; None for a descriptor that cannot read, or is not one of a file.

    Raises:
        StateFormatError: it has no inode number, as before Linux 5.14, or is damaged.
    """
    fields = dict(line.partition(b":\t")[::2] for line in data.split(b"\n")[:4])
    try:
        flags = int(fields[b"flags"], 8)
        offset, mount_id = (as_count(int(fields[each])) for each in (b"pos", b"mnt_id"))
        if flags & os.O_ACCMODE == os.O_WRONLY or flags & os.O_PATH:
            return None
        if b"ino" not in fields:
            raise StateFormatError("fdinfo has no inode numbers; type: process needs Linux 5.14 or later")
        inode = as_count(int(fields[b"ino"]))
    except (KeyError, ValueError):
        raise StateFormatError("a file of fdinfo is damaged") from None
    if offset is None or mount_id is None or inode is None:
        return None  # a device's offset may be negative
    return offset, mount_id, inode


def _processes(match: str, proc: str) -> Iterator[str]:
    """Find the processes of a name: /proc/<pid>."""
    for pid in os.listdir(proc):
        if not pid.isdecimal() or (comm := _read(f"{proc}/{pid}/comm")) is None:
            continue
        name = comm.removesuffix(b"\n")
        if len(name) == _LONGEST_COMM:
            program = os.path.basename((_read(f"{proc}/{pid}/cmdline") or b"").split(b"\0")[0])
            if program.startswith(name):
                name = program
        if fnmatchcase(os.fsdecode(name), match):
            yield f"{proc}/{pid}"


def _read_devices(process: str) -> dict[int, int | None]:
    """Read the device of each mount that a process sees, by mount id."""
    mounts = parse_mountinfo(_read(f"{process}/mountinfo") or b"")
    return {mount.mount_id: None if mount.fs_type in _OWN_DEVICES else mount.device for mount in mounts}


def _read(path: str) -> bytes | None:
    """Read a file of /proc; None: its process or descriptor has gone."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
