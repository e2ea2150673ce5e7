"""Counters survive the agent: with a state file, `kill -9` loses no byte and takes no counter back."""

import os
import random
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.workload import SEEDS, Workload, by_path, uncertain
from tests.support import Agent, Scrape, as_root

CONFIG = """
stale_grace: 1s
rescan_interval: 1h  # longer than the test: what is found is found by being told
state:
  path: {state}
logs:
  - group: all
    paths: ["{logs}/**/*.log"]
"""
KILLS = 5


def group_counters(scrape: Scrape) -> dict[str, float]:
    """The counters of the group."""
    families = (f"fstat_group_{name}_total" for name in ("appended_bytes", "changes", "truncations", "rotations"))
    return {family: value for family in families for value in scrape.values(family, group="all")}


def went_back(before: dict[str, float], after: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Those that are in both and lower afterwards."""
    return {key: (before[key], after[key]) for key in before.keys() & after.keys() if after[key] < before[key]}


@as_root
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_again_and_again(tmp_path: Path, seed: int) -> None:
    """Whenever it is killed, the next agent's first scrape is right, with what was written while there was none.

    Logs are renamed and made all the time, several times in a row too; nothing is truncated, deleted or moved away just
    before a kill or without an agent, see Workload. So nothing is uncertain.
    """
    rng = random.Random(seed)
    with Workload(tmp_path, seed) as workload:
        config = tmp_path / "exporter.yml"
        config.write_text(CONFIG.format(state=tmp_path / "state.db", logs=workload.logs))
        agent = Agent([f"--config.file={config}"], tmp_path / "agent-0.out")
        try:
            workload.start(agent)
            scrape = workload.check(agent)
            for number in range(1, KILLS + 1):
                workload.run_for(rng.uniform(1, 2.5))  # without a scrape
                for _ in range(3):
                    before, scrape = scrape, workload.check(agent)
                    lower = went_back(group_counters(before), group_counters(scrape))
                    assert not lower, seed
                    workload.run_for(rng.uniform(0, 0.5))
                workload.control.hold()
                before = workload.check(agent)
                moment = rng.choice(("after a scrape", "some time later", "during a scrape"))
                if moment == "some time later":
                    workload.run_for(rng.uniform(0, 0.7))
                with closing(socket.create_connection(("127.0.0.1", agent.port))) as client:
                    if moment == "during a scrape":
                        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        workload.run_for(rng.uniform(0, 0.02))
                    os.kill(agent.pid, signal.SIGKILL)
                assert agent.stop() == -signal.SIGKILL
                workload.run_for(rng.uniform(0, 0.5))
                agent = Agent([f"--config.file={config}"], tmp_path / f"agent-{number}.out")
                workload.follow(agent)
                scrape = workload.check(agent)
                lower = went_back(group_counters(before), group_counters(scrape))
                assert not lower, (seed, moment)
                for counter in ("appended_bytes", "changes"):
                    family = f"fstat_file_{counter}_total"
                    lower = went_back(by_path(before, family), by_path(scrape, family))
                    assert not lower, (seed, moment)
                workload.control.release()
            workload.stop()
            scrape = workload.check(agent)
            assert not uncertain(scrape, workload.doubts()), seed
        finally:
            agent.stop()
