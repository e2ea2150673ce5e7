"""How long a cached look-up takes beside `os.stat` of the same path.

Makes a tree of log files like that of a Kubernetes node and looks up every file in every round. The contestants take
turns and the medians are compared, so that another process on the machine spoils a round and not the result.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

from fstat_cache import FStatCache


def make_tree(root: str, files: int) -> list[str]:
    """Make `files` small files beneath `root`, two containers a pod; return their paths."""
    paths = []
    for i in range(files):
        pod = i // 2
        folder = f"{root}/pods/ns{i % 7}_app-{pod:06d}_0123abcd-{pod:08d}/c{i % 2}"
        os.makedirs(folder)
        path = f"{folder}/0.log"
        with open(path, "w") as file:
            file.write("x" * (i % 97))
        paths.append(path)
    return paths


def look_up(function: Callable[[str], object], paths: list[str]) -> None:
    """Ask for every path once."""
    for path in paths:
        function(path)


def collect_from_cache(cache: FStatCache, paths: list[str]) -> dict[str, object]:
    """The size of every file, by the cache."""
    sizes: dict[str, object] = {}
    for path in paths:
        stats = cache.get_file_stats(path)
        if stats is not None:
            sizes[path] = stats["size"]
    return sizes


def collect_by_stat(paths: list[str]) -> dict[str, object]:
    """The size of every file, by `isfile` and `os.stat`, as it is done without a cache."""
    sizes: dict[str, object] = {}
    for path in paths:
        if os.path.isfile(path):
            sizes[path] = os.stat(path).st_size
    return sizes


def contest(contestants: dict[str, Callable[[], object]], options: argparse.Namespace) -> None:
    """Let the contestants take turns, then print the median round of each and its ratio to the first one's."""
    times: dict[str, list[int]] = {name: [] for name in contestants}
    for _ in range(options.rounds):
        for name, contestant in contestants.items():
            start = time.perf_counter_ns()
            contestant()
            times[name].append(time.perf_counter_ns() - start)
    reference_ns = None
    for name, rounds in times.items():
        round_ns = statistics.median(rounds)
        reference_ns = reference_ns or round_ns
        figures = f"{round_ns / 1e6:9.3f} ms {round_ns / options.files:7.0f} ns {reference_ns / round_ns:7.1f}x"
        print(f"{name:<36}{figures}")


def machine() -> str:
    """CPU, kernel and Python, on which every figure depends."""
    cpu = platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{cpu}, Linux {platform.release()}, {python}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cached look-ups against os.stat.")
    parser.add_argument("--files", type=int, default=10_000, help="files in the tree (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=100, help="look-ups of every file (default: %(default)s)")
    parser.add_argument("--max-files", type=int, help="bound of the bounded cache (default: that many files)")
    options = parser.parse_args()
    max_files = options.files if options.max_files is None else options.max_files

    with tempfile.TemporaryDirectory(prefix="lookups") as root:
        paths = make_tree(root, options.files)
        with FStatCache() as unbounded, FStatCache(max_files=max_files) as bounded:
            unbounded.build(paths)
            bounded.build(paths)
            print(f"machine: {machine()}")
            print(f"{options.files} files, {options.rounds} rounds; the median round, and its time per file")
            contest(
                {
                    "os.stat": lambda: look_up(os.stat, paths),
                    "cache, unbounded": lambda: look_up(unbounded.get_file_stats, paths),
                    f"cache, max_files={max_files}": lambda: look_up(bounded.get_file_stats, paths),
                },
                options,
            )
            contest(
                {
                    "isfile + os.stat, sizes into a dict": lambda: collect_by_stat(paths),
                    "cache, sizes into a dict": lambda: collect_from_cache(unbounded, paths),
                    "bounded cache, sizes into a dict": lambda: collect_from_cache(bounded, paths),
                },
                options,
            )


if __name__ == "__main__":
    main()
