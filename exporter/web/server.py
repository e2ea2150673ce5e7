"""The server: listening sockets, connections, and their time limits."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import errno
import os
import resource
import socket
from collections.abc import Sequence
from typing import Any

from tornado import httpserver, httputil, web

from exporter.config.fields.scalars import ListenAddress
from exporter.web import streams
from exporter.web.security.web_config_file import WebConfigFile

_MAX_CONNECTIONS = 2000
_MAX_HEADER_BYTES = 16 << 10
_MAX_BODY_BYTES = 4 << 10  # no handler reads a body
_BACKLOG = 1024
_TCP = ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_STREAM))


class ListenError(Exception):
    """The agent cannot listen on its address; the message names the address and the reason."""


def listen(address: ListenAddress) -> list[socket.socket]:
    """Bind the address and listen.

    Args:
        address: an empty host stands for every address, IPv4 and IPv6 if the machine has them.

    Returns:
        The listening sockets, at least one. For port 0 all have the same free port.

    Raises:
        ListenError: for example the port is in use, or the address is not one of this machine.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, sockaddr in sorted({(family, sockaddr) for family, _, _, _, sockaddr in found}):
            port = sockets[0].getsockname()[1] if sockets else address.port
            try:
                bound = socket.create_server((sockaddr[0], port, *sockaddr[2:]), family=family, backlog=_BACKLOG)
            except OSError as error:
                # IPv4 comes first. A machine without IPv6 gives one of these two errors.
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


def adopt(descriptors: Sequence[int]) -> list[socket.socket]:
    """Return the listening sockets that systemd passed.

    Args:
        descriptors: by :func:`exporter.ops.systemd.passed_descriptors`.

    Raises:
        ListenError: there are none, or one is no listening TCP socket.
    """
    if not descriptors:
        remedy = "start a .socket unit of the service, or leave --web.systemd-socket out"
        raise ListenError(f"systemd passed no socket; {remedy}")
    sockets = []
    for descriptor in descriptors:
        try:
            passed = socket.socket(fileno=descriptor)
            is_tcp = (passed.family, passed.type) in _TCP and passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            is_tcp = False
        if not is_tcp:
            remedy = "expected ListenStream= with a port and Accept=no in the .socket unit"
            raise ListenError(f"descriptor {descriptor} from systemd is no listening TCP socket; {remedy}")
        passed.set_inheritable(False)
        passed.setblocking(False)
        sockets.append(passed)
    return sockets


def _reason(error: OSError | UnicodeError, address: ListenAddress) -> str:
    if isinstance(error, (socket.gaierror, UnicodeError)):
        text = str(getattr(error, "strerror", error))
    elif error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has this address"
    elif error.errno == errno.EACCES and address.port < 1024:
        return "permission denied, ports below 1024 need root or CAP_NET_BIND_SERVICE"
    else:
        text = os.strerror(error.errno or 0)  # the error's own text would repeat the address
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
    """Serves HTTP/1.1 with keep-alive and time limits, over TLS if the web configuration has it.

    A new connection has 30 s for TLS and the headers of its first request. Each later request has 30 s for its headers,
    from their first byte on, and each body has 30 s. Between requests a connection is kept for 5 minutes. These are
    timers of the event loop, so a waiting connection costs no thread. When there are too many connections, the one
    that has waited longest for a request is closed.

    Args:
        application: answers the requests.
        web_config: TLS and its certificates; read for each connection and each request.
    """

    def initialize(self, application: web.Application, web_config: WebConfigFile) -> None:  # type: ignore[override]
        """Set the limits. Tornado calls this instead of `__init__`."""
        super().initialize(
            application,
            max_header_size=_MAX_HEADER_BYTES,
            max_body_size=_MAX_BODY_BYTES,
            body_timeout=streams.REQUEST_TIMEOUT_S,
        )
        self.conn_params.header_timeout = None  # the streams have timers; tornado's would cost a task for each request
        self._web_config = web_config
        self._tls = web_config.current().tls
        self._waiting: dict[streams.Stream, None] = {}  # streams that wait for a request, the longest first
        soft_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._max_connections = min(_MAX_CONNECTIONS, soft_limit // 2)

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        """Accept a connection. It replaces tornado's method, which would never change the TLS context."""
        self._renew_tls()
        if len(self._connections) >= self._max_connections:
            longest = next(iter(self._waiting), None)
            if longest is None:
                connection.close()
                return
            del self._waiting[longest]  # not only by its own wait, which may end late
            longest.close()
        stream = streams.Stream
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                stream = streams.TlsStream
            self.handle_stream(stream(connection, self._waiting), address)
        except OSError:  # the client has disconnected already
            connection.close()

    def _renew_tls(self) -> None:
        """Switch to new certificates; connections with the old ones end after the answer to their next request."""
        tls = self._web_config.current().tls
        if tls is not self._tls:
            old = self.conn_params
            self._tls, self.conn_params = tls, copy.copy(old)
            old.no_keep_alive = True

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> httputil.HTTPMessageDelegate:
        """Read the next request of a connection, after a switch to new certificates."""
        self._renew_tls()
        return super().start_request(server_conn, request_conn)

    async def shut_down(self, timeout_s: float) -> None:
        """Stop listening and close every connection, even busy ones; wait at most `timeout_s` seconds."""
        self.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.close_all_connections(), timeout_s)
