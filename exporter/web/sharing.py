"""One answer for many who ask the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class SharedCalls(Generic[T]):
    """Makes calls one after the other; whoever asks for the same before it has begun gets the same answer.

    So what is answered is always as of a moment after it was asked for, and a thousand who ask at once cost two calls.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._calls: dict[Hashable, _Call[T]] = {}  # those that have not begun

    async def call(
        self, key: Hashable, function: Callable[[], Awaitable[T]], is_wanted: Callable[[], bool]
    ) -> T | None:
        """Return what `function` returns, or raise what it raises.

        Args:
            key: what is asked for.
            function: gives the answer.
            is_wanted: whether the one who asks still waits.

        Returns:
            None when nobody of those who asked waited any more.
        """
        call = self._calls.get(key)
        if call is None:
            wanted: list[Callable[[], bool]] = []
            call = self._calls[key] = _Call(wanted, asyncio.create_task(self._make(key, wanted, function)))
            # Asyncio must not complain of an error that those who asked did not wait for.
            call.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        call.wanted.append(is_wanted)
        try:
            return await asyncio.shield(call.task)
        finally:
            call.wanted.remove(is_wanted)
            if not call.wanted and self._calls.get(key) is call:  # it has not begun, and nobody waits any more
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
    wanted: list[Callable[[], bool]]  # by each who asked
    task: asyncio.Task[T | None]
