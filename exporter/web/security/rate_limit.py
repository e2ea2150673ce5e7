"""Limits of how often something may happen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One request each `interval_s` seconds, and `burst` of them at once."""

    interval_s: float
    burst: int


class Bucket:
    """A token bucket: each interval adds a token, and each request takes one."""

    def __init__(self) -> None:
        self._limit: RateLimit | None = None
        self._tokens = 0.0
        self._as_of_s = 0.0

    def take(self, limit: RateLimit, now_s: float) -> bool:
        """Take a token, if there is one.

        Args:
            limit: the bucket is full when this differs from the one before.
            now_s: of a clock that never goes back.

        Returns:
            Whether there was one.
        """
        if limit != self._limit:
            self._limit, self._tokens = limit, limit.burst
        else:
            self._tokens = min(limit.burst, self._tokens + (now_s - self._as_of_s) / limit.interval_s)
        self._as_of_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
