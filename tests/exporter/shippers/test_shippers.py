"""What a scrape shows of shippers: real files, real state files of promtail and fluentd, over a real tracker."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest

from exporter.changeover import Changeover
from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.config.shippers import ShipperConfig
from exporter.exposition.render import Exposition
from exporter.scrape import Scraper
from exporter.shippers.positions import Fingerprint, Position
from exporter.shippers.shippers import Shippers
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker
from tests.exporter.shippers.test_otel_filelog import checkpoints, database
from tests.exporter.tracking import append, touch
from tests.support import Scrape, as_root, parse_scrape, wait_until


class Agent:
    """A tracker, its shippers and its scrapes, with or without a state file."""

    def __init__(
        self, groups: tuple[LogGroup, ...], shippers: tuple[ShipperConfig, ...], state: Path | None = None
    ) -> None:
        self.tracker = Tracker(Config(logs=groups))
        self.shippers = Shippers(self.tracker, shippers, "" if state is None else str(state.parent))
        self.checkpoint: Checkpoint | None = None
        if state is not None:
            tracker = self.tracker
            path = str(state)
            self.checkpoint = Checkpoint(path, tracker.publication, tracker.realms, tracker.clock, self.shippers)
            restored = self.checkpoint.load(tracker.matcher.groups_of)
            since_ns = tracker.clock.restored(restored.saved_at_ns, restored.saved_at_boottime_ns, restored.boot_id)
            tracker.since_ns = dict.fromkeys(tracker.since_ns, since_ns)
        self.scraper = Scraper(self.tracker, self.save, shippers=self.shippers)
        self.tracker.start()
        self.tracker.scan()

    def save(self) -> None:
        """As the agent does with each scrape."""
        if self.checkpoint is not None:
            self.checkpoint.save(self.tracker.as_of_ns)

    def scrape(self, timeout_s: float | None = None) -> Scrape:
        """Scrape once."""
        parts = self.scraper.scrape(generate_latest, is_openmetrics=False, is_compressed=False, timeout_s=timeout_s)
        return parse_scrape(b"".join(parts).decode(), openmetrics=False)

    def kill(self) -> None:
        """End without saving."""
        self.shippers.close()
        self.tracker.close()
        if self.checkpoint is not None:
            self.checkpoint.close()


class World:
    """A directory of logs, a positions file of promtail, and agents."""

    def __init__(self, directory: Path) -> None:
        self.logs = directory / "logs"
        self.logs.mkdir()
        self.positions = directory / "positions.yaml"
        self.log = self.logs / "a.log"
        self.state = directory / "state.db"
        self.group = LogGroup("g", (f"{self.logs}/**/*.log",))
        self.shipper = ShipperConfig("s", "promtail", str(self.positions), flush_interval_s=1)
        self.agents: list[Agent] = []

    def agent(self, *shippers: ShipperConfig, groups: tuple[LogGroup, ...] = (), state: Path | None = None) -> Agent:
        """Start an agent."""
        self.agents.append(Agent(groups or (self.group,), shippers or (self.shipper,), state))
        return self.agents[-1]

    def read(self, offset: int, *more: tuple[str | Path, int]) -> None:
        """Let promtail have read the log up to an offset, and others, and nothing else."""
        entries = [(self.log, offset), *more]
        lines = "".join(f'  {path}: "{each}"\n' for path, each in entries)
        new = self.positions.with_suffix(".new")
        new.write_text(f"positions:\n{lines}")
        os.replace(new, self.positions)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Ends its agents."""
    world = World(tmp_path)
    yield world
    for agent in world.agents:
        agent.kill()


