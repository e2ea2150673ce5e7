"""Families as the library writes them, of which only those that have changed are written again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from prometheus_client import Metric
from prometheus_client.registry import Collector

Encode = Callable[[Collector], bytes]
"""Writes all families of a collector, in some format."""


class FamilyTexts:
    """Remembers what families looked like when they were written last. Safe to call from several threads.

    It has to be another Metric when something in it is another: the one that was written is kept to compare.
    """

    def __init__(self) -> None:
        self._written: WeakKeyDictionary[Encode, dict[str, tuple[Metric, bytes]]] = WeakKeyDictionary()

    def encode(self, encode: Encode, families: Iterable[Metric]) -> bytes:
        """Return what `encode` gives for families; it is called for each that it has not written so before."""
        written = self._written.setdefault(encode, {})
        end = encode(_Families([]))
        parts = []
        for family in families:
            known = written.get(family.name)
            if known is None or known[0] != family:
                known = written[family.name] = family, encode(_Families([family])).removesuffix(end)
            parts.append(known[1])
        return b"".join([*parts, end])


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
