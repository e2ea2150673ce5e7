"""The sleep of the thread that follows changes: waits for events, lets more gather, rests as a CPU budget requires."""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections import deque

GREATEST_REST_S = 0.5
MOST_CUT_S = 5.0
CUT_SHARE = 0.1
"""How much of their rests urgent events may cut off at once, and which share of the time in the long run. Beyond that
they wait for the end of a rest, because frequent ones would exceed the budget."""
STOP_TIMEOUT_S = 1.0
IDLE_S = 0.1
"""After so long a sleep the first events gather for :data:`LEAST_GATHER_S` only, because a truncation may follow."""
LEAST_GATHER_S = 0.001


class Sleeper:
    """Puts one thread to sleep between its turns of work.

    Args:
        gather_s: seconds for which events gather before they are processed, so that one stat answers many events; less
            after a sleep of :data:`IDLE_S`.
        cpu_budget: the share of one core that the work may take, 0.01 for 1 %; None: no bound. After work of b seconds
            of CPU the thread rests for b * (1 / cpu_budget - 1) seconds, at most half a second, less what it has slept
            before. When work is due earlier, the remaining rest comes later.
    """

    def __init__(self, *, gather_s: float, cpu_budget: float | None) -> None:
        self._gather_s = gather_s
        self.cpu_budget = cpu_budget
        self._owed_s = 0.0  # below 0: how much rest it has had ahead
        self._cut_s = 0.0  # how much rest was cut off until _cut_at_s, less CUT_SHARE of the time
        self._cut_at_s = 0.0
        self._slept_s = 0.0
        self._worked_since_s: float | None = None  # CPU time of the thread when its turn began; None before the first
        self._stopping = False
        self._asked = deque[threading.Event]()  # set at the thread's next turn, for responds()
        self._lock = threading.Lock()  # protects _stopping and _awake, so that close() knows whether the thread sleeps
        self._awake = threading.Event()
        self._awake.set()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._woken = select.poll()
        self._woken.register(self._wake_fd, select.POLLIN)
        self._urgent = select.poll()
        self._urgent.register(self._wake_fd, select.POLLIN)
        self._anything = select.poll()
        self._anything.register(self._wake_fd, select.POLLIN)

    def watch(self, fd: int, events: int, *, ends_rest: bool = False) -> None:
        """Also wake up for a descriptor from now on.

        Args:
            fd: the descriptor.
            events: the events of poll(2) that wake it.
            ends_rest: whether they also end a rest, because what they report cannot wait.
        """
        self._anything.register(fd, events)
        if ends_rest:
            self._urgent.register(fd, events)
        if not self._awake.is_set():
            self.wake()  # its current poll(2) does not include the new descriptor

    @property
    def worked_s(self) -> float:
        """CPU time of the current turn, seconds; to be read by the thread that works."""
        return 0.0 if self._worked_since_s is None else time.thread_time() - self._worked_since_s

    def sleep(self, due: float | None) -> bool:
        """Rest from the work since the last call, then sleep until something happens or work is due.

        Args:
            due: when to return even without events, by the monotonic clock in seconds; None: never.

        Returns:
            Whether to work; False after :meth:`close`.
        """
        with self._lock:
            if self._stopping:
                return False
            self._awake.clear()
        try:
            self._answer()
            if not self._rest(due) and self._wait(due):
                now_s = time.monotonic()
                gather_s = self._gather_s if self._slept_s < IDLE_S else min(self._gather_s, LEAST_GATHER_S)
                self._wait_for_wake(self._urgent, min(gather_s, math.inf if due is None else max(0.0, due - now_s)))
            self._worked_since_s = time.thread_time()
            return not self._stopping
        finally:
            self._awake.set()

    def _rest(self, due: float | None) -> bool:
        """Rest as the budget requires; return whether the rest has ended early."""
        rest_per_work = 1 / self.cpu_budget - 1 if self.cpu_budget else 0.0
        self._owed_s = min(self._owed_s + self.worked_s * rest_per_work, GREATEST_REST_S)
        rest_s = max(0.0, self._owed_s)
        began_s = time.monotonic()
        if due is not None:
            rest_s = min(rest_s, max(0.0, due - began_s))
        self._owed_s -= rest_s
        if rest_s <= 0:
            return False
        self._cut_s = max(0.0, self._cut_s - CUT_SHARE * (began_s - self._cut_at_s))
        self._cut_at_s = began_s
        woken = self._wait_for_wake(self._urgent if self._cut_s < MOST_CUT_S else self._woken, rest_s)
        if not woken:
            return False
        if self._wake_fd not in woken:
            self._cut_s += max(0.0, began_s + rest_s - time.monotonic())
        self._answer()
        return True

    def wake(self) -> None:
        """Wake the thread; does nothing after :meth:`close`."""
        with self._lock:
            if not self._stopping:
                os.eventfd_write(self._wake_fd, 1)

    def responds(self, timeout_s: float) -> bool:
        """Wake the thread, and return whether within ``timeout_s`` seconds it finished its turn, or rested after it."""
        answer = threading.Event()
        self._asked.append(answer)
        self.wake()
        return not self._stopping and answer.wait(timeout_s) and not self._stopping

    def close(self) -> None:
        """End the thread's sleep for good and release the descriptor; callable from any thread, and more than once."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            os.eventfd_write(self._wake_fd, 1)
        if self._awake.wait(STOP_TIMEOUT_S):
            os.close(self._wake_fd)
        self._answer()

    def abandon(self) -> None:
        """Release the descriptor in a forked child, where the thread does not exist."""
        if not self._stopping:  # else the descriptor is closed, and its number may be in use again
            self._stopping = True
            os.close(self._wake_fd)

    def _answer(self) -> None:
        while self._asked:
            self._asked.popleft().set()

    def _wait_for_wake(self, poll: select.poll, timeout_s: float) -> list[int]:
        """Wait for :meth:`wake`, and for other descriptors if `poll` has some; return those that have something."""
        woken = [fd for fd, _ in poll.poll(math.ceil(timeout_s * 1000))]
        if self._wake_fd in woken and not self._stopping:
            os.eventfd_read(self._wake_fd)
        return woken

    def _wait(self, due: float | None) -> bool:
        """Wait for any event until work is due; return whether there was one besides :meth:`wake`."""
        began_s = time.monotonic()
        timeout_ms = None if due is None else max(0, math.ceil((due - began_s) * 1000))
        happened = False
        for fd, _ in self._anything.poll(timeout_ms):
            if fd == self._wake_fd and not self._stopping:
                os.eventfd_read(fd)
            else:
                happened = True
        self._slept_s = time.monotonic() - began_s
        self._owed_s = max(self._owed_s - self._slept_s, -GREATEST_REST_S)
        return happened and not self._stopping
