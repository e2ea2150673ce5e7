"""One configuration takes the place of another: what is kept, what is let go, and in which moment."""

import gc
import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest

from exporter.changeover import Changeover
from exporter.config.groups import LogGroup
from exporter.config.model import CacheConfig, Config
from exporter.discovery.findings import Findings
from exporter.exposition.render import Exposition
from exporter.matching.automaton import Match, PathMatcher
from exporter.matching.labels import printable
from exporter.publication.publication import Publication
from exporter.scrape import Scraper
from exporter.tracker import Tracker
from tests.exporter.tracking import append, tick, touch
from tests.support import parse_scrape

GroupOf = Callable[..., LogGroup]


class Line:
    """A tracker, and the configurations that it follows, one after the other."""

    def __init__(self, *groups: LogGroup) -> None:
        self.tracker = Tracker(Config(logs=groups))
        self.tracker.scan()
        tick()

    def begin(self, *groups: LogGroup) -> Changeover:
        """Begin another changeover; its files are known, and nothing of it is shown."""
        changeover = Changeover(self.tracker, Config(logs=groups))
        changeover.prepare()
        tick()
        return changeover

    def end(self, changeover: Changeover) -> None:
        """And end it."""
        changeover.finish(lambda: None)
        changeover.drop_old()

    def reload(self, *groups: LogGroup) -> None:
        """All of it."""
        self.end(self.begin(*groups))

    @property
    def publication(self) -> Publication:
        """As of now."""
        self.tracker.refresh(0)
        return self.tracker.publication

    def files(self) -> dict[str, tuple[object, ...]]:
        """Name -> the number of its group, its labels but for group and path, what was appended; of those published."""
        return {
            os.path.basename(row.path.name): (row.group, *row.values[2:], row.path.appended_bytes)
            for row in self.publication.rows.values()
            if row.is_published and row.path.stats is not None
        }

    def groups(self) -> list[int]:
        """What was appended to each group."""
        return [totals.appended_bytes for totals in self.publication.groups]

    def aggregates(self) -> dict[tuple[str, ...], int]:
        """And to each aggregate."""
        return {totals.values: totals.appended_bytes for totals in self.publication.aggregates.values()}

    def watched(self) -> set[str]:
        """The directories that are watched."""
        return set(self.tracker.cache._life.engine.directories.by_path)


@pytest.fixture
def group(tmp_path: Path) -> GroupOf:
    """Makes groups: their patterns are below the test's directory."""

    def make(name: str, *patterns: str, exclude: tuple[str, ...] = (), **more: object) -> LogGroup:
        paths = tuple(f"{tmp_path}/{pattern}" for pattern in patterns)
        return LogGroup(name, paths, tuple(f"{tmp_path}/{each}" for each in exclude), **more)  # type: ignore[arg-type]

    return make


def test_other_labels(tmp_path: Path, group: GroupOf) -> None:
    """What is kept has its counters, under the new labels; and growth at any moment of the changeover is in them."""
    touch(tmp_path / "x-1.log", tmp_path / "y-1.log")
    line = Line(group("g", "*.log"))
    append(tmp_path / "x-1.log", "1")
    changeover = line.begin(group("g", "*.log", labels={"a": "b"}, path_regex=re.compile("/(?P<name>.)-")))
    append(tmp_path / "x-1.log", "22")
    assert line.groups() == [3]
    append(tmp_path / "x-1.log", "333")
    assert line.groups() == [6]
    line.end(changeover)
    assert line.files() == {"x-1.log": (0, "b", "x", 6), "y-1.log": (0, "b", "y", 0)}
    append(tmp_path / "y-1.log", "4444")
    assert line.groups() == [10]
    line.tracker.close()


