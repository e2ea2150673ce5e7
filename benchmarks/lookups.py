"""How long a cached look-up takes beside `os.stat` of the same path.

Every file is looked up in every round, through the cache and past it in turn; the medians are compared.
"""

import argparse
import os
from collections.abc import Callable

from benchmarks.common import Figure, at_least, duration_ns, make_tree, medians, print_figures, scratch_folder
from fstat_cache import FStatCache


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
        stat_ns, bounded_ns, unbounded_ns = medians(
            [
                lambda: duration_ns(look_up, os.stat, paths),
                lambda: duration_ns(look_up, bounded.get_file_stats, paths),
                lambda: duration_ns(look_up, unbounded.get_file_stats, paths),
            ],
            options.rounds,
        )
        collect_ns, collect_bounded_ns, collect_unbounded_ns = medians(
            [
                lambda: duration_ns(collect_by_stat, paths),
                lambda: duration_ns(collect_from_cache, bounded, paths),
                lambda: duration_ns(collect_from_cache, unbounded, paths),
            ],
            options.rounds,
        )

    def ratio(what: str, bar: float, reference_ns: float, cached_ns: float) -> Figure:
        detail = f"{cached_ns / options.files:.0f} ns a file against {reference_ns / options.files:.0f} ns"
        return Figure(what, at_least(bar), reference_ns / cached_ns, "x", detail)

    print_figures(
        [
            ratio(f"look-up, bounded to {max_files:,} files, against os.stat", 30, stat_ns, bounded_ns),
            ratio("look-up, unbounded, against os.stat", 40, stat_ns, unbounded_ns),
            ratio(
                f"sizes into a dict, bounded to {max_files:,} files, against isfile + os.stat",
                27,
                collect_ns,
                collect_bounded_ns,
            ),
            ratio("sizes into a dict, unbounded, against isfile + os.stat", 27, collect_ns, collect_unbounded_ns),
        ]
    )


if __name__ == "__main__":
    main()
