"""The real agent reads the content of files: lines and checksums, over a reload and kill -9."""

import json
import os
import signal
import zlib
from pathlib import Path

from tests.exporter.tracking import append
from tests.support import Agent, Scrape, wait_until


def test_lines_and_checksums(tmp_path: Path) -> None:
    """A reload asks for them; after kill -9 the lines go on, with those that were appended meanwhile."""
    logs, config = tmp_path / "logs", tmp_path / "exporter.yml"
    logs.mkdir()
    log, state = logs / "a.log", tmp_path / "state.db"
    log.write_text("1\n")

    def configure(*metrics: str) -> None:
        group = {"group": "g", "paths": [f"{logs}/*.log"], "metrics": list(metrics)}
        config.write_text(json.dumps({"state": {"path": str(state)}, "logs": [group], "content_budget": "1MiB"}))

    def wait_for(lines: int) -> Scrape:
        """Scrape until so many lines and the checksum are shown."""
        crc32 = zlib.crc32(log.read_bytes())
        scrapes: list[Scrape] = []

        def are_shown() -> bool:
            scrapes.append(agent.scrape())
            found = [scrapes[-1].value(f"fstat_{name}") for name in ("file_lines_total", "file_crc32")]
            return found == [lines, crc32]

        wait_until(are_shown)
        return scrapes[-1]

    def start(name: str) -> Agent:
        return Agent([f"--config.file={config}"], tmp_path / name)

    configure("size")
    agent = start("agent-0.out")
    try:
        append(log, "2\n")
        assert agent.scrape().values("fstat_group_lines_total") == []
        configure("size", "lines", "crc32")
        os.kill(agent.pid, signal.SIGHUP)
        wait_until(lambda: agent.scrape().values("fstat_group_lines_total") == [0])
        append(log, "3\n4")
        scrape = wait_for(1)
        assert scrape.value("fstat_group_lines_total") == 1
        assert scrape.value("fstat_group_lines_backlog_bytes") == 0
        os.kill(agent.pid, signal.SIGKILL)
        assert agent.stop() == -signal.SIGKILL
        append(log, "\n5\n")
        agent = start("agent-1.out")
        scrape = wait_for(3)
        assert scrape.value("fstat_group_lines_total") == 3
        assert scrape.value("fstat_group_lines_skipped_bytes_total") == 0
    finally:
        agent.stop()
