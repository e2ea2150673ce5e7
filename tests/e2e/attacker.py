"""Attacks the agent until it is killed: `python -m tests.e2e.attacker NAME PORT`. A process of its own, so that its
work is not taken for the agent's.
"""

import asyncio
import base64
import contextlib
import itertools
import os
import random
import resource
import socket
import struct
import sys
from collections.abc import Awaitable, Callable

Attack = Callable[[int], Awaitable[None]]

GET = b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n"
JUNK = (
    b"\0" * 1000,
    b"\xff\xfe\r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET /metrics HTTP/0.9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"GET  /metrics  HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
    b"GET /%0d%0aX:%20y HTTP/1.1\r\nHost: x\r\n\r\n",
    b"BREW /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 6\r\n\r\nhello",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZ\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000,
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Encoding: gzip\r\n"
    b"Content-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=a\r\nContent-Length: 9\r\n\r\n"
    b"--a\r\n\r\n--a",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: " + b"a/b;q=1," * 1000 + b"\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip;q=\xff, \xff\r\nAccept: \xff\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /metrics?" + b"name[]=%ff&" * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics?" + b"name[]=a;" * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics?group=" + b"a" * 15000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics?" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(2000)) + b"\r\n",
    b"GET http://[::1/metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://x:99999999/ HTTP/1.1\r\nHost: x:99999999\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b'GET /metrics HTTP/1.1\r\nHost: x\r\nRange: bytes=0-1\r\nIf-None-Match: *\r\nCookie: a="\\\r\n\r\n',
    b"GET /metrics HTTP/1.1\nHost: x\n\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


async def slow_loris(port: int) -> None:
    """A request, a byte a second."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(GET[:4])
    while True:
        await asyncio.sleep(1)
        writer.write(b"X")


async def idle(port: int) -> None:
    """A connection, and not a word."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await reader.read()
    writer.close()


async def huge_header(port: int) -> None:
    """A header of a gigabyte."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: ")
    for _ in range(1 << 10):
        writer.write(b"x" * (1 << 20))
        await writer.drain()


async def junk(port: int) -> None:
    """What is no request, or a strange one; several in a row on one connection."""
    for sent in JUNK:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            writer.write(sent * 3)
            writer.write_eof()
            await asyncio.wait_for(reader.read(), 2)
        writer.close()


async def pipelined(port: int) -> None:
    """Requests without end, whose answers nobody reads."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    while True:
        writer.write(GET % (b"/metrics", b"") * 100)
        await writer.drain()


async def never_reads(port: int) -> None:
    """Asks for everything, uncompressed, and reads nothing."""
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(GET % (random.choice([b"/metrics", b"/api/v1/files?limit=1000"]), b""))
    await asyncio.sleep(3600)


async def scrapes(port: int) -> None:
    """Scrapes as fast as it goes, each a little different."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in itertools.count():
        query = b"?name[]=fstat_file_size_bytes&name[]=%d" % number if number % 2 else b""
        writer.write(GET % (b"/metrics" + query, b"Accept-Encoding: gzip\r\n"))
        length = 0
        while line := (await reader.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split()[1])
        await reader.readexactly(length)


async def passwords(port: int) -> None:
    """Passwords, each of them wrong."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in itertools.count():
        guess = base64.b64encode(b"alice:%d-%d" % (id(writer), number))
        writer.write(GET % (b"/metrics", b"Authorization: Basic %b\r\n" % guess))
        length = 0
        while line := (await reader.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split()[1])
        await reader.readexactly(length)


async def resets(port: int) -> None:
    """Connects and is gone, with a reset."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.setblocking(False)
    with contextlib.suppress(OSError):
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    client.close()


ATTACKS: dict[str, tuple[Attack, int]] = {
    attack.__name__: (attack, count)
    for attack, count in (
        (slow_loris, 1000),
        (idle, 3000),
        (huge_header, 4),
        (junk, 20),
        (pipelined, 200),
        (never_reads, 300),
        (scrapes, 200),
        (passwords, 100),
        (resets, 10),
    )
}
"""Name -> the attack, and how often at the same time."""


async def main(name: str, port: int) -> None:
    """Attack for ever."""
    attack, count = ATTACKS[name]

    async def again() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await attack(port)
            await asyncio.sleep(0.01)

    await asyncio.gather(*(again() for _ in range(count)))


if __name__ == "__main__":
    os.nice(5)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 10_000), hard))
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
