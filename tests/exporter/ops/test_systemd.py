"""What systemd hears, at the other end of a real socket."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter.ops.systemd import Notifier, passed_descriptors
from tests.support import REPOSITORY, Server, free_port, program, wait_until


class Systemd:
    """The end of the socket at which systemd listens."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(20)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)

    def hear(self) -> dict[str, str]:
        """The next notification."""
        return dict(line.split("=", 1) for line in self._socket.recv(4096).decode().split("\n"))

    def hear_until(self, key: str) -> dict[str, str]:
        """The first from here on with this key."""
        while True:
            told = self.hear()
            if key in told:
                return told

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """Listens on either kind of address."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@fstat-exporter-{os.getpid()}"
    made = Systemd(address)
    yield made
    made.close()


def test_notifications(systemd: Systemd) -> None:
    """Each as sd_notify(3) has it."""
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
    notifier.progress("Scanning.")
    assert systemd.hear() == {"STATUS": "Scanning.", "EXTEND_TIMEOUT_USEC": "30000000"}
    notifier.ready()
    assert systemd.hear() == {"READY": "1", "STATUS": "Following the files."}
    before_us = time.monotonic_ns() // 1000
    notifier.reloading()
    told = systemd.hear()
    assert before_us <= int(told.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert told == {"RELOADING": "1", "STATUS": "Reloading."}
    notifier.alive()
    assert systemd.hear() == {"WATCHDOG": "1"}
    notifier.stopping()
    assert systemd.hear() == {"STOPPING": "1", "STATUS": "Stopping."}


def test_nobody_listens(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    """That is told once; without systemd nothing is sent, and nothing told."""
    Notifier({}).ready()
    notifier = Notifier({"NOTIFY_SOCKET": systemd.address})
    systemd.close()
    for _ in range(3):
        notifier.ready()
    assert [record.getMessage() for record in caplog.records] == ["cannot notify systemd"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2500000"}, 2.5),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"}, None),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "often"}, None),
        ({"NOTIFY_SOCKET": "/x"}, None),
        ({"WATCHDOG_USEC": "2500000"}, None),
    ],
)
def test_watchdog(environment: dict[str, str], expected: float | None) -> None:
    """Wanted by systemd, of this process."""
    assert Notifier(environment).watchdog_s == expected


@pytest.mark.alone
def test_the_agent_as_a_service(systemd: Systemd, tmp_path: Path) -> None:
    """READY after the first scan, the watchdog twice in its time, a reload from its beginning to its end, STOPPING; a
    status for each configuration that cannot be used, and for the return to the one in use.
    """
    (tmp_path / "a.log").touch()
    config = tmp_path / "x.yml"
    config.write_text(f"logs: [{{group: a, paths: ['{tmp_path}/*.log']}}]")
    command = [sys.executable, "-W", "error", "-m", "exporter", "--config.file", str(config)]
    command.append("--web.listen-address=127.0.0.1:0")
    environment = {**os.environ, "NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "1000000"}
    log_path = tmp_path / "agent.out"
    with log_path.open("wb") as log:
        agent = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY, env=environment)
    try:
        assert systemd.hear()["STATUS"].startswith("Scanning: ")
        assert systemd.hear()["READY"] == "1"
        began = time.monotonic()
        for _ in range(3):
            assert systemd.hear() == {"WATCHDOG": "1"}
        assert 1 < time.monotonic() - began < 5
        config.write_text(f"logs: [{{group: b, paths: ['{tmp_path}/*.log']}}]")
        agent.send_signal(signal.SIGHUP)
        assert "MONOTONIC_USEC" in systemd.hear_until("RELOADING")
        assert systemd.hear_until("READY")["STATUS"] == "Following the files."
        text = config.read_text()
        for broken, is_asked_for in (("logs: 1", True), ("logs: 2", False)):
            config.write_text(broken)
            if is_asked_for:
                agent.send_signal(signal.SIGHUP)
                assert systemd.hear_until("RELOADING")
            assert "cannot be used" in systemd.hear_until("READY")["STATUS"]
            config.write_text(text)
            assert systemd.hear_until("READY")["STATUS"] == "Following the files."
        agent.send_signal(signal.SIGTERM)
        assert systemd.hear_until("STOPPING")
        assert agent.wait(5) == 0
    finally:
        agent.kill()
        agent.wait()
    text = log_path.read_text()
    wait_until(lambda: "stopped" in text)
    assert re.findall("Traceback|level=warn(?! logger=fstat_cache.handles)", text) == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"}, [3, 4]),
        ({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}, []),
        ({"LISTEN_PID": "1", "LISTEN_FDS": "2"}, []),
        ({"LISTEN_FDS": "2"}, []),
        ({}, []),
    ],
)
def test_passed_descriptors(environment: dict[str, str], expected: list[int]) -> None:
    """Those of this process, as sd_listen_fds(3) has it."""
    assert list(passed_descriptors(environment)) == expected


def test_socket_activation(tmp_path: Path) -> None:
    """The first request starts the agent, which answers it on the socket that it was passed; no other is opened."""
    port = free_port()
    activate = [program("systemd-socket-activate", "it comes with systemd"), f"--listen=127.0.0.1:{port}"]
    command = [*activate, sys.executable, "-W", "error", "-m", "exporter", "--web.systemd-socket"]
    # A port that is taken: the flag overrides this one too.
    command += [f"--web.listen-address=127.0.0.1:{port}", f"{tmp_path}/*.log"]
    server = Server(command, tmp_path / "agent.out", port)
    try:
        wait_until(lambda: "Listening on" in server.log_path.read_text())
        assert "exporter" not in server.log_path.read_text()
        assert server.get("/-/healthy").status == 200
        server.wait_for("/-/ready")
        log = server.log_path.read_text()
        assert "listening on the sockets from systemd; web.listen_address is not used" in log
        assert re.findall(r"msg=listening url=(\S+)", log) == [f"http://127.0.0.1:{port}/"]
    finally:
        assert server.stop() == 0
    faults = "Traceback|level=(?:warn(?! logger=fstat_cache.handles)|error)|Warning"
    assert re.findall(faults, server.log_path.read_text()) == []


PASSED = """
import os, socket, sys
family, kind, listens = sys.argv[1:4]
if family != "none":
    passed = socket.socket(getattr(socket, family), getattr(socket, kind))
    if listens == "yes":
        passed.listen()
    os.dup2(passed.fileno(), 3)
    os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "exporter", "--web.systemd-socket", "x"])
"""


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (
            ["none", "", ""],
            "systemd passed no socket; start a .socket unit of the service, or leave --web.systemd-socket",
        ),
        (
            ["AF_INET", "SOCK_DGRAM", "no"],
            "descriptor 3 from systemd is no listening TCP socket; expected ListenStream=",
        ),
        (["AF_INET", "SOCK_STREAM", "no"], "descriptor 3 from systemd is no listening TCP socket; expected ListenStre"),
        (["AF_UNIX", "SOCK_STREAM", "no"], "descriptor 3 from systemd is no listening TCP socket; expected ListenStre"),
    ],
)
def test_sockets_that_cannot_be_used(passed: list[str], expected: str) -> None:
    """One line with the remedy."""
    command = [sys.executable, "-c", PASSED, *passed]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert f"fstat-exporter: {expected}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
