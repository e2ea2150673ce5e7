"""What a truncation loses: the share of the bytes counted, by the time between the last write and the truncation."""

import argparse
import os
import statistics
import time

from benchmarks.common import Agent, Figure, at_least, make_tree, print_figures, scratch_folder

GAPS_MS = (0, 1, 2, 5, 10, 20, 50)
LINES = 200
LINE = b"x" * 99 + b"\n"
APPENDED = "fstat_group_appended_bytes_total"


def share_counted(agent: Agent, path: str, gap_ms: float) -> float:
    """Append lines, truncate the file after the gap: how much of the appended bytes counts, in per cent."""
    before = agent.value(APPENDED)
    with open(path, "ab", buffering=0) as log:
        for _ in range(LINES):
            log.write(LINE)
        time.sleep(gap_ms / 1000)
        os.ftruncate(log.fileno(), 0)
    return 100 * (agent.value(APPENDED) - before) / (LINES * len(LINE))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="An agent and a log that is truncated right after it was written.")
    parser.add_argument("--rounds", type=int, default=30, help="truncations after each gap (default: %(default)s)")
    parser.add_argument("--rest", type=float, default=1, help="seconds of silence before each (default: 1)")
    options = parser.parse_args()

    shares: dict[int, list[float]] = {gap_ms: [] for gap_ms in GAPS_MS}
    with scratch_folder() as root:
        (path,) = make_tree(root, 1)
        with Agent(root, 1) as agent:
            for _ in range(options.rounds):
                for gap_ms, of_gap in shares.items():
                    time.sleep(options.rest)
                    of_gap.append(share_counted(agent, path, gap_ms))

    print_figures(
        Figure(
            f"share of {LINES * len(LINE):,} bytes counted, truncated {gap_ms} ms after the last write",
            at_least(100) if gap_ms == GAPS_MS[-1] else None,
            statistics.mean(of_gap),
            " %",
            f"least {min(of_gap):.0f} %, all of them in {of_gap.count(100)} of {len(of_gap)} cases",
        )
        for gap_ms, of_gap in shares.items()
    )


if __name__ == "__main__":
    main()
