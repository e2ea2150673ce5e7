"""How long a cached look-up takes beside `os.stat` of the same path.

Every file is looked up in every round, through the cache and past it; they take turns every few rounds, and the medians
are compared. A bare dictionary of the same files, which counts and bounds nothing, shows what can be had at all.
"""

import argparse
import os
from collections.abc import Callable

from benchmarks.common import Bar, Figure, at_least, duration_ns, make_tree, medians, print_figures, scratch_folder
from fstat_cache import FStatCache

IN_A_ROW = 10
"""Rounds before the next one's turn: look-ups come in a row, and os.stat leaves little of them in the CPU's caches."""


def look_up(function: Callable[[str], object], paths: list[str]) -> None:
    """Ask for every path, several times over."""
    for _ in range(IN_A_ROW):
        for path in paths:
            function(path)


def collect_from_cache(cache: FStatCache, paths: list[str]) -> dict[str, object]:
    """The size of every file, by the cache, several times over."""
    for _ in range(IN_A_ROW):
        sizes: dict[str, object] = {}
        for path in paths:
            stats = cache.get_file_stats(path)
            if stats is not None:
                sizes[path] = stats["size"]
    return sizes


def collect_by_stat(paths: list[str]) -> dict[str, object]:
    """The size of every file, by `isfile` and `os.stat`, as it is done without a cache; several times over."""
    for _ in range(IN_A_ROW):
        sizes: dict[str, object] = {}
        for path in paths:
            if os.path.isfile(path):
                sizes[path] = os.stat(path).st_size
    return sizes


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Cached look-ups against os.stat.")
    parser.add_argument("--files", type=int, default=10_000, help="files in the tree (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=100, help="look-ups of every file (default: %(default)s)")
    parser.add_argument("--max-files", type=int, help="bound of the bounded cache (default: that many files)")
    options = parser.parse_args()
    max_files = options.files if options.max_files is None else options.max_files

    with scratch_folder() as root, FStatCache() as unbounded, FStatCache(max_files=max_files) as bounded:
        paths = make_tree(root, options.files)
        unbounded.build(paths)
        bounded.build(paths)
        plain = {path: unbounded.get_file_stats(path) for path in paths}
        turns = max(1, options.rounds // IN_A_ROW)
        stat_ns, bounded_ns, unbounded_ns, plain_ns = medians(
            [
                lambda: duration_ns(look_up, os.stat, paths),
                lambda: duration_ns(look_up, bounded.get_file_stats, paths),
                lambda: duration_ns(look_up, unbounded.get_file_stats, paths),
                lambda: duration_ns(look_up, plain.__getitem__, paths),
            ],
            turns,
        )
        collect_ns, collect_bounded_ns, collect_unbounded_ns = medians(
            [
                lambda: duration_ns(collect_by_stat, paths),
                lambda: duration_ns(collect_from_cache, bounded, paths),
                lambda: duration_ns(collect_from_cache, unbounded, paths),
            ],
            turns,
        )

    def ratio(what: str, bar: Bar | None, reference_ns: float, cached_ns: float) -> Figure:
        look_ups = options.files * IN_A_ROW
        detail = f"{cached_ns / look_ups:.0f} ns a file against {reference_ns / look_ups:.0f} ns"
        return Figure(what, bar, reference_ns / cached_ns, "x", detail)

    print_figures(
        [
            ratio(f"look-up, bounded to {max_files:,} files, against os.stat", at_least(30), stat_ns, bounded_ns),
            ratio("look-up, unbounded, against os.stat", at_least(40), stat_ns, unbounded_ns),
            ratio("look-up in a bare dictionary, against os.stat", None, stat_ns, plain_ns),
            ratio(
                f"sizes into a dict, bounded to {max_files:,} files, against isfile + os.stat",
                at_least(27),
                collect_ns,
                collect_bounded_ns,
            ),
            ratio(
                "sizes into a dict, unbounded, against isfile + os.stat", at_least(27), collect_ns, collect_unbounded_ns
            ),
        ]
    )


if __name__ == "__main__":
    main()
