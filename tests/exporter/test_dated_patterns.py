"""Patterns with dates: at midnight files come and leave, and nothing that stays is scanned or counted again."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.agent import PROGRESS_S, Agent
from exporter.changeover import Changeover
from exporter.config.errors import ConfigError, Mistake
from exporter.config.groups import LogGroup
from exporter.config.model import Config, StateConfig
from exporter.scrape import Scraper
from exporter.tracker import Tracker
from fstat_cache import file_time_ns, is_settled
from tests.exporter.test_optional_metrics import scrape_of
from tests.exporter.tracking import append, tick, touch
from tests.support import wait_until

DAY_S = 24 * 3600
FIRST_S = 1_900_000_000.0
"""A moment of the first day, which is 2030-03-17 in UTC."""
NAMES = ("0317", "0318", "0319")


class Days:
    """A tracker whose clock the test moves from one day to the next."""

    def __init__(self, *groups: LogGroup) -> None:
        self.config = Config(logs=groups)
        self.now_s = FIRST_S
        self.tracker = Tracker(self.config.at(self.now_s))
        self.tracker.scan()
        self.scraper = Scraper(self.tracker)
        tick()

    def begin(self, *, midnight_s: float | None = None) -> Changeover:
        """Begin the changeover to the next day."""
        self.now_s += DAY_S
        changeover = Changeover(self.tracker, self.config.at(self.now_s), midnight_s or time.time())
        changeover.prepare()
        return changeover

    def end(self, changeover: Changeover) -> None:
        """End it."""
        changeover.finish(lambda: None)
        changeover.drop_old()
        self.scraper = Scraper(self.tracker)

    def next_day(self, *, midnight_s: float | None = None) -> None:
        """Both."""
        self.end(self.begin(midnight_s=midnight_s))

    def appended(self) -> dict[str, float]:
        """Return base name -> appended bytes of the files with series, after a scrape."""
        samples = scrape_of(self.tracker, self.scraper).samples.items()
        name = "fstat_file_appended_bytes_total"
        return {os.path.basename(dict(labels)["path"]): value for (of, labels), value in samples if of == name}

    def of_group(self, name: str = "appended_bytes_total") -> float | None:
        """Return a metric of the first group."""
        return scrape_of(self.tracker, self.scraper).value(f"fstat_group_{name}", group="g")

    def pass_grace(self) -> None:
        """Let the grace of files that have gone pass."""
        self.tracker.publication.expire(time.monotonic() + 1000, is_scrape=False)


Make = Callable[..., Days]


@pytest.fixture
def days(tmp_path: Path) -> Iterator[Make]:
    """Makes them, of a group `g` with patterns below the test's directory, or of groups."""
    made: list[Days] = []

    def make(*patterns: str, more: tuple[LogGroup, ...] = ()) -> Days:
        days = Days(LogGroup("g", tuple(f"{tmp_path}/{pattern}" for pattern in patterns)), *more)
        made.append(days)
        return days

    yield make
    for each in made:
        each.tracker.close()


def test_a_file_that_leaves_by_its_date(tmp_path: Path, days: Make) -> None:
    """Its series stay for the grace as those of a deleted file; the counters of the group go on, with late bytes."""
    line = days("a-{today_utc:%m%d}.log", "stays.log")
    first, second, stays = (tmp_path / f"{name}.log" for name in ("a-0317", "a-0318", "stays"))
    touch(first, stays)
    append(first, "x" * 100)
    append(stays, "x" * 10)
    assert line.appended() == {"a-0317.log": 100, "stays.log": 10}
    append(first, "x" * 20)
    midnight_s = time.time()
    tick()
    append(second, "x" * 3)
    line.next_day(midnight_s=midnight_s)
    assert line.appended() == {"a-0317.log": 120, "a-0318.log": 3, "stays.log": 10}
    assert line.of_group() == 133
    assert line.of_group("files") == 2
    assert line.of_group("size_bytes") == 13
    append(first, "x" * 1000)  # late bytes
    append(second, "x" * 3)
    append(stays, "x" * 10)
    assert line.appended() == {"a-0317.log": 1120, "a-0318.log": 6, "stays.log": 20}
    line.pass_grace()
    assert line.appended() == {"a-0318.log": 6, "stays.log": 20}
    assert line.of_group() == 1146
    append(first, "x" * 1000)  # it is followed as a renamed file until it is quiet
    assert line.of_group() == 2146
    line.next_day()
    assert line.appended() == {"a-0318.log": 6, "stays.log": 20}
    assert line.of_group() == 2146
    line.next_day()
    line.pass_grace()
    assert line.appended() == {"stays.log": 20}
    assert line.of_group() == 2146


