"""TLS and passwords on the real agent: who gets in, what changes while it runs, what never shows."""

import base64
import contextlib
import http.client
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest

from tests.certificates import Pair, make_pair
from tests.support import (
    REPOSITORY,
    Process,
    Response,
    Stopwatch,
    environment,
    free_port,
    parse_scrape,
    program,
    wait_until,
)

PASSWORD = "hunter2-%41:ü"


def hashed(password: str, cost: int = 4) -> str:
    """A bcrypt hash as htpasswd writes it."""
    return "$2y$" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()[4:]


def basic(user: str, password: str) -> str:
    """The header of a request."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Protected(Process):
    """The agent with a web configuration, which is `web.yml` in its folder."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.path, self.port = folder, folder / "web.yml", free_port()
        self.path.write_text(text)
        address = f"--web.listen-address=127.0.0.1:{self.port}"
        flags = [f"--web.config.file={self.path}", address, "--log.level=debug", f"{folder}/*.log"]
        super().__init__([sys.executable, "-W", "error", "-m", "exporter", *flags], folder / "agent.out")
        wait_until(lambda: self.alive() and "scan done" in self.log(), 20, self.log)

    def log(self) -> str:
        """Everything logged up to now."""
        return self.log_path.read_text()

    def replace(self, text: str) -> None:
        """Put another configuration in place of the one there is, as ConfigMaps do it."""
        new = self.folder / "new.yml"
        new.write_text(text)
        new.rename(self.path)

    def ask(
        self,
        target: str,
        *,
        user: str = "",
        password: str = PASSWORD,
        tls: ssl.SSLContext | None = None,
        method: str = "GET",
        timeout_s: float = 10,
    ) -> Response:
        """One request on a connection of its own."""
        headers = {"Authorization": basic(user, password)} if user else {}
        kind = http.client.HTTPConnection if tls is None else http.client.HTTPSConnection
        connection = kind("127.0.0.1", self.port, timeout=timeout_s, **({"context": tls} if tls is not None else {}))
        try:
            connection.request(method, target, headers=headers)
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


Start = Callable[[str], Protected]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the agent; it must stop with 0, without a traceback or a password in its log."""
    agents: list[Protected] = []

    def begin(text: str) -> Protected:
        agents.append(Protected(tmp_path, text))
        return agents[-1]

    yield begin
    for agent in agents:
        assert agent.stop() == 0, agent.log()
        assert "Traceback" not in agent.log(), agent.log()
        assert PASSWORD not in agent.log()
        assert "$2y$04$" not in agent.log()
        keys = "".join(path.read_text() for path in tmp_path.rglob("*.key"))
        assert not [line for line in keys.splitlines() if line in agent.log()]


def trusting(*pairs: Pair, client: Pair | None = None) -> ssl.SSLContext:
    """A client that trusts some certificates, and may have one itself."""
    context = ssl.create_default_context()
    for pair in pairs:
        context.load_verify_locations(pair.cert)
    if client is not None:
        context.load_cert_chain(client.cert, client.key)
    return context


def serial(agent: Protected, context: ssl.SSLContext) -> str:
    """Which certificate a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", agent.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return str(connection.getpeercert()["serialNumber"])  # type: ignore[index]


def test_every_path_needs_the_password(start: Start) -> None:
    """Those that do not exist too; with it everything is as ever, and the password goes with any character."""
    agent = start(f"basic_auth_users: {{alice: '{hashed(PASSWORD)}'}}")
    for path in ("/metrics", "/", "/-/healthy", "/-/ready", "/no/such"):
        reply = agent.ask(path)
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith("Basic ")
        assert reply.body == b"401 Unauthorized\n"
        assert agent.ask(path, method="POST").status == agent.ask(path, method="BREW").status == 401
        assert agent.ask(path, method="HEAD").body == b""
        assert agent.ask(path, user="alice", password="wrong").status == 401
        assert agent.ask(path, user="bob").status == 401
        assert agent.ask(path, user="alice", password="").status == 401
        assert agent.ask(path, user="alice").status == (404 if path == "/no/such" else 200)
    assert agent.ask("/metrics", user="alice", method="POST").status == 405
    scrape = parse_scrape(agent.ask("/metrics", user="alice").body.decode())
    assert scrape.value("fstat_exporter_web_config_last_reload_successful") == 1


