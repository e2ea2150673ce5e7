"""Connections with an end to patience: a request that has begun must get on, and none may be hoarded."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado import iostream

REQUEST_TIMEOUT_S = 30
KEEP_ALIVE_S = 300
_CHUNK_BYTES = 16 << 10


class Stream(iostream.IOStream):
    """One that closes itself when a request does not begin for 5 minutes, or its headers take longer than 30 s then.

    The time of the first request runs from the beginning, whether there is a byte of it or not.

    Args:
        connection: the socket.
        waiting: has the streams that wait for the headers of a request, the one that has waited longest first.
    """

    def __init__(self, connection: Any, waiting: dict[Stream, None]) -> None:
        super().__init__(connection, max_buffer_size=16 * _CHUNK_BYTES, read_chunk_size=_CHUNK_BYTES)
        self._waiting = waiting
        self._is_idle = False
        self._timer = asyncio.get_running_loop().call_later(REQUEST_TIMEOUT_S, self.close)
        waiting[self] = None

    async def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> bytes:
        """Read the headers of a request, which is what tornado reads in this way.

        Raises:
            StreamClosedError: the connection is closed. Tornado itself would go on with the requests that had come
                before that: hundreds, if they are short, and nobody is there to have an answer.
        """
        try:
            if self.closed():
                raise iostream.StreamClosedError(real_error=self.error)
            if self not in self._waiting:  # then it is not the first
                self._is_idle = not self._read_buffer_size
                self._waiting[self] = None
                self._close_in(KEEP_ALIVE_S if self._is_idle else REQUEST_TIMEOUT_S)
            return await super().read_until_regex(regex, max_bytes)
        finally:
            self._is_idle = False
            self._timer.cancel()
            self._waiting.pop(self, None)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        """Read; tornado's own hook."""
        count = super().read_from_fd(buf)
        if count and self._is_idle:
            self._is_idle = False
            self._close_in(REQUEST_TIMEOUT_S)
        return count

    def _close_in(self, timeout_s: float) -> None:
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(timeout_s, self.close)


class TlsStream(Stream, iostream.SSLIOStream):
    """The same over TLS, whose handshake counts as part of the first request."""
