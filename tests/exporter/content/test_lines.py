"""Lines of appended bytes: real files, a real tracker, the worker's thread."""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest

from exporter.changeover import Changeover
from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.content import contents
from exporter.content.contents import Contents
from exporter.content.reading import Counted
from exporter.exposition.render import Exposition
from exporter.ops.file_clock import TOLERANCE_NS
from fstat_cache import file_time_ns
from tests.exporter.content.reading_agent import ReadingAgent, StartReading
from tests.exporter.tracking import append, tick
from tests.support import Mount, Scrape, as_root, wait_until, without_capability

NOBODY = 65534
CAP_DAC_READ_SEARCH = 2  # capabilities(7)


def group(tmp_path: Path, *metrics: str, name: str = "g", pattern: str = "logs/*.log") -> LogGroup:
    """A group whose files have these metrics; by default their lines."""
    return LogGroup(name, (f"{tmp_path}/{pattern}",), metrics=frozenset(metrics or ("lines", "size")))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with three lines."""
    path = tmp_path / "logs/a.log"
    path.parent.mkdir()
    path.write_text("1\n2\n3\n")
    tick()
    return path


@pytest.fixture
def agent(tmp_path: Path, log: Path, start_reading: StartReading) -> Iterator[ReadingAgent]:
    """It has read nothing yet, because the log's lines were there before."""
    assert log.exists()
    agent = start_reading(group(tmp_path))
    agent.settled(lambda scrape: scrape.value("fstat_file_lines_total") == 0)
    yield agent
    agent.kill()


def lines(scrape: Scrape) -> tuple[float | None, float | None]:
    """Those of the group, and the bytes whose lines it lacks."""
    return scrape.value("fstat_group_lines_total"), scrape.value("fstat_group_lines_skipped_bytes_total")


def test_appended_lines_count(agent: ReadingAgent, log: Path) -> None:
    """Appended newlines count, in a new file all; what was there before does not; nor does an unfinished line."""
    append(log, "4\n5\n6")
    append(log.with_name("b.log"), "1\n2\n3\n4\n")
    scrape = agent.settled()
    assert scrape.value("fstat_file_lines_total", path=str(log)) == 2
    assert scrape.value("fstat_file_lines_total", path=str(log.with_name("b.log"))) == 4
    assert lines(scrape) == (6, 0)
    append(log, "\n")
    assert lines(agent.settled()) == (7, 0)


