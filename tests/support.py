"""What the tests of the whole have in common: the agent as a process, scrapes of it, a condition to wait for."""

import contextlib
import ctypes
import fcntl
import http.client
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

T = TypeVar("T")

# Each process of the tests has ports of its own, below those that the kernel gives to clients (ip_local_port_range):
# nobody else takes one between its choice and the moment when a server listens on it.
PORTS_EACH = 3000
_first_port = 11_000 + PORTS_EACH * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 7)
_begin = random.randrange(PORTS_EACH)  # another run on this machine begins elsewhere
_ports = itertools.cycle([_first_port + (_begin + number) % PORTS_EACH for number in range(PORTS_EACH)])
IN_MODIFY = 2  # inotify(7)
CLONE_FS = 0x200  # unshare(2)

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENTS: Mapping[str, str] = {
    str(path.relative_to(REPOSITORY)): path.read_text()
    for path in (*sorted(REPOSITORY.glob("[A-Z]*.md")), *sorted(REPOSITORY.glob("docs/*.md")))
    if path.name != "CHANGELOG.md"
}
"""The documents that the tests keep true, by their path: the text."""

# Sent by Prometheus 2.42, the one in Debian 12.
PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


def wait_until(condition: Callable[[], T], timeout_s: float = 10, explain: Callable[[], str] = str) -> T:
    """Return the first true value of `condition`; fail the test when there is none within `timeout_s` seconds.

    `explain` is asked for what else there is to know then.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            pytest.fail(f"not within {timeout_s} s (last value: {value!r})\n{explain()}")
        time.sleep(0.02)


class Stopwatch:
    """Measures how long something takes, less the time for which a hypervisor took a CPU away (steal in proc(5))."""

    def __init__(self) -> None:
        self._began_s, self._stolen_s = time.monotonic(), _stolen_s()

    def seconds(self) -> float:
        """The time since this was made."""
        stolen_s = max(now - before for now, before in zip(_stolen_s(), self._stolen_s, strict=True))
        return time.monotonic() - self._began_s - stolen_s


def _stolen_s() -> list[float]:
    """The time that was stolen of each CPU so far; whoever is on it cannot move to another meanwhile."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    return [int(ticks[7]) / os.sysconf("SC_CLK_TCK") for name, *ticks in lines if re.fullmatch(r"cpu\d+", name)]


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on, and that this process has not returned before."""
    for port in _ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    pytest.fail("no port is free")


@contextlib.contextmanager
def locked(folder: Path, operation: int) -> Iterator[None]:
    """Hold a lock of flock(2) on a folder, against other processes of the tests.

    `operation` is `fcntl.LOCK_EX`, or `fcntl.LOCK_SH` to share it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, operation)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may have the descriptor too
        os.close(descriptor)


def program(name: str, source: str = "`make test` as root installs it") -> str:
    """The path of a program. Where it is missing the test is skipped, in CI (CI=true) it fails.

    `source` says where the program comes from.
    """
    path = shutil.which(name)
    if path is None:
        skip_unless_ci(f"{name} is missing: {source}")
    return path


def unpacked(name: str) -> str:
    """The path of helm or kubectl: the one that `make test` unpacks, or else that of the machine."""
    path = REPOSITORY / "build" / "helm" / name
    return str(path) if path.exists() else program(name, "`make test` unpacks it")


def complaints_of_types(*files: Path) -> list[str]:
    """What the types of Grafana and the Prometheus operator say about JSON files: a line for each mistake."""
    types = REPOSITORY / "tests" / "config" / "types"
    node = program("node", "it comes with npm")
    if not (types / "node_modules" / ".installed").exists():
        skip_unless_ci("the types are missing: `make test` installs them where npm is")
    command = [node, types / "check.mjs", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=55)
    complaints = done.stderr.splitlines()
    assert done.returncode == (1 if complaints else 0), done.stderr
    return complaints


