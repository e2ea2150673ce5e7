"""The places under `max_series`: which rows or totals have one, and which wait for one."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, Protocol, TypeVar


class _Publishable(Hashable, Protocol):
    is_published: bool


T = TypeVar("T", bound=_Publishable)


class Places(Generic[T]):
    """Gives the places of one group to items, in the order in which they ask.

    Args:
        bound: how many places there are; None: no bound.

    Attributes:
        bound: as given.
        waiting: the items without a place.
    """

    def __init__(self, bound: int | None) -> None:
        self.bound = bound
        self.waiting: dict[T, None] = {}
        self._taken = 0

    def ask(self, item: T) -> None:
        """Publish an item, or let it wait for a place."""
        if item.is_published:
            return
        if self.bound is None or self._taken < self.bound:
            item.is_published = True
            self._taken += 1
        else:
            self.waiting[item] = None

    def leave(self, item: T) -> T | None:
        """Stop publishing an item; return the one that gets its place, if any."""
        self.waiting.pop(item, None)
        if not item.is_published:
            return None
        item.is_published = False
        self._taken -= 1
        heir = next(iter(self.waiting), None)
        if heir is not None:
            del self.waiting[heir]
            self.ask(heir)
        return heir

    def give(self, items: Collection[T], asking: Iterable[T]) -> list[T]:
        """Give all places anew; return the items that have gained or lost one.

        Args:
            items: all items that may have a place.
            asking: the items to be published, in the order in which they get a place.
        """
        had = {item for item in items if item.is_published}
        for item in had:
            item.is_published = False
        self.waiting.clear()
        self._taken = 0
        for item in asking:
            self.ask(item)
        return [item for item in items if item.is_published != (item in had)]
