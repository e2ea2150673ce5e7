"""Makes docs/page*.png: the page of a real agent over a busy machine's logs, in a real Chromium.

To be run from the repository with `make screenshot`, on Linux with Chromium and unshare(1). The logs are made up, in a
mount namespace of their own, so that they have the names that such files have. Time runs a minute a second.
"""

import asyncio
import base64
import contextlib
import functools
import itertools
import math
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client import Metric, ProcessCollector

from exporter import overview, scrape
from exporter.agent import Agent
from exporter.config.fields.scalars import ListenAddress
from exporter.config.model import parse
from exporter.publication.history import STEP_S, STEPS, History
from exporter.web.server import listen
from tests.browser import open_browser

SPEED = 60
FRESH_S = STEP_S * STEPS / SPEED + 0.5  # how long to write before the plots are full
CONFIG = """
logs:
  - group: system
    paths: ["/var/log/{syslog,*.log}", "/var/log/{postgresql,redis}/*.log"]
  - group: web
    paths: ["/var/log/nginx/*.log", "/var/log/apache2/*.log"]
  - preset: kubernetes-pods
    per_file: false
shippers:
  - name: promtail
    type: promtail
    path: /var/log/positions.yml
"""
MIB = 1 << 20
SIZES = ((1280, 860, ""), (390, 844, "-narrow"))
SCHEMES = (("light", ""), ("dark", "-dark"))
PIXELS = """(async () => {
  const image = await createImageBitmap(await (await fetch('data:image/png;base64,IMAGE')).blob());
  const context = new OffscreenCanvas(image.width, image.height).getContext('2d');
  context.drawImage(image, 0, 0);
  const reader = new FileReader();
  reader.readAsDataURL(new Blob([context.getImageData(0, 0, image.width, image.height).data]));
  await new Promise(done => { reader.onload = done; });
  return reader.result.split(',')[1];
})()"""
POD = "/var/log/pods/{0}_{1}_{2}/{3}/0.log"


def pod(namespace: str, name: str, container: str) -> str:
    """Where the kubelet has a container's log."""
    number = random.Random(name).getrandbits(128)
    uid = f"{number:032x}"
    uid = "-".join((uid[:8], uid[8:12], uid[12:16], uid[16:20], uid[20:]))
    return POD.format(namespace, name, uid, container)


def steady(rate: float) -> Callable[[float], float]:
    """Bytes a second, more or less."""
    return lambda at_s: rate * random.uniform(0.8, 1.2)


def wave(rate: float, length_s: float) -> Callable[[float], float]:
    """Bytes a second, up and down."""
    return lambda at_s: rate * (1 + 0.7 * math.sin(2 * math.pi * at_s / length_s)) * random.uniform(0.9, 1.1)


def bursts(rate: float, every_s: float) -> Callable[[float], float]:
    """Bytes a second now and then."""
    return lambda at_s: rate * (at_s % every_s < 50)


def runaway(rate: float, since_s: float) -> Callable[[float], float]:
    """Bytes a second, and ever more since something broke."""
    return lambda at_s: rate * (0.02 + (max(0.0, at_s - since_s) / 300) ** 1.5) * random.uniform(0.9, 1.1)


GROWING = {
    pod("shop", "checkout-api-7d9c5b8f6-x2kvp", "app"): runaway(3.1 * MIB, 480),
    "/var/log/nginx/access.log": wave(410_000, 640),
    pod("shop", "cart-6f7d8c9b5-qm4zt", "app"): wave(96_000, 400),
    pod("payments", "ledger-0", "worker"): bursts(310_000, 240),
    "/var/log/postgresql/postgresql-15-main.log": steady(23_000),
    pod("monitoring", "prometheus-0", "prometheus"): bursts(18_000, 420),
    "/var/log/syslog": steady(3_900),
    "/var/log/nginx/error.log": bursts(2_600, 330),
    "/var/log/auth.log": steady(420),
}
HOT = 3
"""How many of them are written all the time."""
SHIPPED = 1.5 * MIB
"""How many bytes a second of one file the shipper reads."""
SILENT = {  # path -> size, and for how many seconds
    pod("shop", "search-5c6b7d8f9-8hjlw", "app"): (412 * MIB, 340),
    pod("ingress", "traefik-84d5f6-p9xqz", "traefik"): (96 * MIB, 4_300),
    "/var/log/redis/redis-server.log": (7 * MIB, 9_100),
    "/var/log/kern.log": (2 * MIB, 61_000),
    "/var/log/dpkg.log": (640_000, 1_400_000),
}


def make_logs() -> None:
    """Put made-up logs over /var/log and a made-up host name, for this process and its children only."""
    socket.sethostname("node-7")
    folder = tempfile.mkdtemp()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    subprocess.run(["mount", "--bind", folder, "/var/log"], check=True)
    for path in (*GROWING, *SILENT):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        size, silent_s = SILENT.get(path, (random.randrange(3 * MIB, 800 * MIB), 0))
        Path(path).touch()
        os.truncate(path, size)
        os.utime(path, (time.time() - silent_s,) * 2)


