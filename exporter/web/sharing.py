"""Shared calls: one answer for many callers with the same request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedCalls(Generic[T]):
    """Makes calls one after the other; callers with the same key share a call that has not begun.

    So an answer is always of a time after the request, and a thousand concurrent callers cost two calls.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._calls: dict[Hashable, _Call[T]] = {}  # the calls that have not begun

    async def call(
        self, key: Hashable, function: Callable[[], Awaitable[T]], is_wanted: Callable[[], bool]
    ) -> T | None:
        """Return the result of `function`, or raise its exception.

        Args:
            key: identifies the request.
            function: makes the answer.
            is_wanted: whether this caller still wants it.

        Returns:
            The answer; None, without a call of `function`, when no caller wants it any more.
        """
        call = self._calls.get(key)
        if call is None:
            wanted: list[Callable[[], bool]] = []
            call = self._calls[key] = _Call(wanted, asyncio.create_task(self._make(key, wanted, function)))
            # Retrieve the error, so that asyncio does not log it when no caller waits any more.
            call.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        call.wanted.append(is_wanted)
        try:
            return await asyncio.shield(call.task)
        finally:
            call.wanted.remove(is_wanted)
            if not call.wanted and self._calls.get(key) is call:  # it has not begun, and no caller waits
                del self._calls[key]
                call.task.cancel()

    async def _make(
        self, key: Hashable, wanted: list[Callable[[], bool]], function: Callable[[], Awaitable[T]]
    ) -> T | None:
        async with self._turn:
            del self._calls[key]
            return await function() if any(is_wanted() for is_wanted in wanted) else None


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    wanted: list[Callable[[], bool]]  # is_wanted of each caller
    task: asyncio.Task[T | None]
