"""The guard: decides by the web configuration whether a request gets an answer, for all paths alike."""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping

from tornado import httputil, web
from tornado.http1connection import HTTP1Connection

from exporter.web.security.auth import Authenticator
from exporter.web.security.kubernetes import REVIEW_LIMIT, TokenAuthorizer
from exporter.web.security.rate_limit import Bucket
from exporter.web.security.tls import has_allowed_name
from exporter.web.security.web_config_file import WebConfigFile

_WITHOUT_TOKEN = ("/-/healthy", "/-/ready")  # the kubelet's probes have none
_REFUSED_TOKEN: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": 'Bearer realm="fstat-exporter"'},
    429: {"Retry-After": str(REVIEW_LIMIT.interval_s)},
}


class Refusal(web.HTTPError):
    """The answer to a request that is refused."""

    def __init__(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status)
        self.headers = headers or {}


class Guard:
    """Checks requests.

    Args:
        file: the web configuration.
        tokens: checks bearer tokens; None: requests need none.
    """

    def __init__(self, file: WebConfigFile, tokens: TokenAuthorizer | None = None) -> None:
        self._file = file
        self._tokens = tokens
        self._authenticator = Authenticator()
        self._bucket = Bucket()

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
        if config.rate_limit is not None and not self._bucket.take(config.rate_limit, time.monotonic()):
            raise Refusal(429)
        credentials = request.headers.get("Authorization", "")
        if self._tokens is not None and request.path not in _WITHOUT_TOKEN:
            method, address = str(request.method), str(request.remote_ip)
            status = await self._tokens.check(credentials, method, request.path, address)
            if status != 200:
                raise Refusal(status, _REFUSED_TOKEN.get(status))
        if config.users:
            passes = await self._authenticator.check(
                credentials, config.users, str(request.remote_ip), connection.set_close_callback
            )
            if passes is None:
                raise Refusal(429, {"Retry-After": "1"})
            if not passes:
                raise Refusal(401, {"WWW-Authenticate": 'Basic realm="fstat-exporter", charset="UTF-8"'})
