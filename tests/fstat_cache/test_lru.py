"""The eviction order, against the simplest thing that could be right: a list sorted by the last use."""

from hypothesis import given
from hypothesis import strategies as st

from fstat_cache import FileStats
from fstat_cache.lru import EvictionOrder
from fstat_cache.states import GONE
from fstat_cache.watches import Entry


def entry_of(name: int, used: int) -> Entry:
    entry = Entry(str(name), FileStats(0, 0, name, 0))
    entry.used = used
    return entry


@given(st.lists(st.tuples(st.sampled_from(["use", "admit", "evict", "drop"]), st.integers(0, 9))))
def test_the_least_recently_used_goes_first(steps: list[tuple[str, int]]) -> None:
    """After any uses, admissions, evictions and drops, the entry named is the one used longest ago."""
    order = EvictionOrder()
    entries: dict[int, Entry] = {}
    by_recency: list[int] = []
    for clock, (step, name) in enumerate(steps, start=1):
        if step == "evict" and entries:
            entry = order.pop(entries.values(), clock)
            assert entry is not None
            assert int(entry.path) == by_recency.pop(0)
            del entries[int(entry.path)]
            entry.state = GONE
        elif step == "drop" and name in entries:
            entries.pop(name).state = GONE
            by_recency.remove(name)
        elif step in ("use", "admit"):
            if name in entries:
                by_recency.remove(name)
                entries[name].used = clock
            else:
                entries[name] = entry_of(name, clock)
            by_recency.append(name)


def test_nothing_to_evict_is_none() -> None:
    """Neither an empty cache nor one whose entries are all later than the clock has an oldest entry."""
    order = EvictionOrder()
    assert order.pop((), 1) is None
    assert order.pop([entry_of(1, used=2)], 1) is None


def test_evicting_everything_sorts_once() -> None:
    """n evictions in a row look at the entries once, not n times."""
    order = EvictionOrder()
    entries = {name: entry_of(name, name) for name in range(1000)}
    looks = 0

    class Counted:
        def __iter__(self):  # type: ignore[no-untyped-def]
            nonlocal looks
            looks += 1
            return iter(tuple(entries.values()))

    for name in range(1000):
        entry = order.pop(Counted(), 1000)
        assert entry is not None
        assert entry.path == str(name)
        entries.pop(name).state = GONE
    assert looks == 1
