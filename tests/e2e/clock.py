"""A clock that advances only while the agents can run."""

import math
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

TICK_S = 0.05
LONGEST_TICK_S = 2 * TICK_S
SECOND_NS = 10**9


class Thread(NamedTuple):
    """A thread of an agent, as it was at one tick."""

    is_ready: bool  # it runs, or waits for a CPU
    ran_ns: int
    waited_ns: int  # for a CPU; the kernel adds a wait when it ends


class AgentClock:
    """Measures the time in which agents can run. A thread advances it while the context is entered.

    A stalled machine needs no second run of a test then: what an agent has to do within a time is measured by the time
    that it was given. A tick counts at most :data:`LONGEST_TICK_S`, however late it comes. Off that goes what a
    hypervisor stole (``/proc/stat``) and what the threads of an agent waited for a CPU (``/proc/PID/task``). While an
    agent is stopped or has ended nothing counts.

    A wait is told only when it is over. So ticks count once no thread can be in the middle of one: each sleeps, or has
    run since the tick before. At most the latest tick is shown too early.

    Args:
        on_tick: called with the time after each tick, in nanoseconds.
    """

    def __init__(self, *on_tick: Callable[[int], None]) -> None:
        self.on_tick = list(on_tick)
        self.agents: tuple[int, ...] = ()
        """Process ids; where there are several, the one that can run least counts."""
        self._now_ns = 0
        self._history: list[tuple[float, int]] = []  # time.monotonic() and the clock
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
        """For how long the agents could run between two values of time.monotonic()."""
        return (self._at(to_s) - self._at(from_s)) / SECOND_NS

    def _at(self, moment_s: float) -> int:
        position = bisect_right(self._history, moment_s, key=lambda tick: tick[0])
        return self._history[position - 1][1] if position else 0

    def _run(self) -> None:
        before_s, stolen_before_s = time.monotonic(), stolen_seconds()
        agents: dict[int, dict[str, Thread]] = {}
        pending_s = debt_s = 0.0
        while not self._is_over.wait(TICK_S):
            now_s, stolen_s = time.monotonic(), stolen_seconds()
            agents_before, agents = agents, {pid: threads_of(pid) for pid in self.agents}
            pairs = [(agents_before.get(pid, {}), threads) for pid, threads in agents.items()]
            if pairs and all(before and now for before, now in pairs):
                pending_s += min(now_s - before_s, LONGEST_TICK_S)
                debt_s += stolen_s - stolen_before_s + max(waited_seconds(*pair) for pair in pairs)
                if not any(may_wait(*pair) for pair in pairs):
                    paid_s = min(debt_s, pending_s)
                    self._now_ns += int((pending_s - paid_s) * SECOND_NS)
                    # What is left was owed for the tick that was shown too early, or by several threads at once.
                    pending_s, debt_s = 0.0, min(debt_s - paid_s, LONGEST_TICK_S)
            else:  # one is away, or was at the tick before
                pending_s = debt_s = 0.0
            before_s, stolen_before_s = now_s, stolen_s
            self._history.append((now_s, self._now_ns))
            for tell in tuple(self.on_tick):
                tell(self._now_ns)


def threads_of(pid: int) -> dict[str, Thread]:
    """The threads of an agent, by id; none where it is away: stopped or ended."""
    tasks = Path(f"/proc/{pid}/task")
    threads = {}
    try:
        for thread in os.listdir(tasks):
            try:
                # The state first: the times hold for all that was before it.
                state = (tasks / thread / "stat").read_text().rpartition(")")[2].split()[0]
                ran_ns, waited_ns, _ = map(int, (tasks / thread / "schedstat").read_text().split())
            except (FileNotFoundError, ProcessLookupError):  # the thread has ended
                continue
            if thread == str(pid) and state in "TtZX":
                return {}
            threads[thread] = Thread(state == "R", ran_ns, waited_ns)
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return threads


def waited_seconds(before: Mapping[str, Thread], now: Mapping[str, Thread]) -> float:
    """For how long an agent's threads have waited for a CPU, as far as that has become known since the tick before."""
    if any(thread.is_ready and id_ not in now for id_, thread in before.items()):
        return math.inf  # it may have waited all the time, and has ended: nobody can know any more
    return (
        sum(
            max(0, thread.waited_ns - (before[id_].waited_ns if id_ in before else 0))  # an id may be used again
            for id_, thread in now.items()
        )
        / SECOND_NS
    )


def may_wait(before: Mapping[str, Thread], now: Mapping[str, Thread]) -> bool:
    """Whether a thread may have been waiting for a CPU since before the tick before."""
    return any(
        thread.is_ready and thread.ran_ns <= (before[id_].ran_ns if id_ in before else 0) for id_, thread in now.items()
    )


def stolen_seconds() -> float:
    """What a hypervisor took of all CPUs since the boot (proc(5), ``/proc/stat``)."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
