"""The HTTP side over real sockets: a server in a thread, a bare client."""

import asyncio
import contextlib
import errno
import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import bcrypt
import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from exporter.config.fields.scalars import ListenAddress
from exporter.overview import FilesQuery, Json
from exporter.web import handlers, outbox, server, streams
from exporter.web.page import page_files
from exporter.web.security.kubernetes import TokenAuthorizer
from exporter.web.security.web_config_file import WebConfigFile
from fstat_cache import CacheClosedError
from tests.support import PROMETHEUS_ACCEPT, Stopwatch, parse_scrape, wait_until


@dataclass(eq=False)
class Answer(Collector):
    """A collector under the test's control."""

    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)
    fail: bool = False
    padding: int = 0

    def describe(self) -> Iterable[Metric]:
        """The two families."""
        return [Metric("one", "1", "gauge"), Metric("two", "2", "gauge")]

    def collect(self) -> Iterable[Metric]:
        """Wait until the test lets it go on."""
        self.entered.release()
        assert self.go_on.wait(20)
        if self.fail:
            raise RuntimeError("secret")
        for metric in self.describe():
            metric.add_sample(metric.name, {"padding": "x" * self.padding}, 1)
            yield metric


class Registered:
    """Answers scrapes with what a registry collects."""

    groups = frozenset({"g"})

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def about_the_agent(self, encode: Callable[[Collector], bytes]) -> bytes:
        """As the real one."""
        return encode(self._registry)

    def scrape(
        self,
        encode: Callable[[Collector], bytes],
        *,
        is_openmetrics: bool,
        is_compressed: bool,
        names: Sequence[str],
        groups: Sequence[str],
        timeout_s: float | None,
    ) -> list[bytes]:
        """As the real one, without files."""
        del is_openmetrics, groups, timeout_s
        body = encode(self._registry.restricted_registry(names) if names else self._registry)
        return [gzip.compress(body) if is_compressed else body]


class Known:
    """Shows an overview of nothing."""

    groups = frozenset({"g"})

    def __init__(self) -> None:
        self.error: Exception | None = None

    def files(self, query: FilesQuery) -> Json:
        """What was asked for, more than once: so there is something to compress."""
        if self.error is not None:
            raise self.error
        return {"search": query.search * 1000}


