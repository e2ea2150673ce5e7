"""What busy writers and the agent cost one another.

First the writer's side: how fast it appends to files that the agent follows, against files that it does not. Then the
agent's: its CPU time while others write and nobody scrapes; the sizes in the one scrape right after must be the truth.
Every write appends 100 bytes, and the files take turns, so that the kernel cannot merge their events.
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import Executor, ProcessPoolExecutor

from benchmarks.common import (
    Agent,
    Figure,
    at_least,
    at_most,
    make_tree,
    percent_of_a_core,
    print_figures,
    scratch_folder,
)

LINE = b"x" * 99 + b"\n"
WRITES_PER_LOOK = 2000  # at the clock
SLEEP_S = 0.002  # of a writer that is ahead of its rate
FULL_SPEED = 0

TAX_FILES = (1, 100)
WORKLOADS = ((1, FULL_SPEED), (100, 20_000), (1000, 10_000))  # files, writes/s in all
MANY_FILES = 1000  # that the agent follows, the writer's among them or, where its CPU is measured, beside them


def append(paths: list[str], writes_per_s: float, seconds: float) -> int:
    """Append lines to the files in turn.

    Args:
        paths: the files.
        writes_per_s: the rate over all of them, or `FULL_SPEED`.
        seconds: how long.

    Returns:
        The number of writes.
    """
    descriptors = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in paths]
    write, turns, written = os.write, len(descriptors), 0
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        due = WRITES_PER_LOOK
        if writes_per_s != FULL_SPEED:
            due = min(due, int(passed * writes_per_s) - written)
            if due <= 0:
                time.sleep(SLEEP_S)
        for _ in range(due):
            write(descriptors[written % turns], LINE)
            written += 1
    for descriptor in descriptors:
        os.close(descriptor)
    return written


def full_rate(writer: Executor, paths: list[str], seconds: float) -> float:
    """Writes a second at full speed; the files are empty afterwards."""
    written = writer.submit(append, paths, FULL_SPEED, seconds).result()
    for path in paths:
        os.truncate(path, 0)
    return written / seconds


def measure_tax(writer: Executor, files: int, options: argparse.Namespace) -> Figure:
    """The writer's rate on followed files over that on others: the median of pairs, one after the other."""
    with scratch_folder() as root:
        followed = make_tree(root, MANY_FILES)[:files]
        others = make_tree(f"{root}/other", files)
        with Agent(root, MANY_FILES):
            time.sleep(options.settle)
            full_rate(writer, others, options.burst / 3)  # the first burst is slower
            rates = []
            for _ in range(options.pairs):
                free = full_rate(writer, others, options.burst)
                time.sleep(options.pause)
                rates.append((full_rate(writer, followed, options.burst), free))
                time.sleep(options.pause)
    ratios = [watched / free for watched, free in rates]
    detail = (
        f"{min(ratios):.2f} to {max(ratios):.2f}; {statistics.median(free for _, free in rates):,.0f} writes/s free"
    )
    what = f"rate of a writer on {_files(files)} that the agent follows, over others"
    return Figure(what, at_least(0.85), statistics.median(ratios), "", detail)


def measure_cpu(writer: Executor, files: int, writes_per_s: int, options: argparse.Namespace) -> Iterable[Figure]:
    """The agent's CPU time while files are written, and the error of the scrape that follows at once."""
    with scratch_folder() as root:
        paths = make_tree(root, MANY_FILES + files)
        with Agent(root, len(paths)) as agent:
            time.sleep(options.settle)
            start_ns, start_cpu_ns = time.perf_counter_ns(), agent.cpu_ns()
            written = writer.submit(append, paths[:files], writes_per_s, options.seconds).result()
            cpu_ns, wall_ns = agent.cpu_ns() - start_cpu_ns, time.perf_counter_ns() - start_ns
            published = agent.sizes()
            error_bytes = sum(abs(os.stat(path).st_size - published.get(path, 0)) for path in paths)
    rate = f"{writes_per_s:,} writes/s" if writes_per_s else "full speed"
    where = f"{_files(files)} written at {rate}"
    detail = f"{written / options.seconds:,.0f} writes/s"
    yield Figure(f"CPU of the agent, {where}", at_most(1), percent_of_a_core(cpu_ns, wall_ns), " % of a core", detail)
    yield Figure(f"error of the sizes scraped right after, {where}", at_most(0), error_bytes, " bytes")


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Busy writers beside the agent: what each costs the other.")
    parser.add_argument("--pairs", type=int, default=5, help="bursts on followed and on other files (default: 5)")
    parser.add_argument("--burst", type=float, default=3, help="seconds each of those is (default: 3)")
    parser.add_argument("--pause", type=float, default=1, help="seconds after each (default: 1)")
    parser.add_argument("--seconds", type=float, default=15, help="how long the CPU is measured (default: 15)")
    parser.add_argument("--settle", type=float, default=2, help="seconds after the agent is ready (default: 2)")
    options = parser.parse_args()

    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as writer:
        figures = [measure_tax(writer, files, options) for files in TAX_FILES]
        for files, writes_per_s in WORKLOADS:
            figures.extend(measure_cpu(writer, files, writes_per_s, options))
    print_figures(figures)


if __name__ == "__main__":
    main()
