"""The unit for systemd, as systemd's own programs judge it."""

import re
import subprocess
from pathlib import Path

from tests.support import REPOSITORY, program

UNIT = REPOSITORY / "config" / "systemd" / "fstat-exporter.service"


def systemd_analyze(*arguments: str | Path) -> str:
    """What it prints, after success; without systemd the test is skipped."""
    command = [program("systemd-analyze", "it comes with systemd"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_units_are_understood(tmp_path: Path) -> None:
    """systemd knows every line of the units, and finds nothing to say about them."""
    text, count = re.subn(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text())
    assert count == 1
    (tmp_path / UNIT.name).write_text(text)
    socket = UNIT.with_suffix(".socket")
    (tmp_path / socket.name).write_text(socket.read_text())
    assert not systemd_analyze("verify", tmp_path / UNIT.name, tmp_path / socket.name)


def calls_in(name: str) -> set[str]:
    """The system calls of a set, and of the sets in it."""
    if not name.startswith("@"):
        return {name}
    members = re.findall(r"^ +(@?\w[\w-]*)$", systemd_analyze("syscall-filter", name), re.MULTILINE)
    return set().union(*map(calls_in, members))


def test_unit_allows_file_handles() -> None:
    """The filter of system calls, line after line, leaves the two by which deleted files are read, and no bpf."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.+)$", UNIT.read_text(), re.MULTILINE):
        calls = set().union(*map(calls_in, line.removeprefix("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    assert allowed & {"name_to_handle_at", "open_by_handle_at", "bpf"} == {"name_to_handle_at", "open_by_handle_at"}


def test_unit_is_hardened() -> None:
    """systemd's measure of what the service may do, from 0 to 10, is below 3."""
    told = systemd_analyze("security", "--offline=true", "--threshold=29", UNIT)
    assert re.search(r"Overall exposure level for fstat-exporter.service: [0-2]\.\d ", told), told