def test_what_comes_and_goes_during_the_succession(tmp_path: Path, group: GroupOf) -> None:
    """Is known to both; what was truncated or deleted before the changeover is over is in the counters too."""
    touch(tmp_path / "cut.log", tmp_path / "deleted.log", tmp_path / "rotated.log")
    line = Line(group("g", "*.log"))
    line.tracker.refresh(0)
    changeover = line.begin(group("g", "*.log", "*.txt"))
    for name in ("cut", "deleted", "rotated", "new", "gone"):
        append(tmp_path / f"{name}.log", "12345")
    line.tracker.refresh(0)
    os.truncate(tmp_path / "cut.log", 0)
    for name in ("deleted", "gone"):
        (tmp_path / f"{name}.log").unlink()
    (tmp_path / "rotated.log").rename(tmp_path / "rotated.log.1")
    append(tmp_path / "rotated.log", "678")
    line.tracker.refresh(0)
    append(tmp_path / "rotated.log.1", "9")
    append(tmp_path / "new.txt", "x")
    line.end(changeover)
    assert line.groups() == [5 * 5 + 3 + 1 + 1]
    assert line.publication.groups[0].truncations == 1
    assert line.publication.groups[0].rotations == 1
    append(tmp_path / "rotated.log.1", "9")
    assert {name: values[1] for name, values in line.files().items()} == {
        "cut.log": 5,
        "deleted.log": 5,
        "gone.log": 5,
        "new.log": 5,
        "new.txt": 1,
        "rotated.log": 10,
    }
    line.tracker.close()


def test_groups_that_exchange_files(tmp_path: Path, group: GroupOf) -> None:
    """A file's counters go with it; a group's stay, whatever its number, and a byte counts where it was published."""
    touch(tmp_path / "a.log", tmp_path / "b.log", tmp_path / "c.log")
    line = Line(group("one", "*.log"), group("two", "*.txt"))
    append(tmp_path / "a.log", "1")
    append(tmp_path / "b.log", "1")
    changeover = line.begin(group("three", "c.log"), group("two", "a.log"), group("one", "*.log"))
    append(tmp_path / "a.log", "22")
    append(tmp_path / "c.log", "4444")
    line.tracker.refresh(0)
    line.end(changeover)
    assert line.groups() == [0, 0, 8]
    append(tmp_path / "a.log", "333")
    append(tmp_path / "c.log", "55555")
    assert line.groups() == [5, 3, 8]
    assert line.files() == {"a.log": (1, 6), "b.log": (2, 1), "c.log": (0, 9)}
    line.tracker.close()


def test_aggregates(tmp_path: Path, group: GroupOf) -> None:
    """With the same labels an aggregate goes on, in whatever order they are named; with other ones it begins anew."""
    for name in ("a-1", "a-2", "b-1"):
        touch(tmp_path / f"{name}.log")
    both = re.compile("/(?P<letter>.)-(?P<number>.)")
    line = Line(group("g", "*.log", path_regex=both, aggregate_by=("letter", "number")))
    append(tmp_path / "a-1.log", "1")
    append(tmp_path / "a-2.log", "22")
    line.reload(group("g", "*.log", path_regex=both, aggregate_by=("number", "letter"), labels={"x": ""}))
    assert line.aggregates() == {("1", "a"): 1, ("2", "a"): 2, ("1", "b"): 0}
    line.reload(group("g", "*.log", path_regex=re.compile("/(?P<letter>.)-"), aggregate_by=("letter",)))
    assert line.aggregates() == {("a",): 0, ("b",): 0}
    append(tmp_path / "a-1.log", "333")
    assert line.aggregates() == {("a",): 3, ("b",): 0}
    line.reload(group("g", "*.log", path_regex=re.compile("/.-(?P<letter>.)"), aggregate_by=("letter",)))
    assert line.aggregates() == {("1",): 0, ("2",): 0}
    assert line.groups() == [6]
    line.tracker.close()


def test_what_is_meant_no_more_is_let_go(tmp_path: Path, group: GroupOf) -> None:
    """Its series end, it is neither watched nor looked at any more, and no rotated file of another one either."""
    touch(tmp_path / "kept" / "a.log", tmp_path / "kept" / "excluded.log", tmp_path / "dropped" / "a.log")
    line = Line(group("g", "*/*.log"))
    assert str(tmp_path / "dropped") in line.watched()
    line.reload(group("g", "kept/*.log", exclude=("kept/excluded.log",)))
    assert str(tmp_path / "dropped") not in line.watched()
    assert line.tracker.cache.list_files_in_cache() == [f"{tmp_path}/kept/a.log"]
    append(tmp_path / "kept" / "excluded.log", "x")
    append(tmp_path / "dropped" / "a.log", "x")
    assert line.groups() == [0]
    assert line.files() == {"a.log": (0, 0)}
    line.tracker.close()


