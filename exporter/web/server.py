"""Sockets and connections: where the agent listens and how long it waits for a client."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import socket

from tornado import httpserver, httputil, iostream, netutil, web
from tornado.http1connection import HTTP1ServerConnection

from exporter.config import ListenAddress

_REQUEST_TIMEOUT_S = 30
_KEEP_ALIVE_S = 300
_MAX_HEADER_BYTES = 16 << 10
_MAX_BODY_BYTES = 16 << 10


class ListenError(Exception):
    """The agent can not listen where it was told to; the message says why."""


def listen(address: ListenAddress) -> list[socket.socket]:
    """Bind and listen.

    Args:
        address: where; an empty host is every address, IPv4 and IPv6 as far as the machine has them.

    Returns:
        The listening sockets, at least one. Port 0 is one and the same free port for all of them.

    Raises:
        ListenError: the port is taken, the address is not this machine's or the like.
    """
    sockets: list[socket.socket] = []
    try:
        if address.host:
            return netutil.bind_sockets(address.port, address.host)
        sockets += netutil.bind_sockets(address.port, "", socket.AF_INET)
        try:
            sockets += netutil.bind_sockets(sockets[0].getsockname()[1], "", socket.AF_INET6)
        except OSError as error:
            if not isinstance(error, socket.gaierror) and error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
    except (OSError, UnicodeError) as error:
        for bound in sockets:
            bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ListenError(f"can not listen on {address}: {reason}") from None
    if not sockets:
        raise ListenError(f"can not listen on {address}: no such address here")
    return sockets


class Server(httpserver.HTTPServer):
    """HTTP/1.1 with keep-alive, and an end to waiting.

    A new connection has 30 s for the headers of its first request, each body has 30 s; between requests a connection is
    kept for 5 minutes. These are timers of the event loop, so a connection that waits costs no thread.

    Args:
        application: answers the requests.
    """

    def initialize(self, application: web.Application) -> None:  # type: ignore[override]
        """Set the limits; tornado's own way of constructing."""
        super().initialize(
            application,
            max_header_size=_MAX_HEADER_BYTES,
            max_body_size=_MAX_BODY_BYTES,
            idle_connection_timeout=_REQUEST_TIMEOUT_S,
            body_timeout=_REQUEST_TIMEOUT_S,
        )
        self._served: set[object] = set()  # connections that are past the start of their first request

    def handle_stream(self, stream: iostream.IOStream, address: tuple[object, ...]) -> None:
        """Serve a connection with parameters of its own, because its patience changes with its first request."""
        shared = self.conn_params
        self.conn_params = copy.copy(shared)
        try:
            super().handle_stream(stream, address)
        finally:
            self.conn_params = shared

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """Begin to read the next request of a connection."""
        assert isinstance(server_conn, HTTP1ServerConnection)
        if server_conn in self._served:
            server_conn.params.header_timeout = _KEEP_ALIVE_S
        self._served.add(server_conn)
        return super().start_request(server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection."""
        super().on_close(server_conn)
        self._served.discard(server_conn)

    async def shut_down(self, timeout_s: float) -> None:
        """Stop listening and close every connection, however busy; wait for that at most `timeout_s` seconds."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.close_all_connections(), timeout_s)
