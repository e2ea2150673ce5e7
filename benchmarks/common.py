"""What the benchmarks share: files to measure on, the agent as a process, medians, the table of figures."""

import http.client
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import Sample
from prometheus_client.parser import text_string_to_metric_families

REPOSITORY = Path(__file__).resolve().parent.parent
PATTERN = "pods/*/*/*.log"
"""What matches the files of `make_tree` below its root."""
MORE_WATCHES = "raise the sysctl fs.inotify.max_user_watches, or measure with fewer files"


# -- files ------------------------------------------------------------------------------------------------------------


def log_paths(root: str, files: int) -> Iterator[str]:
    """The paths of `make_tree`, each a new string: two containers a pod, as on a node of Kubernetes."""
    for i in range(files):
        pod = i // 2
        yield f"{root}/pods/ns{i % 7}_app-{pod:06d}_0123abcd-{pod:08d}/c{i % 2}/0.log"


def make_tree(root: str, files: int) -> list[str]:
    """Make `files` small files below `root` and return their paths."""
    paths = list(log_paths(root, files))
    for i, path in enumerate(paths):
        os.makedirs(os.path.dirname(path))
        with open(path, "w") as file:
            file.write("x" * (i % 97))
    return paths


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A folder for the files, removed in the end."""
    with tempfile.TemporaryDirectory(prefix="fstat-benchmark-") as root:
        yield root


# -- memory -----------------------------------------------------------------------------------------------------------


def rss_bytes(pid: int) -> int:
    """The memory that a process has in RAM."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- time -------------------------------------------------------------------------------------------------------------


def duration_ns(function: Callable[..., object], *arguments: object) -> int:
    """How long one call takes."""
    start = time.perf_counter_ns()
    function(*arguments)
    return time.perf_counter_ns() - start


def medians(contestants: Iterable[Callable[[], int]], rounds: int) -> list[float]:
    """The median of what each contestant returns; they take turns, so that another process spoils a round of all."""
    results = list(zip(*([contestant() for contestant in contestants] for _ in range(rounds)), strict=True))
    return [statistics.median(result) for result in results]


# -- the agent --------------------------------------------------------------------------------------------------------


class Agent:
    """The agent as a process of its own, on a free port of the loopback; a context manager that stops it.

    It has scanned and was scraped once when this returns; what it warns of goes to stderr.

    Args:
        root: it follows the files of `make_tree` below this folder, unless `config` says otherwise.
        files: how many it follows; they are watched all, or this ends with a clear line, because an agent that polls
            would look better than it is.
        ready_timeout_s: how long the first scan may take.
        config: a configuration file; default: the defaults.

    Attributes:
        published_s: seconds from its start to the end of the first scrape.
    """

    def __init__(self, root: str, files: int, ready_timeout_s: float = 60, config: Path | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        address = f"--web.listen-address=127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "exporter", "--log.level=warn", address]
        command.append(f"{root}/{PATTERN}" if config is None else f"--config.file={config}")
        start = time.perf_counter()
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL)
        self.pid = self._process.pid
        try:
            self._wait_until_ready(ready_timeout_s)
            text = self._scrape_text()
            self.published_s = time.perf_counter() - start
            self._check_watched(text, files)
        except BaseException:  # nobody could stop it later
            self._stop()
            raise

    def _wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the agent did not get ready within {timeout_s:g} s, or it ended")
            time.sleep(0.05)

    def _check_watched(self, text: str, files: int) -> None:
        samples = _samples(text)
        cached = sum(sample.value for sample in samples if sample.name == "fstat_cache_files")
        polled = sum(sample.value for sample in samples if sample.name == "fstat_cache_polled_files")
        if cached - polled != files:
            sys.exit(f"only {cached - polled:.0f} of {files} files are watched: {MORE_WATCHES}")

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        try:
            return self._get("/-/ready")[0] == http.HTTPStatus.OK
        except ConnectionError:
            return False

    def _get(self, target: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", target)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def cpu_ns(self) -> int:
        """The CPU time of all its threads so far, ended ones included.

        The clock's number is that of clock_getcpuclockid(3): the complement of the pid above three bits, of which 2
        says that it is the scheduler's count.
        """
        return time.clock_gettime_ns((~self.pid << 3) | 2)

    def sizes(self) -> dict[str, float]:
        """Scrape once: path -> size in bytes as published."""
        return {
            sample.labels["path"]: sample.value
            for sample in _samples(self._scrape_text())
            if sample.name == "fstat_file_size_bytes"
        }

    def value(self, name: str) -> float:
        """Scrape once: the sum of the samples with this name."""
        return sum(sample.value for sample in _samples(self._scrape_text()) if sample.name == name)

    def scrape(self) -> None:
        """Scrape once, compressed as Prometheus does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        connection.getresponse().read()
        connection.close()

    def _scrape_text(self) -> str:
        status, text = self._get("/metrics")
        if status != http.HTTPStatus.OK:
            sys.exit(f"the scrape was answered with status {status}")
        return text


def _samples(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def percent_of_a_core(cpu_ns: float, wall_ns: float) -> float:
    """CPU time as a share of the time in which it was used."""
    return 100 * cpu_ns / wall_ns


# -- what is printed --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """The target of a figure."""

    limit: float
    is_least: bool  # otherwise it is the most


def at_least(limit: float) -> Bar:
    """`limit` or more is asked for."""
    return Bar(limit, True)


def at_most(limit: float) -> Bar:
    """`limit` or less is asked for."""
    return Bar(limit, False)


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a table."""

    what: str
    bar: Bar | None  # None: for information
    reached: float
    unit: str  # put behind both numbers, so with its blank
    detail: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it meets its target."""
        if self.bar is None:
            return True
        return self.reached >= self.bar.limit if self.bar.is_least else self.reached <= self.bar.limit

    def cells(self) -> tuple[str, str, str]:
        """What was measured, its target, the result."""
        reached = f"{number(self.reached)}{self.unit}"
        detail = f" ({self.detail})" if self.detail else ""
        if self.bar is None:
            return self.what, "", reached + detail
        asked = f"at {'least' if self.bar.is_least else 'most'} {number(self.bar.limit)}{self.unit}"
        return self.what, asked, f"{reached}{'' if self.is_met else ', missed'}{detail}"


def number(value: float) -> str:
    """A number to three digits or, from 100 on, to the next whole one."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def machine() -> str:
    """CPU, kernel and Python."""
    cpu = platform.machine()
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    cores = f"{os.cpu_count()} cores"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{cpu}, {cores}, Linux {platform.release()}, {python}"


def print_figures(figures: Iterable[Figure]) -> None:
    """Print the machine, on which every figure depends, and the figures as a table in Markdown."""
    rows = [("what", "target", "measured"), *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    rows.insert(1, ("-" * widths[0], "-" * widths[1], "-" * widths[2]))
    print(f"machine: {machine()}")
    for row in rows:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
