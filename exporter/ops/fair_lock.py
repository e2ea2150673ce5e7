"""A lock that a thread which takes it again and again leaves to those who wait."""

from __future__ import annotations

import threading
import time


class FairLock:
    """A lock, not reentrant. Python's own is taken again by the thread that released it before another one wakes up."""

    def __init__(self) -> None:
        self._turnstile = threading.Lock()  # held while the other one is waited for
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
        """Let the lock go."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()
