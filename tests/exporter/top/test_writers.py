"""Who has a file open for writing: real processes, that the test starts."""

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.top.writers import find_writers
from tests.support import as_root, without_capability

OPENER = """
import ctypes, os, sys
if uid := int(sys.argv[1]):
    os.setuid(uid)
os.open(sys.argv[3], int(sys.argv[2]))
print("open", flush=True)
sys.stdin.read()
"""
CAP_SYS_PTRACE = 19
NOBODY = 65534

Open = Callable[..., int]


@pytest.fixture
def opens() -> Iterator[Open]:
    """Starts processes that have a file open."""
    with contextlib.ExitStack() as stack:

        def start(path: Path, mode: int, *more: str, uid: int = 0) -> int:
            command = [sys.executable, "-c", OPENER, str(uid), str(mode), str(path), *more]
            opener = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert opener.stdin is not None
            assert opener.stdout is not None
            stack.callback(opener.stdin.close)
            assert opener.stdout.readline() == b"open\n"
            return opener.pid

        yield start


def inode(path: Path) -> tuple[int, int]:
    """Device and inode number."""
    found = path.stat()
    return found.st_dev, found.st_ino


def pids(path: Path) -> list[int]:
    """The processes that have the file open for writing."""
    return [writer.pid for writer in find_writers(inode(path))[0]]


def test_writers_are_found_by_inode(opens: Open, tmp_path: Path) -> None:
    """Also by another name and after a rename; a reader, an O_PATH descriptor and a new file of the name are none."""
    log, other = tmp_path / "a.log", tmp_path / "link"
    log.touch()
    other.hardlink_to(log)
    expected = [opens(log, os.O_WRONLY | os.O_APPEND), opens(other, os.O_RDWR)]
    opens(log, os.O_RDONLY)
    opens(log, os.O_WRONLY | os.O_PATH)
    assert pids(log) == sorted(expected)
    log.rename(tmp_path / "a.log.1")
    log.touch()
    assert pids(log) == []
    assert pids(tmp_path / "a.log.1") == sorted(expected)


def test_command_line_is_shown_without_control_characters(opens: Open, tmp_path: Path) -> None:
    """A process names itself as it likes."""
    log = tmp_path / "a.log"
    log.touch()
    pid = opens(log, os.O_WRONLY, "\x1b[31mred\n")
    ((found, user, command),) = find_writers(inode(log))[0]
    assert (found, user) == (pid, pwd.getpwuid(os.geteuid()).pw_name)
    assert command.startswith(sys.executable)
    assert command.endswith(r"\x1b[31mred\n")


@as_root
def test_processes_of_others_are_counted(opens: Open, tmp_path: Path) -> None:
    """Without permission to inspect a process the result says so."""
    log = tmp_path / "a.log"
    log.touch()
    log.chmod(0o666)
    tmp_path.chmod(0o755)
    tmp_path.parent.chmod(0o755)
    tmp_path.parent.parent.chmod(0o755)
    pid = opens(log, os.O_WRONLY, uid=NOBODY)
    assert pids(log) == [pid]
    denied = find_writers(inode(log))[1]
    with without_capability(CAP_SYS_PTRACE):
        writers, denied_then = find_writers(inode(log))
    assert writers == []
    assert denied_then > denied


@pytest.mark.parametrize("shown", ["", "ino:\t{number}\n"])
def test_inode_is_verified_by_a_stat(shown: str, tmp_path: Path) -> None:
    """Other devices have the same numbers; before Linux 5.14 fdinfo has none. Here in a copy of /proc."""
    log, other = tmp_path / "a.log", tmp_path / "b.log"
    process = tmp_path / "proc" / "42"
    for folder in ("fd", "fdinfo"):
        (process / folder).mkdir(parents=True)
    (process / "cmdline").write_bytes(b"")
    (process / "comm").write_bytes(b"writer\n")
    for path in (log, other):
        path.touch()
    info = f"pos:\t0\nflags:\t02100001\nmnt_id:\t1\n{shown.format(number=inode(log)[1])}"
    (process / "fdinfo" / "3").write_text(info)
    (process / "fd" / "3").symlink_to(other)
    assert find_writers(inode(log), str(tmp_path / "proc")) == ([], 0)
    (process / "fd" / "3").unlink()
    (process / "fd" / "3").symlink_to(log)
    ((pid, _, command),) = find_writers(inode(log), str(tmp_path / "proc"))[0]
    assert (pid, command) == (42, "writer")