def test_what_was_declared_is_followed_as_rotated(tmp_path: Path, group: GroupOf) -> None:
    """A rotated file that had series of its own goes on to count for its log when no pattern means it any more."""
    touch(tmp_path / "a.log")
    line = Line(group("g", "*.log*"))
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    touch(tmp_path / "a.log")
    line.tracker.refresh(0)
    line.reload(group("g", "*.log"))
    append(tmp_path / "a.log.1", "123")
    assert line.files() == {"a.log": (0, 3)}
    line.reload(group("g", "*.log*"))
    append(tmp_path / "a.log.1", "45")
    assert line.files() == {"a.log": (0, 5), "a.log.1": (0, 0)}
    line.tracker.close()


def test_new_files_count_from_their_first_byte(tmp_path: Path, group: GroupOf) -> None:
    """Those that were born since the reload; those that a new pattern finds there count from the size they have."""
    append(tmp_path / "old.txt", "123")
    line = Line(group("g", "*.log"))
    changeover = line.begin(group("g", "*.log", "*.txt"))
    append(tmp_path / "new.txt", "45")
    append(tmp_path / "new.log", "6")
    line.end(changeover)
    assert line.files() == {"old.txt": (0, 0), "new.txt": (0, 2), "new.log": (0, 1)}
    line.tracker.close()