def test_states_read_while_the_agent_stops_are_left_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing brings the facts up to date any more, so that a state would be ahead of them, and be saved."""
    append(world.log, "1234")
    world.read(4)
    agent = world.agent()
    agent.scrape()
    (shipper,) = agent.shippers
    updates: list[int] = []
    advance = agent.tracker.advance

    def advance_late() -> None:
        agent.shippers.close()
        agent.tracker.close()
        monkeypatch.setattr(shipper.account, "update", lambda *_: updates.append(1))
        advance()

    monkeypatch.setattr(agent.tracker, "advance", advance_late)
    append(world.log, "5678")
    world.read(8)
    agent.tracker.facts.departed.set()  # as the departure of a file does
    assert agent.shippers._thread is not None
    agent.shippers._thread.join()
    assert updates == []


NUMBERS = ("unread_bytes", "read_bytes_total", "lost_bytes_total", "unaccounted_bytes_total", "unclaimed_bytes")


def numbers(scrape: Scrape, **labels: str) -> dict[str, float]:
    """Those of a shipper that are not 0."""
    found = {
        name: scrape.value(f"fstat_shipper_{name}", **{"shipper": "s", "group": "g", **labels}) for name in NUMBERS
    }
    return {name: value for name, value in found.items() if value}


def states(scrape: Scrape) -> dict[str, float]:
    """How many files are in each state, without zeros."""
    found = ("read", "behind", "held", "unclaimed")
    values = {name: scrape.value("fstat_shipper_files", shipper="s", group="g", state=name) for name in found}
    return {name: value for name, value in values.items() if value}


def test_a_log_that_is_read(world: World) -> None:
    """Without a position its bytes are unclaimed; then unread up to the position; what was read is counted."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(0, (world.logs / "other.log", 5))
    world.positions.write_text("positions: {}\n")
    assert numbers(agent.scrape()) == {"unclaimed_bytes": 11}
    world.read(4)
    scrape = agent.scrape()
    assert numbers(scrape) == {"unread_bytes": 7, "read_bytes_total": 4}
    assert 0 < scrape.value("fstat_shipper_oldest_unread_seconds", shipper="s", group="g") < 10
    world.read(11)
    scrape = agent.scrape()
    assert numbers(scrape) == {"read_bytes_total": 11}
    assert scrape.value("fstat_shipper_oldest_unread_seconds", shipper="s", group="g") == 0
    assert states(scrape) == {"read": 1}


def test_all_series_exist_from_the_start(world: World) -> None:
    """At 0, so that the first loss is an increase."""
    scrape = world.agent().scrape()
    assert numbers(scrape) == states(scrape) == {}
    assert scrape.value("fstat_shipper_state_readable", shipper="s") == 0
    assert scrape.value("fstat_shipper_state_errors_total", shipper="s") == 1


def test_a_log_that_leaves_by_its_date(world: World) -> None:
    """Its bytes stay unread, until the shipper has read them: the file is still there."""
    day_s = 24 * 3600
    group = LogGroup("g", (f"{world.logs}/a{{today_utc:%d}}.log",))
    config = Config(logs=(group,), shippers=(world.shipper,))
    world.log = world.logs / "a01.log"
    touch(world.log)
    agent = world.agent(groups=config.at(0).logs)
    append(world.log, "0123456789\n")
    world.read(4)
    assert numbers(agent.scrape()) == {"unread_bytes": 7}
    changeover = Changeover(agent.tracker, config.at(day_s), time.time())
    exposition = Exposition(changeover.prepare())
    changeover.finish(lambda: agent.scraper.show(exposition))
    changeover.drop_old()
    agent.tracker.publication.expire(time.monotonic() + 1000, is_scrape=False)
    assert numbers(agent.scrape()) == {"unread_bytes": 7}
    append(world.log, "late\n")
    assert numbers(agent.scrape()) == {"unread_bytes": 12}
    world.read(16)
    assert numbers(agent.scrape()) == {"read_bytes_total": 12}


