"""What is answered under which path."""

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
from exporter.web.negotiation import accepts_gzip, metrics_encoder, patience_s
from exporter.web.outbox import Outbox
from exporter.web.page import CONTENT_SECURITY_POLICY, page_files
from exporter.web.security.web_config_file import WebConfigFile
from exporter.web.sharing import SharedCalls
from fstat_cache import CacheClosedError

_log = logging.getLogger(__name__)

_LEAST_GZIPPED_BYTES = 1_000
_QUERIES_AT_ONCE = 2  # besides the scrapes, which need not wait for them
_SEND_TIMEOUT_S = 60

_SCHEME_AND_HOST = re.compile("https?://[^/]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Site:
    """What the handlers are about.

    Attributes:
        scraper: answers /metrics, in threads, several at once.
        overview: answers /api/v1/, likewise.
        telemetry_path: where the metrics are.
        find_fault: says what keeps the agent from working; None: nothing.
        progress: says how far the first scan has come, before which there are no metrics; None: it is done.
        web_config: who may ask, and the headers that every answer has, beside its own or in their place.
        reload: reloads the configuration, and says why that could not be done; None: it was. None where that is not to
            be had over HTTP.
    """

    scraper: Scraper
    overview: Overview
    telemetry_path: str
    find_fault: Callable[[], Awaitable[str | None]]
    progress: Callable[[], str | None]
    web_config: WebConfigFile
    reload: Callable[[], Awaitable[str | None]] | None = None


class Application(web.Application):
    """Serves a site.

    Args:
        site: what there is to see.

    Attributes:
        guard: lets requests pass, or not.
        outbox: sends what is long.
        whole, filtered: the scrapes of everything, and all others.
        scrape_thread: makes them.
        page: path without the first slash -> what is there.
        query_slots: for the questions about files that are answered at once.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.guard = Guard(site.web_config)
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
        """Find who answers. The target may be a whole URL (RFC 9112, 3.2.2), whose host is nothing to us."""
        if host := _SCHEME_AND_HOST.match(request.path):
            request.path = request.path[host.end() :] or "/"
        # Nobody reads a form, and tornado would answer what is wrong in one before it is known who asks.
        request.headers.pop("Content-Type", None)
        return super().find_handler(request, **kwargs)


class _Handler(web.RequestHandler):
    """What all have in common: plain errors, no headers beyond need, a limit for clients that do not read."""

    ALLOW = "GET, HEAD"
    application: Application

    def initialize(self) -> None:
        self.site = self.application.site
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        self.connection = connection
        self.stream = connection.stream
        # Tornado refuses other methods before anything else is looked at; `prepare` does it after that.
        self.SUPPORTED_METHODS = (str(self.request.method),)

    async def prepare(self) -> None:
        """Refuse those who may not pass, whatever they ask for."""
        await self.application.guard.judge(self.request, self.connection)
        if self.request.method not in web.RequestHandler.SUPPORTED_METHODS:
            raise web.HTTPError(405)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """Send what there is so far."""
        if not self._headers_written:
            self.set_headers(self.site.web_config.current().headers)
        return super().flush(include_footers)

    def set_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in headers.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """None: to hash every scrape would be for nothing, no two are alike."""

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
        """Answer HEAD: as GET, of which tornado sends no body."""
        return self.get(*names)

    def send(self, body: str | bytes, status: int = 200) -> None:
        """Answer; a client that has not taken the whole answer after a while is disconnected."""
        self.set_status(status)
        sent = self.finish(body)
        if not sent.done():
            timer = asyncio.get_running_loop().call_later(_SEND_TIMEOUT_S, self.stream.close)
            sent.add_done_callback(lambda _: timer.cancel())
        # That the client went away while it was sent to is its own decision, and no news.
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())

    def send_outcome(self, good: str, fault: str | None, status: int) -> None:
        """Answer that something is good, or, with a status, what is wrong with it."""
        if fault is None:
            self.send(f"{good}\n")
        else:
            self.send(f"{fault}\n", status)

    async def send_long(self, parts: Sequence[bytes]) -> None:
        """Answer with much; beside that it is as `send`, but many who do not read what they asked for make room."""
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
                # For people: a Prometheus does not read what comes with an error.
                self.send(b"".join([f"# {progress}\n".encode(), *about]), 503)
            return
        headers = self.request.headers
        encode, content_type = metrics_encoder(headers.get("Accept", ""))
        compressed = accepts_gzip(headers.get("Accept-Encoding", ""))
        names, groups = (list(filter(None, self.get_query_arguments(key))) for key in ("name[]", "group"))
        if unknown := set(groups) - scraper.groups:
            self.send(f"There is no group {min(unknown)!r}.\n", 400)
            return

        def scrape() -> list[bytes]:
            return scraper.scrape(
                encode,
                is_openmetrics=content_type.startswith("application/openmetrics-text"),
                is_compressed=compressed,
                names=names,
                groups=groups,
            )

        # Filters are many, and anybody may make up more: they do not keep the scrapes of everything waiting.
        scrapes = shared.filtered if names or groups else shared.whole
        key = content_type, compressed, tuple(names), tuple(groups)
        limit_s = patience_s(headers.get("X-Prometheus-Scrape-Timeout-Seconds"))
        try:
            async with asyncio.timeout(limit_s) as limit:
                parts = await self._share(scrapes, key, scrape)
        except TimeoutError:
            if not limit.expired():
                raise
            _log.warning("a scrape was not done in the time that Prometheus gives it", extra=fields(limit_s=limit_s))
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
        """Return what others who ask for the same get too, or None when all of them have gone."""
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
        fault = None if error is None else f"The configuration was not reloaded, the old one stays:\n{error}"
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
        self.set_header("Cache-Control", "no-cache")  # another version may be started
        self.set_header("Referrer-Policy", "no-referrer")
        self.send(file.body)


class _Unknown(_Handler):
    async def prepare(self) -> None:
        await super().prepare()
        raise web.HTTPError(404)