def skip_unless_ci(reason: str) -> NoReturn:
    """End a test that lacks what it needs: it is skipped, in CI (CI=true) it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str


def fenced_blocks() -> Iterator[Block]:
    """Return the blocks of all documents, those within a list or a quotation included."""
    for document, text in DOCUMENTS.items():
        start, fence, language = 0, "", ""
        lines = text.splitlines()
        for number, line in enumerate(lines):
            marker = re.match(r"[\s>]*(```+|~~~+)\s*(.*)", line)
            if marker and not fence:
                start, fence, language = number, marker[1], marker[2].strip()
            elif marker and marker[1] == fence and not marker[2]:
                yield Block(document, start + 1, language, "\n".join(lines[start + 1 : number]) + "\n")
                fence = ""
        assert not fence, f"the block in {document}:{start + 1} has no end"


def document_table(document: str, heading: str) -> dict[str, list[str]]:
    """Return the tables under a heading and its subheadings: the first column, without backticks -> the others."""
    before, found, section = DOCUMENTS[document].partition(f"# {heading}\n")
    assert found, f"{document} has no heading {heading!r}"
    level = len(before) - len(before.rstrip("#")) + 1
    section = re.split(rf"^#{{1,{level}}} ", section, maxsplit=1, flags=re.MULTILINE)[0]
    rows: dict[str, list[str]] = {}
    for table in re.findall(r"^\|(?: --- \|)+\n((?:\|.*\n?)+)", section, re.MULTILINE):
        for line in table.splitlines():
            name, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            assert name not in rows, f"{document}, {heading}: {name} twice"
            rows[name.strip("`")] = rest
    return rows


def environment() -> dict[str, str]:
    """This process' environment, less what a make above it left there: a make below is one of its own."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


@dataclass(frozen=True, slots=True)
class Response:
    """One answer over HTTP."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


@dataclass(frozen=True, slots=True)
class Scrape:
    """The samples of one scrape, and the names and types of its families."""

    types: Mapping[str, str]
    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the only sample that has this name and at least these labels; None when there is none."""
        found = self.values(name, **labels)
        assert len(found) <= 1, f"{name} {labels}: {len(found)} samples"
        return found[0] if found else None

    def values(self, name: str, **labels: str) -> list[float]:
        """The values of all samples that have this name and at least these labels."""
        return [v for (n, has), v in self.samples.items() if n == name and labels.items() <= has]


def parse_scrape(text: str, *, openmetrics: bool = False) -> Scrape:
    """Parse with the parser of prometheus_client; a family or a sample that comes twice fails the test."""
    types: dict[str, str] = {}
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in (parse_openmetrics if openmetrics else parse_classic)(text):
        assert family.name not in types, f"family {family.name} twice"
        types[family.name] = family.type
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in samples, f"{key} twice"
            samples[key] = sample.value
    return Scrape(types, samples)


class Process:
    """A program in the background that must not die by itself and ends well when told to."""

    def __init__(self, arguments: list[str], log_path: Path) -> None:
        """Start it, its output going to `log_path`."""
        self.arguments, self.log_path = arguments, log_path
        with log_path.open("wb") as log:
            self._popen = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY, env=environment()
            )
        self.pid = self._popen.pid

    def alive(self) -> bool:
        """Fail the test when the process has ended; otherwise True."""
        if self._popen.poll() is not None:
            pytest.fail(f"{self.arguments} ended with {self._popen.returncode}:\n{self.log_path.read_text()}")
        return True

    def stop(self, timeout_s: float = 10) -> int:
        """Send SIGTERM and return the exit status; kill after `timeout_s`, which then is what the status says."""
        if self._popen.poll() is None:
            self._popen.send_signal(signal.SIGTERM)
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        return self._popen.returncode


