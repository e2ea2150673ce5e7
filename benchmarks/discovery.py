"""How long it takes to find and publish many files, and what a directory costs in which nothing matches."""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import (
    Agent,
    Figure,
    at_least,
    at_most,
    duration_ns,
    percent_of_a_core,
    print_figures,
    rss_bytes,
    scratch_folder,
)

FILES_A_FOLDER = 100
CHURN = """
import os, sys
folder, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    os.close(os.open(f"{folder}/{number}.tmp", os.O_CREAT | os.O_WRONLY))
for number in range(count):
    os.unlink(f"{folder}/{number}.tmp")
"""


def make_flat_tree(root: str, files: int) -> None:
    """Make `files` empty files in folders of 100, where the pattern of the other benchmarks finds them."""
    for number in range(files):
        folder = f"{root}/pods/p/{number // FILES_A_FOLDER}"
        if number % FILES_A_FOLDER == 0:
            os.makedirs(folder)
        with open(f"{folder}/{number}.log", "w"):
            pass


def walk(root: str) -> None:
    """What cannot be done without: list every folder, ask for every file."""
    for folder, _, names in os.walk(root):
        for name in names:
            os.stat(f"{folder}/{name}")


def publish_s(root: str, files: int) -> float:
    """Seconds from the start of the agent to the end of its first scrape, which has all files."""
    with Agent(root, files, ready_timeout_s=120) as agent:
        return agent.published_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Files that are found, and names that match nothing.")
    parser.add_argument("--files", type=int, default=80_000, help="files to find (default: %(default)s)")
    parser.add_argument("--names", type=int, default=50_000, help="names that match nothing (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="medians of so many (default: %(default)s)")
    options = parser.parse_args()

    with scratch_folder() as root:
        make_flat_tree(root, options.files)
        walk(root)  # so that nobody waits for the disk
        walked_s = statistics.median(duration_ns(walk, root) / 1e9 for _ in range(options.rounds))
        published_s = statistics.median(publish_s(root, options.files) for _ in range(options.rounds))

    with scratch_folder() as root:
        busy, log = f"{root}/pods/p/busy", Path(f"{root}/pods/p/quiet/a.log")
        for folder in (busy, log.parent):
            os.makedirs(folder)
        log.touch()
        with Agent(root, 1) as agent:
            before, cpu_ns, start_ns = rss_bytes(agent.pid), agent.cpu_ns(), time.perf_counter_ns()
            subprocess.run([sys.executable, "-c", CHURN, busy, str(options.names)], check=True)
            churn_ns = time.perf_counter_ns() - start_ns
            cpu_ns = agent.cpu_ns() - cpu_ns
            log.write_text("shows at once")
            shown = agent.sizes()[str(log)]
            grown = rss_bytes(agent.pid) - before

    files, names = f"{options.files:,} files in {options.files // FILES_A_FOLDER:,} directories", f"{options.names:,}"
    print_figures(
        [
            Figure(
                f"from the start of the agent until {files} are published, against os.walk + os.stat",
                at_most(3),
                published_s / walked_s,
                "x",
                f"{published_s:.2f} s against {walked_s:.2f} s",
            ),
            Figure(
                f"CPU of the agent while {names} names that match nothing come and go",
                at_most(5),
                percent_of_a_core(cpu_ns, churn_ns),
                " % of a core",
                f"in {churn_ns / 1e9:.1f} s",
            ),
            Figure(f"memory the agent has grown by, {names} such names", None, grown / 2**20, " MiB"),
            Figure("size scraped right after of a log in another directory", at_least(13), shown, " bytes"),
        ]
    )


if __name__ == "__main__":
    main()