def test_a_rotation_that_is_lost(world: World) -> None:
    """What was unread of a deleted log is lost, while the shipper's position rests for its flush interval."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(4)
    agent.scrape()
    os.rename(world.log, world.logs / "a.log.1")
    append(world.log, "next\n")
    assert numbers(agent.scrape()) == {"unread_bytes": 12, "read_bytes_total": 4}
    os.unlink(world.logs / "a.log.1")
    wait_until(lambda: numbers(agent.scrape()).get("lost_bytes_total") == 7)
    assert numbers(agent.scrape()) == {"unread_bytes": 5, "read_bytes_total": 4, "lost_bytes_total": 7}


def test_without_a_scrape(world: World) -> None:
    """The thread reads the positions soon after a rotation, because the shipper may forget them before a scrape."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(11)
    agent.scrape()
    append(world.log, "more\n")
    world.read(16)  # seen only if it is read before the next rotation
    os.rename(world.log, world.logs / "a.log.1")
    append(world.log, "next\n")
    account = next(iter(agent.shippers)).account
    wait_until(lambda: account.sums[0, ()].read == 16)
    world.read(5)
    os.unlink(world.logs / "a.log.1")
    assert numbers(agent.scrape()) == {"read_bytes_total": 21}


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_restart(world: World, is_killed: bool) -> None:
    """Counters go on; what was written and read meanwhile counts; an old log is no baseline again."""
    agent = world.agent(state=world.state)
    append(world.log, "0123456789\n")
    world.read(4)
    assert numbers(agent.scrape()) == {"unread_bytes": 7, "read_bytes_total": 4}
    if not is_killed:
        agent.save()
    agent.kill()
    append(world.log, "more\n")
    world.read(13)
    agent = world.agent(state=world.state)
    scrape = agent.scrape()
    assert numbers(scrape) == {"unread_bytes": 3, "read_bytes_total": 13}
    assert scrape.value("fstat_shipper_oldest_unread_seconds", shipper="s", group="g") > 0


@as_root
def test_a_rotation_while_there_was_no_agent(world: World) -> None:
    """A stopped shipper's bytes are unread still, of the renamed log and of the new one; if it is gone, lost."""
    agent = world.agent(state=world.state)
    append(world.log, "0123456789\n")
    world.read(4)
    agent.scrape()
    agent.kill()
    os.rename(world.log, world.logs / "a.log.1")
    append(world.log, "next\n")
    agent = world.agent(state=world.state)
    assert numbers(agent.scrape()) == {"unread_bytes": 12, "read_bytes_total": 4}
    agent.kill()
    os.unlink(world.logs / "a.log.1")
    agent = world.agent(state=world.state)
    wait_until(lambda: numbers(agent.scrape()).get("unread_bytes") == 5)
    found = numbers(agent.scrape())
    assert found.get("lost_bytes_total", 0) + found.get("unaccounted_bytes_total", 0) == 7


def test_which_files(world: World) -> None:
    """`groups`, `paths` and `exclude` leave out what the shipper does not read."""
    touch(world.logs / "x/b.log", world.logs / "y/c.log")
    groups = LogGroup("g", (f"{world.logs}/x/*.log",)), LogGroup("h", (f"{world.logs}/**/*.log",))
    every = ShipperConfig("every", "promtail", str(world.positions))
    some = ShipperConfig("some", "promtail", str(world.positions), groups=("h",), exclude=("a*",))
    one = ShipperConfig("one", "promtail", str(world.positions), paths=(f"{world.logs}/*.log",))
    agent = world.agent(every, some, one, groups=groups)
    append(world.log, "a\n")
    append(world.logs / "x/b.log", "bb\n")
    append(world.logs / "y/c.log", "ccc\n")
    scrape = agent.scrape()

    def unclaimed(shipper: str) -> list[float | None]:
        labels = [(("group", group), ("shipper", shipper)) for group in "gh"]
        return [scrape.samples.get(("fstat_shipper_unclaimed_bytes", frozenset(each))) for each in labels]

    assert unclaimed("every") == [3, 6]
    assert unclaimed("some") == [None, 4]
    assert unclaimed("one") == [0, 2]


def test_complete(world: World) -> None:
    """Every file must have a position: what has none is unread."""
    agent = world.agent(ShipperConfig("s", "promtail", str(world.positions), complete=True))
    append(world.log, "0123456789\n")
    assert numbers(agent.scrape()) == {"unread_bytes": 11}


def test_another_view_of_paths(world: World) -> None:
    """`path_map` maps the longest directory; symbolic links are followed."""
    (world.logs.parent / "links").mkdir()
    os.symlink(world.log, world.logs.parent / "links/a.log")
    maps = {"/logs": str(world.logs.parent / "links"), "/": "/nowhere"}
    agent = world.agent(ShipperConfig("s", "promtail", str(world.positions), path_map=maps))
    append(world.log, "0123456789\n")
    world.positions.write_text('positions:\n  /logs/a.log: "4"\n')
    assert numbers(agent.scrape()) == {"unread_bytes": 7, "read_bytes_total": 4}


