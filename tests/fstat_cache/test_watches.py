"""Which entries share a watch."""

from dataclasses import dataclass

from fstat_cache.inotify import NO_WATCH
from fstat_cache.watches import WatchTable


@dataclass
class Entry:
    wd: int = NO_WATCH


def test_the_watch_that_was_bound_last() -> None:
    """It stays bound when it is asked for, and those unbound since do not count."""
    table: WatchTable[Entry] = WatchTable()
    assert table.latest() is None
    first, second, third, sharer = Entry(), Entry(), Entry(), Entry()
    for entry, wd in ((first, 7), (second, 5), (third, 6), (sharer, 5)):
        table.bind(entry, wd)
    assert table.latest() == table.latest() == 6
    table.unbind(third)
    assert table.latest() == 5
    assert table.entries(5) == (second, sharer)
    table.unbind(second)
    table.unbind(sharer)
    assert table.latest() == 7
