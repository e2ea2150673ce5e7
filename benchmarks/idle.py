"""What the agent costs when nothing happens: no file changes, nobody scrapes."""

import argparse
import os
import sys
import time
from dataclasses import dataclass

from benchmarks.common import (
    Agent,
    Figure,
    at_most,
    make_tree,
    percent_of_a_core,
    print_figures,
    scratch_folder,
)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a process has used up to a moment."""

    at_ns: int
    cpu_ns: int
    wake_ups: dict[int, int]  # thread id -> how often it went to sleep, which it can only when it was woken


def spent(agent: Agent) -> Spent:
    """What the agent has used until now."""
    wake_ups = {}
    for thread in os.listdir(f"/proc/{agent.pid}/task"):
        with open(f"/proc/{agent.pid}/task/{thread}/status") as file:
            (line,) = (line for line in file if line.startswith("voluntary_ctxt_switches:"))
        wake_ups[int(thread)] = int(line.split()[1])
    return Spent(time.perf_counter_ns(), agent.cpu_ns(), wake_ups)


def cpu_percent(before: Spent, after: Spent) -> float:
    """CPU between two moments, in per cent of a core."""
    return percent_of_a_core(after.cpu_ns - before.cpu_ns, after.at_ns - before.at_ns)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="An agent whose files nobody writes and that nobody scrapes.")
    parser.add_argument("--files", type=int, default=10_000, help="files watched (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="how long it is watched (default: 10)")
    parser.add_argument("--settle", type=float, default=3, help="seconds after the agent is ready (default: 3)")
    options = parser.parse_args()

    with scratch_folder() as root:
        make_tree(root, options.files)
        with Agent(root, options.files) as agent:
            time.sleep(options.settle)
            start = spent(agent)
            time.sleep(options.seconds)
            end = spent(agent)

    if start.wake_ups.keys() != end.wake_ups.keys():
        sys.exit("a thread has come or gone meanwhile")
    wake_ups = {thread: end.wake_ups[thread] - start.wake_ups[thread] for thread in end.wake_ups}
    of_main = wake_ups.pop(agent.pid)
    window = f"idle for {options.seconds:g} s, {options.files:,} files"
    print_figures(
        [
            Figure(f"wake-ups of the other threads, {window}", at_most(0), sum(wake_ups.values()), ""),
            Figure(f"wake-ups of the main thread, {window}", None, of_main, ""),
            Figure(f"CPU of the agent, {window}", at_most(0.05), cpu_percent(start, end), " % of a core"),
        ]
    )


if __name__ == "__main__":
    main()
