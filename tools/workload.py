"""Logs as a small node of Kubernetes has them: busy, calm and silent, rotated, truncated, of pods that come and go.

The tests of config/ and the picture in docs/operating.md have them written before the agent's eyes.
"""

import math
import re
import shutil
import threading
import time
from pathlib import Path

STEP_S = 0.1
JOB_EVERY_S, JOB_TAKES_S = 40, 12
"""How often a job starts, and how long its pod lives."""
JOB_RESTS_S = 8.0
"""How long its log stays after its end."""


class Workload:
    """Writes logs below `root` while it runs; a context manager.

    Args:
        root: stands for the root of the host.
        speed: how many times as fast as told here logs are rotated and pods come and go.
    """

    def __init__(self, root: Path, speed: float = 1) -> None:
        self.root, self._speed = root, speed
        self._logs = root / "var/log"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload")
        self._done: dict[str, int] = {}  # how often what happens again and again has happened
        for silent in ("kern.log", "boot.log"):
            self._append(silent, 4_000)

    def configuration(self) -> str:
        """The agent's configuration for these logs."""
        logs = self._logs
        return f"""
stale_grace: 2s
logs:
  - group: system
    paths: ["{logs}/*.log", "{logs}/syslog"]
  - group: web
    paths: ["{logs}/nginx/*.log"]
    labels: {{team: shop}}
  - preset: kubernetes-pods
    paths: ["{logs}/pods/*/*/*.log"]
    path_regex: '^{re.escape(str(logs))}/pods/(?P<namespace>[^_]+)_(?P<pod>[^_]+)_(?P<uid>[^/]+)/(?P<container>[^/]+)/'
"""

    def __enter__(self) -> "Workload":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        start = last = time.monotonic()
        while not self._stop.wait(STEP_S):
            now = time.monotonic()
            self._write((now - start) * self._speed, now - last)
            last = now

    def _write(self, t: float, passed_s: float) -> None:
        """What happens at `t`, `passed_s` seconds after the step before."""

        def append(log: str, bytes_per_second: float) -> None:
            self._append(log, int(bytes_per_second * passed_s))

        append("syslog", 6_000)
        append("auth.log", 1_500 + 1_000 * math.sin(t / 3))
        append("nginx/access.log", 60_000 + 25_000 * math.sin(t / 12))
        append("nginx/error.log", 90_000 if 55 < t % 120 < 72 else 4_000)
        for namespace, pod, container, rate in (
            ("shop", "cart-6f7d9", "app", 22_000 + 9_000 * math.sin(t / 9)),
            ("shop", "checkout-84c5b", "app", 12_000),
            ("shop", "checkout-84c5b", "proxy", 5_000),
            ("payments", "api-5b9fd", "app", 15_000 + 12_000 * (t % 60 > 30)),
            ("kube-system", "dns-7db6d", "dns", 2_500),
        ):
            append(f"pods/{namespace}_{pod}_4be8c0f2/{container}/0.log", rate)
        number, age = divmod(t, JOB_EVERY_S)
        job = f"pods/batch_import-{number:.0f}_91d3a77e"
        if age < JOB_TAKES_S:
            append(f"{job}/import/0.log", 70_000)
        elif age >= JOB_TAKES_S + JOB_RESTS_S and (self._logs / job).exists():
            shutil.rmtree(self._logs / job)
        if self._is_time("rotate", t, 30):
            (self._logs / "nginx/access.log").rename(self._logs / "nginx/access.log.1")
        if self._is_time("truncate", t, 45):
            (self._logs / "nginx/error.log").write_bytes(b"")

    def _is_time(self, what: str, t: float, every: float) -> bool:
        before, self._done[what] = self._done.get(what, 0), int(t / every)
        return self._done[what] > before

    def _append(self, log: str, size: int) -> None:
        path = self._logs / log
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(b"x" * size)