def test_the_series_of_a_file(world: World) -> None:
    """With the metric `unread` of its group, by shipper, bytes of its rotated file included."""
    group = LogGroup("g", world.group.paths, metrics=frozenset({"size", "unread"}))
    agent = world.agent(world.shipper, ShipperConfig("t", "promtail", "/nowhere"), groups=(group,))

    def unread() -> dict[tuple[str, str], float]:
        samples = agent.scrape().samples.items()
        found = {frozenset(labels): value for (name, labels), value in samples if name == "fstat_file_unread_bytes"}
        return {
            (dict(labels)["shipper"], os.path.basename(dict(labels)["path"])): each for labels, each in found.items()
        }

    append(world.log, "0123456789\n")
    assert unread() == {}
    world.read(4)
    assert unread() == {("s", "a.log"): 7}
    os.rename(world.log, world.logs / "a.log.1")
    append(world.log, "next\n")
    assert unread() == {("s", "a.log"): 12}
    world.read(5)
    assert unread() == {("s", "a.log"): 0}
    agent.shippers.configure([ShipperConfig("u", "promtail", str(world.positions))])
    assert unread() == {("u", "a.log"): 0}


@pytest.mark.parametrize("is_complete", [False, True])
def test_restart_after_a_log_was_decided(world: World, *, is_complete: bool) -> None:
    """What was decided of a deleted log stays so, although the agent and the state of the shipper still know it."""
    shipper = ShipperConfig("s", "promtail", str(world.positions), flush_interval_s=0, complete=is_complete)
    agent = world.agent(shipper, state=world.state)
    append(world.log, "0123456789\n")
    world.read(4)
    for _ in range(3):
        agent.scrape()
    world.log.unlink()
    decided = {"read_bytes_total": 4, "lost_bytes_total": 7}
    assert numbers(agent.scrape()) == decided
    agent.scrape()
    agent.kill()
    scrape = world.agent(shipper, state=world.state).scrape()
    assert (numbers(scrape), states(scrape)) == (decided, {})


def test_aggregates(world: World) -> None:
    """By the labels of the group. What its last log has lost is still shown in two scrapes."""
    regex = re.compile(r"/(?P<namespace>[^/]+)/[^/]+$")
    group = LogGroup("g", world.group.paths, labels={"team": "t"}, path_regex=regex, aggregate_by=("namespace",))
    agent = world.agent(groups=(group,))
    log = world.logs / "shop/b.log"
    touch(log)
    append(log, "0123456789\n")
    world.read(0, (log, 4))
    labels = {"shipper": "s", "group": "g", "team": "t"}
    scrape = agent.scrape()
    assert scrape.value("fstat_shipper_aggregate_unread_bytes", **labels, namespace="shop") == 7
    assert scrape.value("fstat_shipper_unread_bytes", **labels) == 7
    assert scrape.value("fstat_shipper_aggregate_oldest_unread_seconds", **labels, namespace="shop") > 0
    account = next(iter(agent.shippers)).account
    key = agent.tracker.realms["g"], ("shop",)
    log.unlink()
    wait_until(lambda: agent.scrape() and account.sums[key].lost == 7)
    with agent.tracker.facts.lock:
        agent.tracker.facts.end(agent.tracker.facts.paths[str(log)])  # as after its grace
    sample = ("fstat_shipper_aggregate_lost_bytes_total", frozenset({**labels, "namespace": "shop"}.items()))
    assert [agent.scrape().samples.get(sample) for _ in range(4)] == [7, 7, None, None]
    assert agent.scrape().value("fstat_shipper_lost_bytes_total", **labels) == 7


