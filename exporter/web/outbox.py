"""The outbox: sends long answers in pieces, to clients that may never read them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator

from tornado import iostream

STALL_TIMEOUT_S = 60
_PIECE_BYTES = 128 << 10
_STALLED_AT_MOST = 16


class Outbox:
    """Sends answers, and bounds how many of them wait for their clients to read.

    A client that has read nothing for a minute is disconnected. When too many answers wait, the client that has read
    nothing for longest is disconnected too.
    """

    def __init__(self) -> None:
        self._stalled: dict[iostream.IOStream, None] = {}  # the one that has waited longest first

    async def send(
        self, stream: iostream.IOStream, write: Callable[[bytes], asyncio.Future[None]], parts: Iterable[bytes]
    ) -> None:
        """Send all parts, unless the connection is closed meanwhile.

        Args:
            stream: the client's connection.
            write: sends some bytes; its future is done when they are sent.
            parts: the answer.
        """
        with contextlib.suppress(iostream.StreamClosedError):
            for piece in _pieces(parts):
                written = write(piece)
                del piece  # free it now: this coroutine may run late after a disconnect
                if not written.done():
                    await self._wait(stream, written)
                if stream.closed():
                    return

    async def _wait(self, stream: iostream.IOStream, written: asyncio.Future[None]) -> None:
        self._stalled[stream] = None
        if len(self._stalled) > _STALLED_AT_MOST:
            longest = next(iter(self._stalled))
            del self._stalled[longest]  # not only below in its own wait, which may end late
            longest.close()
        timer = asyncio.get_running_loop().call_later(STALL_TIMEOUT_S, stream.close)
        try:
            await written
        finally:
            timer.cancel()
            self._stalled.pop(stream, None)


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join small parts to pieces; a long part is not copied."""
    gathered: list[bytes] = []
    size = 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= _PIECE_BYTES:
            yield b"".join(gathered)
            gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)