def test_zero_first(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """With `first_sample: zero` the lines of a new file are 0 at first, those of the group are not."""
    new = log.with_name("b.log")
    long, short = (
        start_reading(replace(group(tmp_path), first_sample="zero", zero_for_s=zero_for_s))
        for zero_for_s in (3600, 0.01)
    )
    append(new, "1\n2\n")
    long.settled(lambda scrape: lines(scrape) == (2, 0))
    assert long.scrape().value("fstat_file_lines_total", path=str(new)) == 0
    short.settled(lambda scrape: scrape.value("fstat_file_lines_total", path=str(new)) == 2)


def test_only_where_they_are_asked_for(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """Another group has no lines, and its files are not read."""
    other = LogGroup("other", (str(log),))
    agent = start_reading(other, group(tmp_path, pattern="more/*"))
    append(log, "4\n")
    scrape = agent.settled()
    assert scrape.values("fstat_file_lines_total") == []
    assert scrape.values("fstat_group_lines_total", group="other") == []
    assert scrape.value("fstat_group_lines_total", group="g") == 0
    assert agent.contents.lines.tails == {}


def test_without_series_of_files(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """With `per_file: false` the group has its lines all the same."""
    agent = start_reading(replace(group(tmp_path, "lines"), per_file=False))
    append(log, "4\n5\n")
    scrape = agent.settled(lambda scrape: lines(scrape) == (2, 0))
    assert scrape.values("fstat_file_lines_total") == []


def test_a_rotated_log_is_read_to_its_end(agent: ReadingAgent, log: Path) -> None:
    """What is written after a rename counts for the log's name; so do the lines of its successor."""
    with FileIO(log, "a") as old:
        old.write(b"4\n")
        log.rename(log.with_name("a.log.1"))
        old.write(b"5\n")
        append(log, "6\n7\n")
        old.write(b"8\n")
        scrape = agent.settled()
    assert scrape.value("fstat_file_lines_total", path=str(log)) == 5
    assert lines(scrape) == (5, 0)


@as_root
def test_a_moved_log_is_read_by_its_handle(agent: ReadingAgent, log: Path, tmp_path: Path) -> None:
    """A log that was moved to where nobody watches, or deleted, is read by its handle while it is written."""
    other = log.with_name("b.log")
    for path in (log, other):
        append(path, "4\n")  # a handle is taken when a file first changes
    agent.settled(lambda scrape: lines(scrape) == (2, 0))
    (tmp_path / "elsewhere").mkdir()
    with FileIO(log, "a") as moved, FileIO(other, "a") as deleted:
        log.rename(tmp_path / "elsewhere/a")
        other.unlink()
        moved.write(b"5\n")
        deleted.write(b"5\n6\n")
        agent.settled(lambda scrape: lines(scrape) == (5, 0))
        moved.write(b"6\n")
        deleted.write(b"7\n")
        agent.settled(lambda scrape: lines(scrape) == (7, 0))
    assert lines(agent.settled()) == (7, 0)


@as_root
def test_a_moved_log_without_handles(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """Where no handle can be opened, what is unread of a log that was moved away is skipped after a while."""
    with without_capability(CAP_DAC_READ_SEARCH):
        agent = start_reading(group(tmp_path), budget=1)
    agent.settled(lambda scrape: scrape.value("fstat_file_lines_total") == 0)
    append(log, "4\n" * 500)
    assert (agent.scrape().value("fstat_group_lines_backlog_bytes") or 0) > 900
    log.rename(tmp_path / "a")
    _, skipped = lines(agent.settled())
    assert skipped is not None
    assert 900 < skipped <= 1000


def test_logs_beneath_another_root(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """Paths and absolute links begin at the directory that is given."""
    (tmp_path / "data").mkdir()
    log.rename(tmp_path / "data/a.log")
    log.symlink_to("/data/a.log")
    agent = start_reading(LogGroup("g", ("/logs/*.log",), metrics=frozenset(["lines"])), rootfs=str(tmp_path))
    append(tmp_path / "data/a.log", "4\n")
    scrape = agent.settled(lambda scrape: lines(scrape) == (1, 0))
    assert scrape.value("fstat_file_lines_total", path="/logs/a.log") == 1


def test_a_truncated_log_is_read_from_its_start(agent: ReadingAgent, log: Path) -> None:
    """After a truncation all its lines count; what it had was read before."""
    append(log, "4\n5\n")
    assert lines(agent.settled()) == (2, 0)
    os.truncate(log, 0)
    assert lines(agent.settled()) == (2, 0)
    append(log, "1\n")
    assert lines(agent.settled()) == (3, 0)


def test_what_is_gone_before_it_was_read(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """The bytes that are still to be read show; those of a truncated or deleted log are skipped, never guessed."""
    agent = start_reading(group(tmp_path), budget=1)
    agent.scrape()
    append(log, "4\n" * 5000)
    scrape = agent.scrape()
    before, _ = lines(scrape)
    backlog = scrape.value("fstat_group_lines_backlog_bytes")
    assert before is not None
    assert backlog is not None
    assert 0 <= 10_000 - backlog <= 100  # it has read a byte or two
    os.truncate(log, 0)
    append(log, "1234567890\n" * 10)
    scrape = agent.scrape()
    assert 0 <= 110 - (scrape.value("fstat_group_lines_backlog_bytes") or 0) <= 100
    log.unlink()
    scrape = agent.scrape()
    assert scrape.value("fstat_group_lines_backlog_bytes") == 0
    found, skipped = lines(scrape)
    assert skipped is not None
    assert found is not None
    assert 10_000 < skipped <= 10_110
    assert found <= 50


def test_names_of_one_inode(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """The lines of a file with two names count once in a group, and once in each group."""
    agent = start_reading(group(tmp_path), group(tmp_path, name="h", pattern="logs/b*"))
    append(log, "4\n")
    os.link(log, log.with_name("b.log"))
    scrape = agent.settled()
    assert scrape.value("fstat_group_lines_total", group="g") == 1
    append(log, "5\n")
    scrape = agent.settled()
    assert scrape.value("fstat_group_lines_total", group="g") == 2
    assert scrape.values("fstat_file_lines_total") == [2]


@pytest.mark.parametrize("comes", [os.link, os.rename])
@pytest.mark.parametrize("metric", ["size", "lines"])
def test_a_file_that_comes_to_a_second_group(
    tmp_path: Path, log: Path, start_reading: StartReading, metric: str, comes: Callable[[Path, Path], None]
) -> None:
    """As its bytes do, its lines count there from the first one, whether or not the first group counts them."""
    (tmp_path / "second").mkdir()
    groups = group(tmp_path, metric, name="first"), group(tmp_path, name="second", pattern="second/*.log")
    agent = start_reading(*groups)
    new, second = log.with_name("b.log"), tmp_path / "second/b.log"
    append(new, "1\n2\n3\n")
    first = {"first": 3.0} if metric == "lines" else {}
    settled_at(agent, first | {"second": 0})
    comes(new, second)
    wait_until(lambda: agent.scrape().value("fstat_file_lines_total", path=str(second)) == 3)
    scrape = settled_at(agent, first | {"second": 3})
    assert scrape.values("fstat_group_lines_skipped_bytes_total", group="second") == [0]
    append(second, "4\n")
    settled_at(agent, {name: count + 1 for name, count in (first | {"second": 3}).items()})


def test_a_file_that_comes_to_a_second_group_after_a_restart(
    tmp_path: Path, log: Path, start_reading: StartReading
) -> None:
    """As its bytes do, its lines count there from its size on: it was born before the latest save."""
    (tmp_path / "second").mkdir()
    groups = group(tmp_path, name="first"), group(tmp_path, name="second", pattern="second/*.log")
    agent = start_reading(*groups, state=tmp_path / "state.db")
    new, second = log.with_name("b.log"), tmp_path / "second/b.log"
    append(new, "1\n2\n3\n")
    born_before_ns = file_time_ns()
    wait_until(lambda: file_time_ns() > born_before_ns + TOLERANCE_NS)
    append(log, "4\n")  # a save without a change would not be a later one
    settled_at(agent, {"first": 4, "second": 0})
    agent.kill()
    agent = start_reading(*groups, state=tmp_path / "state.db")
    os.link(new, second)
    agent.settled(lambda scrape: scrape.value("fstat_group_files", group="second") == 1)
    append(second, "5\n")
    scrape = settled_at(agent, {"first": 5, "second": 1})
    assert scrape.values("fstat_group_lines_skipped_bytes_total", group="second") == [0]
    assert scrape.value("fstat_group_appended_bytes_total", group="second") == 2


def settled_at(agent: ReadingAgent, counts: Mapping[str, float]) -> Scrape:
    """Scrape until each of these groups has so many lines."""

    def count(scrape: Scrape, name: str) -> float | None:
        return scrape.value("fstat_group_lines_total", group=name)

    return agent.settled(lambda scrape: {name: count(scrape, name) for name in counts} == counts)


def test_lines_go_on_after_a_restart(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """After kill -9 it goes on where it was: with what was appended meanwhile, also to a log that was rotated."""
    state = tmp_path / "state.db"
    agent = start_reading(group(tmp_path), state=state)
    append(log, "4\n")
    assert lines(agent.settled()) == (1, 0)
    agent.kill()
    append(log, "5\n")
    log.rename(log.with_name("a.log.1"))
    append(log.with_name("a.log.1"), "6\n")
    append(log, "7\n")
    agent = start_reading(group(tmp_path), state=state)
    scrape = agent.settled(lambda scrape: lines(scrape) == (4, 0))
    assert scrape.value("fstat_file_lines_total") == 4
    agent.kill()
    agent = start_reading(group(tmp_path), state=state)
    scrape = agent.scrape()
    assert scrape.value("fstat_file_lines_total") == 4
    assert lines(scrape) == (4, 0)


def test_a_log_is_saved_with_what_is_unread(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """A new log that was saved before its lines were read is read after the restart."""
    state, new = tmp_path / "state.db", log.with_name("b.log")
    agent = start_reading(group(tmp_path), state=state, cpu_budget=0.00001)
    agent.settled(lambda scrape: scrape.value("fstat_file_lines_total") == 0)  # the thread pauses now
    append(new, "1\n" * 1000)
    agent.tracker.refresh(0)
    agent.save()  # without a scrape, as the saver does
    agent.kill()
    agent = start_reading(group(tmp_path), state=state)
    assert lines(agent.settled(lambda scrape: lines(scrape) == (1000, 0))) == (1000, 0)


def test_the_state_forgets_lines_that_nobody_wants(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """Lines begin anew after a time without them: nobody knows what was appended meanwhile."""
    state = tmp_path / "state.db"
    agent = start_reading(group(tmp_path), state=state)
    append(log, "4\n")
    assert lines(agent.settled()) == (1, 0)
    agent.kill()
    agent = start_reading(group(tmp_path, "size"), state=state)
    append(log, "5\n")
    agent.scrape()
    agent.kill()
    agent = start_reading(group(tmp_path), state=state)
    append(log, "6\n")
    assert lines(agent.settled(lambda scrape: lines(scrape) == (1, 0))) == (1, 0)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_time_without_lines(tmp_path: Path, log: Path, start_reading: StartReading, is_restarted: bool) -> None:
    """A reload that asks for lines again counts none of that time; counters that go on then outlive kill -9."""
    state = tmp_path / "state.db"
    agent = start_reading(group(tmp_path), state=state)
    append(log, "4\n")
    assert lines(agent.settled()) == (1, 0)
    without, wanted = Config((group(tmp_path, "size"),)), agent.config
    if is_restarted:
        agent.kill()
        agent = start_reading(*without.logs, state=state)
    else:
        switch_to(agent, without)
    append(log, "5\n6\n")
    agent.scrape()
    switch_to(agent, wanted)
    count = 0 if is_restarted else 1
    assert lines(agent.settled(lambda scrape: lines(scrape) == (count, 0))) == (count, 0)
    agent.kill()
    agent = start_reading(group(tmp_path), state=state)
    scrape = agent.settled(lambda scrape: scrape.value("fstat_file_lines_total") is not None)
    assert scrape.value("fstat_file_lines_total") == count
    assert lines(scrape) == (count, 0)


def switch_to(agent: ReadingAgent, config: Config) -> None:
    """Reload: a changeover, then the reader."""
    changeover = Changeover(agent.tracker, config)
    exposition = Exposition(changeover.prepare())
    checkpoint = agent.checkpoint
    assert checkpoint is not None

    def show() -> None:
        agent.scraper.show(exposition)
        checkpoint.switch_to(exposition.publication)

    changeover.finish(show)
    changeover.drop_old()
    agent.contents.configure(config)
    agent.scrape()


def test_a_reload_that_asks_for_lines(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """They count from the size that a file has then."""
    agent = start_reading(group(tmp_path, "size"))
    append(log, "4\n")
    agent.scrape()
    wanted = start_reading(group(tmp_path)).config
    tracker = agent.tracker
    tracker.publication = tracker.publish(wanted)
    reader = agent.contents
    reader.configure(wanted)
    append(log, "5\n6\n")
    tracker.refresh(0)
    wait_until(lambda: reader.update() or reader.groups[0].lines == 2)  # type: ignore[func-returns-value]


@as_root
def test_links_of_others_are_not_followed(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """A user's link to another's file has no lines; one of root, or of the file's owner, has."""
    targets = [tmp_path / name for name in ("roots", "nobodys", "secret")]
    links = [log.with_name(f"{target.name}.log") for target in targets]
    for target, link in zip(targets, links, strict=True):
        target.write_text("1\n")
        link.symlink_to(target)
    os.chown(targets[1], NOBODY, NOBODY)
    os.chown(links[1], NOBODY, NOBODY, follow_symlinks=False)
    os.chown(links[2], NOBODY, NOBODY, follow_symlinks=False)
    agent = start_reading(group(tmp_path))
    for target in targets:
        append(target, "2\n")
    agent.settled(lambda scrape: lines(scrape) == (2, 2))
    scrape = agent.scrape()
    assert [scrape.value("fstat_file_lines_total", path=str(link)) for link in links] == [1, 1, None]
    assert scrape.value("fstat_file_size_bytes", path=str(links[2])) == 4
    # Nor is the file read by its handle, after the link is gone.
    links[2].unlink()
    agent.scrape()
    append(targets[2], "3\n")
    assert agent.settled().value("fstat_group_lines_total") == 2


@as_root
def test_remote_files_are_not_read(tmp_path: Path, log: Path, start_reading: StartReading, fuse: Mount) -> None:
    """A read of a remote file may hang, so it has no lines; what is appended counts as skipped."""
    remote = fuse("remote")
    (remote.source / "b.log").write_text("1\n")
    log.with_name("link.log").symlink_to(remote.path / "b.log")
    agent = start_reading(group(tmp_path))
    for path in (log, remote.source / "b.log"):
        append(path, "2\n")
    scrape = agent.settled(lambda scrape: lines(scrape) == (1, 2))
    assert scrape.values("fstat_file_lines_total") == [1]


@pytest.mark.parametrize("is_before", [True, False])
def test_a_truncation_during_a_read(
    agent: ReadingAgent, log: Path, monkeypatch: pytest.MonkeyPatch, *, is_before: bool
) -> None:
    """What is read of a file that is truncated in that moment does not count: it may be what was written later."""
    count = contents.count_lines
    append(log, "4\n")
    agent.settled(lambda scrape: lines(scrape) == (1, 0))

    def truncate_and_count(fd: int, begin: int, size: int, most_bytes: int) -> Counted:
        monkeypatch.setattr(contents, "count_lines", count)
        counted = None if is_before else count(fd, begin, size, most_bytes)
        os.truncate(log, 0)
        append(log, "1\n2\n")
        return counted or count(fd, begin, size, most_bytes)

    monkeypatch.setattr(contents, "count_lines", truncate_and_count)
    append(log, "5\n6\n7\n")
    assert lines(agent.settled(lambda scrape: sum(scrape.values("fstat_group_size_bytes")) == 4)) == (3, 6)


def test_the_budget_of_bytes(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """No more is read a second than the budget allows."""
    agent = start_reading(group(tmp_path), budget=100_000)
    agent.settled(lambda scrape: scrape.value("fstat_file_lines_total") == 0)
    began_s = time.monotonic()
    append(log, "4\n" * 150_000)
    assert lines(agent.settled()) == (150_000, 0)
    assert time.monotonic() - began_s > 1.9  # the first 100,000 bytes are read at once


def test_the_budget_of_cpu_time(tmp_path: Path, log: Path, start_reading: StartReading) -> None:
    """After a read the thread pauses for as long as its share of a core asks."""
    agent = start_reading(group(tmp_path), cpu_budget=0.0001)  # the pause before the scan is of seconds too
    append(log, "4\n")
    agent.settled(lambda scrape: lines(scrape) == (1, 0))
    append(log, "5\n")
    began_s = time.monotonic()
    while time.monotonic() < began_s + 0.5:
        assert agent.scrape().value("fstat_group_lines_backlog_bytes") == 2


def test_holes_are_skipped(agent: ReadingAgent, log: Path) -> None:
    """The hole that a writer without O_APPEND leaves after copytruncate takes no time, and has no lines."""
    began_s = time.monotonic()
    with log.open("r+") as file:
        file.truncate(0)
        agent.scrape()
        file.seek(1 << 40)
        file.write("1\n2\n")
    assert lines(agent.settled()) == (2, 0)
    assert time.monotonic() - began_s < 5


def test_many_lines(agent: ReadingAgent, log: Path) -> None:
    """A long backlog is read in several rounds, lines across their borders included."""
    with log.open("a") as file:
        for number in range(200_000):
            file.write(f"{number:d} of many lines\n")
    assert lines(agent.settled()) == (200_000, 0)


def test_idle_means_asleep(agent: ReadingAgent, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After everything was read the thread does nothing, until a file changes."""
    append(log, "4\n")
    agent.settled(lambda scrape: lines(scrape) == (1, 0))
    rounds: list[float] = []
    read = Contents._read
    monkeypatch.setattr(Contents, "_read", lambda self: (rounds.append(time.monotonic()), read(self))[1])
    wait_until(lambda: not rounds or time.monotonic() - rounds[-1] > 0.3)
    count = len(rounds)
    time.sleep(0.5)  # fifty pauses of the thread
    assert len(rounds) == count
    append(log, "5\n")
    agent.settled(lambda scrape: lines(scrape) == (2, 0))
    assert len(rounds) > count


def test_no_descriptor_is_kept(agent: ReadingAgent, log: Path) -> None:
    """Nothing stays open of the files that were read."""
    append(log, "4\n")
    agent.settled(lambda scrape: lines(scrape) == (1, 0))

    def opened() -> list[str]:
        found = []
        for descriptor in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            except FileNotFoundError:
                continue
        return [name for name in found if name.startswith(str(log.parent))]

    wait_until(lambda: not opened())
    shutil.rmtree(log.parent)
