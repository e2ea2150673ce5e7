"""The families that prometheus_client writes; unchanged ones are not written again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from prometheus_client import Metric
from prometheus_client.registry import Collector

Encode = Callable[[Collector], bytes]
"""Writes all families of a collector in one format."""


class FamilyTexts:
    """Keeps the latest text of each family. Safe to call from several threads.

    Pass a new Metric for changed samples, because the written one is kept for comparison.
    """

    def __init__(self) -> None:
        self._written: WeakKeyDictionary[Encode, dict[str, tuple[Metric, bytes]]] = WeakKeyDictionary()

    def encode(self, encode: Encode, families: Iterable[Metric]) -> bytes:
        """Return the text of families; only changed ones are encoded again."""
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
