"""The real agent under attack: a well-behaved client beside is answered, memory stays flat, nothing is in the log."""

import re
import statistics
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.attacker import ATTACKS
from tests.e2e.clock import AgentClock
from tests.support import Process, StartAgent

FILES = 2000
SECONDS = 2


def resident_mib(pid: int) -> float:
    """The memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.fixture
def logs(tmp_path: Path) -> str:
    """A pattern of some thousand files."""
    folder = tmp_path / "logs"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number}.log").write_bytes(b"x")
    return f"{folder}/*.log"


@pytest.mark.alone  # the clock of a process that never sleeps is not exact
@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str, logs: str, tmp_path: Path, start_agent: StartAgent) -> None:
    """Each kind for some seconds: scrapes beside it within a second, less than 64 MiB more of memory, not a word.

    A second in which the agent can run: what else there is to do on the machine is none of its work.
    """
    agent = start_agent(logs, "--log.level=info")
    for _ in range(3):
        agent.get("/metrics")
        agent.get("/metrics", {"Accept-Encoding": "gzip"})
    before = resident_mib(agent.pid)
    log = agent.log_path.read_text()
    attacker = Process([sys.executable, "-m", "tests.e2e.attacker", name, str(agent.port)], tmp_path / "attacker.out")
    try:
        scrapes = []
        greatest = 0.0
        with AgentClock() as clock:
            clock.follow(agent.pid)
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                began_s = time.monotonic()
                answer = agent.get("/metrics", {"Accept-Encoding": "gzip"})
                scrapes.append((began_s, time.monotonic()))
                assert answer.status == 200
                greatest = max(greatest, resident_mib(agent.pid))
                time.sleep(0.1)  # the clock ticks meanwhile
            seconds = [clock.seconds_between(*scrape) for scrape in scrapes]
        attacker.alive()
    finally:
        attacker.stop()
    print(f"{name}: slowest {max(seconds):.3f} s of {len(seconds)}, {before:.0f} -> {greatest:.0f} MiB")
    assert max(seconds) < 1
    assert statistics.median(seconds) < 0.6
    assert greatest - before < 64
    assert agent.log_path.read_text() == log
    agent.alive()
