"""Finds the processes that have a file open for writing, from ``/proc``."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from typing import NamedTuple

from exporter.config.errors import one_line

_FLAGS = re.compile(rb"^flags:\t([0-7]+)$", re.MULTILINE)
_INODE = re.compile(rb"^ino:\t([0-9]+)$", re.MULTILINE)


class Writer(NamedTuple):
    """A process that has a file open for writing; its user and command line without control characters."""

    pid: int
    user: str
    command: str


def find_writers(inode: tuple[int, int], proc: str = "/proc") -> tuple[list[Writer], int]:
    """Find the processes that have a file open for writing, by its inode.

    Args:
        inode: device and inode number.
        proc: where proc(5) is mounted.

    Returns:
        The processes, and how many others this user may not inspect.

    Raises:
        OSError: `proc` cannot be read.
    """
    writers, denied = [], 0
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdecimal()):
        process = f"{proc}/{pid}"
        try:
            if any(found == inode for found in _open_for_writing(process, inode[1])):
                writers.append(Writer(pid, _user(process), _command(process)))
        except PermissionError:
            denied += 1
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    return writers, denied


def _open_for_writing(process: str, number: int) -> Iterator[tuple[int, int]]:
    """Yield the device and inode of each descriptor of a process that can write and may have this inode number."""
    for descriptor in os.listdir(f"{process}/fdinfo"):
        try:
            info = _read(f"{process}/fdinfo/{descriptor}")
            flags, shown = _FLAGS.search(info), _INODE.search(info)
            if flags is None or int(flags[1], 8) & (os.O_ACCMODE | os.O_PATH) not in (os.O_WRONLY, os.O_RDWR):
                continue
            # Before Linux 5.14 fdinfo has no inode. With it no other file is stat'ed: its filesystem may hang.
            if shown is None or int(shown[1]) == number:
                found = os.stat(f"{process}/fd/{descriptor}")
                yield found.st_dev, found.st_ino
        except FileNotFoundError:
            continue  # it was closed


def _user(process: str) -> str:
    uid = os.stat(process).st_uid
    try:
        return one_line(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _command(process: str) -> str:
    words = _read(f"{process}/cmdline").rstrip(b"\0").replace(b"\0", b" ") or _read(f"{process}/comm").rstrip(b"\n")
    return one_line(words.decode(errors="replace"))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