def test_a_directory_that_leaves_by_its_date(tmp_path: Path, days: Make) -> None:
    """Files below a dated directory leave with it, and those of the next day come."""
    touch(*(tmp_path / name / "a.log" for name in NAMES))
    line = days("{today_utc:%m%d}/**/*.log")
    append(tmp_path / "0317" / "a.log", "x" * 5)
    assert line.of_group() == 5
    line.next_day()
    append(tmp_path / "0318" / "a.log", "x" * 7)
    assert line.of_group() == 12
    assert line.of_group("files") == 1
    assert list(line.appended().values()) == [7]
    line.pass_grace()
    assert line.of_group() == 12


def test_what_was_written_before_is_no_growth(tmp_path: Path, days: Make) -> None:
    """A file that comes by its date counts from its size if it was born before midnight, else from its first byte."""
    line = days("a-{yesterday_utc:%m%d}.log", "b-{today_utc:%m%d}.log")
    touch(tmp_path / "a-0316.log")
    append(tmp_path / "a-0317.log", "x" * 1000)
    tick()
    midnight_s = time.time()
    tick()
    append(tmp_path / "b-0318.log", "x" * 5)
    line.next_day(midnight_s=midnight_s)
    assert line.of_group() == 5
    append(tmp_path / "a-0317.log", "x")
    assert line.of_group() == 6


def test_dates_in_excludes(tmp_path: Path) -> None:
    """A file born since midnight counts from its first byte, one that was excluded before from its size."""
    group = LogGroup("g", (f"{tmp_path}/*-{{today_utc:%m%d}}.log",), exclude=("no-{yesterday_utc:%m%d}.log",))
    free = LogGroup("free", (f"{tmp_path}/*.txt",), exclude=("{today_utc:%m%d}.txt",))
    line = Days(group, free)
    try:
        append(tmp_path / "0317.txt", "x" * 1000)
        tick()
        midnight_s = time.time()
        tick()
        append(tmp_path / "a-0318.log", "x" * 5)
        append(tmp_path / "a.txt", "x" * 7)
        tick()
        line.next_day(midnight_s=midnight_s)
        assert line.appended() == {"a-0318.log": 5, "0317.txt": 0, "a.txt": 7}
    finally:
        line.tracker.close()


