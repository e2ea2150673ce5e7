"""Hours of the life of a node in minutes: does the agent hold what it promises, and hold on to nothing?

Pods are born, written, rotated by the kubelet and deleted all the time, other logs live in every other way (the styles
of tests/e2e/workload.py); the configuration is reloaded again and again, the kernel's queue of events is made to
overflow, and a real Prometheus scrapes. Then everything is compared with what the writers counted, and in the end, when
all files are deleted, with what the agent held at first. Ends with 1 when something is not as asked.

What the agent has to do in time is measured by the time in which it could run (see AgentClock): a machine that is busy
with other things, or that a hypervisor takes away for seconds, spoils no figure. The report has the time lost to that.
"""

import argparse
import dataclasses
import http
import itertools
import os
import shutil
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from benchmarks.common import Figure, at_most, print_figures, rss_bytes, scratch_folder
from exporter.ledger.lost import LOST_INODES
from tests.e2e.clock import AgentClock
from tests.e2e.workload import ALL as HOST
from tests.e2e.workload import Log, Workload, Writer, by_path, overflow
from tests.support import Agent, Prometheus, Scrape, prometheus, scraping, wait_until, watches

SCRAPE_INTERVAL_S = 5  # Prometheus', and how long it waits for an answer
ANSWER_S = 2.0  # in which an agent that can run has to answer
CHECK_S = 3.0
SAMPLE_S = 1.0
RELOAD_S = 5.0
OVERFLOW_S = 15.0
KNOWN_AFTER_S = 6.0  # an agent that nobody scrapes looks at many busy files every five seconds
MOST_LINES = 50  # about one thing that is wrong
PODS_AT_ONCE = 100
CONTAINERS = 10  # of each of these
FLOODED_FILES = 2  # in turn, or the kernel merges their events
OVERFLOWED = "the kernel's event queue overflowed"
LATE = "a scrape timed out"
RELOADED = "configuration reloaded"
COUNTERS = "fstat_(group|cache|exporter)_.+_total|process_cpu_seconds_total"
FAILURES = (
    "fstat_cache_watch_failures_total",
    "fstat_exporter_missed_changes_total",
    "fstat_exporter_state_resets_total",
    "fstat_exporter_state_write_failures_total",
)
STANDSTILLS = "time for which the agent could not run"
MIB = 1 << 20

# Each is followed for a while. What they have in common: which group a file belongs to, and that there is room for all.
CONFIGS = (
    """
stale_grace: 2s
rescan_interval: 3s
state: {{path: {top}/state/state.db}}
logs:
  - group: host
    paths: ["{top}/host/logs/**/*.log"]
  - preset: kubernetes-pods
    paths: ["{top}/pods/logs/*/pods/*/*/*.log"]
    path_regex: '/pods/(?P<namespace>[^_/]+)_(?P<pod>[^_/]+)_(?P<uid>[^/]+)/(?P<container>[^/]+)/[^/]+$'
""",
    """
stale_grace: 3s
rescan_interval: 3s
state: {{path: {top}/state/state.db}}
logs:
  - preset: kubernetes-pods
    paths: ["{top}/pods/logs/*/pods/*/*/*.log"]
    path_regex: '/pods/(?P<namespace>[^_/]+)_(?P<pod>[^_/]+)_[^/]+/(?P<container>[^/]+)/[^/]+$'
    per_file: false
  - group: another
    paths: ["{top}/agent/*.out"]
  - group: host
    paths: ["{top}/host/logs/**/*.log"]
    labels: {{team: infra}}
    metrics: [size, mtime, changes, appended_bytes, truncations, rotations]
""",
)


@dataclass(frozen=True, slots=True)
class Held:
    """What a process has, besides memory."""

    descriptors: int
    threads: int
    watches: int


def held_by(pid: int) -> Held:
    """What the kernel says of it now."""
    descriptors, threads = (len(os.listdir(f"/proc/{pid}/{each}")) for each in ("fd", "task"))
    return Held(descriptors, threads, sum(1 for _ in watches(pid)))


