"""What the positions of a shipper cost: a scrape with and without them, and reading a large positions file.

Two agents follow the same logs, of which a few grow between scrapes. One of them also reads a database of fluent-bit,
where the offsets of these logs move. Then the shipper is stopped: all logs have grown once, and no offset moves.
"""

import argparse
import os
import sqlite3
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import yaml

from benchmarks.common import PATTERN, Agent, Figure, at_most, duration_ns, make_tree, print_figures, scratch_folder
from exporter.shippers import promtail

LINE = b"x" * 99 + b"\n"


def make_database(path: str, logs: list[str]) -> sqlite3.Connection:
    """Make a database of fluent-bit with a row for each log, all read, and keep it open, as fluent-bit does."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        "CREATE TABLE in_tail_files (id INTEGER PRIMARY KEY, name TEXT NOT NULL, offset INTEGER, inode INTEGER, "
        "created INTEGER, rotated INTEGER DEFAULT 0)"
    )
    statuses = [os.stat(log) for log in logs]
    rows = [(log, status.st_size, status.st_ino) for log, status in zip(logs, statuses, strict=True)]
    database.executemany("INSERT INTO in_tail_files (name, offset, inode, created) VALUES (?, ?, ?, 0)", rows)
    return database


def scrape_ns(agent: Agent) -> int:
    """Return the CPU time of the agent's process for a scrape."""
    before = agent.cpu_ns()
    agent.scrape()
    return agent.cpu_ns() - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A scrape with and without the positions of a shipper.")
    parser.add_argument("--files", type=int, default=5_000, help="logs, and rows (default: %(default)s)")
    parser.add_argument("--changed", type=int, default=50, help="logs that grow between scrapes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="scrapes of each agent (default: %(default)s)")
    options = parser.parse_args()

    costs: tuple[list[int], list[int]] = [], []
    with scratch_folder() as root, ExitStack() as stack:
        logs = make_tree(root, options.files)
        database = make_database(f"{root}/flb.db", logs)
        agents: list[Agent] = []
        for shippers in ("", f"shippers: [{{name: flb, type: fluent-bit, path: {root}/flb.db}}]"):
            config = Path(root, f"{len(agents)}.yml")
            config.write_text(f'logs: [{{group: g, paths: ["{root}/{PATTERN}"]}}]\n{shippers}\n')
            agents.append(stack.enter_context(Agent(root, options.files, config=config)))
        for number in range(options.rounds):
            changed = [logs[(number * options.changed + each) % len(logs)] for each in range(options.changed)]
            for log in changed:
                with open(log, "ab") as file:
                    file.write(LINE)
            rows = [(len(LINE), log) for log in changed]
            database.executemany("UPDATE in_tail_files SET offset = offset + ? WHERE name = ?", rows)
            time.sleep(0.3)  # for what the agents do in the background
            for agent, cost in zip(agents, costs, strict=True):
                cost.append(scrape_ns(agent))
        unread = agents[1].value("fstat_shipper_unread_bytes")
        if unread:
            raise SystemExit(f"{unread:.0f} bytes are unread, though the shipper has read everything")
        for log in logs:
            with open(log, "ab") as file:
                file.write(LINE)
        stopped: tuple[list[int], list[int]] = [], []
        for number in range(options.rounds + 2):
            time.sleep(0.3)
            for agent, cost in zip(agents, stopped, strict=True):
                cost += [scrape_ns(agent)] * (number > 1)  # the first ones see the growth
    entries = "".join(f'  {log}: "{number}"\n' for number, log in enumerate(logs))
    positions = f"positions:\n{entries}".encode()
    ours = statistics.median(duration_ns(promtail.parse, positions) for _ in range(10))
    plain = duration_ns(yaml.safe_load, positions)

    without, with_shippers, at_rest, all_unread = (statistics.median(cost) / 1e6 for cost in (*costs, *stopped))
    print_figures(
        [
            Figure(
                f"CPU time that a database of {options.files:,} rows adds to a scrape, {options.changed} moving",
                at_most(12),
                with_shippers - without,
                " ms",
                f"{with_shippers:.1f} ms with it, {without:.1f} ms without",
            ),
            Figure(
                f"CPU time that {options.files:,} logs of a stopped shipper add to a scrape, all unread",
                at_most(12),
                all_unread - at_rest,
                " ms",
                f"{all_unread:.1f} ms with it, {at_rest:.1f} ms without",
            ),
            Figure(
                f"time to read promtail's positions of {options.files:,} logs",
                at_most(100),
                ours / 1e6,
                " ms",
                f"yaml.safe_load takes {plain / 1e6:.0f} ms",
            ),
        ]
    )


if __name__ == "__main__":
    main()
