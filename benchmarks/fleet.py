"""What a fleet of agents costs Prometheus: memory, CPU and disk, by what the agents are configured to publish.

A real Prometheus scrapes many nodes. Their agents are simulated, by two processes: each node serves what a real agent
has answered, with pods of its own, and from scrape to scrape those lines change that changed between two scrapes of the
real one. How many series a node has is counted at a real agent for each configuration. The rest is multiplication.
A series takes more memory with each chunk of 120 samples, so the scrapes are more frequent here than in life.
"""

import argparse
import asyncio
import gzip
import http.client
import json
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tornado.web
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.common import (
    PATTERN,
    Agent,
    Figure,
    make_tree,
    number,
    percent_of_a_core,
    print_figures,
    scratch_folder,
)
from benchmarks.scrape import change, cpu_ns, free_port
from exporter.config.presets import PRESETS

PRESET = "kubernetes-pods"
CONFIGURATIONS: Mapping[str, Mapping[str, object]] = {
    "sums of containers": {"per_file": False},  # config/kubernetes
    "files and sums of containers": {},
    "files": {"aggregate_by": []},
    "appended_bytes of files": {"aggregate_by": [], "metrics": ["appended_bytes"]},
    "50 files at most": {"aggregate_by": [], "max_series": 50},
    "sums of namespaces": {"per_file": False, "aggregate_by": ["namespace"]},
}
"""What is written beside the preset."""
FLEETS = 1_000, 10_000
SCRAPE_INTERVAL_S = 15  # for which the extrapolation is made
SERIES_OF_A_SCRAPE = 5  # that Prometheus itself adds to each target: up, scrape_duration_seconds and so on
SERVERS = 2
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
DAY_S = 86_400


# -- real agents ------------------------------------------------------------------------------------------------------


def write_config(root: str, configurations: Mapping[str, Mapping[str, object]]) -> Path:
    """Write a configuration with a group for each of these, whose logs are below `root/0`, `root/1` and so on."""
    expression = str(PRESETS[PRESET]["path_regex"])
    logs = [
        {
            "preset": PRESET,
            "group": name,
            "paths": [f"{root}/{place}/{PATTERN}"],
            "path_regex": expression.replace("/var/log", f"{root}/{place}"),
            **keys,
        }
        for place, (name, keys) in enumerate(configurations.items())
    ]
    path = Path(root, "exporter.yml")
    path.write_text(json.dumps({"logs": logs}))  # JSON is YAML
    return path


def count_series(logs: int) -> dict[str, int]:
    """How many series a node with so many logs has in Prometheus: configuration -> series."""
    with scratch_folder() as root:
        for place in range(len(CONFIGURATIONS)):
            make_tree(f"{root}/{place}", logs)
        config = write_config(root, CONFIGURATIONS)
        with Agent(root, logs * len(CONFIGURATIONS), config=config) as agent:
            text = get(agent.port, "/metrics").decode()
    families = text_string_to_metric_families(text)
    series = Counter(sample.labels.get("group") for family in families for sample in family.samples)
    return {name: series[name] + series[None] + SERIES_OF_A_SCRAPE for name in CONFIGURATIONS}


@dataclass(frozen=True, slots=True)
class Template:
    """What a real agent answers."""

    lines: Sequence[bytes]
    changing: Mapping[int, tuple[bytes, float, float]]  # line -> what is before the value, the value, its latest step
    compressed_bytes: int
    samples: int


def make_template(configuration: str, logs: int, changed: int) -> Template:
    """Scrape a real agent with so many logs, of which some change."""
    accept = {"Accept": OPENMETRICS}
    with scratch_folder() as root:
        paths = make_tree(f"{root}/0", logs)
        config = write_config(root, {"pods": CONFIGURATIONS[configuration]})
        with Agent(root, logs, config=config) as agent:
            change(paths[:changed])
            first = get(agent.port, "/metrics", headers=accept)
            change(paths[:changed])
            second = get(agent.port, "/metrics", headers=accept)
            change(paths[:changed])
            compressed = get(agent.port, "/metrics", headers={**accept, "Accept-Encoding": "gzip"})
    lines = second.splitlines(keepends=True)
    changing = {}
    for place, (before, after) in enumerate(zip(first.splitlines(keepends=True), lines, strict=True)):
        if before != after:
            (_, _, old), (head, _, new) = before.rpartition(b" "), after.rpartition(b" ")
            changing[place] = head + b" ", float(new), abs(float(new) - float(old))
    samples = sum(not line.startswith(b"#") for line in lines)
    return Template(lines, changing, len(compressed), samples)


