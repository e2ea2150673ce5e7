"""What the log says of a configuration that may be wrong."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.advice import Advice
from exporter.changeover import Changeover
from exporter.config.groups import LogGroup
from exporter.config.model import Config, parse
from exporter.tracker import Tracker
from tests.exporter.tracking import Track, touch

Lines = list[tuple[str, str, dict[str, object]]]
Told = Callable[[], Lines]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """Gives the lines since the latest call: level, message, fields."""
    caplog.set_level(logging.INFO, "exporter.advice")

    def lines() -> Lines:
        records = [each for each in caplog.records if each.name == "exporter.advice"]
        caplog.clear()
        return [(each.levelname, each.getMessage(), each.fields) for each in records]  # type: ignore[attr-defined]

    return lines


def reload(tracker: Tracker, *groups: LogGroup) -> None:
    """Follow these groups from now on."""
    changeover = Changeover(tracker, Config(logs=groups))
    changeover.prepare()
    changeover.finish(lambda: None)
    changeover.drop_old()


def test_overlaps(tmp_path: Path, track: Track, told: Told) -> None:
    """A later group that gets some files is intended; a pattern is logged once if earlier groups have all its files,
    also where the pattern is new with a reload.
    """
    touch(tmp_path / "a.log", tmp_path / "b.txt")
    one = LogGroup("one", (f"{tmp_path}/*.log",))
    two = LogGroup("two", (f"{tmp_path}/*",))
    tracker = track(groups=(one, two))
    advice = Advice(tracker)
    advice.log()
    assert told() == []
    reload(tracker, LogGroup("uno", two.paths), one)
    for _ in range(2):
        advice.log()
    ((level, text, about),) = told()
    assert (level, about) == ("INFO", {"group": "one", "pattern": one.paths[0]})
    assert text.startswith("all files of a pattern belong to earlier groups")


def test_takes_no_event_from_others(tmp_path: Path, track: Track, told: Told) -> None:
    """A file that is created meanwhile is known at once, as without the advice."""
    tracker = track("a.log", "b.log", has_thread=False)
    touch(tmp_path / "a.log")
    Advice(tracker).log()
    assert tracker.facts.paths[f"{tmp_path}/a.log"].is_present


def test_what_cannot_be_seen_is_no_directory(tmp_path: Path, track: Track, told: Told) -> None:
    """A link that leads nowhere, or to itself, is a pattern without a match."""
    (tmp_path / "loop.log").symlink_to("loop.log")
    (tmp_path / "dangling.log").symlink_to("nowhere")
    tracker = track(groups=(LogGroup("g", (f"{tmp_path}/loop.log", f"{tmp_path}/dangling.log")),))
    Advice(tracker).log()
    ((level, text, about),) = told()
    assert (level, about["count"]) == ("INFO", 2)
    assert text.startswith("patterns match no file")


def test_a_directory(tmp_path: Path, track: Track, told: Told) -> None:
    """As a pattern is told once, with what to write; also one of several alternatives, and one that is known."""
    folder = tmp_path / "a[b"
    touch(folder / "x.log", tmp_path / "y.log")
    known = LogGroup("known", (f"{tmp_path}/*/*.log", f"{{{tmp_path}/y.log,{tmp_path}/a\\[b}}"))
    tracker = track(groups=(known,))
    advice = Advice(tracker)
    for _ in range(2):
        advice.log()
    ((level, _, about),) = told()
    assert level == "WARNING"
    escaped = f"{tmp_path}/a\\[b"
    hint = f"{folder} is a directory; write {escaped}/* or {escaped}/**"
    assert about == {"group": "known", "pattern": known.paths[1], "hint": hint}
    touch(folder / "z.log")
    tracker.refresh(0)
    assert tracker.discovery.matches == {0: 2, 1: 1}  # it is watched still
    reload(tracker, known, LogGroup("new", (str(folder).replace("[", "\\["),)))
    advice.log()
    assert [about["group"] for _, _, about in told()] == ["new"]


def test_patterns_that_match_nothing(tmp_path: Path, track: Track, told: Told) -> None:
    """Are told once, in one line for each group."""
    touch(tmp_path / "a.log")
    paths = tuple(f"{tmp_path}/{name}" for name in ("a.log", "b.log", "*.txt"))
    groups = LogGroup("one", paths), LogGroup("two", (f"{tmp_path}/c/**",))
    tracker = track(groups=groups)
    advice = Advice(tracker)
    for _ in range(2):
        advice.log()
    assert [(level, about) for level, _, about in told()] == [
        ("INFO", {"group": "one", "count": 2, "patterns": f"{paths[2]}, {paths[1]}"}),
        ("INFO", {"group": "two", "count": 1, "patterns": groups[1].paths[0]}),
    ]


def test_paths_without_labels(tmp_path: Path, track: Track, told: Told) -> None:
    """Are told once for each group, with an example; a preset gives its labels below another root too."""
    pods, other = tmp_path / "pods", tmp_path / "other" / "logs"
    touch(pods / "shop_app-1_0123" / "main" / "0.log", other / "a.log")
    text = f"logs: [{{preset: kubernetes-pods, paths: ['{pods}/*/*/*.log', '{other}/*.log']}}]"
    tracker = track(groups=parse(text, "x.yml").logs)
    advice = Advice(tracker)
    for _ in range(2):
        advice.log()
    ((level, _, about),) = told()
    assert (level, about) == ("WARNING", {"group": "pods", "count": 1, "example": f"{other}/a.log"})
    names = tracker.publication.labeller.names
    labels = [dict(zip(names, row.values, strict=True)) for row in tracker.publication.rows.values()]
    assert {each["container"] for each in labels} == {"", "main"}
    reload(tracker, *parse(text.replace("paths:", "path_regex: '/(?P<x>pods)/', aggregate_by: [x], paths:"), "").logs)
    advice.log()
    assert [about["count"] for _, _, about in told()] == [1]
