"""The agent in this process."""

import asyncio
import contextlib
import gc
import logging
import socket
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.agent import Agent
from exporter.config.groups import LogGroup
from exporter.config.model import CacheConfig, Config, StateConfig
from exporter.discovery.discovery import Discovery
from exporter.discovery.findings import Findings
from exporter.ops.systemd import Notifier
from exporter.tracker import Tracker
from fstat_cache import FStatCache
from tests.exporter.tracking import tick


def run_until(config: Config, condition: Callable[[Agent], bool]) -> Agent:
    """Run an agent that serves nowhere until a condition is true, which is asked again and again."""
    agent = Agent(config, [])

    async def run() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        while not condition(agent):
            await asyncio.sleep(0.01)
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(run(), 10))
    return agent


def test_garbage(tmp_path: Path) -> None:
    """What the first scan has made is not searched for garbage again; until a reload makes garbage of it."""
    thresholds = gc.get_threshold()
    old, new = (Config(logs=(LogGroup(name, (f"{tmp_path}/*.log",)),)) for name in ("old", "new"))
    agent = Agent(old, [], read_config=lambda: new)
    publication = weakref.ref(agent._tracker.publication)

    async def run() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        await agent._ready.wait()
        assert gc.get_threshold() == thresholds
        assert gc.get_freeze_count() > 0
        assert await agent.reload("test") is None
        stop.set()
        await running

    asyncio.run(asyncio.wait_for(run(), 10))
    gc.collect()
    assert publication() is None


@pytest.mark.parametrize(
    ("owner", "name", "message"),
    [
        (FStatCache, "audit", "the audit failed; the next one runs after cache.audit_interval"),
        (Tracker, "scan", "the scan failed; the next one runs after rescan_interval"),
    ],
)
def test_what_fails_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, owner: type, name: str, message: str
) -> None:
    """Whatever went wrong, it is told, and the next one comes after the interval."""
    caplog.set_level(logging.ERROR)
    tried = 0

    def fail(*_arguments: object) -> None:
        nonlocal tried
        tried += 1
        raise RuntimeError("unexpected")

    monkeypatch.setattr(owner, name, fail)
    config = Config(
        logs=(LogGroup("g", ("/no/such.log",)),), cache=CacheConfig(audit_interval_s=0.02), rescan_interval_s=0.02
    )
    run_until(config, lambda _: tried >= 3)
    assert {record.getMessage() for record in caplog.records} == {message}
    assert "unexpected" in caplog.text


def test_while_nobody_scrapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Audits keep everything true, and the series of files that have gone end."""
    monkeypatch.setattr("exporter.publication.publication.NOBODY_SCRAPES_S", 0)
    path = tmp_path / "a.log"
    path.touch()
    config = Config(
        logs=(LogGroup("g", (f"{tmp_path}/*.log",)),), cache=CacheConfig(audit_interval_s=0.02), stale_grace_s=0
    )

    def gone(agent: Agent) -> bool:
        if agent._tracker.is_ready:
            path.unlink(missing_ok=True)
        return agent._tracker.is_ready and len(agent._tracker.facts.paths) == 0

    run_until(config, gone)


def test_no_watchdog_while_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd hears nothing more while the thread that follows the files does not answer, and then again."""
    monkeypatch.setattr("exporter.ops.health.TIMEOUT_S", 0.1)
    (tmp_path / "a.log").touch()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"})
        agent = Agent(Config(logs=(LogGroup("g", (f"{tmp_path}/*.log",)),)), [], notifier=notifier)

        real, faults = agent._find_fault, 0

        async def find_fault() -> str | None:
            nonlocal faults
            fault = await real()
            faults += fault is not None
            return fault

        monkeypatch.setattr(agent, "_find_fault", find_fault)

        async def hear(message: bytes) -> None:
            while message not in await asyncio.get_running_loop().sock_recv(systemd, 1000):
                pass

        async def find_faults(count: int) -> None:
            wanted = faults + count
            while faults < wanted:
                await asyncio.sleep(0.01)

        async def run() -> None:
            stop = asyncio.Event()
            running = asyncio.create_task(agent.run(stop))
            await hear(b"READY=1")  # during the first scan nobody asks the thread
            await hear(b"WATCHDOG=1")
            with agent._tracker.cache._life.lock:
                await find_faults(1)
                with contextlib.suppress(BlockingIOError):
                    while systemd.recv(1000):  # what was sent before
                        pass
                await find_faults(3)
                with pytest.raises(BlockingIOError):
                    systemd.recv(1000)
            await hear(b"WATCHDOG=1")
            stop.set()
            await running

        asyncio.run(asyncio.wait_for(run(), 30))


