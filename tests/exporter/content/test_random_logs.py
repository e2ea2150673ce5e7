"""Random appends, rotations, truncations, deletions and restarts: the lines are the truth."""

import os
import random
from io import FileIO
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from tests.exporter.content.reading_agent import ReadingAgent, StartReading
from tests.exporter.tracking import tick
from tests.support import as_root

SEEDS = [*range(2), *[pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 60)]]


class Logs:
    """Logs that somebody writes, and how many newlines were written.

    Attributes:
        lines: all newlines so far.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._writers: dict[str, FileIO] = {}
        self._nameless: list[FileIO] = []
        self.lines = 0

    def append(self) -> None:
        """Write some lines, often unfinished ones, to a log, a new one, or one that has lost its name."""
        name = self._random.choice(("a", "b", "c"))
        if name not in self._writers:
            self._writers[name] = FileIO(self._folder / f"{name}.log", "a")
            tick()  # the same number may be given again, but not the same birth
        writer = self._random.choice([*self._writers.values(), *self._nameless])
        text = "".join(self._random.choices("ab\n", k=self._random.choice((1, 10, 1000, 100_000))))
        writer.write(text.encode())
        self.lines += text.count("\n")

    def rotate(self) -> None:
        """Rename a log to what no pattern matches; its writer goes on."""
        if (name := self._any()) is not None:
            path = self._folder / f"{name}.log"
            path.rename(f"{path}.{self._random.randint(1, 2)}")
            self._nameless.append(self._writers.pop(name))

    def delete(self) -> None:
        """Delete a log; its writer goes on."""
        if (name := self._any()) is not None:
            (self._folder / f"{name}.log").unlink()
            self._nameless.append(self._writers.pop(name))

    def close(self) -> None:
        """Let the writer of an old log end."""
        if self._nameless:
            self._nameless.pop(self._random.randrange(len(self._nameless))).close()

    def truncate(self) -> None:
        """Empty a log, as copytruncate does."""
        if (name := self._any()) is not None:
            os.truncate(self._folder / f"{name}.log", 0)

    def end(self) -> None:
        """Close all."""
        for writer in (*self._writers.values(), *self._nameless):
            writer.close()

    def _any(self) -> str | None:
        return self._random.choice([*self._writers]) if self._writers else None


def check(agent: ReadingAgent, logs: Logs) -> None:
    """Scrape once: what is shown is the truth, less what is still to be read."""
    scrape = agent.scrape()
    assert scrape.value("fstat_group_lines_skipped_bytes_total") == 0
    found, backlog = (scrape.value(f"fstat_group_lines_{name}") for name in ("total", "backlog_bytes"))
    assert found is not None
    assert backlog is not None
    assert found <= logs.lines <= found + backlog
    of_files = sum(scrape.values("fstat_file_lines_total"))
    assert of_files <= logs.lines


@as_root
@pytest.mark.parametrize("seed", SEEDS)
def test_random_logs(tmp_path: Path, start_reading: StartReading, seed: int) -> None:
    """After each change the lines are those that were written, less the backlog; nothing is skipped.

    Only before bytes disappear everything is read.
    """
    pick = random.Random(seed)
    folder, state = tmp_path / "logs", tmp_path / "state.db"
    folder.mkdir()
    group = LogGroup("g", (f"{folder}/*.log",), metrics=frozenset(["lines"]))
    agent = start_reading(group, state=state)
    logs = Logs(folder, seed)
    try:
        for _ in range(60):
            change = pick.choice([*["append"] * 6, "rotate", "rotate", "delete", "close", "truncate", "restart"])
            if change in ("close", "truncate"):
                scrape = agent.settled()
                assert scrape.value("fstat_group_lines_total") == logs.lines
            if change == "restart":
                if pick.random() < 0.5:
                    agent.scrape()
                agent.kill()
                if pick.random() < 0.5:
                    logs.append()
                if pick.random() < 0.5:
                    logs.rotate()
                agent = start_reading(group, state=state)
            else:
                getattr(logs, change)()
            check(agent, logs)
        scrape = agent.settled()
        assert scrape.value("fstat_group_lines_total") == logs.lines
        assert scrape.value("fstat_group_lines_skipped_bytes_total") == 0
    finally:
        logs.end()
