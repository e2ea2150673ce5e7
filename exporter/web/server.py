"""Sockets and connections: where the agent listens and how long it waits for a client."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import os
import resource
import socket
from typing import Any

from tornado import httpserver, httputil, web

from exporter.config.fields.scalars import ListenAddress
from exporter.web import streams
from exporter.web.security.web_config_file import WebConfigFile

_MAX_CONNECTIONS = 2000
_MAX_HEADER_BYTES = 16 << 10
_MAX_BODY_BYTES = 4 << 10  # there is nothing to say in one
_BACKLOG = 1024


class ListenError(Exception):
    """The agent cannot listen on its address; the message says on which and why."""


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
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, sockaddr in sorted({(family, sockaddr) for family, _, _, _, sockaddr in found}):
            port = sockets[0].getsockname()[1] if sockets else address.port
            try:
                bound = socket.create_server((sockaddr[0], port, *sockaddr[2:]), family=family, backlog=_BACKLOG)
            except OSError as error:
                # IPv4 comes first. These two are what a machine says whose IPv6 is off.
                if not sockets or error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
            else:
                bound.setblocking(False)
                sockets.append(bound)
    except (OSError, UnicodeError) as error:
        for bound in sockets:
            bound.close()
        raise ListenError(f"cannot listen on {address}: {_reason(error, address)}") from None
    return sockets


def _reason(error: OSError | UnicodeError, address: ListenAddress) -> str:
    if isinstance(error, (socket.gaierror, UnicodeError)):
        text = str(getattr(error, "strerror", error))
    elif error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has this address"
    elif error.errno == errno.EACCES and address.port < 1024:
        return "permission denied, ports below 1024 need root or CAP_NET_BIND_SERVICE"
    else:
        text = os.strerror(error.errno or 0)  # the error's own text has the address in it once more
    return text[:1].lower() + text[1:]


def url_of(bound: socket.socket, *, is_tls: bool) -> str:
    """Return the URL of the page at a listening socket, for a browser on this machine.

    Args:
        bound: the socket.
        is_tls: whether its connections use TLS.
    """
    host, port, *ipv6 = bound.getsockname()
    if host == "0.0.0.0":
        host = "localhost"
    elif ipv6:
        _, scope = ipv6
        # Not "localhost" for "::": that name may lead to 127.0.0.1 only. RFC 6874 escapes the '%' of fe80::1%eth0.
        zone = f"%25{socket.if_indextoname(scope)}" if scope else ""
        host = f"[{'::1' if host == '::' else host}{zone}]"
    return f"{'https' if is_tls else 'http'}://{host}:{port}/"


class Server(httpserver.HTTPServer):
    """HTTP/1.1 with keep-alive, over TLS if the web configuration says so, and an end to waiting.

    A new connection has 30 s for TLS and the headers of its first request; each later request has 30 s for its headers
    from their first byte on, and each body has 30 s. Between requests a connection is kept for 5 minutes. These are
    timers of the event loop, so a connection that waits costs no thread. When there are too many connections the one
    that has waited longest for a request makes room.

    Args:
        application: answers the requests.
        web_config: whether connections use TLS, and with what; looked at for each of them and each request.
    """

    def initialize(self, application: web.Application, web_config: WebConfigFile) -> None:  # type: ignore[override]
        """Set the limits; tornado's own way of constructing."""
        super().initialize(
            application,
            max_header_size=_MAX_HEADER_BYTES,
            max_body_size=_MAX_BODY_BYTES,
            body_timeout=streams.REQUEST_TIMEOUT_S,
        )
        self.conn_params.header_timeout = None  # the streams see to it; tornado's would take a task for each request
        self._web_config = web_config
        self._tls = web_config.current().tls
        self._waiting: dict[streams.Stream, None] = {}  # for a request, the longest first
        soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_connections = min(_MAX_CONNECTIONS, soft_limit // 2)

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        """Take a new connection; in place of tornado's, which has one TLS context for ever."""
        self._renew_tls()
        if len(self._connections) >= self._max_connections:
            longest = next(iter(self._waiting), None)
            if longest is None:
                connection.close()
                return
            del self._waiting[longest]  # at once: many may come before its own wait has ended
            longest.close()
        stream = streams.Stream
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                stream = streams.TlsStream
            self.handle_stream(stream(connection, self._waiting), address)
        except OSError:  # the client has gone already
            connection.close()

    def _renew_tls(self) -> None:
        """Take new certificates, and have the connections of the old ones end with the answer to their next request."""
        tls = self._web_config.current().tls
        if tls is not self._tls:
            old = self.conn_params
            self._tls, self.conn_params = tls, copy.copy(old)
            old.no_keep_alive = True

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """Begin to read the next request of a connection."""
        self._renew_tls()
        return super().start_request(server_conn, request_conn)

    async def shut_down(self, timeout_s: float) -> None:
        """Stop listening and close every connection, however busy; wait for that at most `timeout_s` seconds."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.close_all_connections(), timeout_s)