class Web:
    """The server, on a loop of its own."""

    def __init__(
        self, path: str = "/metrics", web_config_path: str | None = None, tokens: TokenAuthorizer | None = None
    ) -> None:
        self.answer = Answer()
        self.answer.go_on.set()
        self.healthy = self.ready = True
        self.health_checks = 0
        registry = CollectorRegistry()
        registry.register(self.answer)
        self.known = Known()
        self._site = handlers.Site(
            Registered(registry),
            self.known,
            path,
            self._find_fault,
            lambda: None if self.ready else "Not yet.",
            WebConfigFile(web_config_path),
            tokens=tokens,
        )
        (bound,) = server.listen(ListenAddress("127.0.0.1", 0))
        self.port = bound.getsockname()[1]
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(bound, started)))
        self._thread.start()
        assert started.wait(10)

    async def _serve(self, bound: socket.socket, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.server = server.Server(handlers.Application(self._site), self._site.web_config)
        self.server.add_sockets([bound])
        started.set()
        await self._stop.wait()
        await self.server.shut_down(5)

    async def _find_fault(self) -> str | None:
        self.health_checks += 1
        return None if self.healthy else "The thread is dead."

    def close(self) -> float:
        """Stop; return how many seconds that took."""
        began = time.monotonic()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
            assert not self._thread.is_alive()
        self.answer.go_on.set()
        return time.monotonic() - began

    def connect(self) -> "Connection":
        """A new connection."""
        return Connection(socket.create_connection(("127.0.0.1", self.port), timeout=10))

    def get(self, target: str, method: str = "GET", **headers: str) -> "Reply":
        """One request on a connection of its own."""
        with self.connect() as connection:
            connection.send(method, target, **headers)
            return connection.read(method)


@dataclass(frozen=True)
class Reply:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """As little of HTTP as is needed to see what really comes over the wire."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._file = sock.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *args: object) -> None:
        self._file.close()
        self.socket.close()

    def send(self, method: str, target: str, **headers: str) -> None:
        """Send a request."""
        lines = [f"{method} {target} HTTP/1.1", "Host: x"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def read(self, method: str = "GET") -> Reply:
        """Read one response."""
        status = self._file.readline().split()
        assert status, "the connection was closed"
        headers = {}
        while line := self._file.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        return Reply(int(status[1]), headers, self._file.read(length))

    def closed(self) -> bool:
        """Wait for the server to close the connection."""
        try:
            return self._file.read() == b""
        except ConnectionResetError:
            return True


@pytest.fixture
def make() -> Iterator[Callable[..., Web]]:
    """Makes servers and stops them."""
    made: list[Web] = []

    def start(path: str = "/metrics", web_config_path: str | None = None) -> Web:
        made.append(Web(path, web_config_path))
        return made[-1]

    yield start
    for each in made:
        each.answer.go_on.set()
        each.close()


@pytest.fixture
def web(make: Callable[..., Web]) -> Web:
    """A server as it is by default."""
    return make()


def test_metrics(web: Web) -> None:
    """Classic text by default, OpenMetrics for Prometheus."""
    reply = web.get("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "server" not in reply.headers
    assert parse_scrape(reply.body.decode()).value("one") == 1
    reply = web.get("/metrics", Accept=PROMETHEUS_ACCEPT)
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert parse_scrape(reply.body.decode(), openmetrics=True).value("two") == 1


def test_gzip(web: Web) -> None:
    """Compressed when asked for, and only then."""
    plain = web.get("/metrics", Accept_Encoding="gzip;q=0")
    assert "content-encoding" not in plain.headers
    packed = web.get("/metrics", Accept_Encoding="deflate, GZIP")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


@pytest.mark.parametrize("host", ["http://x", "HTTP://127.0.0.1:10943", "https://[::1]:1"])
def test_absolute_form(web: Web, host: str) -> None:
    """The target may be a whole URL, as RFC 9112, 3.2.2, asks of every server."""
    reply = web.get(f"{host}/metrics?name[]=two")
    assert parse_scrape(reply.body.decode()).types.keys() == {"two"}
    assert web.get(f"{host}/x").status == 404
    assert b"fstat-exporter" in web.get(host).body
    assert web.get(f"{host}?x").status == 200


def test_filter(web: Web) -> None:
    """`name[]` chooses, as in prometheus_client."""
    scrape = parse_scrape(web.get("/metrics?name[]=two&name[]=three").body.decode())
    assert scrape.types.keys() == {"two"}
    both = parse_scrape(web.get("/metrics?name%5B%5D=two&name[]=one&x=y").body.decode())
    assert both.types.keys() == {"one", "two"}


def test_before_the_first_scan(web: Web) -> None:
    """Neither metrics nor ready; healthy all the same."""
    web.ready = False
    paths = ("/metrics", "/-/ready", "/api/v1/files", "/-/healthy", "/")
    assert [web.get(path).status for path in paths] == [503, 503, 503, 200, 200]
    assert web.get("/metrics").body.startswith(b"# Not yet.\n")
    web.ready = True
    assert [web.get(path).status for path in paths] == [200] * 5


def test_healthy(web: Web) -> None:
    """Not when the thread that follows the files is dead."""
    web.healthy = False
    assert web.get("/-/healthy").status == 503


def test_index(make: Callable[..., Web]) -> None:
    """Name, version and links, also to metrics elsewhere."""
    web = make("/a.b/m")
    page = web.get("/").body.decode()
    assert "fstat-exporter 0.1.0" in page
    for link in ("/a.b/m", "/-/healthy", "/-/ready"):
        assert f'href="{link}"' in page
        assert web.get(link).status == 200
    assert web.get("/aXb/m").status == 404
    assert web.get("/metrics").status == 404


def test_host_name_is_escaped() -> None:
    """A host's name is text in the title and in the heading, whatever is in it."""
    page = page_files("/metrics", "<b>$host&")[""].body.decode()
    assert page.count("&lt;b&gt;$host&amp;") == 2
    assert "<b>" not in page


def test_page_loads_nothing_from_elsewhere(web: Web) -> None:
    """What it names is here, with its type; the policy allows nothing else and nothing inline."""
    page = web.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(directive.strip().split(" ", 1) for directive in page.headers["content-security-policy"].split(";"))
    assert policy.pop("default-src") == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "connect", "img")} == {"'self'"}
    named = re.findall(r'(?:src|href)="(static/[^"]+)"', page.body.decode())
    types = {"svg": "image/svg+xml", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    assert {name.rsplit(".")[-1] for name in named} == types.keys()
    for name in named:
        reply = web.get(f"/{name}")
        assert (reply.status, reply.headers["content-type"]) == (200, types[name.rsplit(".")[-1]])
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", reply.body)
    assert web.get("/static/index.html").status == web.get("/static/").status == 404


def test_api(web: Web) -> None:
    """JSON, never stored, compressed when asked for; a bad parameter is 400 with a line that says what was expected."""
    reply = web.get("/api/v1/files?search=a%20b")
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert "content-encoding" not in reply.headers
    assert json.loads(reply.body) == {"search": ["a", "b"] * 1000}
    packed = web.get("/api/v1/files?search=a%20b", Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == reply.body
    assert "content-encoding" not in web.get("/api/v1/files", Accept_Encoding="gzip").headers
    bad = web.get("/api/v1/files?limit=many")
    assert (bad.status, bad.body) == (400, b"limit: 'many', expected a whole number from 1 to 1000\n")
    assert bad.headers["content-type"] == "text/plain; charset=utf-8"
    assert web.get("/api/v1/files?search=%ff").status == 400
    assert web.get("/api/v1/files?%ff=").status == 400
    assert web.get("/api/v1/").status == web.get("/api/v1/files/").status == 404


def test_api_while_the_agent_stops(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    """503, and no word in the log; what fails otherwise is 500 and told there."""
    web.known.error = CacheClosedError("closed")
    assert web.get("/api/v1/files").status == 503
    assert caplog.records == []
    web.known.error = RuntimeError("secret")
    reply = web.get("/api/v1/files")
    assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")
    assert "secret" in caplog.text


@pytest.mark.parametrize("path", ["/x", "/metrics/", "/metricsx", "/-/", "//metrics", "/../etc/passwd", "/%2e%2e", "*"])
def test_unknown_paths(web: Web, path: str) -> None:
    """404, and nothing else."""
    reply = web.get(path)
    assert (reply.status, reply.body) == (404, b"404 Not Found\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/", "/api/v1/files", "/static/page.js"])
def test_other_methods(web: Web, method: str, path: str) -> None:
    """405 with the methods that are allowed, whatever page the request came from."""
    reply = web.get(path, method, Content_Length="0", Origin="http://elsewhere")
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert reply.body == b"405 Method Not Allowed\n"


def test_who_may_not_ask_learns_nothing(make: Callable[..., Web], tmp_path: Path) -> None:
    """Not whether there is such a method, nor what is wrong with a form; the connection can be used again."""
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{a: '{bcrypt.hashpw(b'b', bcrypt.gensalt(4)).decode()}'}}")
    with make(web_config_path=str(path)).connect() as connection:
        for method, kind in (("BREW", "text/plain"), ("POST", "multipart/form-data"), ("GET", "text/plain")):
            connection.send(method, "/", Content_Type=kind, Content_Length="3")
            connection.socket.sendall(b"x=%")
            reply = connection.read()
            assert (reply.status, reply.body) == (401, b"401 Unauthorized\n")
            assert reply.headers["www-authenticate"].startswith("Basic ")


@pytest.mark.parametrize("path", ["/metrics", "/-/healthy", "/-/ready", "/", "/x", "/api/v1/files"])
def test_head(web: Web, path: str) -> None:
    """HEAD has the headers of GET and no body; the connection can be used again."""
    get = web.get(path)
    with web.connect() as connection:
        for _ in range(2):
            connection.send("HEAD", path)
            head = connection.read("HEAD")
            assert head.status == get.status
            assert head.headers["content-length"] == get.headers["content-length"]


def test_keep_alive(web: Web) -> None:
    """One connection for many requests, also when they are sent before the answers are read."""
    with web.connect() as connection:
        for _ in range(3):
            connection.send("GET", "/-/ready")
            assert connection.read().status == 200
        for _ in range(3):
            connection.send("GET", "/metrics")
        assert [connection.read().status for _ in range(3)] == [200] * 3
        connection.send("GET", "/", Connection="close")
        assert connection.read().status == 200
        assert connection.closed()


def test_no_stack_trace(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    """When a scrape fails the client learns only that, and the next one is served."""
    web.answer.fail = True
    reply = web.get("/metrics")
    assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")
    assert "secret" in caplog.text
    web.answer.fail = False
    assert web.get("/metrics").status == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\xff\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
    ],
)
def test_junk(web: Web, request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is no request, or too large for one, ends its connection; the others are served."""
    with web.connect() as connection:
        try:
            connection.socket.sendall(request_bytes)
            reply = b"".join(iter(lambda: connection.socket.recv(65536), b""))
        except (ConnectionResetError, BrokenPipeError):
            reply = b""
    assert reply == b"" or reply.startswith((b"HTTP/1.1 400", b"HTTP/1.1 405"))
    assert b"Traceback" not in reply
    assert web.get("/metrics").status == 200
    assert [record.exc_info for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("query", ["?name[]=%ff", "?name[]=", "?" + "&" * 5000, "?name[]=" + "%00" * 100])
def test_strange_queries(web: Web, query: str) -> None:
    """Answered or refused, never an error of ours."""
    assert web.get("/metrics" + query).status in (200, 400)


def test_scrapes_do_not_block_the_loop(web: Web) -> None:
    """While a scrape takes its time everything else is answered; those who wait share the next one."""
    web.answer.go_on.clear()
    connections = [web.connect() for _ in range(10)]
    connections[0].send("GET", "/metrics")
    assert web.answer.entered.acquire(timeout=10)
    for connection in connections[1:]:
        connection.send("GET", "/metrics")
    assert web.get("/-/healthy").status == 200
    assert not web.answer.entered.acquire(timeout=0.1)
    web.answer.go_on.set()
    replies = [connection.read() for connection in connections]
    assert [reply.status for reply in replies] == [200] * 10
    assert web.answer.entered.acquire(timeout=10)
    assert not web.answer.entered.acquire(timeout=0.1)
    for connection in connections:
        connection.__exit__()


def test_what_is_shared_is_the_same_question(web: Web) -> None:
    """Another format or coding is another scrape; one that has begun already is shared with nobody."""
    web.answer.go_on.clear()
    with contextlib.ExitStack() as stack:
        first, plain, again, packed, openmetrics = [stack.enter_context(web.connect()) for _ in range(5)]
        first.send("GET", "/metrics")
        assert web.answer.entered.acquire(timeout=10)
        plain.send("GET", "/metrics")
        again.send("GET", "/metrics")
        packed.send("GET", "/metrics", Accept_Encoding="gzip")
        openmetrics.send("GET", "/metrics", Accept=PROMETHEUS_ACCEPT)
        assert web.get("/-/healthy").status == 200
        web.answer.go_on.set()
        bodies = [connection.read().body for connection in (first, plain, again, packed, openmetrics)]
    assert bodies[0] == bodies[1] == bodies[2] == gzip.decompress(bodies[3])
    assert bodies[4].endswith(b"# EOF\n")
    for _ in range(3):
        assert web.answer.entered.acquire(timeout=10)
    assert not web.answer.entered.acquire(timeout=0.1)


def test_filters_do_not_keep_scrapes_waiting(web: Web) -> None:
    """However many ask for something special, a scrape of everything has a queue of its own."""
    web.answer.go_on.clear()
    with contextlib.ExitStack() as stack:
        for number in range(20):
            stack.enter_context(web.connect()).send("GET", f"/metrics?name[]=one&name[]={number}")
        assert web.answer.entered.acquire(timeout=10)
        with web.connect() as whole:
            whole.send("GET", "/metrics")
            assert web.answer.entered.acquire(timeout=10)
            web.answer.go_on.set()
            assert whole.read().status == 200


def test_prometheus_is_told_that_its_time_is_over(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    """A scrape that takes longer than it may is answered before Prometheus hangs up; the next one is as any."""
    web.answer.go_on.clear()
    reply = web.get("/metrics", X_Prometheus_Scrape_Timeout_Seconds="0.2")
    assert (reply.status, reply.body) == (503, b"The scrape was not done within 0.18 s.\n")
    assert "a scrape timed out" in caplog.text
    web.answer.go_on.set()
    assert web.get("/metrics", X_Prometheus_Scrape_Timeout_Seconds="20").status == 200


def test_clients_that_left_cost_no_scrape(web: Web) -> None:
    """A request in the queue whose client has gone is dropped."""
    web.answer.go_on.clear()
    with web.connect() as running:
        running.send("GET", "/metrics")
        assert web.answer.entered.acquire(timeout=10)
        for _ in range(20):
            with web.connect() as connection:
                connection.send("GET", "/metrics")
        assert web.get("/-/healthy").status == 200  # sent later, so those have been read
        wait_until(lambda: len(web.server._connections) == 1)
        web.answer.go_on.set()
        assert running.read().status == 200
    assert web.get("/metrics").status == 200
    count = 0
    while web.answer.entered.acquire(timeout=0.1):
        count += 1
    assert count == 1


def test_slow_readers_hold_nothing(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that ask and do not read keep nobody waiting, and are disconnected after a while."""
    monkeypatch.setattr(outbox, "STALL_TIMEOUT_S", 1)
    web.answer.padding = 8 << 20
    slow = []
    for _ in range(6):
        connection = web.connect()
        connection.send("GET", "/metrics")
        slow.append(connection)
    assert web.answer.entered.acquire(timeout=10)
    assert web.get("/metrics?name[]=one").status == 200
    wait_until(lambda: len(web.server._connections) == 0)
    for connection in slow:
        connection.__exit__()


@pytest.mark.parametrize(
    "sent", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"]
)
def test_half_open_connections_time_out(make: Callable[..., Web], monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """A request that is never complete is not waited for for ever."""
    monkeypatch.setattr(streams, "REQUEST_TIMEOUT_S", 0.3)
    web = make()
    with web.connect() as connection:
        connection.socket.sendall(sent)
        assert connection.closed()


def test_keep_alive_is_more_patient(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its first request a connection may be silent for longer than before it, but not for ever."""
    with web.connect() as kept:
        kept.send("GET", "/-/ready")
        assert kept.read().status == 200
        with monkeypatch.context() as impatient:
            impatient.setattr(streams, "REQUEST_TIMEOUT_S", 0.2)
            kept.send("GET", "/-/ready")
            assert kept.read().status == 200
            wait_until(lambda: len(web.server._waiting) == 1)
            with web.connect() as silent:  # later, and closed all the same
                assert silent.closed()
        kept.send("GET", "/-/ready")
        assert kept.read().status == 200
        monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.2)
        kept.send("GET", "/-/ready")
        assert kept.read().status == 200
        assert kept.closed()


def test_a_later_request_has_no_more_time_than_the_first(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a kept connection too, from its first byte on; one that came behind the request before it as well."""
    complete = b"GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n"
    with web.connect() as first, web.connect() as second, web.connect() as kept:
        for connection in (first, second, kept):
            connection.socket.sendall(complete)
            assert connection.read().status == 200
        monkeypatch.setattr(streams, "REQUEST_TIMEOUT_S", 0.3)
        kept.socket.sendall(complete)
        second.socket.sendall(complete + b"GET /-/re")
        first.socket.sendall(complete)
        for connection in (kept, second, first):
            assert connection.read().status == 200
        wait_until(lambda: len(web.server._waiting) == 3)
        first.socket.sendall(b"G")
        assert first.closed()
        assert second.closed()
        kept.socket.sendall(complete)
        assert kept.read().status == 200


def test_those_who_stall_longest_make_room(web: Web) -> None:
    """Of many clients that do not read only some are kept; those who read slowly get everything."""
    web.answer.padding = 8 << 20
    with contextlib.ExitStack() as stack:
        stalled = []
        for _ in range(20):
            stalled.append(stack.enter_context(web.connect()))
            stalled[-1].send("GET", "/metrics?name[]=one")
            assert web.answer.entered.acquire(timeout=10)
        wait_until(lambda: len(web.server._connections) == 16)
        reply = web.get("/metrics?name[]=one")
        assert (reply.status, len(reply.body) > 8 << 20) == (200, True)
        assert stalled[-1].read().status == 200


def test_those_who_stall_at_once_make_room_too(web: Web) -> None:
    """Of many who get one and the same answer no more are kept than of those who come one after the other."""
    web.answer.padding = 8 << 20
    web.answer.go_on.clear()
    with contextlib.ExitStack() as stack:
        stack.enter_context(web.connect()).send("GET", "/metrics")
        assert web.answer.entered.acquire(timeout=10)
        for _ in range(40):
            stack.enter_context(web.connect()).send("GET", "/metrics")
        assert web.get("/-/ready").status == 200  # sent later, so those have been read
        web.answer.go_on.set()
        wait_until(lambda: len(web.server._connections) == 16)


def test_what_a_closed_connection_had_sent_ahead_is_dropped(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a client go the requests that it has sent behind the one whose answer it does not read."""
    monkeypatch.setattr(outbox, "STALL_TIMEOUT_S", 0.3)
    web.answer.padding = 8 << 20
    with web.connect() as connection:
        behind = b"GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n" * 100
        connection.socket.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" + behind)
        assert web.answer.entered.acquire(timeout=10)
        wait_until(lambda: not web.server._connections)
    assert web.health_checks == 0


def test_the_longest_waiting_connection_makes_room(make: Callable[..., Web], monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are too many of them; requests that are being answered are left alone, and a new client gets in."""
    monkeypatch.setattr(server, "_MAX_CONNECTIONS", 10)
    web = make()
    web.answer.go_on.clear()
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(web.connect())
        busy.send("GET", "/metrics")
        assert web.answer.entered.acquire(timeout=10)
        idle = [stack.enter_context(web.connect()) for _ in range(30)]
        assert web.get("/-/ready").status == 200
        assert len(web.server._connections) <= 10
        assert all(connection.closed() for connection in idle[:20])
        web.answer.go_on.set()
        assert busy.read().status == 200


def test_what_is_sent_far_ahead_is_not_kept(web: Web) -> None:
    """Of a client that sends requests without end and does not wait for answers not everything is read."""
    web.answer.go_on.clear()
    with web.connect() as connection:
        connection.send("GET", "/metrics")
        assert web.answer.entered.acquire(timeout=10)
        connection.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.socket.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000)
    assert web.get("/-/ready").status == 200


@pytest.mark.alone
@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_half_open_connections(web: Web) -> None:
    """They starve nobody."""
    with contextlib.ExitStack() as connections:
        for _ in range(1000):
            connection = connections.enter_context(web.connect())
            connection.socket.sendall(b"GET /metrics HTTP/1.1\r\n")
        wait_until(lambda: len(web.server._connections) == 1000)
        watch = Stopwatch()
        assert web.get("/metrics").status == 200
        assert watch.seconds() < 1


def test_stop_with_open_connections_and_a_running_scrape(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    """Neither holds up the end, and nothing is logged as an error."""
    web.answer.go_on.clear()
    with web.connect() as idle, web.connect() as busy:
        idle.send("GET", "/-/ready")
        assert idle.read().status == 200
        busy.send("GET", "/metrics")
        assert web.answer.entered.acquire(timeout=10)
        assert web.close() < 1
        assert idle.closed()
        assert busy.closed()
    assert [record.getMessage() for record in caplog.records] == []


def test_listen_everywhere() -> None:
    """An empty host is IPv4, and IPv6 where the machine has it, on the same port."""
    sockets = server.listen(ListenAddress("", 0))
    try:
        assert len({bound.getsockname()[1] for bound in sockets}) == 1
        families = {bound.family for bound in sockets}
        assert socket.AF_INET in families
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::", 0))
        except OSError:
            return
        assert socket.AF_INET6 in families
    finally:
        for bound in sockets:
            bound.close()


@pytest.mark.parametrize(
    ("bound", "is_tls", "expected"),
    [
        (("127.0.0.1", 9000), False, "http://127.0.0.1:9000/"),
        (("0.0.0.0", 9000), False, "http://localhost:9000/"),
        (("0.0.0.0", 9000), True, "https://localhost:9000/"),
        (("::", 9000, 0, 0), False, "http://[::1]:9000/"),
        (("fe80::1", 9000, 0, socket.if_nametoindex("lo")), True, "https://[fe80::1%25lo]:9000/"),
    ],
)
def test_url_of(bound: tuple[object, ...], is_tls: bool, expected: str) -> None:
    """A browser on this machine can open it: every address is reached as localhost."""
    sock = mock.Mock(spec=socket.socket)
    sock.getsockname.return_value = bound
    assert server.url_of(sock, is_tls=is_tls) == expected


def test_listen_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without IPv6 is listened on all the same."""
    real = socket.socket

    def without(family: int = -1, *args: int, **kwargs: object) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(97, "Address family not supported by protocol")
        return real(family, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", without)
    (bound,) = server.listen(ListenAddress("", 0))
    bound.close()


def test_listen_errors() -> None:
    """Each says which address and why."""
    (taken,) = server.listen(ListenAddress("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with taken:
        with pytest.raises(server.ListenError, match=rf"cannot listen on 127.0.0.1:{port}: address already in use"):
            server.listen(ListenAddress("127.0.0.1", port))
        with pytest.raises(server.ListenError, match=rf"cannot listen on :{port}: address already in use"):
            server.listen(ListenAddress("", port))
    with pytest.raises(server.ListenError, match=r"cannot listen on 192\.0\.2\.1:0: no interface of this machine has"):
        server.listen(ListenAddress("192.0.2.1", 0))
    with pytest.raises(server.ListenError, match=r"cannot listen on no\.such\.host\.invalid:0: "):
        server.listen(ListenAddress("no.such.host.invalid", 0))


@pytest.mark.parametrize(("port", "has_hint"), [(1023, True), (1024, False)])
def test_listen_without_permission(monkeypatch: pytest.MonkeyPatch, port: int, has_hint: bool) -> None:
    """A port below 1024 may take root or a capability: the error names both."""

    def deny(_self: socket.socket, _address: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", deny)
    with pytest.raises(server.ListenError) as caught:
        server.listen(ListenAddress("", port))
    hint = ", ports below 1024 need root or CAP_NET_BIND_SERVICE" if has_hint else ""
    assert str(caught.value) == f"cannot listen on :{port}: permission denied{hint}"
