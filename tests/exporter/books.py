"""Facts and what is shown of them, for tests that book stats and ask for sums in few words."""

from collections.abc import Callable, Mapping

from exporter.config.groups import LogGroup
from exporter.ledger.facts import Facts
from exporter.ledger.offsets import Question
from exporter.ledger.records import Path
from exporter.publication.publication import Publication
from exporter.publication.rows import Row, Totals
from fstat_cache import Data, FileStats

START_NS = 1000
OLD = START_NS - 1
"""A birth before anything was known."""
NEW = START_NS
"""A birth since."""


def seen(size: int, inode: int = 1, *, birth_ns: int = NEW, mtime_ns: int = 0, device: int = 1) -> FileStats:
    """What a stat found; of the same size at the same time unless given otherwise."""
    return FileStats(size, mtime_ns or size, inode, device, birth_ns)


class Book:
    """Facts and a publication of one group, unless given others. Its realms are the positions of the groups.

    Args:
        groups: of the configuration.
        grace_s, zero_for_s: see :class:`Publication`; without `zero_for_s` no group shows zeros.
        data: answers the facts' questions for the tracker: path, question -> the data; None: it is unknown.
    """

    def __init__(
        self,
        *groups: LogGroup,
        grace_s: float = 60,
        zero_for_s: float | None = None,
        data: Callable[[str, Question], Data | None] = lambda _path, _question: None,
    ) -> None:
        config = groups or (LogGroup("g", ()),)
        self.facts = Facts()
        self.realms = {group.group: position for position, group in enumerate(config)}
        zeros = {} if zero_for_s is None else dict.fromkeys(range(len(config)), zero_for_s)
        self.publication = Publication(self.facts, config, self.realms, grace_s=grace_s, zeros=zeros)
        self._data = data

    def declare(self, path: str, group: int = 0, *, since_ns: int = START_NS, is_new: bool = True) -> None:
        """Have a path counted in a group."""
        self.facts.declare(path, group, (group,), since_ns=since_ns, is_new=is_new)

    def observe(self, path: str, stats: FileStats | None) -> None:
        """Book a stat as the tracker does: where there may be a hole it asks for the data."""
        question = self.facts.observe(path, stats)
        if question is not None:
            assert self.facts.observe(path, stats, self._data(path, question), may_ask=False) is None

    def look(self, path: str, stats: FileStats | None, group: int = 0, *, is_new: bool = True) -> None:
        """Declare a path, and book a stat of it."""
        self.declare(path, group, is_new=is_new)
        self.observe(path, stats)

    def expire(self, now_s: float, *, is_scrape: bool = False) -> None:
        """End the paths of files that have been gone for long enough."""
        self.publication.expire(now_s, is_scrape=is_scrape)

    def end_of_grace(self) -> None:
        """End the paths of all files that have gone."""
        self.expire(0)
        self.expire(1000)

    def of(self, path: str) -> Path:
        """A declared path."""
        return self.facts.paths[path]

    def row(self, path: str) -> Row:
        """The row of a declared path."""
        self.publication.update()
        return self.publication.rows[self.of(path)]

    @property
    def groups(self) -> tuple[Totals, ...]:
        """The totals of the groups, up to date."""
        self.publication.update()
        return self.publication.groups

    @property
    def aggregates(self) -> Mapping[tuple[int, tuple[str, ...]], Totals]:
        """Those of the aggregates."""
        self.publication.update()
        return self.publication.aggregates

    def appended(self, *paths: str) -> list[int]:
        """The bytes appended to the first group and to these paths."""
        return [self.groups[0].appended_bytes, *(self.of(path).appended_bytes for path in paths)]


def follow(
    book: Book,
    *groups: LogGroup,
    matched: Mapping[str, int] | None = None,
    first: int = 10,
    is_over: bool = True,
    zero_for_s: float | None = None,
) -> Publication:
    """Make the publication of another configuration, as a reload does; `matched` are the files of each group in it.

    Without `matched` all files stay in the group of the same position.
    """
    for path in [*book.facts.paths.values()]:
        number = path.realm if matched is None else matched.get(path.name)
        if number is not None:
            book.facts.declare(path.name, path.realm, (*path.groups, first + number), since_ns=0, is_new=False)
    for group in groups:
        book.realms.setdefault(group.group, len(book.realms))
    before = book.publication
    zeros = {} if zero_for_s is None else dict.fromkeys(range(len(groups)), zero_for_s)
    after = Publication(book.facts, groups, book.realms, first=first, zeros=zeros, before=before)
    after.catch_up()
    if is_over:
        after.take_over(lambda _: ())
        book.publication = after
    return after