def ask(port: int, target: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
    """The status and the body of what a server on the loopback answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, target, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def get(port: int, target: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> bytes:
    """The body; anything but success ends the benchmark."""
    status, body = ask(port, target, method, headers)
    if status != http.HTTPStatus.OK:
        sys.exit(f"{method} {target} was answered with status {status}: {body.decode(errors='replace')}")
    return body


# -- simulated ones ---------------------------------------------------------------------------------------------------


class Node:
    """The agent of one node, whose pods have names and uids of their own."""

    def __init__(self, template: Template, node: int) -> None:
        def named(text: bytes) -> bytes:  # the names that make_tree gives
            return text.replace(b"app-", b"app-%d-" % node).replace(b"0123abcd-", b"%08x-" % node)

        self._random = random.Random(node)
        self._lines = [named(line) for line in template.lines]
        self._changing = [(place, named(head), step) for place, (head, _, step) in template.changing.items()]
        # So that the nodes are not all alike.
        self._values = {place: value + node * step for place, (_, value, step) in template.changing.items()}

    def scrape(self) -> bytes:
        """The next answer, compressed."""
        for place, head, step in self._changing:
            grown = step * self._random.uniform(0.5, 1.5)
            self._values[place] += round(grown) if step.is_integer() else grown
            self._lines[place] = head + repr(self._values[place]).encode() + b"\n"
        return gzip.compress(b"".join(self._lines), compresslevel=1)


class NodeHandler(tornado.web.RequestHandler):
    """Answers `/NUMBER/metrics`."""

    def initialize(self, nodes: Mapping[int, Node]) -> None:
        """Called by tornado."""
        self._nodes = nodes

    def get(self, node: str) -> None:
        """A scrape; Prometheus always takes gzip."""
        self.set_header("Content-Type", OPENMETRICS)
        self.set_header("Content-Encoding", "gzip")
        self.write(self._nodes[int(node)].scrape())


def serve_nodes(port: int, template: Template, numbers: Sequence[int]) -> None:
    """Serve these nodes for ever."""

    async def serve() -> None:
        nodes = {node: Node(template, node) for node in numbers}
        tornado.web.Application([(r"/(\d+)/metrics", NodeHandler, {"nodes": nodes})]).listen(port, "127.0.0.1")
        await asyncio.Event().wait()

    asyncio.run(serve())


@contextmanager
def simulated_nodes(template: Template, nodes: int) -> Iterator[list[int]]:
    """Processes that serve the nodes, and their ports: node `n` is at `ports[n % SERVERS]`."""
    context = multiprocessing.get_context("spawn")
    ports = [free_port() for _ in range(SERVERS)]
    processes = [
        context.Process(target=serve_nodes, args=(port, template, range(place, nodes, SERVERS)), daemon=True)
        for place, port in enumerate(ports)
    ]
    for process in processes:
        process.start()
    try:
        yield ports
    finally:
        for process in processes:
            process.terminate()
            process.join()


# -- Prometheus -------------------------------------------------------------------------------------------------------


def scrape_config(ports: Sequence[int], nodes: int, interval_s: float) -> dict[str, object]:
    """The configuration, with the labels that a PodMonitor gives the agents' pods."""
    targets = [
        {
            "targets": [f"127.0.0.1:{ports[node % SERVERS]}"],
            "labels": {
                "__metrics_path__": f"/{node}/metrics",
                "instance": f"node-{node}.example.com",
                "namespace": "fstat-exporter",
                "pod": f"fstat-exporter-{node:05d}",
                "container": "fstat-exporter",
            },
        }
        for node in range(nodes)
    ]
    interval = f"{round(interval_s * 1000)}ms"
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [{"job_name": "fstat", "honor_labels": True, "static_configs": targets}],
    }


