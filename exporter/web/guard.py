"""Who may have an answer: as the web configuration says, for every path alike."""

from __future__ import annotations

import http.client
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tornado import httputil

from exporter.web.security.auth import Authenticator, Verdict
from exporter.web.security.tls import has_allowed_name
from exporter.web.security.web_config import RateLimit, WebConfig
from exporter.web.security.web_config_file import WebConfigFile
from exporter.web.streams import Stream


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is answered to those who may not pass."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


class Guard:
    """Judges requests.

    Args:
        file: the web configuration.
    """

    def __init__(self, file: WebConfigFile) -> None:
        self.file = file
        self._authenticator = Authenticator()
        self._bucket = _Bucket()

    def is_open(self) -> bool:
        """Tell whether everybody may have everything."""
        config = self.file.current()
        return not (config.users or config.allowed_sans or config.rate_limit)

    async def judge(self, headers: httputil.HTTPHeaders, stream: Stream) -> Refusal | None:
        """Return why the request may not pass, or None. A connection that may not even be is closed."""
        config = self.file.current()
        if config.allowed_sans and not has_allowed_name(stream.peer_certificate(), config.allowed_sans):
            stream.close()
            return Refusal(403)
        if config.rate_limit is not None and not self._bucket.take(config.rate_limit):
            return Refusal(429)
        return await self._authenticate(config, headers, stream) if config.users else None

    async def _authenticate(self, config: WebConfig, headers: httputil.HTTPHeaders, stream: Stream) -> Refusal | None:
        verdict = await self._authenticator.check(headers.get("Authorization", ""), config.users, stream)
        if verdict is Verdict.BUSY:
            return Refusal(429, {"Retry-After": "1"})
        if verdict is Verdict.REFUSE:
            return Refusal(401, {"WWW-Authenticate": 'Basic realm="fstat-exporter", charset="UTF-8"'})
        return None


class GuardedRequest(httputil.HTTPMessageDelegate):
    """A request on its way to the application, which sees only what the guard lets pass.

    Args:
        inner: the application's side of it.
        connection: where to answer.
        stream: the connection beneath.
        guard: judges.
        on_headers: called when the headers are complete.
    """

    def __init__(
        self,
        inner: httputil.HTTPMessageDelegate,
        connection: httputil.HTTPConnection,
        stream: Stream,
        guard: Guard,
        on_headers: Callable[[], None],
    ) -> None:
        self._inner = inner
        self._connection = connection
        self._stream = stream
        self._guard = guard
        self._on_headers = on_headers
        self._refusal: Refusal | None = None
        self._is_head = False

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> Awaitable[None] | None:
        """Judge, and hand on what may pass."""
        self._on_headers()
        if self._guard.is_open():
            return self._inner.headers_received(start_line, headers)
        return self._judge(start_line, headers)

    async def _judge(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> None:
        assert isinstance(start_line, httputil.RequestStartLine)
        self._is_head = start_line.method == "HEAD"
        self._refusal = await self._guard.judge(headers, self._stream)
        if self._refusal is not None:
            return
        received = self._inner.headers_received(start_line, headers)
        if received is not None:
            await received

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Hand on a part of the body, or drop it."""
        return self._inner.data_received(chunk) if self._refusal is None else None

    def finish(self) -> None:
        """Answer those who may not pass, now that their request is read; or have the others answered."""
        if self._refusal is None:
            self._inner.finish()
            return
        status = self._refusal.status
        reason = http.client.responses[status]
        body = f"{status} {reason}\n".encode()
        headers = httputil.HTTPHeaders(
            {
                "Content-Type": "text/plain; charset=utf-8",
                "X-Content-Type-Options": "nosniff",
                "Content-Length": str(len(body)),
                **self._refusal.headers,
                **self._guard.file.current().headers,
            }
        )
        start_line = httputil.ResponseStartLine("HTTP/1.1", status, reason)
        self._connection.write_headers(start_line, headers, None if self._is_head else body)
        self._connection.finish()

    def on_connection_close(self) -> None:
        """The client has gone."""
        if self._refusal is None:
            self._inner.on_connection_close()


class _Bucket:
    """A token bucket: a token each interval, and a request takes one."""

    def __init__(self) -> None:
        self._limit: RateLimit | None = None
        self._tokens = 0.0
        self._as_of_s = 0.0

    def take(self, limit: RateLimit) -> bool:
        now_s = time.monotonic()
        if limit != self._limit:
            self._limit, self._tokens = limit, limit.burst
        else:
            self._tokens = min(limit.burst, self._tokens + (now_s - self._as_of_s) / limit.interval_s)
        self._as_of_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
