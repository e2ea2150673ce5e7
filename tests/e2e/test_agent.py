"""The real agent over HTTP: what a scrape promises, and what must not disturb it."""

import http.client
import os
import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import Mount, StartAgent, Stopwatch, as_root, wait_until

BOUNDED = """
cache:
  max_files: 3
logs:
  - group: test
    paths: ["{folder}/*.log"]
"""


def test_append_shows_in_the_very_next_scrape(tmp_path: Path, start_agent: StartAgent) -> None:
    """A write that returned before the scrape was asked for is in it, a hundred times out of a hundred."""
    log = tmp_path / "a.log"
    log.touch()
    agent = start_agent(str(tmp_path / "*.log"))
    line = re.compile(rb'^fstat_file_size_bytes\{[^}]*path="%b"[^}]*\} (\S+)$' % re.escape(bytes(log)), re.MULTILINE)
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=10)
    seen, truth = [], []
    with log.open("ab", buffering=0) as file:
        for number in range(1, 101):
            file.write(b"x" * number)
            connection.request("GET", "/metrics")
            found = line.search(connection.getresponse().read())
            assert found
            seen.append(float(found[1]))
            truth.append(file.tell())
    connection.close()
    assert seen == truth


def test_files_beyond_max_files_are_published_as_misses(tmp_path: Path, start_agent: StartAgent) -> None:
    """Ten files and room for three: all ten are right at every scrape, three at most cached, the rest are misses."""
    logs = [tmp_path / f"{number}.log" for number in range(10)]
    for size, log in enumerate(logs):
        log.write_bytes(b"x" * size)
    agent = start_agent(config=BOUNDED.format(folder=tmp_path))

    def asked() -> tuple[float, float]:
        scrape = agent.scrape()
        for log in logs:
            assert scrape.value("fstat_file_size_bytes", path=str(log)) == log.stat().st_size
        files, hits, misses = (scrape.value(f"fstat_cache_{name}") for name in ("files", "hits_total", "misses_total"))
        assert files is not None
        assert hits is not None
        assert misses is not None
        assert files <= 3
        return hits, misses

    hits, misses = asked()
    for log in logs:
        with log.open("ab") as file:
            file.write(b"more")
    hits_after, misses_after = asked()
    assert hits_after + misses_after == hits + misses + 10
    assert misses_after >= misses + 7


def test_cached_files_are_hits(tmp_path: Path, start_agent: StartAgent) -> None:
    """When the files fit and nothing changes, a scrape asks the kernel about none of them."""
    for number in range(10):
        (tmp_path / f"{number}.log").touch()
    agent = start_agent(str(tmp_path / "*.log"))
    first, second = agent.scrape(), agent.scrape()
    assert second.value("fstat_cache_misses_total") == first.value("fstat_cache_misses_total")
    assert second.value("fstat_cache_hits_total") == (first.value("fstat_cache_hits_total") or 0) + 10
    assert second.value("fstat_cache_files") == 10


def test_scrapes_leave_no_descriptor_behind(tmp_path: Path, start_agent: StartAgent) -> None:
    """After 200 scrapes, half of them on connections the client breaks off, as many descriptors are open as before."""
    (tmp_path / "a.log").touch()
    agent = start_agent(str(tmp_path / "*.log"))
    agent.scrape()
    wait_until(lambda: not sockets_of_clients(agent.port))
    before = agent.descriptors()
    for number in range(200):
        if number % 2:
            assert agent.get("/metrics").status == 200
        else:
            with socket.create_connection(("127.0.0.1", agent.port)) as client:
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    wait_until(lambda: agent.descriptors() <= before)


def sockets_of_clients(port: int) -> list[str]:
    """The established connections to a port of the loopback."""
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [row for row in rows if (fields := row.split())[1].endswith(f":{port:04X}") and fields[3] == "01"]


@pytest.mark.alone
@pytest.mark.usefixtures("many_descriptors")
def test_half_open_connections_do_not_starve_a_scrape(tmp_path: Path, start_agent: StartAgent) -> None:
    """Beside 1,000 clients that never finish their request, a scrape is answered within a second."""
    log = tmp_path / "a.log"
    log.write_bytes(b"x" * 5)
    agent = start_agent(str(tmp_path / "*.log"))
    with ExitStack() as clients:
        for _ in range(1000):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", agent.port), timeout=5))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHo")
        wait_until(lambda: agent.descriptors() > 1000)
        watch = Stopwatch()
        assert agent.scrape().value("fstat_file_size_bytes", path=str(log)) == 5
        assert watch.seconds() < 1
    # And they go with their clients.
    wait_until(lambda: agent.descriptors() < 100)


def test_health_and_start_page(tmp_path: Path, start_agent: StartAgent) -> None:
    """The endpoints beside /metrics answer; an unknown path is 404 and a method that is none of theirs 405."""
    agent = start_agent(str(tmp_path / "*.log"))
    assert agent.get("/-/healthy").status == 200
    assert agent.get("/-/ready").status == 200
    page = agent.get("/")
    assert page.status == 200
    assert b"/metrics" in page.body
    assert agent.get("/no/such").status == 404
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=10)
    connection.request("DELETE", "/metrics")
    assert connection.getresponse().status == 405
    connection.close()


@pytest.mark.alone
def test_stops_within_a_second_beside_open_connections(tmp_path: Path, start_agent: StartAgent) -> None:
    """SIGTERM ends the agent cleanly within a second, whoever is still connected."""
    agent = start_agent(str(tmp_path / "*.log"))
    with ExitStack() as clients:
        for _ in range(20):
            clients.enter_context(socket.create_connection(("127.0.0.1", agent.port), timeout=5))
        wait_until(lambda: len(os.listdir(f"/proc/{agent.pid}/fd")) > 20)
        watch = Stopwatch()
        assert agent.stop() == 0
        assert watch.seconds() < 1


@as_root
def test_a_filesystem_that_hangs_from_the_start(tmp_path: Path, start_agent: StartAgent, fuse: Mount) -> None:
    """Ten seconds after the start the files elsewhere are published, and the log names the directory that hangs."""
    mount = fuse("logs/hangs")
    (mount.source / "remote.log").write_bytes(b"x")
    (tmp_path / "logs" / "local.log").write_bytes(b"xx")
    mount.hang()
    try:
        agent = start_agent(f"{tmp_path}/logs/**/*.log")
        assert agent.scrape().values("fstat_file_size_bytes") == [2]
        (warning,) = [line for line in agent.log_path.read_text().splitlines() if "level=warn" in line]
        assert f"path={mount.path}" in warning
    finally:
        mount.answer()  # a process can not end before its call has returned
