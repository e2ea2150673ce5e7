"""The handlers: the answers for each path."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import logging
import re
import socket
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.exposition import generate_latest
from tornado import httputil, iostream, web
from tornado.http1connection import HTTP1Connection

from exporter.ops.log import fields
from exporter.ops.threads import KeptThread, call_in_thread
from exporter.overview import Overview
from exporter.scrape import Scraper
from exporter.web import api
from exporter.web.guard import Guard, Refusal
from exporter.web.negotiation import accepts_gzip, metrics_encoder, scrape_timeout_s
from exporter.web.outbox import Outbox
from exporter.web.page import CONTENT_SECURITY_POLICY, page_files
from exporter.web.security.kubernetes import TokenAuthorizer
from exporter.web.security.web_config_file import WebConfigFile
from exporter.web.sharing import SharedCalls
from fstat_cache import CacheClosedError

_log = logging.getLogger(__name__)

_LEAST_GZIPPED_BYTES = 1_000
_QUERIES_AT_ONCE = 2  # scrapes need not wait for them
_SEND_TIMEOUT_S = 60

_SCHEME_AND_HOST = re.compile("https?://[^/]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Site:
    """The parts of the agent that the handlers use.

    Attributes:
        scraper: answers /metrics, in several threads at once.
        overview: answers /api/v1/, in several threads at once.
        telemetry_path: the path of the metrics.
        find_fault: returns what keeps the agent from working; None: nothing.
        progress: returns the progress of the first scan, during which there are no metrics; None: it is done.
        web_config: access rules, and headers that are added to every answer or replace its own.
        reload: reloads the configuration, and returns the error, or None on success. None: not allowed over HTTP.
        tokens: checks bearer tokens; None: requests need none.
    """

    scraper: Scraper
    overview: Overview
    telemetry_path: str
    find_fault: Callable[[], Awaitable[str | None]]
    progress: Callable[[], str | None]
    web_config: WebConfigFile
    reload: Callable[[], Awaitable[str | None]] | None = None
    tokens: TokenAuthorizer | None = None


class Application(web.Application):
    """Serves a site.

    Args:
        site: the parts of the agent.

    Attributes:
        guard: checks requests.
        outbox: sends long answers.
        whole, filtered: the scrapes of everything, and all others.
        scrape_thread: runs the scrapes.
        page: path without its first slash -> file of the page.
        query_slots: bounds how many API queries run at once.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.guard = Guard(site.web_config, site.tokens)
        self.outbox = Outbox()
        self.whole: SharedCalls[list[bytes]] = SharedCalls()
        self.filtered: SharedCalls[list[bytes]] = SharedCalls()
        self.scrape_thread = KeptThread("scrape")
        self.page = page_files(site.telemetry_path, socket.gethostname())
        self.query_slots = asyncio.Semaphore(_QUERIES_AT_ONCE)
        super().__init__(
            [
                (re.escape(site.telemetry_path), _Metrics),
                ("/-/healthy", _Healthy),
                ("/-/ready", _Ready),
                ("/-/reload", _Reload),
                (f"/api/v1/({'|'.join(api.ANSWERS)})", _Api),
                (f"/({'|'.join(map(re.escape, self.page))})", _Page),
            ],
            default_handler_class=_Unknown,
            log_function=lambda handler: None,
        )

    def find_handler(self, request: httputil.HTTPServerRequest, **kwargs: Any) -> Any:
        """Find the handler. The target may be a whole URL (RFC 9112, 3.2.2), whose host is ignored."""
        if host := _SCHEME_AND_HOST.match(request.path):
            request.path = request.path[host.end() :] or "/"
        # No handler reads a form, and tornado would answer a faulty one before the guard has checked the request.
        request.headers.pop("Content-Type", None)
        return super().find_handler(request, **kwargs)


