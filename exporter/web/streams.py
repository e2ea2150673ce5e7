"""Connections with timeouts, for the headers of a request and between requests."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado import iostream

REQUEST_TIMEOUT_S = 30
KEEP_ALIVE_S = 300
_CHUNK_BYTES = 16 << 10


class Stream(iostream.IOStream):
    """A connection that closes itself when no request begins for 5 minutes, or its headers take longer than 30 s.

    The headers of the first request must arrive within 30 s from the connection's beginning.

    Args:
        connection: the socket.
        waiting: the streams that wait for the headers of a request, the one that has waited longest first.
    """

    def __init__(self, connection: Any, waiting: dict[Stream, None]) -> None:
        super().__init__(connection, max_buffer_size=16 * _CHUNK_BYTES, read_chunk_size=_CHUNK_BYTES)
        self._waiting = waiting
        self._is_idle = False
        self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT_S, self.close)
        waiting[self] = None

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Read the headers of a request; tornado calls this for nothing else.

        Raises:
            StreamClosedError: the connection is closed. Tornado alone would still process all requests that arrived
                before, perhaps hundreds, whose answers no client can get.
        """
        try:
            if self.closed():
                raise iostream.StreamClosedError(real_error=self.error)
            if self not in self._waiting:  # this is not the first request
                self._is_idle = not self._read_buffer_size
                self._waiting[self] = None
                self._close_in(KEEP_ALIVE_S if self._is_idle else REQUEST_TIMEOUT_S)
            return await super().read_until_regex(regex, max_bytes)
        finally:
            self._is_idle = False
            self._timer.cancel()
            self._waiting.pop(self, None)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read from the socket, a hook of tornado; begin the headers' timeout at their first byte."""
        count = super().read_from_fd(buf)
        if count and self._is_idle:
            self._is_idle = False
            self._close_in(REQUEST_TIMEOUT_S)
        return count

    def _close_in(self, timeout_s: float) -> None:
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self.close)


class TlsStream(Stream, iostream.SSLIOStream):
    """A connection over TLS, whose handshake counts as part of the first request."""
