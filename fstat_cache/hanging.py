"""Workers for filesystems that may hang: threads that make blocking calls, so that callers wait with a timeout."""

from __future__ import annotations

import errno
import functools
import itertools
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from fstat_cache.mounts import Mount
from fstat_cache.stats import FileStats

Found = FileStats | OSError | None
T = TypeVar("T")


class Worker:
    """A thread that makes calls, one after the other.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._deadlines: deque[float] = deque()  # of the calls that have not returned
        # A daemon: a thread that hangs in the kernel must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def begin(self, function: Callable[[], T], timeout_s: float) -> Future[T] | None:
        """Queue a call.

        Args:
            function: makes the call.
            timeout_s: after how many seconds the call counts as late.

        Returns:
            The future of its result, which may come after the timeout; None, and no call, while an earlier one is late.
        """
        now = time.monotonic()
        if min(self._deadlines.copy(), default=now) < now:
            return None
        future: Future[T] = Future()

        def call() -> None:
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - raised again by result()
                self._deadlines.popleft()
                future.set_exception(error)
            else:
                self._deadlines.popleft()
                future.set_result(result)

        self._deadlines.append(now + timeout_s)
        self._calls.put(call)
        return future

    def close(self) -> None:
        """Let the thread end after its last call; waits for no call."""
        self._calls.put(None)
        if not self._deadlines:
            self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


class RemoteMounts:
    """The workers that stat remote files, one for each mount.

    Args:
        read: stats one file.
        timeout_s: how long to wait for a mount, seconds.
    """

    def __init__(self, read: Callable[[str], FileStats | None], timeout_s: float) -> None:
        self._read = read
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # protects the dictionary
        self._workers: dict[Mount, Worker] = {}

    def stat(self, paths_by_mount: Mapping[Mount, Sequence[str]]) -> dict[str, Found]:
        """Stat files, all mounts at the same time.

        Args:
            paths_by_mount: mount -> paths.

        Returns:
            Path -> stats, None where there is no regular file, or the error: :class:`TimeoutError` where the filesystem
            missed the timeout, or an earlier call to it is still late.
        """
        answers: dict[str, Found] = {}
        futures = []
        for mount, paths in paths_by_mount.items():
            stat = functools.partial(self._stat, paths, answers)
            futures.append(self._worker(mount).begin(stat, self._timeout_s))
        wait(filter(None, futures), self._timeout_s)
        answered = answers.copy()  # a late worker may still add to it
        late = errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)
        everything = itertools.chain.from_iterable(paths_by_mount.values())
        return {path: answered[path] if path in answered else TimeoutError(*late, path) for path in everything}

    def call(self, mount: Mount, function: Callable[[], T]) -> T:
        """Make one call to a filesystem, and return its result.

        Raises:
            TimeoutError: see :meth:`stat`; and whatever the function raises.
        """
        future = self._worker(mount).begin(function, self._timeout_s)
        if future is None or not wait((future,), self._timeout_s).done:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), mount.point)
        return future.result()

    def _worker(self, mount: Mount) -> Worker:
        with self._lock:
            if (worker := self._workers.get(mount)) is None:
                worker = self._workers[mount] = Worker(f"fstat-cache-remote-{mount.point}")
        return worker

    def _stat(self, paths: Sequence[str], answers: dict[str, Found]) -> None:
        for path in paths:
            try:
                answers[path] = self._read(path)
            except OSError as error:
                answers[path] = error

    def keep(self, mounts: Container[Mount]) -> None:
        """End the workers of all other mounts after their last calls; waits for no call."""
        with self._lock:
            for mount in [mount for mount in self._workers if mount not in mounts]:
                self._workers.pop(mount).close()
