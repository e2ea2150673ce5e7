"""The configurations that are shipped: the default one, and the one for Kubernetes."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.config.model import load
from exporter.matching.automaton import PathMatcher, number_groups
from tests.support import REPOSITORY, Agent

CONFIG = REPOSITORY / "config"
SHIPPED = [path for path in sorted(CONFIG.rglob("*.yml")) if "\nlogs:\n" in path.read_text()]


def test_all_are_found() -> None:
    """Both."""
    assert [str(path.relative_to(CONFIG)) for path in SHIPPED] == ["exporter.yml", "kubernetes/base/exporter.yml"]


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_no_groups_overlap(path: Path) -> None:
    """No file that a pattern may find belongs to two groups, whatever there is on a machine."""
    config = load(path)
    matcher = PathMatcher(number_groups(config.logs))
    texts = itertools.chain.from_iterable(group.paths for group in config.logs)
    for glob in itertools.chain.from_iterable(text.globs for text in texts):  # type: ignore[attr-defined]
        names = ["x" if each.any_depth else each.literal or f"x{each.ending}" for each in glob.segments]
        match = matcher.match("/" + "/".join(names))
        assert match is not None
        assert len(match.groups) == 1, names


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_a_start(tmp_path: Path, path: Path, start_agent: Callable[..., Agent]) -> None:
    """On this machine's logs gives no line about groups that overlap."""
    text = path.read_text().replace("/var/lib/fstat-exporter", str(tmp_path))
    log = start_agent(config=text).log_path.read_text()
    assert "scan done" in log
    assert [line for line in log.splitlines() if "level=error" in line or "earlier groups" in line] == []
