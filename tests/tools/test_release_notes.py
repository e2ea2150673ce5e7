"""The text of a release, from the changelog."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import REPOSITORY

CHANGELOG = """\
# Changelog

## [Unreleased]

## [0.2.0] - 2027-01-31

### Added

- One thing.

## [0.1.0] - 2026-12-24

- The first.
"""


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """The tool, in a repository whose version is 0.2.0."""
    for name in ("tools", "exporter"):
        (tmp_path / name).mkdir()
    (tmp_path / "exporter" / "__init__.py").write_text('"""An agent."""\n\n__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return Path(shutil.copy(REPOSITORY / "tools" / "release-notes", tmp_path / "tools"))


def release_notes(tool: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """Run the tool to its end."""
    return subprocess.run([tool, tag], capture_output=True, text=True, check=False, timeout=10)


def test_section_of_the_version(tool: Path) -> None:
    """It prints the section of the version, without its heading and without other sections."""
    done = release_notes(tool, "v0.2.0")
    assert (done.returncode, done.stdout, done.stderr) == (0, "### Added\n\n- One thing.\n", "")


def test_another_tag(tool: Path) -> None:
    """A tag of another version fails, even of one with a section."""
    done = release_notes(tool, "v0.1.0")
    assert done.returncode == 1
    assert "expected the tag v0.2.0" in done.stderr


@pytest.mark.parametrize("section", ["", "## [0.2.0] - 2027-01-31\n"])
def test_missing_section(tool: Path, section: str) -> None:
    """A missing or empty section fails."""
    (tool.parent.parent / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n- A thing.\n\n{section}")
    done = release_notes(tool, "v0.2.0")
    assert done.returncode == 1
    assert done.stderr == "CHANGELOG.md: expected a section [0.2.0] with text; rename [Unreleased]\n"
