"""Another configuration for the running agent: nothing is lost, no scrape fails."""

import os
import random
import re
import signal
from pathlib import Path

import pytest

from tests.e2e.test_kill import went_back
from tests.e2e.workload import SEEDS, Workload, by_path
from tests.support import Agent, Scrape, StartAgent

BEGINNING = """
stale_grace: 1s
rescan_interval: 1h  # longer than the test: what is found is found by being told
"""
# Both groups are always there, and together they have all logs.
VARIANTS = (
    """
logs:
  - {{group: all, paths: ["{logs}/**/*.log"]}}
  - {{group: other, paths: ["{logs}/no/such/*.log"]}}
""",
    """
logs:
  - group: all
    paths: ["{logs}/**/*.log"]
    labels: {{team: infra}}
    path_regex: '/(?P<writer>writer-[0-9]+)/(?P<style>[a-z]+)/'
    aggregate_by: [writer]
  - {{group: other, paths: ["{logs}/no/such/*.log"], max_series: 3}}
""",
    """
logs:
  - group: other
    paths: ["{logs}/writer-1/**/*.log"]
    path_regex: '/writer-[0-9]+/(?P<style>[a-z]+)/'
    aggregate_by: [style]
    per_file: false
  - {{group: all, paths: ["{logs}/**/*.log"], max_series: 10}}
""",
    """
logs:
  - {{group: all, paths: ["{logs}/**/*.log*"]}}
  - {{group: other, paths: ["{logs}/no/such/*.log"]}}
""",
    """
cache: {{max_files: 5000, cpu_budget: 5%}}
logs:
  - {{group: all, paths: ["{logs}/writer-{{0,1,2}}/*/*.log", "{logs}/**/*.log"]}}
  - {{group: other, paths: ["{logs}/no/such/*.log"]}}
""",
)
RELOADS = 20
REBORN = re.compile("/(tree|recreate|move)/")
"""Whose files are deleted, and made again perhaps just after their series have ended."""


def reloaded(agent: Agent) -> float:
    """When the configuration was loaded last."""
    return agent.scrape().value("fstat_exporter_config_last_reload_success_timestamp_seconds") or 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_counted_is_what_was_written_through_reloads(tmp_path: Path, start_agent: StartAgent, seed: int) -> None:
    """Whatever is done to the logs while one configuration follows another: at each scrape the bytes counted lie
    between the truth before and after it, no counter of a group goes back, and at the end all is exact.
    """
    rng = random.Random(seed)
    path = tmp_path / "exporter-0.yml"
    with Workload(tmp_path, seed) as workload:
        for number in range(2_000):  # that a reload takes its time
            (workload.logs / f"empty-{number}").mkdir()

        def text(variant: int) -> str:
            return BEGINNING + f"state: {{path: {tmp_path}/state.db}}\n" + VARIANTS[variant].format(logs=workload.logs)

        agent = start_agent(config=text(0))
        workload.start()
        scrape = workload.check(agent)
        for number in range(RELOADS):
            path.write_text(text(rng.randrange(len(VARIANTS))))
            before_s = reloaded(agent)
            os.kill(agent.pid, signal.SIGHUP)
            while True:
                before, scrape = scrape, workload.check(agent)
                assert not went_back(counters(before), counters(scrape)), (seed, number)
                for family in ("fstat_file_appended_bytes_total", "fstat_file_changes_total"):
                    lower = went_back(by_path(before, family), by_path(scrape, family))
                    assert not [path for path in lower if not REBORN.search(path)], (seed, number, lower)
                if (scrape.value("fstat_exporter_config_last_reload_success_timestamp_seconds") or 0) > before_s:
                    break
            workload.run_for(rng.uniform(0, 0.7))
        workload.stop()
        workload.check(agent)
    assert scrape.value("fstat_exporter_config_last_reload_successful") == 1


def counters(scrape: Scrape) -> dict[str, float]:
    """Those of both groups."""
    return {
        f"{group} {family}": value
        for group in ("all", "other")
        for family in ("appended_bytes", "changes", "truncations", "rotations")
        for value in scrape.values(f"fstat_group_{family}_total", group=group)
    }
