"""Looks at files of filesystems that may hang: a thread a mount, each of which is waited for only so long."""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Container, Mapping, Sequence

from fstat_cache.mounts import Mount
from fstat_cache.stats import FileStats

Read = Callable[[str], FileStats | None]
Found = FileStats | OSError | None


class RemoteMounts:
    """The threads, one for each mount that was ever asked.

    Args:
        read: what looks at one file.
        timeout_s: how long a look may take, seconds.
    """

    def __init__(self, read: Read, timeout_s: float) -> None:
        self._read = read
        self._timeout_s = timeout_s
        self._lock = threading.Lock()  # protects the dictionary
        self._workers: dict[Mount, _Worker] = {}

    def look(self, paths_by_mount: Mapping[Mount, Sequence[str]]) -> dict[str, Found]:
        """Look at files, all mounts at the same time.

        Args:
            paths_by_mount: mount -> paths.

        Returns:
            Path -> stats, None where no regular file is, or what was raised: :class:`TimeoutError` where the filesystem
            did not answer in time, or is not asked because it still owes an answer.
        """
        deadline = time.monotonic() + self._timeout_s
        looks = [(paths, self._worker(mount).begin(paths, deadline)) for mount, paths in paths_by_mount.items()]
        found: dict[str, Found] = {}
        for paths, look in looks:
            answers = look.wait_until(deadline) if look is not None else {}
            for path in paths:
                found[path] = answers[path] if path in answers else _late(path)
        return found

    def keep(self, mounts: Container[Mount]) -> None:
        """End the threads of all other mounts, as soon as their filesystems let them; waits for nothing."""
        with self._lock:
            for mount in [mount for mount in self._workers if mount not in mounts]:
                self._workers.pop(mount).close()

    def _worker(self, mount: Mount) -> _Worker:
        with self._lock:
            worker = self._workers.get(mount)
            if worker is None:
                worker = self._workers[mount] = _Worker(f"fstat-cache-remote-{mount.point}", self._read)
            return worker


def _late(path: str) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), path)


class _Look:
    """One look at several files; finished or not, what was found so far may be read at any time."""

    def __init__(self, paths: Sequence[str], deadline: float) -> None:
        self.deadline = deadline
        self._paths = paths
        self._found: dict[str, Found] = {}
        self._done = threading.Event()

    def run(self, read: Read) -> None:
        for path in self._paths:
            try:
                self._found[path] = read(path)
            except OSError as error:
                self._found[path] = error
        self._done.set()

    def wait_until(self, deadline: float) -> dict[str, Found]:
        self._done.wait(max(0.0, deadline - time.monotonic()))
        return self._found.copy()


class _Worker:
    def __init__(self, name: str, read: Read) -> None:
        self._read = read
        self._looks: queue.SimpleQueue[_Look | None] = queue.SimpleQueue()
        self._unanswered: deque[_Look] = deque()
        # A daemon: a thread that hangs in the kernel must not keep the process from exiting.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def begin(self, paths: Sequence[str], deadline: float) -> _Look | None:
        """Queue a look; None when an earlier one is overdue."""
        try:
            if self._unanswered[0].deadline < time.monotonic():
                return None
        except IndexError:
            pass
        look = _Look(paths, deadline)
        self._unanswered.append(look)
        self._looks.put(look)
        return look

    def close(self) -> None:
        self._looks.put(None)

    def _run(self) -> None:
        while (look := self._looks.get()) is not None:
            look.run(self._read)
            self._unanswered.popleft()