def test_strange_credentials(start: Start) -> None:
    """401, whatever it is."""
    agent = start(f"basic_auth_users: {{alice: '{hashed(PASSWORD)}'}}")
    encoded = ["", "!", "YWxpY2U=", "A" * 15000, "YQBiOmMA", "==", "Og==", "//8="]
    for value in ("", "Basic", "Bearer x", *(f"Basic {each}" for each in encoded)):
        connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=10)
        connection.request("GET", "/metrics", headers={"Authorization": value})
        assert connection.getresponse().status == 401
        connection.close()


def test_long_passwords(start: Start) -> None:
    """Count up to 72 bytes, as everywhere with bcrypt; nobody gets a 500 for more."""
    password = "x" * 72
    agent = start(f"basic_auth_users: {{alice: '{hashed(password)}'}}")
    assert agent.ask("/", user="alice", password=password + "y" * 1000).status == 200
    assert agent.ask("/", user="alice", password="x" * 71).status == 401


@pytest.mark.alone
def test_time_tells_nothing(start: Start) -> None:
    """A user that does not exist takes as long as one that does; a scrape with the right password pays bcrypt once."""
    agent = start(f"basic_auth_users: {{alice: '{hashed(PASSWORD, 10)}'}}")

    def seconds(user: str, password: str) -> float:
        began = time.monotonic()
        agent.ask("/-/ready", user=user, password=password)
        return time.monotonic() - began

    seconds("alice", PASSWORD)
    right = statistics.median(seconds("alice", PASSWORD) for _ in range(6))
    known, unknown = [], []
    for number in range(6):
        known.append(seconds("alice", f"a{number}"))
        unknown.append(seconds(f"bob{number}", f"b{number}"))
    assert 0.6 < statistics.median(known) / statistics.median(unknown) < 1.6
    assert right < statistics.median(known) / 5


@pytest.mark.alone
def test_a_flood_of_wrong_passwords(start: Start, tmp_path: Path) -> None:
    """Those who are known are answered within a second beside it, from the same address too."""
    agent = start(f"basic_auth_users: {{alice: '{hashed(PASSWORD, 10)}'}}")
    assert agent.ask("/metrics", user="alice").status == 200
    attacker = Process(
        [sys.executable, "-m", "tests.e2e.attacker", "passwords", str(agent.port)], tmp_path / "attacker.out"
    )
    try:

        def seconds_of(password: str, status: int) -> float:
            watch = Stopwatch()
            assert agent.ask("/metrics", user="alice", password=password, timeout_s=30).status in (
                status,
                429 if status == 401 else status,
            )
            return watch.seconds()

        wait_until(lambda: seconds_of(str(time.time()), 401) > 0.5)  # others are waiting already
        seconds = [seconds_of(PASSWORD, 200) for _ in range(20)]
    finally:
        attacker.stop()
    # A second is the promise; one that takes longer may be the fault of whatever else this machine is doing.
    assert sorted(seconds)[-2] < 1
    assert statistics.median(seconds) < 0.6


