"""The only thread: wait for events, let them gather, have them worked off, rest."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

GREATEST_REST_S = 0.5
STOP_TIMEOUT_S = 1.0


class Pump:
    """Calls ``work`` whenever something happens, from a thread of its own that else is asleep.

    Args:
        awaited: the descriptors to wait for, each with the events of poll(2) that count.
        work: called without arguments after events have gathered; it takes in what happened and returns the
            monotonic time (seconds) at which it wants to be called even without events, or None.
        gather_s: how long events may gather before they are worked off, so that one look answers many of them.
        cpu_budget: the share of one core that the work may take, 0.01 for 1 %, or None for no bound. After work of
            b seconds of CPU the pump rests for b * (1 / cpu_budget - 1) seconds, at most half a second, and never past
            the time at which the work wants to be called; what is left of the rest then it takes later.
    """

    def __init__(
        self,
        awaited: Mapping[int, int],
        work: Callable[[], float | None],
        *,
        gather_s: float,
        cpu_budget: float | None,
    ) -> None:
        self._work = work
        self._gather_s = gather_s
        self.limit(cpu_budget)
        self.is_started = False
        """Whether :meth:`start` was called."""
        self._stopping = False
        self._failed = False
        self._asked = deque[threading.Event]()  # by those who want to know whether the thread still goes round
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._woken = select.poll()
        self._woken.register(self._wake_fd, select.POLLIN)
        self._anything = select.poll()
        for fd, events in {self._wake_fd: select.POLLIN, **awaited}.items():
            self._anything.register(fd, events)
        self._thread = threading.Thread(target=self._run, name="fstat-cache-pump", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            RuntimeError: the system gives no more threads.
        """
        self._thread.start()
        self.is_started = True

    @property
    def alive(self) -> bool:
        """False once the thread has ended, by :meth:`close` or because its work failed."""
        return not self._failed and not self._stopping and (self._thread.ident is None or self._thread.is_alive())

    def limit(self, cpu_budget: float | None) -> None:
        """Change the share of one core that the work may take."""
        self._rest_per_work = 1 / cpu_budget - 1 if cpu_budget else 0.0

    def responds(self, timeout_s: float) -> bool:
        """Wake the thread, and tell whether within so many seconds it was through with its work, or at rest from it."""
        answer = threading.Event()
        self._asked.append(answer)
        with contextlib.suppress(OSError):  # it was closed meanwhile
            self.wake()
        is_answered = answer.wait(timeout_s)
        if not is_answered:
            with contextlib.suppress(ValueError):
                self._asked.remove(answer)
        return is_answered and self.alive

    def wake(self) -> None:
        """Have ``work`` called soon, so that it can say when it wants to be called next."""
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Stop the thread and release its descriptor; safe from the thread itself. Not to be used afterwards."""
        self._stopping = True
        self.wake()
        if self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(STOP_TIMEOUT_S)
            if self._thread.is_alive():
                # Stuck in a system call on a dead filesystem: it ends when that returns, and needs its descriptor.
                return
        os.close(self._wake_fd)

    def abandon(self) -> None:
        """Release the descriptor in a forked child, where the thread does not exist."""
        os.close(self._wake_fd)

    def _run(self) -> None:
        try:
            due: float | None = None
            owed_s = 0.0
            while not self._stopping:
                happened = self._wait(self._anything, None if due is None else due - time.monotonic())
                if happened and not self._stopping:
                    self._is_woken(self._gather_s)
                if self._stopping:
                    return
                began = time.thread_time()
                due = self._work()
                self._answer()
                spent_s = time.thread_time() - began
                if self._rest_per_work and not self._stopping:
                    owed_s = min(owed_s + spent_s * self._rest_per_work, GREATEST_REST_S)
                    rest_s = owed_s if due is None else min(owed_s, max(0.0, due - time.monotonic()))
                    if self._is_woken(rest_s):
                        due = time.monotonic()  # whoever woke it wants the work to be done
                        self._answer()
                    owed_s -= rest_s
        except Exception:
            self._failed = True
            if not self._stopping:
                log.exception("the thread that follows file changes has failed; its cache answers by os.stat now")
        finally:
            self._answer()  # who is waiting sees that it is not alive

    def _answer(self) -> None:
        while self._asked:
            self._asked.popleft().set()

    def _is_woken(self, timeout_s: float) -> bool:
        """Wait for :meth:`wake` alone."""
        if not self._woken.poll(math.ceil(timeout_s * 1000)):
            return False
        if not self._stopping:
            os.eventfd_read(self._wake_fd)
        return True

    def _wait(self, poll: select.poll, timeout_s: float | None) -> bool:
        """Wait for what ``poll`` watches, if need be for ever; True when more than :meth:`wake` happened."""
        ready = poll.poll(None if timeout_s is None else max(0, math.ceil(timeout_s * 1000)))
        happened = False
        for fd, _ in ready:
            if fd == self._wake_fd and not self._stopping:
                os.eventfd_read(fd)
            else:
                happened = True
        return happened
