"""What a scrape costs when few files have changed, beside an exporter that asks for every file.

The other one is what anyone would write first: a few lines with glob, os.stat and prometheus_client. Both have the same
files, four families each, and are scraped with gzip. The CPU time is that of the whole process for the changes, the
scrape, and all that it does in between; the median of several.
"""

import argparse
import glob
import http.client
import math
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from benchmarks.common import (
    PATTERN,
    Agent,
    Bar,
    Figure,
    at_least,
    at_most,
    make_tree,
    print_figures,
    rss_bytes,
    scratch_folder,
)

BARS_MS = {1_000: at_most(3), 10_000: at_most(6), 100_000: at_most(50)}
ALL_CHANGED = 10_000
"""With so many files, the case in which each has changed is measured too."""
WAIT_S = 0.3  # after the changes and after the scrape, for what is done with them in the background
COMPRESSED = {"Accept-Encoding": "gzip"}


# -- the other exporter -----------------------------------------------------------------------------------------------


class NaiveCollector(Collector):
    """Asks for every file on every scrape."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._seen: dict[str, tuple[int, int, int]] = {}  # size, changes, bytes appended

    def collect(self) -> Iterable[Metric]:
        """The same four families as the agent's."""
        size = GaugeMetricFamily("naive_file_size_bytes", "Size.", labels=["path"])
        mtime = GaugeMetricFamily("naive_file_mtime_seconds", "Last modification.", labels=["path"])
        changes = CounterMetricFamily("naive_file_changes", "Changes.", labels=["path"])
        appended = CounterMetricFamily("naive_file_appended_bytes", "Bytes appended.", labels=["path"])
        for path in glob.iglob(self._pattern):
            stat = os.stat(path)
            last, changed, grown = self._seen.get(path, (stat.st_size, 0, 0))
            if stat.st_size != last:
                changed, grown = changed + 1, grown + max(0, stat.st_size - last)
            self._seen[path] = stat.st_size, changed, grown
            size.add_metric([path], stat.st_size)
            mtime.add_metric([path], stat.st_mtime)
            changes.add_metric([path], changed)
            appended.add_metric([path], grown)
        return size, mtime, changes, appended


def serve_naively(port: int, pattern: str) -> None:
    """Serve for ever."""
    registry = CollectorRegistry()
    registry.register(NaiveCollector(pattern))
    _, thread = start_http_server(port, "127.0.0.1", registry)
    thread.join()


class NaiveExporter:
    """It as a process of its own, scraped once when this returns; a context manager that ends it."""

    def __init__(self, root: str) -> None:
        self.port = free_port()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=serve_naively, args=(self.port, f"{root}/{PATTERN}"), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        deadline = time.monotonic() + 30
        while True:
            try:
                scrape(self.port)
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                break

    def __enter__(self) -> "NaiveExporter":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- measuring --------------------------------------------------------------------------------------------------------


def scrape(port: int) -> None:
    """One scrape with gzip, read to the end."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request("GET", "/metrics", headers=COMPRESSED)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise ValueError(f"the scrape was answered with status {answer.status}")
    finally:
        connection.close()


def change(paths: Sequence[str]) -> None:
    """Append to each of the files."""
    for path in paths:
        with open(path, "a") as file:
            file.write("a line\n")


def turns(paths: Sequence[str], changed: int) -> Iterator[Sequence[str]]:
    """For ever others of the files, far from one another."""
    step = len(paths) // changed
    while True:
        for first in range(step):
            yield paths[first::step][:changed]


def cpu_ns(pid: int) -> int:
    """The CPU time of a process so far: see :meth:`benchmarks.common.Agent.cpu_ns`."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def scrape_ms(pid: int, port: int, paths: Sequence[str], changed: int, scrapes: int) -> float:
    """The median CPU time of a scrape after so many files have changed."""
    spent = []
    for _, files in zip(range(scrapes + 1), turns(paths, changed), strict=False):
        start_ns = cpu_ns(pid)
        change(files)
        time.sleep(WAIT_S)
        scrape(port)
        time.sleep(WAIT_S)
        spent.append((cpu_ns(pid) - start_ns) / 1e6)
    return statistics.median(spent[1:])  # what is made for the first time is no part of it


