"""A real Prometheus scrapes the real agent; what is asserted comes from Prometheus' HTTP API."""

import http.client
import http.server
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import PROMETHEUS_ACCEPT, StartAgent, StartPrometheus, program, scraping, wait_until

WITHOUT_GRACE = """
stale_grace: 0s
logs:
  - group: test
    paths: ["{folder}/**/*.log"]
"""


SHORT_LIVED = """
stale_grace: 0s
first_sample: zero
zero_for: 2s  # the scrape interval is 1s, but a busy machine scrapes late
logs:
  - group: test
    paths: ["{folder}/*.log"]
    path_regex: '/(?P<pod>[0-9]+)-[^/]*$'
    aggregate_by: [pod]
"""
LIFE_S = 4.0
"""How long a file lives there: four scrapes."""


def selector(metric: str, path: Path) -> str:
    """The series of one file."""
    return f'{metric}{{path="{path}"}}'


def test_append_new_file_and_deletion_arrive(
    tmp_path: Path, start_agent: StartAgent, start_prometheus: StartPrometheus
) -> None:
    """What happens to a file shows in Prometheus: growth, birth, and that a deleted file's series ends."""
    folder = tmp_path / "logs"
    folder.mkdir()
    old, new = folder / "old.log", folder / "sub" / "new.log"
    old.write_bytes(b"x" * 100)
    agent = start_agent(config=WITHOUT_GRACE.format(folder=folder))
    prometheus = start_prometheus(fstat=agent.port)
    size_of_old, size_of_new = selector("fstat_file_size_bytes", old), selector("fstat_file_size_bytes", new)

    wait_until(lambda: prometheus.value(size_of_old) == 100)
    changes = prometheus.value(selector("fstat_file_changes_total", old))
    assert changes is not None

    with old.open("ab") as file:
        file.write(b"y" * 23)
    wait_until(lambda: prometheus.value(size_of_old) == 123)
    assert prometheus.value(selector("fstat_file_changes_total", old)) == changes + 1
    assert prometheus.value(selector("fstat_file_mtime_seconds", old)) == pytest.approx(old.stat().st_mtime)

    new.parent.mkdir()
    new.write_bytes(b"z" * 7)
    wait_until(lambda: prometheus.value(size_of_new) == 7)
    assert prometheus.value(selector("fstat_file_appended_bytes_total", old)) == 23
    assert prometheus.value(selector("fstat_file_appended_bytes_total", new)) == 7

    # Prometheus shows a series for five minutes after its last sample, unless it went stale: missing from a scrape that
    # succeeded.
    old.unlink()
    wait_until(lambda: prometheus.value(size_of_old) is None)
    assert prometheus.value(size_of_new) == 7
    assert prometheus.value('up{job="fstat"}') == 1
    assert prometheus.value('fstat_group_appended_bytes_total{group="test"}') == 30


def test_growth_of_short_lived_files(
    tmp_path: Path, start_agent: StartAgent, start_prometheus: StartPrometheus
) -> None:
    """With `first_sample: zero` two Prometheus servers see the growth of files that live for four scrapes."""
    folder = tmp_path / "logs"
    folder.mkdir()
    agent = start_agent(config=SHORT_LIVED.format(folder=folder))
    # As in a pair for high availability: an external label makes each scrape at its own times.
    servers = []
    for replica in ("a", "b"):
        config = scraping({"fstat": agent.port}, interval="1s")
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "external_labels": {"replica": replica}}
        servers.append(start_prometheus(config))
    for server in servers:
        wait_until(lambda server=server: server.value('fstat_group_files{group="test"}') == 0)

    logs = [folder / f"{number}-a.log" for number in range(100)]
    # 5,000 bytes at once, one more thousand in the middle of its life, then it is deleted.
    steps = [
        (number / 20 + after_s, log, size)
        for number, log in enumerate(logs)
        for after_s, size in ((0, 5000), (LIFE_S / 2, 1000), (LIFE_S, 0))
    ]
    began_s = time.monotonic()
    for at_s, log, size in sorted(steps):
        time.sleep(max(0, began_s + at_s - time.monotonic()))
        if size:
            with log.open("ab") as file:
                file.write(b"x" * size)
        else:
            log.unlink()

    written = sum(size for _, _, size in steps)
    for server in servers:
        wait_until(lambda server=server: server.query("fstat_file_size_bytes") == [], timeout_s=20)
        for name in ("fstat_file_appended_bytes_total", "fstat_aggregate_appended_bytes_total"):
            growth = server.value(f"sum(max_over_time({name}[10m]) - min_over_time({name}[10m]))")
            assert growth == pytest.approx(written, rel=0.01), name
            assert server.value(f"count(min_over_time({name}[10m]) == 0)") == len(logs)
        assert server.value('fstat_group_appended_bytes_total{group="test"}') == written


