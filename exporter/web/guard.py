"""The guard: decides by the web configuration whether a request gets an answer, for all paths alike."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping

from tornado import httputil, web
from tornado.http1connection import HTTP1Connection

from exporter.web.security.auth import Authenticator
from exporter.web.security.tls import has_allowed_name
from exporter.web.security.web_config import RateLimit
from exporter.web.security.web_config_file import WebConfigFile


class Refusal(web.HTTPError):
    """The answer to a request that is refused."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.headers = headers or {}


class Guard:
    """Checks requests.

    Args:
        file: the web configuration.
    """

    def __init__(self, file: WebConfigFile) -> None:
        self._file = file
        self._authenticator = Authenticator()
        self._bucket = _Bucket()

    async def judge(self, request: httputil.HTTPServerRequest, connection: HTTP1Connection) -> None:
        """Return if the request is allowed. A connection without an allowed certificate is closed.

        Raises:
            Refusal: it is not allowed.
        """
        config = self._file.current()
        if config.allowed_sans:
            client = connection.stream.socket
            certificate = client.getpeercert() if isinstance(client, ssl.SSLSocket) else None
            if not has_allowed_name(certificate, config.allowed_sans):
                connection.stream.close()
                raise Refusal(403)
        if config.rate_limit is not None and not self._bucket.take(config.rate_limit):
            raise Refusal(429)
        if config.users:
            credentials = request.headers.get("Authorization", "")
            passes = await self._authenticator.check(
                credentials, config.users, str(request.remote_ip), connection.set_close_callback
            )
            if passes is None:
                raise Refusal(429, {"Retry-After": "1"})
            if not passes:
                raise Refusal(401, {"WWW-Authenticate": 'Basic realm="fstat-exporter", charset="UTF-8"'})


class _Bucket:
    """A token bucket: each interval adds a token, and each request takes one."""

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