def test_groups_of_a_new_name(tmp_path: Path, group: GroupOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files are found, and what is written while they are looked for counts for the group too."""
    append(tmp_path / "old.txt", "123")
    line = Line(group("g", "*.log"))
    match = line.tracker.match

    def match_late(matcher: PathMatcher) -> None:
        append(tmp_path / "new.txt", "45")
        match(matcher)

    monkeypatch.setattr(line.tracker, "match", match_late)
    changeover = line.begin(group("g", "*.log"), group("h", "*.txt"))
    monkeypatch.undo()
    append(tmp_path / "old.txt", "6")
    line.end(changeover)
    assert line.files() == {"old.txt": (1, 1), "new.txt": (1, 2)}
    assert line.groups() == [0, 3]
    line.tracker.close()


@pytest.mark.parametrize("is_abandoned", [False, True])
def test_files_that_come_while_groups_are_let_go(
    tmp_path: Path,
    group: GroupOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    is_abandoned: bool,
) -> None:
    """In a directory that has not gone over to the latest matcher: it decides all the same."""
    for name in "abc":
        touch(tmp_path / name / "0.log", tmp_path / name / "0.txt")
    line = Line(group("g", "*/*.log"))
    changeover = line.begin(group("h", "*/*.log", "*/*.txt"))
    if not is_abandoned:
        changeover.finish(lambda: None)
    begin = line.tracker.discovery.restate

    def restate(matcher: PathMatcher) -> Findings:
        yield from begin(matcher)
        for name in "abc":
            append(tmp_path / name / "1.log", "1")
            append(tmp_path / name / "1.txt", "22")

    monkeypatch.setattr("exporter.tracker.DIRECTORIES_AT_ONCE", 1)
    monkeypatch.setattr(line.tracker.discovery, "restate", restate)
    if is_abandoned:
        changeover.abandon()
    else:
        changeover.drop_old()
    assert line.groups() == [3 if is_abandoned else 9]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    line.tracker.close()


def test_files_that_are_rotated_while_groups_are_let_go(
    tmp_path: Path, group: GroupOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a name that only the old groups match: they go on to count for the name that they had."""
    for name in "abc":
        touch(tmp_path / name / "0.log")
    line = Line(group("g", "*/*.log*"))
    changeover = line.begin(group("h", "*/*.log"))
    changeover.finish(lambda: None)
    begin = line.tracker.discovery.restate

    def restate(matcher: PathMatcher) -> Findings:
        yield from begin(matcher)
        for name in "abc":
            (tmp_path / name / "0.log").rename(tmp_path / name / "0.log.1")

    monkeypatch.setattr("exporter.tracker.DIRECTORIES_AT_ONCE", 1)
    monkeypatch.setattr(line.tracker.discovery, "restate", restate)
    changeover.drop_old()
    for name in "abc":
        append(tmp_path / name / "0.log.1", "1")
    assert line.groups() == [3]
    line.tracker.close()


@pytest.mark.parametrize("is_abandoned", [False, True])
def test_rotated_files_are_followed_while_groups_are_let_go(
    tmp_path: Path, group: GroupOf, monkeypatch: pytest.MonkeyPatch, *, is_abandoned: bool
) -> None:
    """At each moment: one that no group that is left matches is scraped, written and deleted between two steps."""
    folders = [tmp_path / name for name in "abcdef"]
    for folder in folders:
        touch(folder / "0.log")
    groups = group("g", "*/*.log*"), group("g", "*/*.log")
    line = Line(groups[is_abandoned])
    line.tracker.refresh(0)
    for folder in folders:
        (folder / "0.log").rename(folder / "0.log.1")
        touch(folder / "0.log")
    line.tracker.refresh(0)
    changeover = line.begin(groups[not is_abandoned])
    if not is_abandoned:
        changeover.finish(lambda: None)
    restate_some = line.tracker.discovery.restate_some
    written = deleted = 0

    def restate_one(directories: int) -> Findings:
        nonlocal written, deleted
        yield from restate_some(directories)
        for folder in folders[deleted:]:
            append(folder / "0.log.1", "1")
            written += 1
        line.tracker.lock.release()
        assert line.groups() == [written]
        line.tracker.lock.acquire()
        if folders[deleted:] and written > 3 * len(folders):
            (folders[deleted] / "0.log.1").unlink()
            deleted += 1

    monkeypatch.setattr("exporter.tracker.DIRECTORIES_AT_ONCE", 1)
    monkeypatch.setattr(line.tracker.discovery, "restate_some", restate_one)
    if is_abandoned:
        changeover.abandon()
    else:
        changeover.drop_old()
    for folder in folders[deleted:]:
        append(folder / "0.log.1", "1")
        written += 1
    assert deleted > 2
    assert line.groups() == [written]
    line.tracker.close()


def test_overlaps_while_groups_are_let_go(
    tmp_path: Path, group: GroupOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that comes where groups overlapped that are no more is found without an error."""
    touch(tmp_path / "a" / "0.log")
    line = Line(group("g", "*/*.txt"), group("h", "*/*.txt"))
    changeover = line.begin(group("i", "*/*.log", "*/*.txt"), group("j", "*/*.txt"))
    changeover.finish(lambda: None)
    begin = line.tracker.discovery.restate

    def restate(matcher: PathMatcher) -> Findings:
        yield from begin(matcher)
        touch(tmp_path / "a" / "0.txt")

    monkeypatch.setattr("exporter.tracker.DIRECTORIES_AT_ONCE", 1)
    monkeypatch.setattr(line.tracker.discovery, "restate", restate)
    changeover.drop_old()
    assert line.groups() == [0, 0]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    line.tracker.close()


def test_homes_that_ended_go_to_the_group_of_the_file(tmp_path: Path, group: GroupOf) -> None:
    """A file whose first name has ended while it had another one counts for the group of that only."""
    log = tmp_path / "0.log"
    touch(log)
    line = Line(group("g", "*.log"))
    log.rename(tmp_path / "1.log")
    touch(log)
    line.tracker.refresh(0)
    log.unlink()
    line.tracker.refresh(0)
    for path in tuple(line.tracker.facts.paths.values()):
        if not path.is_present:
            line.tracker.facts.end(path)  # as its grace does
    line.reload(group("h", "*.log"), group("g", "*.txt"))
    append(tmp_path / "1.log", "123")
    assert line.groups() == [3, 0]
    line.tracker.close()


def test_paths_that_end_while_groups_are_let_go(
    tmp_path: Path, group: GroupOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not declared again, which nothing would ever end."""
    touch(tmp_path / "a.log", tmp_path / "b.log")
    line = Line(group("g", "*.log"))
    (tmp_path / "a.log").unlink()
    (tmp_path / "b.log").unlink()
    changeover = line.begin(group("h", "*.log"))
    facts, declare = line.tracker.facts, line.tracker._declare
    ending: list[threading.Thread] = []

    def declare_late(name: str, match: Match) -> None:
        if not ending:
            ending.append(threading.Thread(target=lambda: [facts.end(path) for path in tuple(facts.paths.values())]))
            ending[0].start()
            ending[0].join(0.1)
        declare(name, match)

    changeover.finish(lambda: None)
    monkeypatch.setattr(line.tracker, "_declare", declare_late)
    changeover.drop_old()
    ending[0].join()
    assert not facts.paths
    line.tracker.close()


def test_places_are_kept(tmp_path: Path, group: GroupOf) -> None:
    """Of those that are too many for max_series, those have series that had them."""
    for number in (7, 3, 9, 1, 5):
        touch(tmp_path / f"{number}.log")
        if number == 7:
            line = Line(group("g", "*.log", max_series=3))
        line.tracker.refresh(0)
    assert set(line.files()) == {"7.log", "3.log", "9.log"}
    line.reload(group("g", "*.log", max_series=3, labels={"a": "b"}))
    assert set(line.files()) == {"7.log", "3.log", "9.log"}
    line.reload(group("g", "*.log", max_series=4))
    assert {"7.log", "3.log", "9.log"} < set(line.files())
    line.tracker.close()


def test_a_scrape_shows_one_configuration(tmp_path: Path, group: GroupOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another one takes over while it is made."""
    touch(tmp_path / "a.log")
    line = Line(group("old", "*.log"))
    scraper = Scraper(line.tracker)
    changeover = Changeover(line.tracker, Config(logs=(group("new", "*.log"),)))
    exposition = Exposition(changeover.prepare())
    collect = scraper._collect

    def take_over(attempts: Any) -> list[Metric]:
        monkeypatch.undo()
        changeover.finish(lambda: scraper.show(exposition))
        return collect(attempts)

    monkeypatch.setattr(scraper, "_collect", take_over)
    text = b"".join(scraper.scrape(generate_latest, is_openmetrics=False, is_compressed=False)).decode()
    assert {dict(labels).get("group") for _, labels in parse_scrape(text).samples} == {"new", None}
    changeover.drop_old()
    line.tracker.close()


def test_a_grace_goes_on(tmp_path: Path, group: GroupOf) -> None:
    """The series of a deleted file stay as long as they would have, with what was seen last."""
    touch(tmp_path / "a.log", tmp_path / "b.log")
    line = Line(group("g", "*.log"))
    append(tmp_path / "a.log", "123")
    line.tracker.refresh(0)
    (tmp_path / "a.log").unlink()
    scraper = Scraper(line.tracker)
    scraper.look(is_scrape=True)
    line.reload(group("g", "*.log", labels={"a": "b"}))
    scraper = Scraper(line.tracker)
    text = b"".join(scraper.scrape(generate_latest, is_openmetrics=False, is_compressed=False)).decode()
    sizes = parse_scrape(text).values("fstat_file_size_bytes", a="b")
    assert sorted(sizes) == [0, 3]
    (gone,) = line.tracker.publication._gone.values()
    assert gone.scrapes == 2
    line.tracker.close()


def test_abandoned(tmp_path: Path, group: GroupOf) -> None:
    """Then all is as it was before, and the changeover leaves nothing behind."""
    touch(tmp_path / "a" / "a.log", tmp_path / "b" / "b.log")
    line = Line(group("g", "a/*.log"))
    watched = line.watched()
    changeover = line.begin(group("g", "*/*.log"))
    assert line.watched() > watched
    changeover.abandon()
    assert line.watched() == watched
    assert line.tracker.cache.list_files_in_cache() == [f"{tmp_path}/a/a.log"]
    append(tmp_path / "a" / "a.log", "1")
    append(tmp_path / "b" / "b.log", "1")
    assert line.groups() == [1]
    line.reload(group("g", "*/*.log"))
    append(tmp_path / "b" / "b.log", "1")
    assert line.groups() == [2]
    line.tracker.close()


def test_many_reloads_leave_nothing_behind(tmp_path: Path, group: GroupOf) -> None:
    """No publication, no watch, no reader of the facts."""
    touch(tmp_path / "a.log")
    line = Line(group("g", "*.log"))
    first = weakref.ref(line.tracker.publication)
    watches = line.tracker.cache.status().watches
    for number in range(10):
        line.reload(group("g", "*.log", labels={"n": str(number)}))
        append(tmp_path / "a.log", "x")
        assert line.groups() == [number + 1]
    gc.collect()
    assert first() is None
    assert len(line.tracker.facts._books.readers) == 1
    assert len(line.tracker.since_ns) == 1
    assert line.tracker.cache.status().watches == watches
    line.tracker.close()


def test_bounds_of_the_cache(tmp_path: Path, group: GroupOf) -> None:
    """With more files than the cache may hold all are right as well."""
    for number in range(10):
        touch(tmp_path / f"{number}.log")
    line = Line(group("g", "*.log"))
    line.tracker.cache.limit(max_files=CacheConfig().max_files, cpu_budget=None)
    line.tracker.cache.limit(max_files=3, cpu_budget=None)
    changeover = line.begin(group("g", "*.log", labels={"a": "b"}))
    for number in range(10):
        append(tmp_path / f"{number}.log", "x" * number)
    line.end(changeover)
    assert line.groups() == [45]
    assert {printable(name): values[2] for name, values in line.files().items()} == {
        f"{number}.log": number for number in range(10)
    }
    line.tracker.close()


def test_a_renamed_group_does_not_overlap(tmp_path: Path, group: GroupOf) -> None:
    """The groups of the old and of the new configuration match the same files; nothing is left of that."""
    touch(tmp_path / "a.log")
    line = Line(group("one", "*.log"))
    line.reload(group("uno", "*.log"))
    discovery = line.tracker.discovery
    assert (discovery.matches, discovery.shadowed) == ({1: 1}, Counter())
    line.reload(group("uno", "*.log"), group("due", "a*"))
    assert (discovery.matches, discovery.shadowed) == ({2: 1, 3: 1}, Counter({3: 1}))
    line.tracker.close()


def test_a_rotated_file_that_only_the_new_groups_match(tmp_path: Path, group: GroupOf) -> None:
    """Its growth counts where its first name is shown, in the old group and then in the new one, and once."""
    touch(tmp_path / "a.log")
    line = Line(group("one", "a.log"), group("two", "*.txt"))
    append(tmp_path / "a.log", "123")
    assert line.groups() == [3, 0]
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    touch(tmp_path / "a.log")
    append(tmp_path / "a.log.1", "45")
    assert line.groups() == [5, 0]
    changeover = line.begin(group("two", "*.log*"), group("one", "*.txt"))
    append(tmp_path / "a.log.1", "6")
    assert line.groups() == [6, 0]
    line.end(changeover)
    assert line.groups() == [0, 6]
    append(tmp_path / "a.log.1", "7")
    assert line.groups() == [1, 6]
    assert line.files() == {"a.log": (0, 7), "a.log.1": (0, 0)}
    line.tracker.close()


def test_a_file_that_comes_back_after_its_first_name_has_ended(tmp_path: Path, group: GroupOf) -> None:
    """It counts in the group that would show that name now, and nothing of it counts again."""
    touch(tmp_path / "in" / "kept.log", tmp_path / "out" / "other")
    line = Line(group("one", "in/*.log"), group("two", "in/*.txt"))
    append(tmp_path / "in" / "a.log", "123")
    assert line.groups() == [3, 0]
    (tmp_path / "in" / "a.log").rename(tmp_path / "out" / "a")
    line.publication._grace_s = 0
    for _ in range(3):
        line.tracker.refresh(0)
        line.tracker.expire(is_scrape=True)
    assert f"{tmp_path}/in/a.log" not in line.tracker.facts.paths
    line.reload(group("two", "in/*.log"), group("one", "in/*.txt"))
    (tmp_path / "out" / "a").rename(tmp_path / "in" / "b.log")
    append(tmp_path / "in" / "b.log", "4")
    assert line.groups() == [1, 3]
    line.tracker.close()
