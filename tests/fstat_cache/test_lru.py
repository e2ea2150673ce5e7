"""The eviction order, against the simplest thing that could be right: a list sorted by the last use."""

from dataclasses import dataclass
from operator import attrgetter

from hypothesis import given
from hypothesis import strategies as st

from fstat_cache.lru import EvictionOrder


@dataclass
class Entry:
    name: int
    used: int
    is_dropped: bool = False


@given(st.lists(st.tuples(st.sampled_from(["use", "admit", "evict", "drop"]), st.integers(0, 9))))
def test_the_least_recently_used_goes_first(steps: list[tuple[str, int]]) -> None:
    """After any uses, admissions, evictions and drops, the entry named is the one used longest ago."""
    order: EvictionOrder[Entry] = EvictionOrder(attrgetter("used"))
    entries: dict[int, Entry] = {}
    by_recency: list[int] = []
    for clock, (step, name) in enumerate(steps, start=1):
        if step == "evict" and entries:
            entry = order.pop(entries.values(), clock)
            assert entry is not None
            assert entry.name == by_recency.pop(0)
            del entries[entry.name]
            entry.is_dropped = True
        elif step == "drop" and name in entries:
            entries.pop(name).is_dropped = True
            by_recency.remove(name)
        elif step in ("use", "admit"):
            if name in entries:
                by_recency.remove(name)
                entries[name].used = clock
            else:
                entries[name] = Entry(name, clock)
            by_recency.append(name)


def test_nothing_to_evict_is_none() -> None:
    """Neither an empty cache nor one whose entries are all later than the clock has an oldest entry."""
    order = EvictionOrder[Entry](attrgetter("used"))
    assert order.pop((), 1) is None
    assert order.pop([Entry(1, used=2)], 1) is None


def test_evicting_everything_sorts_once() -> None:
    """n evictions in a row look at the entries once, not n times."""
    order: EvictionOrder[Entry] = EvictionOrder(attrgetter("used"))
    entries = {name: Entry(name, name) for name in range(1000)}
    looks = 0

    class Counted:
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal looks
            looks += 1
            return iter(tuple(entries.values()))

    for name in range(1000):
        entry = order.pop(Counted(), 1000)
        assert entry is not None
        assert entry.name == name
        entries.pop(name).is_dropped = True
    assert looks == 1