def grow(until: threading.Event) -> None:
    """Have the logs grow, by a gigabyte in all, and a shipper read them as fast as it can."""
    began_s = time.monotonic()
    latest_s = dict.fromkeys(GROWING, began_s)
    offsets = {path: float(os.stat(path).st_size) for path in (*GROWING, *SILENT)}
    data = memoryview(b"x" * 99 + b"\n" + bytes(64 * MIB))
    while not until.wait(0.05):
        now_s = time.monotonic()
        for number, (path, rate) in enumerate(GROWING.items()):
            if (passed_s := now_s - latest_s[path]) < (0.05 if number < HOT else 0.8):
                continue
            latest_s[path] = now_s
            with open(path, "ab", buffering=0) as log:
                log.write(data[: int(rate((now_s - began_s) * SPEED) * passed_s * SPEED)])
                offsets[path] = min(log.tell(), offsets[path] + SHIPPED * passed_s * SPEED)
        lines = [f'  {path}: "{int(offset)}"\n' for path, offset in offsets.items()]
        Path("/var/log/positions.new").write_text("positions:\n" + "".join(lines))
        os.replace("/var/log/positions.new", "/var/log/positions.yml")


def keep_scraping(url: str, until: threading.Event) -> None:
    """Scrape as Prometheus does."""
    while not until.wait(STEP_S / SPEED):
        with contextlib.suppress(urllib.error.HTTPError):  # before the first scan
            urllib.request.urlopen(f"{url}metrics", timeout=10).read()


class FastProcess(ProcessCollector):
    """The process' own metrics; it started as long ago as its clock has run."""

    def collect(self) -> Iterator[Metric]:
        """Return the families."""
        for family in super().collect():
            if family.name == "process_start_time_seconds":
                (sample,) = family.samples
                family.samples = [sample._replace(value=time.time() - (time.time() - sample.value) * SPEED)]
            yield family


def serve(agent: Agent, until: threading.Event) -> None:
    """Run the agent."""

    async def run() -> None:
        stop = asyncio.Event()
        running = asyncio.create_task(agent.run(stop))
        await asyncio.get_running_loop().run_in_executor(None, until.wait)
        stop.set()
        await running

    asyncio.run(run())


def small_png(pixels: bytes, width: int) -> bytes:
    """Return a PNG with the 256 most frequent colours: a third as big as one with all.

    Args:
        pixels: four bytes each: red, green, blue, and an alpha that is left out.
        width: of a line, in pixels.
    """
    colours = memoryview(pixels).cast("I")
    counts = Counter(colours)
    palette = [colour.to_bytes(4, sys.byteorder)[:3] for colour, _ in counts.most_common(256)]

    def nearest(colour: int) -> int:
        rgb = colour.to_bytes(4, sys.byteorder)[:3]
        return min(range(len(palette)), key=lambda at: sum((a - b) ** 2 for a, b in zip(rgb, palette[at], strict=True)))

    places = {colour: nearest(colour) for colour in counts}
    indices = bytes(map(places.__getitem__, colours))
    lines = b"".join(b"\0" + indices[at : at + width] for at in range(0, len(indices), width))
    header = struct.pack(">IIBBBBB", width, len(indices) // width, 8, 3, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", header),
        (b"PLTE", b"".join(palette)),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return png


def main() -> None:
    """Make the pictures: wide and narrow, light and dark."""
    if os.environ.get("FSTAT_SCREENSHOT") != "inside":
        os.environ["FSTAT_SCREENSHOT"] = "inside"
        own = [] if os.geteuid() == 0 else ["--map-root-user"]
        os.execvp("unshare", ["unshare", "--mount", "--uts", *own, sys.executable, "-m", "tools.screenshot"])
    shots: dict[str, tuple[int, str]] = {}
    with busy_agent() as url, open_browser() as browser:
        time.sleep(FRESH_S)
        for (width, height, size), (scheme, suffix) in itertools.product(SIZES, SCHEMES):
            browser.resize(width, height)
            browser.prefer(color_scheme=scheme)
            browser.open(url)
            browser.wait_for("document.querySelector('#growth-detail').innerText.endsWith('15 min')")
            shots[f"docs/page{size}{suffix}.png"] = width, browser.call("Page.captureScreenshot", format="png")["data"]
            browser.call("Page.navigate", url="about:blank")
        for path, (width, shot) in shots.items():  # after all were taken: this takes memory, which the page shows
            pixels = base64.b64decode(browser.evaluate(PIXELS.replace("IMAGE", shot)))
            Path(path).write_bytes(small_png(pixels, width))


@contextlib.contextmanager
def busy_agent() -> Iterator[str]:
    """An agent that has enough to show; gives its address."""
    began_s = time.monotonic()
    clock = lambda: began_s + (time.monotonic() - began_s) * SPEED  # noqa: E731
    scrape.History = functools.partial(History, clock=clock)
    overview.ProcessCollector = FastProcess
    make_logs()
    (bound,) = listen(ListenAddress("127.0.0.1", 0))
    url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
    until = threading.Event()
    threads = [
        threading.Thread(target=grow, args=(until,)),
        threading.Thread(target=serve, args=(Agent(parse(CONFIG, "screenshot"), [bound]), until)),
        threading.Thread(target=keep_scraping, args=(url, until)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield url
    finally:
        until.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
