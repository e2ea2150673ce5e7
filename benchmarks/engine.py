"""What the cache itself costs: `sync()` when nothing has happened, filling it, and its memory."""

import argparse
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from benchmarks.common import (
    MORE_WATCHES,
    Figure,
    at_most,
    duration_ns,
    log_paths,
    make_tree,
    medians,
    print_figures,
    rss_bytes,
    scratch_folder,
)
from fstat_cache import FStatCache

CALLS = 1000  # of sync() in a row, because one is shorter than a look at the clock is exact


def repeat(function: Callable[..., object], *arguments: object) -> None:
    """Call it `CALLS` times."""
    for _ in range(CALLS):
        function(*arguments)


def check_watched(cache: FStatCache, files: int) -> None:
    """End with a clear line when this is not the cache that should have been measured."""
    watches = cache.status().watches
    if watches != files:
        sys.exit(f"only {watches} of {files} files are watched: {MORE_WATCHES}")


def build_ns(paths: list[str]) -> int:
    """How long it takes to fill an empty cache; emptying it again is not counted."""
    with FStatCache(max_watches=len(paths)) as cache:
        spent_ns = duration_ns(cache.build, paths)
        check_watched(cache, len(paths))
    return spent_ns


def stat_all(paths: list[str]) -> None:
    """One `os.stat` a file."""
    for path in paths:
        os.stat(path)


def own_bytes() -> int:
    """The memory of this process, without what nothing refers to."""
    gc.collect()
    return rss_bytes(os.getpid())


def rss_of_cache(root: str, files: int) -> int:
    """What this process grows by when it fills a cache, the strings of the paths included."""
    before = own_bytes()
    with FStatCache(max_watches=files) as cache:
        cache.build(log_paths(root, files))
        growth = own_bytes() - before
        check_watched(cache, files)
    return growth


def rss_of_dict(root: str, files: int) -> int:
    """The same for the least that could be kept instead."""
    before = own_bytes()
    stats = {path: os.stat(path) for path in log_paths(root, files)}
    growth = own_bytes() - before
    assert len(stats) == files  # and it had to live until here
    return growth


def in_fresh_process(function: Callable[[str, int], int], root: str, files: int) -> int:
    """Call it in a process that has used no memory for anything else."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(function, root, files).result()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="sync(), build and memory of the cache. Every file is watched: max_watches is set to --files, "
        "because by default the cache takes half of the sysctl fs.inotify.max_user_watches and polls the rest.",
    )
    parser.add_argument("--files", type=int, default=100_000, help="files for build and memory (default: %(default)s)")
    parser.add_argument("--sync-files", type=int, default=10_000, help="files for sync() (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often it is built (default: %(default)s)")
    parser.add_argument("--sync-rounds", type=int, default=100, help=f"{CALLS} calls each (default: %(default)s)")
    options = parser.parse_args()

    with scratch_folder() as root:
        paths = make_tree(root, max(options.files, options.sync_files))
        with FStatCache(max_watches=options.sync_files) as cache:
            cache.build(paths[: options.sync_files])
            check_watched(cache, options.sync_files)
            one_stat_ns, sync_ns = medians(
                [
                    lambda: duration_ns(repeat, os.stat, paths[0]),
                    lambda: duration_ns(repeat, cache.sync),
                ],
                options.sync_rounds,
            )
        del paths[options.files :]
        stats_ns, builds_ns = medians([lambda: duration_ns(stat_all, paths), lambda: build_ns(paths)], options.rounds)
        cache_bytes = in_fresh_process(rss_of_cache, root, options.files)
        dict_bytes = in_fresh_process(rss_of_dict, root, options.files)

    print_figures(
        [
            Figure(
                f"sync(), nothing pending, {options.sync_files:,} files",
                at_most(2000),
                sync_ns / CALLS,
                " ns",
                f"one os.stat: {one_stat_ns / CALLS:.0f} ns",
            ),
            Figure(
                f"building over {options.files:,} files, against os.stat of each",
                at_most(5),
                builds_ns / stats_ns,
                "x",
                f"{builds_ns / 1e9:.2f} s against {stats_ns / 1e9:.2f} s",
            ),
            Figure(
                f"memory a cached file, its path included, at {options.files:,} files",
                at_most(600),
                cache_bytes / options.files,
                " bytes",
                f"a dict of os.stat_result: {dict_bytes / options.files:.0f} bytes",
            ),
        ]
    )


if __name__ == "__main__":
    main()