@pytest.mark.alone
def test_stops_at_once_while_passwords_are_compared(start: Start) -> None:
    """However many are waiting."""
    agent = start(f"basic_auth_users: {{alice: '{hashed(PASSWORD, 12)}'}}")
    with contextlib.ExitStack() as stack:
        for number in range(20):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", agent.port), timeout=10))
            client.sendall(f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: {basic('bob', str(number))}\r\n\r\n".encode())
        watch = Stopwatch()
        assert agent.stop() == 0
        assert watch.seconds() < 1.5


def test_users_and_headers_change(start: Start) -> None:
    """With the very next request; so does a file that is broken, of which only the log and a metric tell."""
    agent = start(f"basic_auth_users: {{alice: '{hashed(PASSWORD)}'}}")
    assert agent.ask("/", user="alice").status == 200
    agent.replace(f"basic_auth_users: {{alice: '{hashed('other')}', bob: '{hashed(PASSWORD)}'}}")
    assert agent.ask("/", user="alice").status == 401
    assert agent.ask("/", user="alice", password="other").status == 200
    assert agent.ask("/", user="bob").status == 200
    for number, broken in enumerate((f"basic_auth_users: {{bob: '{PASSWORD}'}}", "\n", "basic_auth_users: {bob: *x}")):
        agent.replace(broken)
        assert [agent.ask("/", user=user).status for user in ("bob", "", "alice")] == [200, 401, 401]
        metrics = agent.ask("/metrics", user="bob").body.decode()
        assert parse_scrape(metrics).value("fstat_exporter_web_config_last_reload_successful") == 0
        assert agent.log().count("cannot be used") == number + 1
    agent.path.unlink()
    assert [agent.ask("/", user=user).status for user in ("bob", "")] == [200, 401]
    users = f"basic_auth_users: {{bob: '{hashed(PASSWORD)}'}}"
    agent.replace(users + "\nhttp_server_config: {headers: {X-Frame-Options: deny}}")
    metrics = agent.ask("/metrics", user="bob").body.decode()
    assert parse_scrape(metrics).value("fstat_exporter_web_config_last_reload_successful") == 1
    for reply in (agent.ask("/metrics", user="bob"), agent.ask("/no", user="bob"), agent.ask("/")):
        assert reply.headers["x-frame-options"] == "deny"
    agent.replace("{}")
    assert agent.ask("/").status == 200


def test_writes_in_place_are_seen(start: Start) -> None:
    """Also two at once, of the same length."""
    one, two = hashed("one"), hashed("two")
    agent = start(f"basic_auth_users: {{alice: '{one}'}}")
    for right, wrong, hash_ in [("two", "one", two), ("one", "two", one)] * 4:
        agent.path.write_text(f"basic_auth_users: {{alice: '{hash_}'}}")
        assert agent.ask("/", user="alice", password=wrong).status == 401
        assert agent.ask("/", user="alice", password=right).status == 200


def test_certificates_rotate(start: Start, tmp_path: Path) -> None:
    """New connections see the new one, those of the old one end with their next answer; a bad pair changes nothing."""
    pairs = [make_pair(tmp_path, f"pair{number}") for number in range(2)]
    both = trusting(*pairs)
    live = Pair(tmp_path / "live.crt", tmp_path / "live.key")

    def install(cert: Path, key: Path) -> None:
        for source, target in ((cert, live.cert), (key, live.key)):
            new = tmp_path / "new.pem"
            new.write_bytes(source.read_bytes())
            new.rename(target)

    install(pairs[0].cert, pairs[0].key)
    agent = start("tls_server_config: {cert_file: live.crt, key_file: live.key}")
    first = serial(agent, both)
    kept = http.client.HTTPSConnection("127.0.0.1", agent.port, timeout=10, context=both)
    kept.request("GET", "/-/ready")
    answer = kept.getresponse()
    assert (answer.status, answer.read(), answer.getheader("Connection")) == (200, b"Ready.\n", None)
    install(pairs[1].cert, pairs[0].key)
    assert serial(agent, both) == first
    assert serial(agent, both) == first
    assert agent.log().count("does not belong to the certificate") == 1
    install(pairs[1].cert, pairs[1].key)
    second = serial(agent, both)
    assert second != first
    kept.request("GET", "/-/ready")
    assert kept.getresponse().getheader("Connection") == "close"
    kept.close()
    # Also when there is no other connection that would tell.
    kept.request("GET", "/-/ready")
    kept.getresponse().read()
    install(pairs[0].cert, pairs[0].key)
    ends = []
    while "close" not in ends:
        kept.request("GET", "/-/ready")
        answer = kept.getresponse()
        assert answer.read() == b"Ready.\n"
        ends.append(answer.getheader("Connection"))
    # The agent checks the files when it begins to wait for a request: just before the change, or just after it.
    assert ends in (["close"], [None, "close"])
    kept.close()


def test_certificates_in_a_config_map(start: Start, tmp_path: Path) -> None:
    """A symbolic link to a folder is exchanged, as Kubernetes does it."""
    pairs = []
    for number in range(2):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        pairs.append(make_pair(folder, "tls"))
    (tmp_path / "..data").symlink_to("..0")
    agent = start("tls_server_config: {cert_file: ..data/tls.crt, key_file: ..data/tls.key}")
    context = trusting(*pairs)
    first = serial(agent, context)
    (tmp_path / "new").symlink_to("..1")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert serial(agent, context) != first


def test_client_certificates(start: Start, tmp_path: Path) -> None:
    """Only those of the authority with one of the names get in; the authority can be changed."""
    server, authority, stranger = (make_pair(tmp_path, name) for name in ("server", "authority", "stranger"))
    good = make_pair(tmp_path, "good", issuer=authority, names="DNS:prometheus,IP:::1")
    nameless = make_pair(tmp_path, "nameless", issuer=authority, names="DNS:other")
    text = (
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, "
        "client_auth_type: RequireAndVerifyClientCert, client_allowed_sans: [%s]}"
    )
    (tmp_path / "ca.crt").write_bytes(authority.cert.read_bytes())
    agent = start(text % "prometheus")

    def is_in(client: Pair | None) -> bool:
        try:
            return agent.ask("/-/ready", tls=trusting(server, client=client)).status == 200
        except (ssl.SSLError, ConnectionError):
            return False

    assert [is_in(client) for client in (good, nameless, stranger, None)] == [True, False, False, False]
    agent.replace(text % "'::1', spiffe://x")
    assert [is_in(client) for client in (good, nameless)] == [True, False]
    (tmp_path / "ca.crt").write_bytes(stranger.cert.read_bytes())
    assert [is_in(client) for client in (good, stranger)] == [False, False]
    agent.replace(text % "localhost")
    assert [is_in(client) for client in (good, stranger)] == [False, True]
    agent.replace("tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: ca.crt, "
                  "client_auth_type: VerifyClientCertIfGiven}")  # fmt: skip
    assert [is_in(client) for client in (good, stranger, None)] == [False, True, True]


def test_versions_and_curves(start: Start, tmp_path: Path) -> None:
    """A client that does not speak what is asked for gets no connection."""
    server = make_pair(tmp_path, "server")
    agent = start("tls_server_config: {cert_file: server.crt, key_file: server.key, min_version: TLS13}")
    old = trusting(server)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        agent.ask("/", tls=old)
    assert agent.ask("/", tls=trusting(server)).status == 200
    agent.replace("tls_server_config: {cert_file: server.crt, key_file: server.key, curve_preferences: [CurveP521]}")
    other = trusting(server)
    other.set_ecdh_curve("prime256v1")
    with pytest.raises(ssl.SSLError):
        agent.ask("/", tls=other)
    assert agent.ask("/", tls=trusting(server)).status == 200


def test_plain_http_on_a_tls_port(start: Start, tmp_path: Path) -> None:
    """Is told so; junk and clients that say nothing disturb nobody."""
    server = make_pair(tmp_path, "server")
    agent = start("tls_server_config: {cert_file: server.crt, key_file: server.key}")
    reply = agent.ask("/metrics")
    assert (reply.status, b"HTTPS" in reply.body) == (400, True)
    with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as silent:
        for junk in (b"\0", b"\x16\x03\x01", b"\x80" * 1000, b"SSH-2.0-x\r\n"):
            with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as client:
                client.sendall(junk)
        assert agent.ask("/-/ready", tls=trusting(server)).status == 200
        silent.sendall(b"\x16")


def test_rate_limit(start: Start) -> None:
    """A burst passes, then the rest is told to come later."""
    agent = start("rate_limit: {interval: 1h, burst: 3}")
    assert [agent.ask("/-/ready").status for _ in range(5)] == [200, 200, 200, 429, 429]


def test_mistakes_are_told(tmp_path: Path) -> None:
    """On stderr, each with its place; also by --config.check."""
    path = tmp_path / "web.yml"
    path.write_text("tls_server_config: {cert_file: a}\nbasic_auth_user: {}\n")
    for flags in ([], ["--config.check"]):
        command = [sys.executable, "-m", "exporter", f"--web.config.file={path}", *flags, "/x"]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=20
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines() == [
            f"{path}:1:20: tls_server_config: one of 'key' and 'key_file' is missing",
            f"{path}:1:32: tls_server_config.cert_file: cannot be read: No such file or directory",
            f"{path}:2:1: basic_auth_user: unknown key, did you mean 'basic_auth_users'?",
        ]


def test_a_real_prometheus_scrapes_it(start: Start, tmp_path: Path) -> None:
    """With TLS, a client certificate and a password."""
    make_pair(tmp_path, "server")
    authority = make_pair(tmp_path, "authority")
    client = make_pair(tmp_path, "client", issuer=authority)
    agent = start(
        "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: authority.crt, "
        f"client_auth_type: RequireAndVerifyClientCert}}\nbasic_auth_users: {{prom: '{hashed(PASSWORD, 10)}'}}"
    )
    (tmp_path / "password").write_text(PASSWORD)
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(
        f"""
        global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
        scrape_configs:
          - job_name: fstat
            scheme: https
            basic_auth: {{username: prom, password_file: password}}
            tls_config:
              {{ca_file: server.crt, cert_file: {client.cert}, key_file: {client.key}, server_name: localhost}}
            static_configs: [{{targets: ["127.0.0.1:{agent.port}"]}}]
        """
    )
    flags = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    prometheus = Process(
        [program("prometheus"), *flags, f"--web.listen-address=127.0.0.1:{port}"], tmp_path / "prometheus.out"
    )
    try:
        query = "/api/v1/query?query=fstat_exporter_web_config_last_reload_successful"

        def scraped() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", query)
                return b'"1"]' in connection.getresponse().read()
            except ConnectionError:
                return False
            finally:
                connection.close()

        wait_until(scraped, 20, prometheus.log_path.read_text)
    finally:
        prometheus.stop()
