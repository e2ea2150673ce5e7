"""Sockets and connections: where the agent listens and how long it waits for a client."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import socket
from typing import Any

from tornado import httpserver, httputil, iostream, web
from tornado.http1connection import HTTP1ServerConnection

from exporter.config import ListenAddress

_REQUEST_TIMEOUT_S = 30
_KEEP_ALIVE_S = 300
_MAX_HEADER_BYTES = 16 << 10
_MAX_BODY_BYTES = 16 << 10
_BACKLOG = 1024


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
        for family, sockaddr in _resolve(address):
            port = sockets[0].getsockname()[1] if sockets else address.port
            try:
                sockets.append(_bind(family, (sockaddr[0], port, *sockaddr[2:])))
            except OSError as error:
                # IPv4 comes first. These two are what a machine says whose IPv6 is off.
                if not sockets or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
    except (OSError, UnicodeError) as error:
        for bound in sockets:
            bound.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise ListenError(f"can not listen on {address}: {reason}") from None
    return sockets


def _resolve(address: ListenAddress) -> list[tuple[int, tuple[Any, ...]]]:
    if not address.host:
        return [(socket.AF_INET, ("0.0.0.0", address.port)), (socket.AF_INET6, ("::", address.port))]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    return sorted({(int(family), sockaddr) for family, _, _, _, sockaddr in found})


def _bind(family: int, sockaddr: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        bound.setblocking(False)
        bound.bind(sockaddr)
        bound.listen(_BACKLOG)
    except OSError:
        bound.close()
        raise
    return bound


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
