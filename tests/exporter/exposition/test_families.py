"""Families from memory, against those that the library writes each time."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from exporter.exposition.families import FamilyTexts

ENCODERS = (generate_latest, partial(openmetrics.generate_latest, version="1.0.0"))
LABELS = st.dictionaries(st.sampled_from("ab"), st.sampled_from(["", "x", '"\n\\']))
SAMPLES = st.lists(st.tuples(LABELS, st.sampled_from([0, 1, 2.5, float("nan")])), max_size=2)
COLLECTIONS = st.dictionaries(st.sampled_from(["one", "two", "three"]), SAMPLES)


class Source(Collector):
    """Families of given samples."""

    def __init__(self, families: dict[str, list[tuple[dict[str, str], float]]]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        """New ones each time."""
        for name, samples in self.families.items():
            family = Metric(name, f"About {name}.", "gauge")
            for labels, value in samples:
                family.add_sample(name, labels, value)
            yield family


@given(st.lists(st.tuples(COLLECTIONS, st.sampled_from(ENCODERS))))
def test_it_is_what_the_library_writes(
    scrapes: list[tuple[dict[str, list[tuple[dict[str, str], float]]], Callable[[Collector], bytes]]],
) -> None:
    """To the letter, whatever came before, in either format."""
    texts = FamilyTexts()
    for families, encode in scrapes:
        assert texts.encode(encode, Source(families).collect()) == encode(Source(families))


@pytest.mark.parametrize("encode", ENCODERS)
def test_only_what_has_changed_is_written(encode: Callable[[Collector], bytes]) -> None:
    """The library is asked for nothing else."""
    asked: list[str] = []

    def counting(source: Collector) -> bytes:
        asked.extend(family.name for family in source.collect())
        return encode(source)

    texts = FamilyTexts()
    texts.encode(counting, Source({"one": [({}, 1)], "two": [({}, 2)]}).collect())
    asked.clear()
    texts.encode(counting, Source({"one": [({}, 1)], "two": [({}, 3)]}).collect())
    assert asked == ["two"]