class _Handler(web.RequestHandler):
    """The base of all handlers: plain errors, few headers, a time limit for clients that do not read."""

    ALLOW = "GET, HEAD"
    application: Application

    def initialize(self) -> None:
        self.site = self.application.site
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        self.connection = connection
        self.stream = connection.stream
        # Tornado would refuse other methods before `prepare`, which does it after the guard.
        self.SUPPORTED_METHODS = (str(self.request.method),)

    async def prepare(self) -> None:
        """Refuse requests that the guard does not allow, then unknown methods."""
        await self.application.guard.judge(self.request, self.connection)
        if self.request.method not in web.RequestHandler.SUPPORTED_METHODS:
            raise web.HTTPError(405)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """Send what was written so far."""
        if not self._headers_written:
            self.set_headers(self.site.web_config.current().headers)
        return super().flush(include_footers)

    def set_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """Return None: no two scrapes are equal, so a hash of each would be useless."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == 405:
            self.set_header("Allow", self.ALLOW)
        text = f"{status_code} {http.client.responses.get(status_code, '')}"
        match kwargs.get("exc_info"):
            case _, Refusal() as refusal, _:
                self.set_headers(refusal.headers)
            case _, api.BadQueryError() as error, _:
                status_code, text = 400, str(error)
            case _, CacheClosedError(), _:
                status_code, text = 503, "The agent is stopping."
        self.send(f"{text}\n", status_code)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        known = web.HTTPError, iostream.StreamClosedError, api.BadQueryError, CacheClosedError
        if not isinstance(value, known):
            _log.error("a request failed", exc_info=(typ, value, tb))  # type: ignore[arg-type]

    def head(self, *names: str) -> Awaitable[None] | None:
        """Answer HEAD like GET; tornado sends no body."""
        return self.get(*names)

    def send(self, body: str | bytes, status: int = 200) -> None:
        """Answer; a client that has not read the whole answer in time is disconnected."""
        self.set_status(status)
        sent = self.finish(body)
        if not sent.done():
            timer = asyncio.get_running_loop().call_later(_SEND_TIMEOUT_S, self.stream.close)
            sent.add_done_callback(lambda _: timer.cancel())
        # Retrieve the error of a client that disconnected meanwhile, so that asyncio does not log it.
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())

    def send_outcome(self, good: str, fault: str | None, status: int) -> None:
        """Answer `good` without a fault, else the fault with the status."""
        if fault is None:
            self.send(f"{good}\n")
        else:
            self.send(f"{fault}\n", status)

    async def send_long(self, parts: Sequence[bytes]) -> None:
        """Answer like `send`, but with a long body; the outbox bounds how many such answers wait for clients."""
        self.set_header("Content-Length", str(sum(map(len, parts))))
        await self.application.outbox.send(self.stream, self._send_piece, parts)

    def _send_piece(self, piece: bytes) -> asyncio.Future[None]:
        self.write(piece)
        return self.flush()


class _Metrics(_Handler):
    async def get(self) -> None:
        scraper, shared = self.site.scraper, self.application
        if (progress := self.site.progress()) is not None:
            about = await self._share(shared.filtered, "about", lambda: [scraper.about_the_agent(generate_latest)])
            if about is not None:
                # For people: Prometheus ignores the body of an error.
                self.send(b"".join([f"# {progress}\n".encode(), *about]), 503)
            return
        headers = self.request.headers
        encode, content_type = metrics_encoder(headers.get("Accept", ""))
        compressed = accepts_gzip(headers.get("Accept-Encoding", ""))
        names, groups = (list(filter(None, self.get_query_arguments(key))) for key in ("name[]", "group"))
        if unknown := set(groups) - scraper.groups:
            self.send(f"There is no group {min(unknown)!r}.\n", 400)
            return

        limit_s = scrape_timeout_s(headers.get("X-Prometheus-Scrape-Timeout-Seconds"))

        def scrape() -> list[bytes]:
            return scraper.scrape(
                encode,
                is_openmetrics=content_type.startswith("application/openmetrics-text"),
                is_compressed=compressed,
                names=names,
                groups=groups,
                timeout_s=limit_s,
            )

        # Apart, because clients can send any number of filters: the scrapes of everything do not wait for them.
        scrapes = shared.filtered if names or groups else shared.whole
        key = content_type, compressed, tuple(names), tuple(groups)
        try:
            async with asyncio.timeout(limit_s) as limit:
                parts = await self._share(scrapes, key, scrape)
        except TimeoutError:
            if not limit.expired():
                raise
            _log.warning("a scrape timed out: raise scrape_timeout in Prometheus", extra=fields(limit_s=limit_s))
            self.send(f"The scrape was not done within {limit_s:g} s.\n", 503)
            return
        if parts is None:
            return
        self.set_header("Content-Type", content_type)
        self.set_header("Vary", "Accept, Accept-Encoding")
        if compressed:
            self.set_header("Content-Encoding", "gzip")
        await self.send_long(parts)

    async def _share(
        self, scrapes: SharedCalls[list[bytes]], key: Hashable, scrape: Callable[[], list[bytes]]
    ) -> list[bytes] | None:
        """Return an answer that all clients with the same key share; None when all of them have disconnected."""
        thread = self.application.scrape_thread
        return await scrapes.call(key, lambda: thread.call(scrape), lambda: not self.stream.closed())


class _Healthy(_Handler):
    async def get(self) -> None:
        self.send_outcome("Healthy.", await self.site.find_fault(), 503)


class _Ready(_Handler):
    async def get(self) -> None:
        self.send_outcome("Ready.", self.site.progress(), 503)


class _Reload(_Handler):
    ALLOW = "POST, PUT"

    async def post(self) -> None:
        if self.site.reload is None:
            self.send("Lifecycle API is not enabled; it is with --web.enable-lifecycle.\n", 403)
            return
        error = await self.site.reload()
        fault = None if error is None else f"The configuration was not reloaded; the old one stays in force:\n{error}"
        self.send_outcome("Reloaded.", fault, 500)

    put = post


class _Api(_Handler):
    async def get(self, name: str) -> None:
        if self.site.progress() is not None:
            self.send("The first scan is not done yet.\n", 503)
            return
        arguments = {name: self.get_query_arguments(name) for name in self.request.query_arguments}
        takes_gzip = accepts_gzip(self.request.headers.get("Accept-Encoding", ""))

        def answer() -> tuple[bytes, bool]:
            body = api.encode(api.ANSWERS[name](self.site.overview, arguments))
            if not takes_gzip or len(body) < _LEAST_GZIPPED_BYTES:
                return body, False
            return gzip.compress(body, compresslevel=1, mtime=0), True

        async with self.application.query_slots:
            if self.stream.closed():
                return
            body, is_compressed = await call_in_thread(answer, "query")
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Vary", "Accept-Encoding")
        if is_compressed:
            self.set_header("Content-Encoding", "gzip")
        await self.send_long([body])


class _Page(_Handler):
    async def get(self, name: str) -> None:
        file = self.application.page[name]
        self.set_header("Content-Type", file.content_type)
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("Cache-Control", "no-cache")  # the next start may be of another version
        self.set_header("Referrer-Policy", "no-referrer")
        self.send(file.body)


class _Unknown(_Handler):
    async def prepare(self) -> None:
        await super().prepare()
        raise web.HTTPError(404)
