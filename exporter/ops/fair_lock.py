"""A fair lock: a thread that takes it again and again does not starve waiting threads."""

from __future__ import annotations

import threading
import time


class FairLock:
    """A fair lock, not reentrant. Python's own can be taken again by its releaser before a waiting thread wakes up."""

    def __init__(self) -> None:
        self._turnstile = threading.Lock()  # held by the thread that waits next for the lock
        self._lock = threading.Lock()

    def acquire(self, timeout_s: float = -1) -> bool:
        """Take the lock.

        Args:
            timeout_s: how long to wait, seconds; -1: for ever.

        Returns:
            Whether it was taken.
        """
        began_s = time.monotonic()
        if not self._turnstile.acquire(timeout=timeout_s):
            return False
        try:
            left_s = timeout_s if timeout_s < 0 else max(0.0, timeout_s - (time.monotonic() - began_s))
            return self._lock.acquire(timeout=left_s)
        finally:
            self._turnstile.release()

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