class Prometheus:
    """A real one on a free port of the loopback, its data in `folder`; a context manager that stops it."""

    def __init__(self, folder: Path, config: Mapping[str, object]) -> None:
        binary = shutil.which("prometheus")
        if binary is None:
            sys.exit("prometheus is missing: `make programs` as root on Debian installs it")
        config_path, self._data = folder / "prometheus.yml", folder / "data"
        config_path.write_text(json.dumps(config))
        self._port = free_port()
        command = [
            binary,
            f"--config.file={config_path}",
            f"--storage.tsdb.path={self._data}",
            "--storage.tsdb.retention.time=1d",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--web.enable-admin-api",  # for the snapshot
            "--log.level=error",
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        self.pid = self._process.pid

    def __enter__(self) -> "Prometheus":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def is_ready(self) -> bool:
        """Whether it serves; an end of it ends the benchmark."""
        if self._process.poll() is not None:
            sys.exit(f"prometheus has ended with status {self._process.returncode}")
        try:
            return ask(self._port, "/-/ready")[0] == http.HTTPStatus.OK
        except ConnectionError:
            return False

    def targets_up(self) -> int:
        """How many targets the latest scrape of each has found well."""
        query = urllib.parse.urlencode({"query": "count(up == 1)"})
        answer = json.loads(get(self._port, f"/api/v1/query?{query}"))["data"]["result"]
        return int(answer[0]["value"][1]) if answer else 0

    def own(self) -> Mapping[str, float]:
        """Its own metrics: name -> the sum over the labels."""
        sums: dict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(get(self._port, "/metrics").decode()):
            for sample in family.samples:
                sums[sample.name] += sample.value
        return sums

    def sample_bytes(self) -> tuple[float, float]:
        """What a sample takes on disk without the index, and how many a series has, by writing a block of all."""
        answer = json.loads(get(self._port, "/api/v1/admin/tsdb/snapshot", method="POST"))
        (block,) = (self._data / "snapshots" / answer["data"]["name"]).iterdir()
        stats: dict[str, Any] = json.loads((block / "meta.json").read_text())["stats"]
        size = sum(path.stat().st_size for path in (block / "chunks").iterdir())
        return size / stats["numSamples"], stats["numSamples"] / stats["numSeries"]


def wait_until(condition: Callable[[], bool], timeout_s: float, complaint: str) -> None:
    """Wait, or end the benchmark with the complaint."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{complaint} within {timeout_s:g} s")
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured at Prometheus."""

    series: float
    samples_a_second: float
    cpu_percent: float
    base_bytes: float  # RSS before the first scrapes
    memory_bytes: float  # RSS in the end
    heap_bytes: float  # that of it which was in use after the latest garbage collection
    sample_bytes: float
    samples_of_a_series: float

    def memory_of_a_series(self) -> float:
        """In bytes."""
        return (self.memory_bytes - self.base_bytes) / self.series


def measure(template: Template, nodes: int, interval_s: float, seconds: float) -> Costs:
    """Have Prometheus scrape the nodes for so many seconds after it has scraped each once."""
    with scratch_folder() as folder, simulated_nodes(template, nodes) as ports:
        config = scrape_config(ports, nodes, interval_s)
        with Prometheus(Path(folder), config) as prometheus:
            wait_until(prometheus.is_ready, 30, "prometheus was not ready")
            base = prometheus.own()
            all_are_up = f"prometheus did not reach all {nodes} nodes"
            wait_until(lambda: prometheus.targets_up() == nodes, 30 + 3 * interval_s, all_are_up)
            before, cpu_before, start = prometheus.own(), cpu_ns(prometheus.pid), time.perf_counter()
            time.sleep(seconds)
            after, cpu_after, passed_s = prometheus.own(), cpu_ns(prometheus.pid), time.perf_counter() - start
            if prometheus.targets_up() != nodes:
                sys.exit(f"prometheus lost some of the {nodes} nodes: this machine is too slow for so many")
            sample_bytes, samples_of_a_series = prometheus.sample_bytes()
    appended = "prometheus_tsdb_head_samples_appended_total"
    return Costs(
        series=after["prometheus_tsdb_head_series"],
        samples_a_second=(after[appended] - before[appended]) / passed_s,
        cpu_percent=percent_of_a_core(cpu_after - cpu_before, passed_s * 1e9),
        base_bytes=base["process_resident_memory_bytes"],
        memory_bytes=after["process_resident_memory_bytes"],
        heap_bytes=after["go_memstats_next_gc_bytes"] / 2,  # GOGC=100: it collects when the heap has doubled
        sample_bytes=sample_bytes,
        samples_of_a_series=samples_of_a_series,
    )


# -- figures ----------------------------------------------------------------------------------------------------------


def extrapolate(configuration: str, node_series: int, nodes: int, costs: Costs) -> Figure:
    """What so many nodes need."""
    series = node_series * nodes
    samples_a_second = series / SCRAPE_INTERVAL_S
    cores = costs.cpu_percent / 100 / costs.samples_a_second * samples_a_second
    disk = samples_a_second * DAY_S * costs.sample_bytes
    detail = (
        f"{series / 1e6:.2g} million series, {samples_a_second:,.0f} samples/s, "
        f"{number(cores)} cores, {number(disk / 1e9)} GB of disk a day"
    )
    memory = costs.base_bytes + costs.memory_of_a_series() * series
    return Figure(f"memory of Prometheus, {nodes:,} nodes, {configuration}", None, memory / 1e9, " GB", detail)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What many agents cost a Prometheus that scrapes them.")
    parser.add_argument("--nodes", type=int, default=200, help="(default: %(default)s)")
    parser.add_argument("--logs", type=int, default=100, help="of a node (default: %(default)s)")
    parser.add_argument("--changed", type=int, default=20, help="logs of a node that grow (default: %(default)s)")
    parser.add_argument(
        "--configuration",
        choices=CONFIGURATIONS,
        default=next(iter(CONFIGURATIONS)),
        help="what the simulated nodes publish (default: %(default)s)",
    )
    parser.add_argument("--interval", type=float, default=2, help="seconds between scrapes (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=250, help="how long to measure (default: %(default)s)")
    options = parser.parse_args()
    if min(options.nodes, options.logs) < 1:
        parser.error("--nodes and --logs take 1 or more")
    if not 0 < options.interval <= options.seconds:
        parser.error("--seconds takes as much as --interval or more, and that more than 0")

    counted = count_series(options.logs)
    template = make_template(options.configuration, options.logs, options.changed)
    costs = measure(template, options.nodes, options.interval, options.seconds)
    fleet = f"{options.nodes:,} nodes"
    print_figures(
        [
            *(
                Figure(f"series of a node with {options.logs:,} logs, {name}", None, series, "")
                for name, series in counted.items()
            ),
            Figure(
                f"bytes of a scrape, {options.configuration}",
                None,
                template.compressed_bytes,
                " bytes",
                f"{number(template.compressed_bytes / template.samples)} a sample, compressed by the agent",
            ),
            Figure(
                f"ingestion of Prometheus, {fleet}",
                None,
                costs.samples_a_second,
                " samples/s",
                f"{costs.series:,.0f} series every {options.interval:g} s",
            ),
            Figure(
                f"CPU of Prometheus, {fleet}",
                None,
                costs.cpu_percent / 100 / costs.samples_a_second * 1e6,
                " us a sample",
                f"{number(costs.cpu_percent)} % of a core",
            ),
            Figure(
                f"memory of Prometheus, {fleet}",
                None,
                costs.memory_of_a_series(),
                " bytes a series",
                f"RSS {number(costs.memory_bytes / 1e6)} MB, without series {number(costs.base_bytes / 1e6)} MB; "
                f"in use {number(costs.heap_bytes / 1e6)} MB",
            ),
            Figure(
                f"disk of Prometheus, {fleet}",
                None,
                costs.sample_bytes,
                " bytes a sample",
                f"without index, {number(costs.samples_of_a_series)} samples a series",
            ),
            *(extrapolate(name, series, nodes, costs) for nodes in FLEETS for name, series in counted.items()),
        ]
    )


if __name__ == "__main__":
    main()
