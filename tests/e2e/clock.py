"""A clock that advances only while the agents can run."""

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

TICK_S = 0.05
LONGEST_TICK_S = 2 * TICK_S
SECOND_NS = 10**9


class AgentClock:
    """Measures the time in which agents can run. A thread advances it while the context is entered.

    A stalled machine needs no second run of a test then: what an agent has to do within a time is measured by the time
    that it was given. A tick counts at most :data:`LONGEST_TICK_S`, however late it comes. It is shortened by what a
    hypervisor stole (``/proc/stat``) and by what the threads of an agent waited for a CPU (``/proc/PID/task``). While
    an agent is stopped or has ended nothing counts.

    Args:
        on_tick: called with the time after each tick, in nanoseconds.
    """

    def __init__(self, *on_tick: Callable[[int], None]) -> None:
        self.on_tick = list(on_tick)
        self.agents: tuple[int, ...] = ()
        """Process ids; where there are several, the one that can run least counts."""
        self._now_ns = 0
        self._history: list[tuple[float, int]] = []  # time.time() and the clock
        self._waited_ns: dict[tuple[int, str], int] = {}  # by process and thread
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent-clock", daemon=True)

    def __enter__(self) -> "AgentClock":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def follow(self, *agents: int) -> None:
        """Measure for these processes from now on."""
        self.agents = agents

    def seconds_between(self, from_s: float, to_s: float) -> float:
        """For how long the agents could run between two values of time.time()."""
        return (self._at(to_s) - self._at(from_s)) / SECOND_NS

    def _at(self, moment_s: float) -> int:
        position = bisect_right(self._history, moment_s, key=lambda tick: tick[0])
        return self._history[position - 1][1] if position else 0

    def _run(self) -> None:
        before_s, stolen_s = time.monotonic(), stolen_seconds()
        while not self._is_over.wait(TICK_S):
            now_s, stolen_before_s = time.monotonic(), stolen_s
            stolen_s = stolen_seconds()
            waited_s = max((self._waited_s(pid) for pid in self.agents), default=0.0)
            tick_s = min(now_s - before_s, LONGEST_TICK_S) - (stolen_s - stolen_before_s) - waited_s
            before_s = now_s
            if self.agents and tick_s > 0:
                self._now_ns += int(tick_s * SECOND_NS)
            self._history.append((time.time(), self._now_ns))
            for tell in tuple(self.on_tick):
                tell(self._now_ns)

    def _waited_s(self, pid: int) -> float:
        """How long the threads of an agent have waited for a CPU since the tick before; all of it where it is away."""
        tasks = Path(f"/proc/{pid}/task")
        total_ns = 0
        try:
            if (tasks / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] in "TtZX":
                return LONGEST_TICK_S
            for thread in os.listdir(tasks):
                try:
                    waited_ns = int((tasks / thread / "schedstat").read_text().split()[1])
                except (FileNotFoundError, ProcessLookupError):  # the thread has ended
                    continue
                total_ns += waited_ns - self._waited_ns.get((pid, thread), 0)
                self._waited_ns[pid, thread] = waited_ns
        except (FileNotFoundError, ProcessLookupError):
            return LONGEST_TICK_S
        return total_ns / SECOND_NS


def stolen_seconds() -> float:
    """What a hypervisor took of all CPUs since the boot (proc(5), ``/proc/stat``)."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
