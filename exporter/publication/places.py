"""The places that `max_series` leaves: who has one, and who waits for one."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from typing import Generic, Protocol, TypeVar


class _Publishable(Hashable, Protocol):
    is_published: bool


T = TypeVar("T", bound=_Publishable)


class Places(Generic[T]):
    """Gives the places of one group, in the order in which they were asked for.

    Args:
        bound: how many there are; None: no bound.

    Attributes:
        bound: as given.
        waiting: those without a place.
    """

    def __init__(self, bound: int | None) -> None:
        self.bound = bound
        self.waiting: dict[T, None] = {}
        self._taken = 0

    def ask(self, who: T) -> None:
        """Publish one, or have it wait for a place."""
        if who.is_published:
            return
        if self.bound is None or self._taken < self.bound:
            who.is_published = True
            self._taken += 1
        else:
            self.waiting[who] = None

    def leave(self, who: T) -> T | None:
        """Publish one no longer; return the one that gets its place."""
        self.waiting.pop(who, None)
        if not who.is_published:
            return None
        who.is_published = False
        self._taken -= 1
        heir = next(iter(self.waiting), None)
        if heir is not None:
            del self.waiting[heir]
            self.ask(heir)
        return heir

    def give(self, everyone: Collection[T], asking: Iterable[T]) -> list[T]:
        """Give all places anew; return those who have got or lost one.

        Args:
            everyone: all who may have a place.
            asking: those of them who are to have one, in this order.
        """
        had = {who for who in everyone if who.is_published}
        for who in had:
            who.is_published = False
        self.waiting.clear()
        self._taken = 0
        for who in asking:
            self.ask(who)
        return [who for who in everyone if who.is_published != (who in had)]
