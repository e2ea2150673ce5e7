"""Connections with an end to patience: a request that has begun must get on, and none may be hoarded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

from tornado import iostream

REQUEST_TIMEOUT_S = 30
KEEP_ALIVE_S = 300
_CHUNK_BYTES = 16 << 10


class Stream(iostream.IOStream):
    """One that closes itself when a request does not begin for 5 minutes, or its headers take longer than 30 s then.

    Args:
        connection: the socket.
        address: of the client.
    """

    def __init__(self, connection: Any, address: str) -> None:
        super().__init__(connection, max_buffer_size=16 * _CHUNK_BYTES, read_chunk_size=_CHUNK_BYTES)
        self.address = address
        self._is_idle = False
        self._timer: asyncio.TimerHandle | None = None

    def expect_request(self, *, is_begun: bool) -> None:
        """Wait for a request; `is_begun` if its time runs from now on, whether there is a byte of it or not."""
        self._is_idle = not (is_begun or self._read_buffer_size)
        self._close_in(KEEP_ALIVE_S if self._is_idle else REQUEST_TIMEOUT_S)

    def have_request(self) -> None:
        """Take note that the headers are complete, or that nobody waits for them any more."""
        self._is_idle = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def peer_certificate(self) -> Mapping[str, Any] | None:
        """Return the certificate of the client, verified, or None."""
        return None

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """Read headers; tornado's own way of reading them.

        Raises:
            StreamClosedError: the connection is closed. Tornado itself would go on with the requests that had come
                before that: hundreds, if they are short, and nobody is there to have an answer.
        """
        if self.closed():
            raise iostream.StreamClosedError(real_error=self.error)
        return super().read_until_regex(regex, max_bytes)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read; tornado's own hook."""
        count = super().read_from_fd(buf)
        if count and self._is_idle:
            self._is_idle = False
            self._close_in(REQUEST_TIMEOUT_S)
        return count

    def _close_in(self, timeout_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self.close)


class TlsStream(Stream, iostream.SSLIOStream):
    """The same over TLS, whose handshake counts as part of the first request."""

    def peer_certificate(self) -> Mapping[str, Any] | None:
        """Return the certificate of the client, verified, or None."""
        return self.socket.getpeercert()