class Every:
    """Says when something is due again, the first time after a whole interval.

    Args:
        seconds: the interval.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next_s = time.monotonic() + seconds

    def is_due(self) -> bool:
        """Whether it is to be done now."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._seconds
        return True


class ConfigMap:
    """A configuration as Kubernetes mounts it: the file is a link into `..data`, which is a link that is swapped.

    Attributes:
        path: the file.
    """

    def __init__(self, folder: Path, text: str) -> None:
        folder.mkdir()
        self.path = folder / "exporter.yml"
        self._folder = folder
        self._generations = itertools.count()
        self.write(text)
        self.path.symlink_to("..data/exporter.yml")

    def write(self, text: str) -> None:
        """Swap."""
        data, link = self._folder / "..data", self._folder / "..data_tmp"
        before = data.resolve()
        generation = self._folder / f"..{next(self._generations)}"
        generation.mkdir()
        (generation / "exporter.yml").write_text(text)
        link.symlink_to(generation.name)
        link.replace(data)
        if before != data:
            shutil.rmtree(before)


class Soak:
    """One run.

    Args:
        top: a folder, empty.
        seed: what the writers do follows from it.
    """

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self.configs = [config.format(top=top) for config in CONFIGS]
        self.config_map = ConfigMap(top / "config", self.configs[0])
        self.reloads = self.overflows = self.wrong_scrapes = 0
        self.memory: list[int] = []
        self.most = Held(0, 0, 0)
        self.failures_before: dict[str, float] = {}
        self._seed = seed
        self._clock = AgentClock()

    def run(self, seconds: float) -> list[Figure]:
        """Do everything, and tell what came of it."""
        for name in ("agent", "state", "prometheus"):
            (self.top / name).mkdir()
        agent = Agent(
            [f"--config.file={self.config_map.path}", "--web.enable-lifecycle"], self.top / "agent" / "agent.out"
        )
        try:
            server = prometheus(
                self.top / "prometheus", scraping({"fstat": agent.port}, interval=f"{SCRAPE_INTERVAL_S}s")
            )
            try:
                server.wait_for("/-/ready")
                self._clock.follow(agent.pid)
                with self._clock:
                    figures = self._watch(agent, server, seconds)
            finally:
                server.stop()
        finally:
            status = agent.stop()
        return [*figures, *self._log_figures(agent), Figure("exit status in the end", at_most(0), status, "")]

    def _watch(self, agent: Agent, server: Prometheus, seconds: float) -> list[Figure]:
        wait_until(lambda: server.value("up"), 30)
        began_s = time.monotonic()
        at_first = settled(agent)
        for name in ("pods", "host"):
            (self.top / name).mkdir()
        with (
            self._workload("pods", ("pods",), writers=2) as pods,
            self._workload("host", HOST, writers=1) as host,
        ):
            workloads = {"pods": pods, "host": host}
            self._churn(agent, workloads, seconds)
            figures = self._truth_figures(agent, workloads)
        for workload in workloads.values():
            shutil.rmtree(workload.top)
        figures += self._memory_figures()
        figures += self._held_figures(agent, at_first)
        figures += self._agent_figures(agent)
        figures += self._prometheus_figures(server, began_s)
        return figures

    def _workload(self, name: str, styles: tuple[str, ...], *, writers: int) -> Workload:
        return Workload(
            self.top / name,
            self._seed,
            styles,
            writers,
            is_empty=True,
            known_after_s=KNOWN_AFTER_S,
            clock=self._clock,
        )

    # -- the churn -----------------------------------------------------------------------------------------------------

    def _churn(self, agent: Agent, workloads: Mapping[str, Workload], seconds: float) -> None:
        host = workloads["host"]
        flooded = host.logs / "flooded"
        flooded.mkdir()
        writer = Writer(host.top, host.own, host.seed)
        logs = [writer.open(flooded / f"{number}.log") for number in range(FLOODED_FILES)]
        self._age(agent, workloads["pods"])
        for workload in workloads.values():
            workload.start(agent)
        ways = itertools.cycle((self._reload_by_file, self._reload_by_signal, self._reload_by_http))
        configs = itertools.cycle((*self.configs[1:], self.configs[0]))
        checks, samples, reloads, overflows = map(Every, (CHECK_S, SAMPLE_S, RELOAD_S, OVERFLOW_S))
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            if samples.is_due():
                self.memory.append(rss_bytes(agent.pid))
                self.most = Held(*map(max, astuple(self.most), astuple(held_by(agent.pid))))
            if checks.is_due():
                self._check(agent, workloads)
            if reloads.is_due():
                next(ways)(agent, next(configs))
            if overflows.is_due():
                self._overflow(agent, workloads.values(), logs)
            time.sleep(0.1)
        for workload in workloads.values():
            workload.stop()
        for log in logs:
            log.close()

    def _age(self, agent: Agent, workload: Workload) -> None:
        """Have as many files and directories come and go as the agent remembers: that is bounded, and no leak."""
        folder = workload.logs / "old" / "pods"
        writer = Writer(workload.top, workload.own, workload.seed)
        for first in range(0, LOST_INODES // CONTAINERS, PODS_AT_ONCE):
            pods = [folder / f"a_app-{first + number}_0" for number in range(PODS_AT_ONCE)]
            for pod in pods:
                for number in range(CONTAINERS):
                    container = pod / f"container-{number}"
                    container.mkdir(parents=True)
                    log = writer.open(container / "0.log")
                    log.write(100)
                    log.close()
            agent.scrape()
            for pod in pods:
                shutil.rmtree(pod)
        agent.scrape()
        for config in (*self.configs[1:], self.configs[0]):
            self._reload_by_http(agent, config)
        self.failures_before = failures(agent.scrape())

    def _check(self, agent: Agent, workloads: Mapping[str, Workload]) -> None:
        """Scrape: what is counted lies between what was written before and after it. And somebody looks at the page."""
        least = {group: workload.completed() for group, workload in workloads.items()}
        began_ns = time.monotonic_ns()
        scrape = agent.scrape()
        for group, workload in workloads.items():
            workload.scraped(agent, began_ns)
            counted, most = appended_bytes(scrape, group), workload.announced()
            if not least[group] <= counted <= most:
                self.wrong_scrapes += 1
                tell(f"{group}: counted {counted:.0f} bytes, written {least[group]} to {most}")
        for target in ("/", "/api/v1/files"):
            status = agent.get(target).status
            if status != http.HTTPStatus.OK:
                self.wrong_scrapes += 1
                tell(f"{target}: answered with {status}")

    def _reload_by_file(self, agent: Agent, config: str) -> None:
        self._reload(agent, config, lambda: None)

    def _reload_by_signal(self, agent: Agent, config: str) -> None:
        self._reload(agent, config, lambda: os.kill(agent.pid, signal.SIGHUP))

    def _reload_by_http(self, agent: Agent, config: str) -> None:
        request = urllib.request.Request(f"{agent.url}/-/reload", method="POST")
        self._reload(agent, config, lambda: urllib.request.urlopen(request, timeout=30).close())

    def _reload(self, agent: Agent, config: str, ask: Callable[[], object]) -> None:
        before = agent.log_path.read_text().count(RELOADED)
        self.config_map.write(config)
        ask()
        wait_until(lambda: agent.alive() and agent.log_path.read_text().count(RELOADED) > before, 30)
        self.reloads += 1

    def _overflow(self, agent: Agent, workloads: Collection[Workload], logs: Sequence[Log]) -> None:
        for workload in workloads:
            workload.control.hold()
        agent.scrape()  # it has heard of what was done before
        overflow(agent, logs)
        agent.scrape()
        for workload in workloads:
            workload.control.release()
        self.overflows += 1

    # -- what came of it -----------------------------------------------------------------------------------------------

    def _truth_figures(self, agent: Agent, workloads: Mapping[str, Workload]) -> list[Figure]:
        """When nobody writes any more: is what was counted what was written, is what is published what there is?"""
        self._reload_by_http(agent, self.configs[0])  # which publishes every file
        scrape = agent.scrape()
        figures = []
        for group, workload in workloads.items():
            off = appended_bytes(scrape, group) - workload.completed()
            if off:
                tell(f"{group}: {off:+.0f} bytes", *workload.explain(scrape).splitlines()[:MOST_LINES])
            opened = sum(workload.opened_by(number) for number in range(workload.own + 1))
            detail = f"{workload.completed():,} bytes in {opened:,} files"
            figures.append(Figure(f"bytes counted wrong in the group {group}", at_most(0), abs(off), "", detail))
        host = workloads["host"]
        off = abs((scrape.value("fstat_group_truncations_total", group="host") or 0) - host.truncations())
        figures.append(Figure("truncations counted wrong", at_most(0), off, "", f"{host.truncations():,} truncations"))
        figures.append(Figure("scrapes and pages meanwhile that were wrong", at_most(0), self.wrong_scrapes, ""))
        on_disk = {path: size for workload in workloads.values() for path, size in sizes_on_disk(workload.logs)}
        off = self._difference(agent, on_disk)
        figures.append(
            Figure("files published that are not those on the disk", at_most(0), off, "", f"{len(on_disk)} files")
        )
        return figures

    def _difference(self, agent: Agent, on_disk: Mapping[str, int]) -> int:
        """How many files differ; those that are gone stay for their grace and two scrapes."""
        deadline_s = time.monotonic() + 15
        while True:
            published = by_path(agent.scrape(), "fstat_file_size_bytes")
            differing = dict(published.items() ^ on_disk.items())
            if not differing or time.monotonic() > deadline_s:
                for path in sorted(differing):
                    tell(f"{path}: published {published.get(path)}, on the disk {on_disk.get(path)}")
                return len(differing)
            time.sleep(0.5)

    def _memory_figures(self) -> list[Figure]:
        share = max(1, len(self.memory) // 5)
        # A process goes on to grow until everything was done a few times, reloads too.
        first, last = (statistics.median(part) for part in (self.memory[share : 2 * share], self.memory[-share:]))
        tell("memory, MiB: " + " ".join(f"{each / MIB:.0f}" for each in self.memory))
        detail = f"{first / MIB:.1f} MiB in the second fifth of the time, {last / MIB:.1f} in the last"
        return [Figure("growth of the memory", at_most(5), 100 * (last / first - 1), " %", detail)]

    def _held_figures(self, agent: Agent, at_first: Held) -> list[Figure]:
        """When every file has been deleted."""
        deadline_s = time.monotonic() + 30
        while (now := held_by(agent.pid)) != at_first and time.monotonic() < deadline_s:
            time.sleep(0.5)
        return [
            Figure(
                f"{field.name} left over", at_most(0), abs(at_last - first), "", f"{first} at first, {most} at the most"
            )
            for field, first, at_last, most in zip(
                dataclasses.fields(Held), astuple(at_first), astuple(now), astuple(self.most), strict=True
            )
        ]

    def _prometheus_figures(self, server: Prometheus, began_s: float) -> list[Figure]:
        now_s = time.monotonic()
        epoch_s = time.time() - now_s  # Prometheus goes by the wall clock
        window = f"[{int(now_s - began_s)}s]"

        def total(expression: str) -> int:
            return int(server.value(f"sum({expression})") or 0)

        made = server.samples(f"up{window}")
        answered = sum(up == 1 for _, up in made)
        could_run_s = self._clock.seconds_between(began_s, now_s)
        missing = max(0, int(could_run_s / SCRAPE_INTERVAL_S) - 1 - len(made))
        failed = sum(
            up == 0 and self._clock.seconds_between(moment_s, moment_s + SCRAPE_INTERVAL_S) >= ANSWER_S
            for moment_s, up in ((wall_s - epoch_s, up) for wall_s, up in made)
        )
        gaps = sum(
            answered - total(f'count_over_time(fstat_group_appended_bytes_total{{group="{group}"}}{window})')
            for group in ("pods", "host")
        )
        names = [labels["__name__"] for labels, _ in server.query(f"group by (__name__) ({{__name__=~'{COUNTERS}'}})")]
        resets = {name: total(f'resets({name}{{group!="another"}}{window})') for name in names}
        tell(*(f"{name} has gone back" for name, count in resets.items() if count))
        reload_failures = total(f"count_over_time((fstat_exporter_config_last_reload_successful < 1){window[:-1]}:1s])")
        return [
            Figure("scrapes that failed or were not made", at_most(0), failed + missing, "", f"{len(made)} scrapes"),
            Figure("scrapes without the counters of a group", at_most(0), gaps, ""),
            Figure("times that a counter went back", at_most(0), sum(resets.values()), "", f"{len(names)} counters"),
            Figure("seconds after a reload that failed", at_most(0), reload_failures, "", f"{self.reloads} reloads"),
            Figure(STANDSTILLS, None, now_s - began_s - could_run_s, " s"),
        ]

    def _agent_figures(self, agent: Agent) -> list[Figure]:
        """What the agent tells of itself."""
        scrape = agent.scrape()
        overflows = scrape.value("fstat_cache_queue_overflows_total") or 0
        more = {name: value - self.failures_before[name] for name, value in failures(scrape).items()}
        tell(*(f"{name}: {count:.0f}" for name, count in more.items() if count))
        return [
            Figure(
                "overflows of the kernel's queue that went unnoticed",
                at_most(0),
                self.overflows - overflows,
                "",
                f"{overflows:.0f} overflows",
            ),
            Figure("changes unheard, failures to watch or to save", at_most(0), sum(more.values()), ""),
            # A write(2) interrupted on a busy machine looks like a change without an event.
            Figure("mismatches of the audit", None, scrape.value("fstat_cache_audit_mismatches_total") or 0, ""),
        ]

    def _log_figures(self, agent: Agent) -> list[Figure]:
        lines = agent.log_path.read_text().splitlines()
        errors = [line for line in lines if " level=info " not in line and " level=warn " not in line]
        warnings = [line for line in lines if " level=warn " in line and OVERFLOWED not in line and LATE not in line]
        tell(*errors, *warnings)
        return [
            Figure("errors in the log", at_most(0), len(errors), "", f"{len(lines)} lines"),
            Figure("warnings in the log, but for overflows and late scrapes", at_most(0), len(warnings), ""),
        ]


def failures(scrape: Scrape) -> dict[str, float]:
    """What the agent counts of that which should not happen."""
    return {name: sum(scrape.values(name)) for name in FAILURES}


def tell(*lines: str) -> None:
    """Write to stderr what is not as asked."""
    for line in lines:
        print(line, file=sys.stderr)


def sizes_on_disk(top: Path) -> Iterator[tuple[str, int]]:
    """Path and size of whatever is to be published."""
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(".log") and os.path.exists(path):  # a link may lead nowhere
                yield path, os.stat(path).st_size


def settled(agent: Agent) -> Held:
    """What an agent holds when nothing happens to its files."""
    before = None
    while (now := held_by(agent.pid)) != before:
        before = now
        time.sleep(SCRAPE_INTERVAL_S + 1)
    return now


def appended_bytes(scrape: Scrape, group: str) -> float:
    """What was counted in a group."""
    return sum(scrape.values("fstat_group_appended_bytes_total", group=group))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Hours of the life of a node in minutes, and what the agent makes of it."
    )
    parser.add_argument("--seconds", type=float, default=600, help="how long files live and die (default: 600)")
    parser.add_argument("--seed", type=int, default=1, help="what is done to them follows from it (default: 1)")
    parser.add_argument("--folder", type=Path, help="an empty one for all files, which stay there (default: none stay)")
    options = parser.parse_args()
    if shutil.which("prometheus") is None:
        sys.exit("prometheus is missing: `make bench BENCH=soak` as root installs it")

    with scratch_folder() as root:
        figures = Soak((options.folder or Path(root)).absolute(), options.seed).run(options.seconds)
    print_figures(figures)
    if not all(figure.is_met for figure in figures):
        sys.exit(1)


if __name__ == "__main__":
    main()
