"""The configurations that are shipped: the default one, and the one for Kubernetes."""

import itertools
import re
from pathlib import Path

import pytest

from exporter.advice import Advice
from exporter.config.model import load
from exporter.matching.automaton import PathMatcher, number_groups
from exporter.tracker import Tracker
from tests.support import REPOSITORY

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
def test_commented_shipper(path: Path, tmp_path: Path) -> None:
    """The shipper in the comments is valid, and reads groups of the file."""
    text = path.read_text()
    (block,) = re.findall(r"^# shippers:\n(?:# {3}.+\n)+", text, re.MULTILINE)
    uncommented = tmp_path / "exporter.yml"
    uncommented.write_text(text.replace(block, re.sub("^# ", "", block, flags=re.MULTILINE)))
    (shipper,) = load(uncommented).shippers
    assert set(shipper.groups) <= {group.group for group in load(path).logs}


@pytest.mark.parametrize("path", SHIPPED, ids=str)
def test_a_start(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """On this machine's logs gives no error, and no line about groups that overlap."""
    tracker = Tracker(load(path))
    try:
        tracker.scan()
        Advice(tracker).log()
    finally:
        tracker.close()
    assert "earlier groups" not in caplog.text
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
