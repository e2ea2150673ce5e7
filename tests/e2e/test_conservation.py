"""Every byte that is written is counted, and counted once, whatever is done to the logs."""

import os
import random
import time
from pathlib import Path

import pytest

from tests.e2e.workload import SEEDS, Workload, Writer, by_path, overflow, uncertain
from tests.support import Agent, StartAgent, as_root, wait_until

CONFIG = """
stale_grace: 1s
rescan_interval: 1h  # longer than the test: what is found is found by being told
logs:
  - group: all
    paths: ["{pattern}"]
"""
RUN_S = 22


def sizes(agent: Agent) -> dict[str, float]:
    """The published sizes, by path."""
    return by_path(agent.scrape(), "fstat_file_size_bytes")


def sizes_on_disk(top: Path, *, with_rotated: bool) -> dict[str, float]:
    """What has to be published, by path."""
    return {
        path: os.stat(path).st_size
        for folder, _, names in os.walk(top)
        for name in names
        if name.endswith(".log") or (with_rotated and ".log" in name and not name.endswith(".gz"))
        if os.path.exists(path := os.path.join(folder, name))  # a link may lead nowhere
    }


@as_root
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_counted_is_what_was_written(tmp_path: Path, start_agent: StartAgent, seed: int) -> None:
    """At each scrape the bytes counted lie between the truth before and after it, and equal it at the end.

    Then the truncations are exact too, and the published files and sizes are those on the disk. Nothing is uncertain
    but truncations and deletions right after a write. Two agents watch the same logs: for one the names of rotated
    files do not match, for the other they do.
    """
    rng = random.Random(seed)
    with Workload(tmp_path, seed) as workload:
        plain, with_rotated = (
            start_agent(config=CONFIG.format(pattern=f"{workload.logs}/**/{name}")) for name in ("*.log", "*.log*")
        )
        workload.start(plain, with_rotated)
        end_s = time.monotonic() + RUN_S
        while time.monotonic() < end_s:
            workload.check(rng.choice((plain, with_rotated)))
            workload.run_for(min(3.0, rng.expovariate(2)))  # an agent has to do without scrapes as well
        workload.stop()
        for agent in (plain, with_rotated):
            on_disk = sizes_on_disk(workload.logs, with_rotated=agent is with_rotated)
            scrape = workload.check(agent)
            published = by_path(scrape, "fstat_file_size_bytes")
            assert {path: published.get(path) for path in on_disk} == on_disk, workload.seed
            assert scrape.value("fstat_group_truncations_total") == workload.truncations(), workload.seed
            assert (scrape.value("fstat_group_rotations_total") or 0) > 0
            assert scrape.value("fstat_cache_queue_overflows_total") == 0
            assert not uncertain(scrape, workload.doubts()), workload.seed
            wait_until(lambda agent=agent, on_disk=on_disk: sizes(agent) == on_disk)  # type: ignore[misc]
            workload.check(agent)


@as_root
@pytest.mark.timeout(120)
def test_nothing_is_lost_when_the_kernels_queue_overflows(tmp_path: Path, start_agent: StartAgent) -> None:
    """Far more events than the kernel keeps, while logs are written, made and renamed: the next scrape is right."""
    with Workload(tmp_path, seed=1) as workload:
        flooded = workload.logs / "flooded"
        flooded.mkdir()
        writer = Writer(tmp_path, workload.own, workload.seed)
        logs = [writer.open(flooded / f"{number}.log") for number in range(200)]
        agent = start_agent(config=CONFIG.format(pattern=f"{workload.logs}/**/*.log"))
        workload.start(agent)
        for rounds in range(1, 4):
            workload.run_for(2)
            workload.check(agent)
            workload.control.hold()
            overflow(agent, logs, times=2)
            scrape = workload.check(agent)
            overflows = scrape.value("fstat_cache_queue_overflows_total") or 0
            assert overflows >= rounds
            assert scrape.value("fstat_group_uncertain_total", reason="overflow") == overflows
            workload.control.release()
        workload.stop()
        workload.check(agent)
        for log in logs:
            log.close()
