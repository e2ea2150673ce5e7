"""The real agent in front of a host's root that is a directory of its own (--path.rootfs)."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support import StartAgent

CONFIG = """
state: {{path: {state}}}
logs:
  - {{preset: kubernetes-pods, exclude: ["/var/log/pods/*_excluded_*/**"]}}
"""
POD = "/var/log/pods/ns_pod_uid/c/0.log"


def test_nothing_shows_where_the_host_is_mounted(tmp_path: Path, start_agent: StartAgent) -> None:
    """Labels, JSON, log and state file have the host's paths, so an agent that has the host elsewhere goes on.

    The state file and the configuration are the agent's own.
    """
    hosts = [tmp_path / "mounts/first", tmp_path / "mounts/second"]
    for pod in ("pod", "excluded"):
        directory = hosts[0] / f"var/log/pods/ns_{pod}_uid/c"
        directory.mkdir(parents=True)
        (directory / "0.log").symlink_to("/var/lib/docker/containers/x/x-json.log")
    state = tmp_path / "agent.db"
    for number, host in enumerate(hosts):
        log = host / "var/lib/docker/containers/x/x-json.log"
        if number == 0:
            log.parent.mkdir(parents=True)
            log.write_text("12345")
        else:
            hosts[0].rename(host)
            with log.open("a") as file:
                file.write("678")  # while no agent runs
        agent = start_agent(f"--path.rootfs={host}", config=CONFIG.format(state=state))
        if number == 0:
            with log.open("a") as file:
                file.write("\n")
        labels = {"path": POD, "group": "pods", "namespace": "ns", "pod": "pod", "container": "c"}
        scrape = agent.scrape()
        assert scrape.values("fstat_file_size_bytes") == [6 + 3 * number]
        assert scrape.value("fstat_file_size_bytes", **labels) == 6 + 3 * number
        assert scrape.value("fstat_file_appended_bytes_total", **labels) == 1 + 3 * number
        patterns = [dict(labels)["pattern"] for _, labels in scrape.samples if "pattern" in dict(labels)]
        assert set(patterns) == {"/var/log/pods/*/*/*.log"}
        shown = agent.get("/api/v1/files").body
        assert [(file["path"], file["followed"]) for file in json.loads(shown)["files"]] == [(POD, "watched")]
        assert b"mounts" not in shown + agent.get("/metrics").body
        assert agent.stop() == 0
        assert "mounts" not in agent.log_path.read_text()
        with closing(sqlite3.connect(state)) as database:
            assert database.execute("SELECT path FROM series").fetchall() == [(POD.encode(),)]
