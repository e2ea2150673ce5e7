"""What is answered under which path."""

from __future__ import annotations

import asyncio
import html
import http.client
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client.exposition import generate_latest
from tornado import httputil, iostream, web
from tornado.http1connection import HTTP1Connection

from exporter import __version__
from exporter.scrape import Scraper
from exporter.threads import call_in_thread
from exporter.web.negotiation import accepts_gzip, metrics_encoder
from fstat_cache import CacheClosedError

_log = logging.getLogger(__name__)

_SCRAPES_AT_ONCE = 2  # each has all series in memory, and they share one interpreter
_SEND_TIMEOUT_S = 60

_SCHEME_AND_HOST = re.compile("https?://[^/]*", re.IGNORECASE)

_TEXT = "text/plain; charset=utf-8"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>fstat-exporter</title></head>
<body>
<h1>fstat-exporter {version}</h1>
<p>Size, age and changes of log files as Prometheus metrics.</p>
<ul>
<li><a href="{metrics}">Metrics</a></li>
<li><a href="/-/healthy">Healthy</a></li>
<li><a href="/-/ready">Ready</a></li>
</ul>
</body>
</html>
"""


@dataclass(slots=True)
class Site:
    """What the handlers are about.

    Attributes:
        scraper: answers /metrics, in threads, several at once. Another one after a reload.
        telemetry_path: where the metrics are.
        find_fault: says what keeps the agent from working; None: nothing.
        is_ready: whether the first scan is done; before it there are no metrics.
        tell_progress: says how far the first scan has come.
        reload: reloads the configuration, and says why that could not be done; None: it was. None where that is not to
            be had over HTTP.
    """

    scraper: Scraper
    telemetry_path: str
    find_fault: Callable[[], Awaitable[str | None]]
    is_ready: Callable[[], bool]
    tell_progress: Callable[[], str]
    reload: Callable[[], Awaitable[str | None]] | None = None


def make_application(site: Site) -> web.Application:
    """Return the application that serves `site`."""
    arguments = {"site": site}
    return _Application(
        [
            (re.escape(site.telemetry_path), _Metrics, {**arguments, "slots": asyncio.Semaphore(_SCRAPES_AT_ONCE)}),
            (r"/-/healthy", _Healthy, arguments),
            (r"/-/ready", _Ready, arguments),
            (r"/-/reload", _Reload, arguments),
            (r"/", _Index, arguments),
        ],
        default_handler_class=_Unknown,
        default_handler_args=arguments,
        log_function=lambda handler: None,
    )


class _Application(web.Application):
    def find_handler(self, request: httputil.HTTPServerRequest, **kwargs: Any) -> Any:
        # The target may be a whole URL (RFC 9112, 3.2.2), whose host is nothing to us.
        if host := _SCHEME_AND_HOST.match(request.path):
            request.path = request.path[host.end() :] or "/"
        return super().find_handler(request, **kwargs)


class _Handler(web.RequestHandler):
    """What all have in common: plain errors, no headers beyond need, a limit for clients that do not read."""

    ALLOW = "GET, HEAD"

    def initialize(self, site: Site) -> None:
        self.site = site
        connection = self.request.connection
        assert isinstance(connection, HTTP1Connection)
        self.stream = connection.stream

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Content-Type", _TEXT)
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> None:
        """None: to hash every scrape would be for nothing, no two are alike."""

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == 405:
            self.set_header("Allow", self.ALLOW)
        self.finish(f"{status_code} {http.client.responses.get(status_code, '')}\n")

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        if not isinstance(value, (web.HTTPError, iostream.StreamClosedError)):
            _log.error("a request failed", exc_info=(typ, value, tb))  # type: ignore[arg-type]

    async def get(self) -> None:
        """Answer GET; to be overridden."""
        raise web.HTTPError(404)

    async def head(self) -> None:
        """Answer HEAD: as GET, of which tornado sends no body."""
        await self.get()

    def send(self, body: str | bytes, status: int = 200) -> None:
        """Answer; a client that has not taken the whole answer after a while is disconnected."""
        self.set_status(status)
        sent = self.finish(body)
        if not sent.done():
            timer = asyncio.get_running_loop().call_later(_SEND_TIMEOUT_S, self.stream.close)
            sent.add_done_callback(lambda _: timer.cancel())
        # That the client went away while it was sent to is its own decision, and no news.
        sent.add_done_callback(lambda done: done.cancelled() or done.exception())


class _Metrics(_Handler):
    def initialize(self, site: Site, slots: asyncio.Semaphore) -> None:  # type: ignore[override]
        super().initialize(site)
        self._slots = slots

    async def get(self) -> None:
        scraper = self.site.scraper
        if not self.site.is_ready():
            await self._get_before_the_first_scan(scraper)
            return
        headers = self.request.headers
        encode, content_type = metrics_encoder(",".join(headers.get_list("Accept")))
        compressed = accepts_gzip(",".join(headers.get_list("Accept-Encoding")))
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

        async with self._slots:
            if self.stream.closed():
                return
            try:
                parts = await call_in_thread(scrape, "scrape")
            except CacheClosedError:
                self.send("The agent is stopping.\n", 503)
                return
        if self.stream.closed():
            return
        self.set_header("Content-Type", content_type)
        self.set_header("Vary", "Accept, Accept-Encoding")
        if compressed:
            self.set_header("Content-Encoding", "gzip")
        self.send(b"".join(parts))

    async def _get_before_the_first_scan(self, scraper: Scraper) -> None:
        async with self._slots:
            body = await call_in_thread(lambda: scraper.about_the_agent(generate_latest), "scrape")
        # For people: a Prometheus does not read what comes with an error.
        self.send(f"# {self.site.tell_progress()}\n".encode() + body, 503)


class _Healthy(_Handler):
    async def get(self) -> None:
        fault = await self.site.find_fault()
        if fault is None:
            self.send("Healthy.\n")
        else:
            self.send(f"{fault}\n", 503)


class _Ready(_Handler):
    async def get(self) -> None:
        if self.site.is_ready():
            self.send("Ready.\n")
        else:
            self.send(f"{self.site.tell_progress()}\n", 503)


class _Reload(_Handler):
    ALLOW = "POST, PUT"

    async def get(self) -> None:
        raise web.HTTPError(405)

    async def post(self) -> None:
        if self.site.reload is None:
            self.send("Lifecycle API is not enabled; it is with --web.enable-lifecycle.\n", 403)
            return
        error = await self.site.reload()
        if self.stream.closed():
            return
        if error is None:
            self.send("Reloaded.\n")
        else:
            self.send(f"The configuration was not reloaded, the old one stays:\n{error}\n", 500)

    async def put(self) -> None:
        await self.post()


class _Index(_Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Content-Security-Policy", "default-src 'none'")
        self.send(_PAGE.format(version=__version__, metrics=html.escape(self.site.telemetry_path)))


class _Unknown(_Handler):
    def prepare(self) -> None:
        raise web.HTTPError(404)  # whatever the method