class Relay(http.server.ThreadingHTTPServer):
    """Stands between Prometheus and the agent and notes what was asked for and what the answer was."""

    daemon_threads = True

    def __init__(self, agent_port: int, accept: str | None) -> None:
        """Pass scrapes on to `agent_port`, with the Accept header `accept` in place of Prometheus' own unless None."""
        super().__init__(("127.0.0.1", 0), RelayHandler)
        self.agent_port, self.accept = agent_port, accept
        self.exchanges: list[tuple[str, str, str | None]] = []  # Accept as Prometheus sent it, Content-Type, encoding


class RelayHandler(http.server.BaseHTTPRequestHandler):
    """One scrape through the relay."""

    server: Relay

    def do_GET(self) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        asked = self.headers["Accept"]
        if self.server.accept is not None:
            headers["Accept"] = self.server.accept
        connection = http.client.HTTPConnection("127.0.0.1", self.server.agent_port, timeout=5)
        connection.request("GET", self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        content_type, encoding = answer.headers["Content-Type"], answer.headers["Content-Encoding"]
        self.server.exchanges.append((asked, content_type, encoding))
        self.send_response(answer.status)
        self.send_header("Content-Type", content_type)
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name for it
        """Be silent."""


@pytest.fixture
def start_relay() -> Iterator[Callable[[int, str | None], Relay]]:
    """Starts relays and stops them afterwards."""
    relays: list[tuple[Relay, threading.Thread]] = []

    def start(agent_port: int, accept: str | None) -> Relay:
        relay = Relay(agent_port, accept)
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        relays.append((relay, thread))
        return relay

    yield start
    for relay, thread in relays:
        relay.shutdown()
        thread.join()
        relay.server_close()


def test_prometheus_scrapes_both_formats(
    tmp_path: Path,
    start_agent: StartAgent,
    start_prometheus: StartPrometheus,
    start_relay: Callable[[int, str | None], Relay],
) -> None:
    """Prometheus negotiates OpenMetrics by itself, takes the classic format as well, and finds the same series."""
    log = tmp_path / 'odd "name" \\ ü.log'
    log.write_bytes(b"x" * 42)
    agent = start_agent(str(tmp_path / "*.log"))
    own, classic = start_relay(agent.port, None), start_relay(agent.port, "text/plain;version=0.0.4")
    prometheus = start_prometheus(openmetrics=own.server_address[1], classic=classic.server_address[1])

    wait_until(lambda: len(prometheus.query("fstat_file_size_bytes")) == 2)
    assert {(labels["job"], labels["path"], value) for labels, value in prometheus.query("fstat_file_size_bytes")} == {
        ("openmetrics", str(log), 42),
        ("classic", str(log), 42),
    }
    names = 'count by (job) (count by (job, __name__) ({job=~".+", __name__!~"up|scrape_.+"}))'
    assert len({value for _, value in prometheus.query(names)}) == 1
    assert [value for _, value in prometheus.query("up")] == [1, 1]

    assert {(asked.split(";")[0], kind.split(";")[0], coding) for asked, kind, coding in own.exchanges} == {
        ("application/openmetrics-text", "application/openmetrics-text", "gzip")
    }
    assert {kind.split(";")[0] for _, kind, _ in classic.exchanges} == {"text/plain"}


def test_promtool_has_no_complaint(tmp_path: Path, start_agent: StartAgent) -> None:
    """`promtool check metrics` accepts the classic scrape and lints nothing."""
    promtool = program("promtool")
    (tmp_path / "a.log").write_bytes(b"x")
    body = start_agent(str(tmp_path / "*.log")).get("/metrics").body
    assert b"fstat_file_size_bytes{" in body
    check = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=30, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")


def test_formats_agree(tmp_path: Path, start_agent: StartAgent) -> None:
    """Both formats parse, and publish the same series."""
    for number in range(3):
        (tmp_path / f"{number}.log").write_bytes(b"x" * number)
    agent = start_agent(str(tmp_path / "*.log"))
    classic, openmetrics = agent.scrape(), agent.scrape(openmetrics=True)
    assert classic.samples.keys() == openmetrics.samples.keys()
    assert sorted(openmetrics.values("fstat_file_size_bytes")) == [0, 1, 2]
    assert agent.get("/metrics", {"Accept": PROMETHEUS_ACCEPT}).body.endswith(b"# EOF\n")