def test_a_long_first_scan_tells_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Now and then, with what was found so far; once more at most when the scan is done, and not afterwards."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("exporter.agent.PROGRESS_S", 0.05)
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.log").touch()
    monkeypatch.setattr("exporter.tracker.DIRECTORIES_AT_ONCE", 1)
    real, asked = Discovery.scan, 0

    def slow(discovery: Discovery, directories: int) -> Findings:
        nonlocal asked
        asked += 1
        time.sleep(0.1)
        return real(discovery, directories)

    monkeypatch.setattr(Discovery, "scan", slow)
    turns = iter(range(30))  # of 0.01 s, after the agent is ready

    def is_over(agent: Agent) -> bool:
        return agent._ready.is_set() and next(turns, None) is None

    run_until(Config(logs=(LogGroup("g", (f"{tmp_path}/**/*.log",)),)), is_over)
    told = [(record.getMessage(), vars(record).get("fields", {})) for record in caplog.records]
    files = [fields["files"] for message, fields in told if message == "scanning"]
    assert len(files) >= 3
    assert files == sorted(files)
    assert files[0] == 0
    assert files[-1] >= 1
    messages = [message for message, _ in told]
    assert messages[messages.index("scan done") :].count("scanning") <= 1


@pytest.mark.parametrize("through", ["", "real"])
def test_rotated_while_there_was_no_agent(tmp_path: Path, through: str) -> None:
    """A file is found again by its inode under whatever name it has, also where a symbolic link leads."""
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "0.log"
    target = tmp_path / through / "target" if through else log
    if through:
        target.parent.mkdir()
        log.symlink_to(target)
    config = Config(
        logs=(LogGroup("g", (f"{tmp_path}/logs/**/*.log",)),), state=StateConfig(str(tmp_path / "state.db"))
    )

    def counted(agent: Agent) -> int:
        agent._tracker.refresh(0)
        return agent._tracker.publication.groups[0].appended_bytes

    agent = Agent(config, [])
    agent._tracker.scan()
    tick()
    writers = []
    written = 0
    for number in range(4):
        writers.append(target.open("a", buffering=1))
        for writer in writers:
            written += writer.write("x\n")
        assert counted(agent) == written
        agent._save()
        agent._close()
        for writer in writers:
            written += writer.write("xx\n")
        if number < 3:
            target.rename(f"{target}.{number}")
            for writer in writers:
                written += writer.write("xxx\n")
        agent = Agent(config, [])
        agent._tracker.scan()
        assert counted(agent) == written
    agent._close()
    for writer in writers:
        writer.close()


def test_rotated_while_there_was_no_agent_in_a_busy_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are found again by their inodes, also where others come and go while the first scan goes on."""
    monkeypatch.setattr("exporter.tracker.DIRECTORIES_AT_ONCE", 1)
    logs = [tmp_path / "logs" / name / "0.log" for name in "abcde"]
    for log in logs:
        log.parent.mkdir(parents=True)
        log.write_text("x")
    pattern = f"{tmp_path}/logs/**/*.log"
    config = Config(logs=(LogGroup("g", (pattern,)),), state=StateConfig(str(tmp_path / "state.db")))
    agent = Agent(config, [])
    agent._tracker.scan()
    agent._save()
    agent._close()
    for log in logs:
        log.rename(f"{log}.1")
        with open(f"{log}.1", "a") as file:
            file.write("late")
    scan = Discovery.scan

    def busy(discovery: Discovery, directories: int) -> Findings:
        yield from scan(discovery, directories)
        if (tmp_path / "logs") in map(Path, discovery._tree.folders):
            (tmp_path / "logs" / "other").touch()
            (tmp_path / "logs" / "other").unlink()

    monkeypatch.setattr(Discovery, "scan", busy)
    agent = Agent(config, [])
    agent._tracker.scan()
    agent._tracker.refresh(0)
    assert agent._tracker.publication.groups[0].appended_bytes == len("late") * len(logs)
    agent._close()