class Server(Process):
    """A process that serves HTTP on a port of the loopback."""

    def __init__(self, arguments: list[str], log_path: Path, port: int) -> None:
        """Start it; `wait_for` tells when it serves."""
        super().__init__(arguments, log_path)
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def get(self, target: str, headers: Mapping[str, str] | None = None, timeout_s: float = 10) -> Response:
        """GET `target` on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", target, headers=dict(headers or {}))
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def wait_for(self, target: str, timeout_s: float = 20) -> None:
        """Wait until `target` is answered with 200."""

        def answered() -> bool:
            self.alive()
            try:
                return self.get(target).status == 200
            except ConnectionError:
                return False

        wait_until(answered, timeout_s, self.log_path.read_text)


class Agent(Server):
    """The real agent as a process of its own."""

    def __init__(self, arguments: list[str], log_path: Path) -> None:
        """Start it on a free port of the loopback and wait until it is ready."""
        port = free_port()
        command = [sys.executable, "-m", "exporter", f"--web.listen-address=127.0.0.1:{port}", *arguments]
        super().__init__(command, log_path, port)
        self.wait_for("/-/ready")

    def scrape(self, *, openmetrics: bool = False) -> Scrape:
        """Scrape once, in the format asked for."""
        answer = self.get("/metrics", {"Accept": PROMETHEUS_ACCEPT} if openmetrics else {})
        assert answer.status == 200, answer
        wanted = "application/openmetrics-text" if openmetrics else "text/plain"
        assert answer.headers["content-type"].startswith(wanted), answer.headers
        return parse_scrape(answer.body.decode(), openmetrics=openmetrics)

    def descriptors(self) -> int:
        """How many file descriptors the process has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def is_told_of_writes(self, paths: Iterable[Path]) -> bool:
        """Whether the kernel puts each write to each of these files into its queue: a sampled file's it does not."""
        # By number alone: `sdev` is the superblock's device, which is not always st_dev (overlayfs, btrfs).
        told = {int(watch["ino"], 16) for watch in watches(self.pid) if int(watch["mask"], 16) & IN_MODIFY}
        return all(os.stat(path).st_ino in told for path in paths)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it by SIGSTOP meanwhile, each of its threads."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            wait_until(lambda: all(state == "T" for state in self._thread_states()))
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _thread_states(self) -> Iterator[str]:
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                yield Path(f"/proc/{self.pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0]


def watches(pid: int) -> Iterator[dict[str, str]]:
    """The inotify watches of a process, as /proc/PID/fdinfo has them: numbers in hexadecimal, by name."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            for line in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines():
                if line.startswith("inotify "):
                    yield dict(each.split(":", 1) for each in line.split()[1:])


def scraping(ports: Mapping[str, int], *, interval: str) -> dict[str, object]:
    """A configuration of Prometheus that scrapes these ports of the loopback, by job name."""
    jobs = [{"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in ports.items()]
    return {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": jobs}


class Prometheus(Server):
    """A real Prometheus, asked through its HTTP API."""

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The instant vector that `expression` gives now: labels and value of each element."""
        answer = json.loads(self.get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})).body)
        assert answer["status"] == "success", answer
        return [(element["metric"], float(element["value"][1])) for element in answer["data"]["result"]]

    def value(self, expression: str) -> float | None:
        """The value of the only element of the vector; None when the vector is empty."""
        vector = self.query(expression)
        assert len(vector) <= 1, vector
        return vector[0][1] if vector else None

    def samples(self, selector: str) -> list[tuple[float, float]]:
        """Times and values of the samples that a range vector of one series has."""
        answer = json.loads(self.get("/api/v1/query?" + urllib.parse.urlencode({"query": selector})).body)
        assert answer["status"] == "success", answer
        (series,) = answer["data"]["result"]
        return [(moment_s, float(value)) for moment_s, value in series["values"]]


def prometheus(folder: Path, config: Mapping[str, object]) -> Prometheus:
    """Start one with this configuration, its files in `folder`; `wait_for` tells when it serves."""
    config_path = folder / "prometheus.yml"
    config_path.write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    command = [
        program("prometheus"),
        f"--config.file={config_path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    return Prometheus(command, folder / "prometheus.out", port)


class Hanging:
    """A directory of a real FUSE filesystem, which can be made to hang and to answer again."""

    def __init__(self, source: Path, path: Path) -> None:
        command = [program("bindfs"), "-f", "-o", "attr_timeout=0,entry_timeout=0", str(source), str(path)]
        self.source, self.path = source, path
        self._daemon = subprocess.Popen(command)
        wait_until(lambda: os.path.ismount(path))

    def hang(self) -> None:
        """Answer nothing from now on."""
        self._daemon.send_signal(signal.SIGSTOP)

    def answer(self) -> None:
        """Answer again, what has been asked meanwhile too."""
        self._daemon.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Unmount; what still hangs returns with an error."""
        self._daemon.kill()
        self._daemon.wait()
        subprocess.run(["umount", "--lazy", self.path], check=True)


@contextlib.contextmanager
def chrooted(root: Path) -> Iterator[Callable[..., T]]:
    """Make calls in a thread that has `root` for its root directory: `call(function, *arguments)`."""

    def enter() -> None:
        assert ctypes.CDLL(None).unshare(CLONE_FS) == 0  # the other threads keep theirs
        os.chroot(root)

    with ThreadPoolExecutor(1, initializer=enter) as thread:
        yield lambda function, *arguments: thread.submit(function, *arguments).result()


@contextlib.contextmanager
def without_capability(number: int) -> Iterator[None]:
    """Have the calling thread do without a capability of capabilities(7) meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    effective, sets[0] = sets[0], sets[0] & ~(1 << number)
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0


as_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: it mounts, changes the user, calls chroot(2) or reads by file handles"
)

Mount = Callable[[str], Hanging]
StartAgent = Callable[..., Agent]
StartPrometheus = Callable[..., Prometheus]
