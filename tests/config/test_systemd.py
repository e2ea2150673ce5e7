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


def test_unit_is_understood(tmp_path: Path) -> None:
    """systemd knows every line of the unit, and finds nothing to say about it."""
    text, count = re.subn(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text())
    assert count == 1
    (tmp_path / UNIT.name).write_text(text)
    assert not systemd_analyze("verify", tmp_path / UNIT.name)


def test_unit_is_hardened() -> None:
    """systemd's measure of what the service may do, from 0 to 10, is below 3."""
    told = systemd_analyze("security", "--offline=true", "--threshold=29", UNIT)
    assert re.search(r"Overall exposure level for fstat-exporter.service: [0-2]\.\d ", told), told
