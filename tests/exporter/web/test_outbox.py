"""What is held for clients that do not read."""

import asyncio
import tracemalloc
from typing import cast

from tornado import iostream

from exporter.web.outbox import Outbox


class Stalled:
    """A connection whose client reads nothing: what is written stays, until it is closed."""

    def __init__(self) -> None:
        self._written: asyncio.Future[None] | None = None
        self._buffer = b""

    def write(self, piece: bytes) -> asyncio.Future[None]:
        """Keep it."""
        self._buffer = piece
        self._written = asyncio.get_running_loop().create_future()
        return self._written

    def close(self) -> None:
        """Drop it; whoever waits is told in the next round of the loop, as by tornado."""
        self._buffer = b""
        if self._written is not None and not self._written.done():
            self._written.set_result(None)

    def closed(self) -> bool:
        """Only asked after close()."""
        return True


async def _send_at_once(count: int, parts: list[bytes]) -> int:
    """Begin to send to so many within one round of the loop; return how many bytes are held at its end."""
    outbox = Outbox()
    streams = [Stalled() for _ in range(count)]
    tracemalloc.start()
    try:
        sent = [outbox.send(cast(iostream.IOStream, stream), stream.write, parts) for stream in streams]
        tasks = [asyncio.create_task(each) for each in sent]
        await asyncio.sleep(0)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for stream in streams:
        stream.close()
    await asyncio.gather(*tasks)
    return held_bytes


def test_it_holds_no_more_for_many_who_stall_at_once() -> None:
    """Whoever makes room does so at once, with the piece that waits to be read."""
    parts = [bytes(4 << 10)] * 100
    few, many = (asyncio.run(_send_at_once(count, parts)) for count in (16, 200))
    assert few > 16 * (128 << 10)
    assert many < 2 * few