def test_what_stays_is_not_scanned_again(tmp_path: Path, days: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the directory in which other names match now is listed, and files that stay keep their counters."""
    other = LogGroup("other", (f"{tmp_path}/other/**/*.log",))
    touch(*(tmp_path / "other" / f"{number}" / f"{number}.log" for number in range(20)))
    touch(*(tmp_path / "dated" / f"a-{name}.log" for name in NAMES))
    line = days("dated/a-*{today_utc:%m%d}.log", more=(other,))
    append(tmp_path / "other" / "7" / "7.log", "x" * 7)
    wait_until(lambda: is_settled(max(each.stat().st_ctime_ns for each in tmp_path.rglob("*")), file_time_ns()))
    line.tracker.scan()  # it trusts the times of directories only when they cannot come again
    listed: list[str] = []
    looked: list[str] = []
    scandir, look = os.scandir, line.tracker.cache.look
    monkeypatch.setattr(os, "scandir", lambda path: (listed.append(str(path)), scandir(path))[1])
    monkeypatch.setattr(
        line.tracker.cache, "look", lambda path, **more: (looked.append(os.path.basename(path)), look(path, **more))[1]
    )
    line.next_day()
    assert listed == [f"{tmp_path}/dated"]
    assert set(looked) == {"a-0317.log", "a-0318.log"}
    expected = {f"{number}.log": 7 * (number == 7) for number in range(20)}
    assert line.appended() == {**expected, "a-0317.log": 0, "a-0318.log": 0}


def test_a_file_that_two_dates_match_one_after_the_other(tmp_path: Path, days: Make) -> None:
    """It stays, with its counters, and leaves the day after."""
    line = days("a-{today_utc:%m%d}.log", "a-{yesterday_utc:%m%d}.log")
    append(tmp_path / "a-0317.log", "x")
    line.next_day()
    append(tmp_path / "a-0317.log", "x")
    assert line.appended() == {"a-0317.log": 2}
    assert line.of_group("files") == 1
    line.next_day()
    assert line.of_group("files") == 0
    assert line.appended() == {"a-0317.log": 2}


def test_other_patterns_at_the_same_time(tmp_path: Path, days: Make) -> None:
    """A file that leaves because its pattern was removed has no series any more, as without dates."""
    line = days("a-{today_utc:%m%d}.log", "b.log")
    touch(tmp_path / "a-0317.log", tmp_path / "b.log")
    line.appended()
    line.config = Config(logs=(LogGroup("g", (f"{tmp_path}/a-{{today_utc:%m%d}}.log",)),))
    line.next_day()
    assert line.appended() == {}


def test_a_changeover_that_is_abandoned(tmp_path: Path, days: Make) -> None:
    """The files of the old day stay, with their counters."""
    line = days("a-{today_utc:%m%d}.log")
    append(tmp_path / "a-0317.log", "x")
    line.begin().abandon()
    append(tmp_path / "a-0317.log", "x")
    assert line.appended() == {"a-0317.log": 2}
    assert line.of_group("files") == 1


class Clock:
    """A clock that goes on by itself, and that the test moves."""

    def __init__(self, now_s: float) -> None:
        self.ahead_s = now_s - time.time()

    def __call__(self) -> float:
        return time.time() + self.ahead_s


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    while not condition():
        await asyncio.sleep(0.01)


def run(agent: Agent, test: Callable[[], object]) -> None:
    """Run an agent while a coroutine function of the test runs."""

    async def main() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        await agent._ready.wait()
        await test()  # type: ignore[misc]
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(main(), 20))


def dated(tmp_path: Path, **more: object) -> Config:
    """Return a configuration with one dated pattern."""
    group = LogGroup("g", (f"{tmp_path}/a-{{today_utc:%m%d}}.log", f"{tmp_path}/b.log"))
    return Config(logs=(group,), **more)  # type: ignore[arg-type]


def present(agent: Agent) -> set[str]:
    """Return the base names of the files that are present."""
    agent._tracker.publication.update()
    rows = list(agent._tracker.publication.rows.values())
    return {os.path.basename(row.path.name) for row in rows if row.is_present}


MIDNIGHT_S = FIRST_S - FIRST_S % DAY_S + DAY_S


def test_the_agent_sleeps_until_midnight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It wakes up once, at midnight, and follows the files of the new day without anybody's request."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    touch(tmp_path / "a-0317.log", tmp_path / "a-0318.log", tmp_path / "b.log")
    clock = Clock(MIDNIGHT_S - 1)
    config = dated(tmp_path)
    agent = Agent(config, [], read_config=lambda: config, now_s=clock)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def test() -> None:
        assert present(agent) == {"a-0317.log", "b.log"}
        await until(lambda: present(agent) == {"a-0318.log", "b.log"})
        assert clock() >= MIDNIGHT_S
        await until(lambda: "configuration reloaded" in caplog.messages)

    async def record(seconds: float) -> None:
        if seconds > 0.5:
            slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", record)
    run(agent, test)
    monkeypatch.undo()
    time.tzset()
    others = (config.rescan_interval_s, config.cache.audit_interval_s, PROGRESS_S)
    until_midnight, until_next = [seconds for seconds in slept if seconds not in others]
    assert 0.5 < until_midnight <= 1
    assert DAY_S - 5 < until_next <= DAY_S
    assert caplog.messages.count("configuration reloaded") == 1


def test_a_step_of_the_clock(tmp_path: Path) -> None:
    """The next rescan notices it, in either direction: also that of a machine that was suspended."""
    touch(tmp_path / "a-0317.log", tmp_path / "a-0318.log", tmp_path / "b.log")
    clock = Clock(FIRST_S)
    config = dated(tmp_path, rescan_interval_s=0.1)
    agent = Agent(config, [], read_config=lambda: config, now_s=clock)

    async def test() -> None:
        clock.ahead_s += DAY_S
        await until(lambda: present(agent) == {"a-0318.log", "b.log"})
        clock.ahead_s -= DAY_S
        await until(lambda: present(agent) == {"a-0317.log", "b.log"})

    run(agent, test)


def test_a_configuration_that_is_broken_at_midnight(tmp_path: Path) -> None:
    """The dates of the configuration in use change nevertheless, and the failure is reported."""
    touch(tmp_path / "a-0317.log", tmp_path / "a-0318.log")
    clock = Clock(FIRST_S)

    def fail() -> Config:
        raise ConfigError([Mistake("exporter.yml", "is empty")])

    agent = Agent(dated(tmp_path, rescan_interval_s=0.1), [], read_config=fail, now_s=clock)

    async def test() -> None:
        clock.ahead_s += DAY_S
        await until(lambda: present(agent) == {"a-0318.log"})
        await until(lambda: re.search("is empty", agent._reloader.outcome.error) is not None)

    run(agent, test)


@pytest.mark.parametrize("exclude", [(), ("no-{today_utc:%m%d}.log",)])
def test_a_restart_on_another_day(tmp_path: Path, exclude: tuple[str, ...]) -> None:
    """The group's counters go on, and a file of the new day that was made meanwhile counts from its first byte."""
    config = dated(tmp_path, state=StateConfig(str(tmp_path / "state.db")))
    config = replace(config, logs=tuple(replace(group, exclude=exclude) for group in config.logs))
    first = Agent(config, [], now_s=Clock(FIRST_S))

    async def write() -> None:
        append(tmp_path / "a-0317.log", "x" * 5)
        await until(lambda: present(first) == {"a-0317.log"})

    run(first, write)
    append(tmp_path / "a-0317.log", "x")
    tick()
    append(tmp_path / "a-0318.log", "x" * 7)
    second = Agent(config, [], now_s=Clock(FIRST_S + DAY_S))

    async def check() -> None:
        assert present(second) == {"a-0318.log"}
        assert second._tracker.publication.groups[0].appended_bytes == 13  # with the late byte

    run(second, check)
