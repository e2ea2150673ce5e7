"""The HTTP side against bytes and requests that hypothesis makes up."""

import base64
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import bcrypt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.exporter.web.test_web import Web

METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "CONNECT", "get", "B R", "", "\xff"])
PATHS = st.sampled_from(["/metrics", "/", "/-/ready", "/-/healthy", "*", "http://x/metrics", "//", "/%00", "/\xff", ""])
TEXT = st.text(st.characters(max_codepoint=255), max_size=40)
NAMES = st.sampled_from(
    [
        *("Accept", "Accept-Encoding", "Authorization", "Connection", "Content-Encoding", "Content-Length", "Cookie"),
        *("Content-Type", "Expect", "Host", "If-None-Match", "Range", "TE", "Transfer-Encoding", "Upgrade"),
        *("X-Prometheus-Scrape-Timeout-Seconds", "X-Forwarded-For", "Sec-Fetch-Site", "Origin"),
    ]
)
VALUES = st.one_of(
    TEXT,
    st.sampled_from(
        [
            *("gzip", "gzip;q=0", "chunked", "identity", "0", "5", "-1", "5, 5", "close", "keep-alive", "100-continue"),
            *("multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/plain;version=9.9.9.9"),
            *("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8", "*/*;q=1e9", "Basic YTpi", "Basic !"),
        ]
    ),
)
REQUESTS = st.builds(
    lambda method, path, query, version, headers, end, body: (
        f"{method} {path}{query} {version}\r\n".encode("latin1")
        + b"".join(f"{name}: {value}\r\n".encode("latin1") for name, value in headers)
        + end
        + body
    ),
    METHODS,
    PATHS,
    st.one_of(st.just(""), TEXT.map("?{}".format), TEXT.map("?name[]={}".format), TEXT.map("?group={}".format)),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", ""]),
    st.lists(st.one_of(st.tuples(NAMES, VALUES), st.tuples(TEXT, TEXT), st.just(("Host", "x"))), max_size=6),
    st.sampled_from([b"\r\n", b"\n", b"", b"\r\n\r\n"]),
    st.one_of(
        st.just(b""), st.binary(max_size=60), st.just(b"5\r\nhello\r\n0\r\n\r\n"), st.just(b"\x1f\x8b\x08\0junk")
    ),
)


@pytest.fixture(params=["open", "protected"])
def fuzzed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Web]:
    """A server that everybody may ask, and one that asks for a password first."""
    path = tmp_path / "web.yml"
    hashed = bcrypt.hashpw(b"b", bcrypt.gensalt(4)).decode()
    path.write_text(f"basic_auth_users: {{a: '{hashed}'}}" if request.param == "protected" else "{}")
    web = Web(web_config_path=str(path))
    yield web
    web.close()


def survives(web: Web, sent: bytes, log: pytest.LogCaptureFixture) -> None:
    """Send something; the server answers with what looks like HTTP or not at all, closes, and serves the next one."""
    log.clear()
    received = b""
    with web.connect() as connection, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        connection.socket.sendall(sent)
        connection.socket.shutdown(socket.SHUT_WR)
        while part := connection.socket.recv(65536):
            received += part
    assert received == b"" or received.startswith(b"HTTP/1.1 ")
    assert b"Traceback" not in received
    assert web.get("/-/ready", Authorization="Basic " + base64.b64encode(b"a:b").decode()).status == 200
    told = [record for record in log.records if record.levelno > logging.WARNING or record.exc_info]
    assert told == [], [record.getMessage() for record in told]


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """How often to try; the server is the same for all of them, on purpose."""
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, suppress_health_check=health)


@fuzz(100)
@given(sent=st.binary(max_size=300))
def test_bytes(fuzzed: Web, caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    """Any bytes."""
    survives(fuzzed, sent, caplog)


@fuzz(250)
@given(sent=st.lists(REQUESTS, min_size=1, max_size=3).map(b"".join))
def test_requests(fuzzed: Web, caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    """What is nearly a request, alone or several in a row."""
    survives(fuzzed, sent, caplog)


@fuzz(100)
@given(path=PATHS, query=TEXT, headers=st.lists(st.tuples(NAMES, VALUES), max_size=3))
def test_nothing_is_injected(
    fuzzed: Web, caplog: pytest.LogCaptureFixture, path: str, query: str, headers: list[tuple[str, str]]
) -> None:
    """What a client sends adds no header to the answer."""
    caplog.clear()
    quoted = "".join(f"%{ord(character):02x}" for character in "\r\nInjected: " + query)
    lines = [f"GET {path}?name[]={quoted}&group={quoted} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers if value.isprintable()]
    received = b""
    with fuzzed.connect() as connection, contextlib.suppress(ConnectionResetError):
        connection.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin1"))
        connection.socket.shutdown(socket.SHUT_WR)
        while part := connection.socket.recv(65536):
            received += part
    head = received.partition(b"\r\n\r\n")[0]
    assert b"Injected" not in head
    assert [record for record in caplog.records if record.exc_info] == []