def test_a_state_that_cannot_be_read(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """Is logged once, without its content, and counted; the last positions stay; it heals."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(4)
    agent.scrape()
    caplog.clear()  # of what a user other than root may not do
    with caplog.at_level(logging.INFO, "exporter.shippers"):
        world.positions.write_text("secret: {\n")
        for _ in range(3):
            scrape = agent.scrape()
            assert numbers(scrape) == {"unread_bytes": 7, "read_bytes_total": 4}
            assert scrape.value("fstat_shipper_state_readable", shipper="s") == 0
            assert scrape.value("fstat_shipper_state_errors_total", shipper="s") == 1
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "secret" not in caplog.text
        world.read(11)
        scrape = agent.scrape()
    assert (numbers(scrape), scrape.value("fstat_shipper_state_readable", shipper="s")) == ({"read_bytes_total": 11}, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_filesystem_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scrape waits a tenth of its timeout for the positions; a late answer counts at the next one."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(4)
    agent.scrape()
    goes_on, shipper = threading.Event(), next(iter(agent.shippers))
    read: Callable[[], object] = shipper._reader.read

    def slow() -> object:
        assert goes_on.wait(30)
        return read()

    monkeypatch.setattr(shipper._reader, "read", slow)
    world.read(11)
    scrape = agent.scrape(timeout_s=1)
    assert (numbers(scrape)["unread_bytes"], scrape.value("fstat_shipper_state_readable", shipper="s")) == (7, 0)
    goes_on.set()
    wait_until(lambda: agent.scrape(timeout_s=1).value("fstat_shipper_state_readable", shipper="s") == 1)
    assert numbers(agent.scrape()) == {"read_bytes_total": 11}


def test_reload(world: World) -> None:
    """A shipper that is configured as before keeps its numbers; a new one begins with a baseline."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(4)
    agent.scrape()
    agent.shippers.configure([world.shipper, ShipperConfig("t", "promtail", str(world.positions))])
    scrape = agent.scrape()
    assert numbers(scrape) == {"unread_bytes": 7, "read_bytes_total": 4}
    assert numbers(scrape, shipper="t") == {"unread_bytes": 7}
    agent.shippers.configure([])
    assert not [name for name, _ in agent.scrape().samples if name.startswith("fstat_shipper_")]


def test_an_entry_that_is_missing_for_a_while(world: World) -> None:
    """Where the log's path has had a position, what is unread stays unread: the shipper begins anew, or reads on."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(4)
    agent.scrape()
    world.positions.write_text("positions: {}\n")
    for _ in range(2):
        assert numbers(agent.scrape()) == {"unread_bytes": 7, "read_bytes_total": 4}
    world.read(11)
    assert numbers(agent.scrape()) == {"read_bytes_total": 11}


def test_a_log_that_goes_while_its_entry_is_missing(world: World) -> None:
    """What was unread is unaccounted: the shipper may have read it before its entry went, or since."""
    agent = world.agent(ShipperConfig("s", "promtail", str(world.positions), flush_interval_s=0))
    append(world.log, "0123456789\n")
    world.read(4)
    for _ in range(3):
        agent.scrape()
    world.positions.write_text("positions: {}\n")
    for _ in range(3):
        assert numbers(agent.scrape()) == {"unread_bytes": 7, "read_bytes_total": 4}
    world.log.unlink()
    assert numbers(agent.scrape()) == {"read_bytes_total": 4, "unaccounted_bytes_total": 7}


def test_an_entry_in_a_state_file_that_cannot_be_read(world: World) -> None:
    """Is not missed: rsyslog writes a second state file of a log, which is empty at first, and deletes the first."""
    work = world.logs.parent / "work"
    work.mkdir()
    agent = world.agent(ShipperConfig("s", "rsyslog", str(work)))
    append(world.log, "0123456789\n")
    inode = world.log.stat().st_ino
    first, second = work / f"imfile-state:{inode}", work / f"imfile-state:{inode}:ab"
    text = f'{{"filename": "{world.log}", "curr_offs": %d}}'
    first.write_text(text % 4)
    agent.scrape()
    world.log.rename(world.logs / "a.1.log")
    second.touch()
    first.unlink()
    for _ in range(2):
        assert numbers(agent.scrape()) == {"unread_bytes": 7, "read_bytes_total": 4}
    second.write_text(text % 11)
    assert numbers(agent.scrape()) == {"read_bytes_total": 11}


def test_the_age_of_what_was_written_after_all_was_read(world: World) -> None:
    """What was written and read between two scrapes does not make it older."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(11)
    agent.scrape()
    append(world.log, "0123456789\n")
    world.read(22)
    agent.scrape()
    read_s = time.monotonic()
    wait_until(lambda: time.monotonic() > read_s + 0.1)
    began_s = time.monotonic()
    append(world.log, "0123456789\n")
    scrape = agent.scrape()
    oldest_s = scrape.value("fstat_shipper_oldest_unread_seconds", shipper="s", group="g")
    assert oldest_s is not None
    assert oldest_s < time.monotonic() - began_s + 0.01  # a tick of the clock that writes are noted with


def test_a_log_whose_fingerprint_grows(world: World) -> None:
    """The Collector names a log of less than 1,000 bytes by all that it has read: by more before each scrape."""
    directory = world.logs.parent / "storage"
    directory.mkdir()
    agent = world.agent(ShipperConfig("s", "otel-filelog", str(directory)))
    account = next(iter(agent.shippers)).account
    touch(world.logs / "other.log")
    append(world.logs / "other.log", "x" * 1000)  # the Collector does not read it
    for size in range(11, 77, 11):
        append(world.log, "0123456789\n")
        content = world.log.read_bytes()
        position = Position(size, fingerprint=Fingerprint("first-bytes", content, size))
        (directory / "new").write_bytes(database(checkpoints([position])))
        os.replace(directory / "new", directory / "receiver_filelog_x")
        assert numbers(agent.scrape()).get("read_bytes_total", 0) == (size if size > 11 else 0)
    assert {len(log.fingerprints) for log in account.logs.values()} == {1}
    assert len(account.matching.logs) == 6  # by number, name and fingerprint


def test_a_link_that_leads_to_another_log(world: World) -> None:
    """A position by the path of a link is of the log to which the link leads when the position moves."""
    other = world.logs / "b.log"
    link = world.logs.parent / "current"
    link.symlink_to(world.log)
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.positions.write_text(f'positions:\n  {link}: "11"\n')
    assert numbers(agent.scrape()) == {"read_bytes_total": 11}
    append(other, "next\n")
    link.unlink()
    link.symlink_to(other)
    world.positions.write_text(f'positions:\n  {link}: "5"\n')
    assert numbers(agent.scrape()) == {"read_bytes_total": 16}


def test_an_unforeseen_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a state is read, or processed, it is counted and logged, and all else is published; it heals."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(4)
    agent.scrape()
    shipper = next(iter(agent.shippers))
    for target, name in ((shipper._reader, "read"), (shipper.account, "update")):

        def fail(*_: object) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(target, name, fail)
            scrape = agent.scrape()
            assert (numbers(scrape)["unread_bytes"], scrape.value("fstat_shipper_state_readable", shipper="s")) == (
                7,
                0,
            )
            assert scrape.value("fstat_exporter_scrape_collector_success", collector="files") == 1
        scrape = agent.scrape()
        assert scrape.value("fstat_shipper_state_readable", shipper="s") == 1
    world.read(11)
    assert numbers(agent.scrape()) == {"read_bytes_total": 11}


def test_a_reload_between_scrapes(world: World) -> None:
    """Loses nothing of what has happened; and changed keys of a shipper keep its counters."""
    agent = world.agent()
    append(world.log, "0123456789\n")
    world.read(4)
    agent.scrape()
    os.truncate(world.log, 0)
    agent.tracker.refresh(0)
    agent.shippers.configure([ShipperConfig("s", "promtail", str(world.positions), flush_interval_s=2)])
    agent.shippers.configure([world.shipper, ShipperConfig("t", "promtail", str(world.positions))])
    assert numbers(agent.scrape())["read_bytes_total"] == 4


def test_nothing_stays_of_logs_that_have_gone(world: World) -> None:
    """The account, its entries and names keep nothing of them, with or without a state file."""
    agent = world.agent()
    account = next(iter(agent.shippers)).account
    for number in range(20):
        log = world.logs / f"{number}.log"
        append(log, "0123456789\n")
        world.read(0, (log, 11))
        agent.scrape()
        log.unlink()
    world.positions.write_text("positions: {}\n")
    wait_until(lambda: agent.scrape() and not account.logs)
    agent.scrape()
    assert not account.unsaved
    assert not account.matching.logs
    assert not account.matching.entries
    assert not account.matching._entries
    agent.shippers.configure([])
    append(world.log, "1\n")
    agent.scrape()
    assert agent.tracker.facts._books.inode_readers == []
