"""Long answers, piece by piece, to clients that may never read them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator

from tornado import iostream

STALL_TIMEOUT_S = 60
_PIECE_BYTES = 128 << 10
_STALLED_AT_MOST = 16


class Outbox:
    """Sends, and bounds how many answers wait for clients to read on.

    A client that has taken nothing for a minute is disconnected. So is, when too many of them wait, the one that has
    taken nothing for the longest time.
    """

    def __init__(self) -> None:
        self._stalled: dict[iostream.IOStream, None] = {}  # the one that has waited longest first

    async def send(
        self, stream: iostream.IOStream, write: Callable[[bytes], asyncio.Future[None]], parts: Iterable[bytes]
    ) -> None:
        """Send all parts, unless the connection is closed meanwhile.

        Args:
            stream: where they go in the end.
            write: sends some bytes; what it returns is done when they have left.
            parts: the answer.
        """
        with contextlib.suppress(iostream.StreamClosedError):
            for piece in _pieces(parts):
                written = write(piece)
                del piece  # who has been disconnected must not hold it until its turn comes
                if not written.done():
                    await self._wait(stream, written)
                if stream.closed():
                    return

    async def _wait(self, stream: iostream.IOStream, written: asyncio.Future[None]) -> None:
        self._stalled[stream] = None
        if len(self._stalled) > _STALLED_AT_MOST:
            longest = next(iter(self._stalled))
            del self._stalled[longest]  # at once: many may begin to wait before its own wait has ended
            longest.close()
        timer = asyncio.get_running_loop().call_later(STALL_TIMEOUT_S, stream.close)
        try:
            await written
        finally:
            timer.cancel()
            self._stalled.pop(stream, None)


def _pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join the small ones; what is long already is not copied."""
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