def measure(files: int, options: argparse.Namespace) -> tuple[list[Figure], float, float]:
    """The figures for so many files, and the agent's and the other one's CPU time in ms with few changes."""
    with scratch_folder() as root:
        paths = make_tree(root, files)
        cases = [min(options.changed, files), *([files] if files == ALL_CHANGED else [])]
        with Agent(root, files, ready_timeout_s=300) as agent:
            ours = [scrape_ms(agent.pid, agent.port, paths, changed, options.scrapes) for changed in cases]
            memory_bytes = rss_bytes(agent.pid)
        with NaiveExporter(root) as naive:
            theirs = [scrape_ms(naive.pid, naive.port, paths, changed, options.naive_scrapes) for changed in cases]
    figures = []
    for changed, our_ms, their_ms in zip(cases, ours, theirs, strict=True):
        is_few = changed < files
        bar: Bar | None = BARS_MS.get(files) if is_few else None
        where = f"{files:,} files, {f'{changed:,} of them' if is_few else 'each of them'} changed"
        detail = f"the simple exporter: {their_ms:,.0f} ms"
        figures.append(Figure(f"CPU of a scrape, {where}", bar, our_ms, " ms", detail))
        figures.append(
            Figure(
                f"CPU of the simple exporter over that, {where}",
                None if is_few else at_least(3),
                their_ms / our_ms,
                "x",
            )
        )
    figures.append(
        Figure(f"memory of the agent, {files:,} files in as many directories", None, memory_bytes / 2**20, " MiB")
    )
    return figures, ours[0], theirs[0]


# -- the plot ---------------------------------------------------------------------------------------------------------


def plot(lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """An SVG of lines, both axes logarithmic: name -> files and milliseconds."""
    points = [point for line in lines.values() for point in line]
    (left, right), (bottom, top) = (
        (math.floor(math.log10(min(axis))), math.ceil(math.log10(max(axis)))) for axis in zip(*points, strict=True)
    )
    right, top = max(right, left + 1), max(top, bottom + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = 70 + 430 * (math.log10(x) - left) / (right - left)
        return round(across, 1), round(340 - 310 * (math.log10(y) - bottom) / (top - bottom), 1)

    drawn = []
    for power in range(left, right + 1):
        x, _ = place(10**power, 10**bottom)
        drawn.append(
            f'<path d="M{x} 30V340" stroke="#ddd"/><text x="{x}" y="358" text-anchor="middle">{10**power:,}</text>'
        )
    for power in range(bottom, top + 1):
        _, y = place(10**left, 10**power)
        drawn.append(
            f'<path d="M70 {y}H500" stroke="#ddd"/><text x="64" y="{y + 4}" text-anchor="end">{10**power:,g}</text>'
        )
    for (name, line), colour in zip(lines.items(), ("#c33", "#06c", "#999"), strict=False):
        places = [place(*point) for point in line]
        x, y = places[-1]
        path = "L".join(f"{across} {down}" for across, down in places)
        drawn.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn.append(f'<text x="{x + 8}" y="{y + 4}" fill="{colour}">{name}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 660 390" font-family="sans-serif" font-size="12">'
        '<rect width="660" height="390" fill="white"/><text x="285" y="380" text-anchor="middle">files</text>'
        '<text x="70" y="18">CPU of a scrape, ms</text>' + "".join(drawn) + "</svg>\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="A scrape's CPU time, beside that of a simple exporter.")
    parser.add_argument("--files", type=int, nargs="+", default=list(BARS_MS), help="(default: %(default)s)")
    parser.add_argument("--changed", type=int, default=10, help="files changed a scrape (default: %(default)s)")
    parser.add_argument("--scrapes", type=int, default=15, help="of the agent (default: %(default)s)")
    parser.add_argument("--naive-scrapes", type=int, default=3, help="of the other (default: %(default)s)")
    parser.add_argument("--plot", type=Path, help="write how the cost grows to this SVG")
    options = parser.parse_args()

    figures: list[Figure] = []
    ours, theirs = [], []
    try:
        for files in options.files:
            measured, our_ms, their_ms = measure(files, options)
            figures += measured
            ours.append((files, our_ms))
            theirs.append((files, their_ms))
    finally:
        if figures:  # also if the kernel allows too few watches for more files
            print_figures(figures)
    if options.plot is not None:
        only_the_changes = [(files, ours[0][1]) for files in options.files]
        options.plot.write_text(plot({"simple exporter": theirs, "this agent": ours, "what changed": only_the_changes}))


if __name__ == "__main__":
    main()
