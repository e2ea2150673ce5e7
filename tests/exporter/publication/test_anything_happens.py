"""Files are written, moved, linked and stat'ed in any order while the configuration changes: all sums hold.

The truth of what can be known is in the toy filesystem. Bytes count once in each group that matches the file.
"""

import re
from collections import Counter

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from exporter.config.groups import LogGroup
from exporter.ledger.books import Counters
from exporter.ledger.facts import Facts
from exporter.ledger.records import Path
from exporter.publication.publication import Publication
from exporter.publication.rows import Totals
from fstat_cache import Data
from tests.exporter.ledger.toy import Disk, File

NAMES = ("/x/a", "/x/a.1", "/x/b", "/y/a", "/y/b", "/x/a.2", "/y/b.1")
REALMS = {"few": 0, "pods": 1, "other": 2}
MATCHED = {"/x/a": "few", "/x/a.1": "few", "/x/b": "pods", "/y/a": "pods", "/y/b": "pods"}
POD = re.compile("^/(?P<pod>x)")
GROUPS = (LogGroup("few", (), max_series=1), LogGroup("pods", (), path_regex=POD, aggregate_by=("pod",)))

Config = tuple[tuple[LogGroup, ...], dict[str, str]]
"""Groups, and for each name that one of them matches the group."""

names = st.sampled_from(NAMES)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any groups of the three names."""
    chosen = draw(st.lists(st.sampled_from([*REALMS]), min_size=1, unique=True))
    groups = tuple(
        LogGroup(
            name,
            (),
            path_regex=POD,
            aggregate_by=draw(st.sampled_from([(), ("pod",)])),
            max_series=draw(st.sampled_from([None, 1, 2])),
        )
        for name in chosen
    )
    matched = draw(st.dictionaries(names, st.sampled_from(chosen)))
    return groups, matched


class AnythingHappens(RuleBasedStateMachine):
    """The facts say what can be known, and never more, and the publications show it."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.facts = Facts()
        self.now_s = 0.0
        self.first = 0  # the number of the first group of what is shown
        self.config: Config = (GROUPS, MATCHED)
        self.shown = Publication(self.facts, GROUPS, REALMS)
        self.coming: Publication | None = None  # what is to be shown after a reload
        self.coming_config: Config = self.config
        self.declared = {name: (REALMS[group], self.numbers(name)) for name, group in MATCHED.items()}
        self.seen: dict[str, File] = {}
        # In which realms a file counts: in these for sure, and in no others. After names have come to other groups only
        # those where it has a name are sure.
        self.sure: dict[File, set[int]] = {}
        self.possible: dict[File, set[int]] = {}
        self.least: Counter[int] = Counter()  # bytes that must have been counted in a realm
        self.most: Counter[int] = Counter()
        self.all_paths: dict[Path, Counters] = {}
        self.all_totals: dict[Totals, Counters] = {}

    def numbers(self, name: str, config: Config | None = None, first: int = 0) -> tuple[int, ...]:
        """The numbers of the groups that match a name."""
        groups, matched = config or self.config
        return tuple(first + number for number, group in enumerate(groups) if matched.get(name) == group.group)

    # -- the disk -----------------------------------------------------------------------------------------------------

    @rule(name=names)
    def create(self, name: str) -> None:
        self.before_a_file_goes(name)
        self.disk.create(name)

    @precondition(lambda self: self.writable())
    @rule(data=st.data(), size=st.integers(1, 50))
    def append(self, data: st.DataObject, size: int) -> None:
        self.disk.append(data.draw(st.sampled_from(self.writable())), size)

    def writable(self) -> list[File]:
        return self.disk.files  # by those who have it open, those without a name included

    @precondition(lambda self: self.disk.names)
    @rule(data=st.data())
    def empty(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.disk.names)))
        self.before_a_file_goes(name)
        self.disk.empty(self.disk.names[name])
        self.after_a_file_was_emptied(name)

    @precondition(lambda self: self.disk.names)
    @rule(data=st.data(), new=names, is_link=st.booleans())
    def move(self, data: st.DataObject, new: str, is_link: bool) -> None:
        old = data.draw(st.sampled_from(sorted(self.disk.names)))
        if old != new and not (is_link and new in self.disk.names):
            self.before_a_file_goes(new)
            self.disk.names[new] = self.disk.names[old]
            if not is_link:
                del self.disk.names[old]

    @rule(name=names)
    def unlink(self, name: str) -> None:
        self.before_a_file_goes(name)
        self.disk.names.pop(name, None)

    def before_a_file_goes(self, name: str) -> None:
        """Nobody looks in time."""

    def after_a_file_was_emptied(self, name: str) -> None:
        """Nobody looks in time."""

    # -- looking ------------------------------------------------------------------------------------------------------

    @rule(name=names)
    def look(self, name: str) -> None:
        declared = self.declared.get(name)
        if declared is None and name in self.facts.paths:
            return  # what no group matches any more and has its grace, nobody stats
        file = self.disk.names.get(name)
        if file is None:
            self.seen.pop(name, None)
            self.facts.observe(name, None)
            return
        self.seen[name] = file
        booked = file.booked
        stats = file.look(is_declared=declared is not None)
        for realms, sums in ((self.sure, self.least), (self.possible, self.most)):
            for realm in realms.get(file, ()):
                sums[realm] += file.booked - booked
        if declared is not None:
            realm, groups = declared
            if realm not in self.sure.setdefault(file, set()):
                # A group counts what it sees first as if it were alone.
                self.least[realm] += 0 if realm in self.possible.setdefault(file, set()) else file.size
                self.most[realm] += file.size
                self.sure[file].add(realm)
                self.possible[file].add(realm)
            self.facts.declare(name, realm, groups, since_ns=0, is_new=True)
        if (question := self.facts.observe(name, stats)) is not None:  # no file has holes
            self.facts.observe(name, stats, Data(stats.size - question.begin, stats.size), may_ask=False)

    @rule()
    def look_everywhere(self) -> None:
        for name in NAMES:
            self.look(name)

    @rule(elapsed_s=st.integers(0, 100), is_scrape=st.booleans())
    def expire(self, elapsed_s: int, is_scrape: bool) -> None:
        self.now_s += elapsed_s
        self.shown.expire(self.now_s, is_scrape=is_scrape)

    # -- other configurations -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.coming is None)
    @rule(config=configs() | st.none())
    def begin_reload(self, config: Config | None) -> None:
        """Match both configurations; without another one it is the same again."""
        self.coming_config = self.config if config is None else config
        first = self.first + len(self.config[0])
        realms = {name: REALMS[group] for name, group in (self.coming_config[1] | self.config[1]).items()}
        self.declared = {
            name: (realm, self.numbers(name, first=self.first) + self.numbers(name, self.coming_config, first))
            for name, realm in realms.items()
        }
        self.restate()
        for name in self.declared.keys() - self.facts.paths.keys():
            self.seen.pop(name, None)  # it was not declared when it was
        self.coming = Publication(self.facts, self.coming_config[0], REALMS, first=first, before=self.shown)
        shown = {group.group for group in self.config[0]}
        for name, realm in REALMS.items():
            if name not in shown:  # its totals begin with what is shown next
                self.least[realm] = self.most[realm] = 0

    def restate(self) -> None:
        """Have all paths know which groups match them."""
        for path in [*self.facts.paths.values()]:
            realm, groups = self.declared.get(path.name, (path.realm, ()))
            assert realm == path.realm or not path.groups
            self.facts.declare(path.name, path.realm, groups, since_ns=0, is_new=False)

    @precondition(lambda self: self.coming is not None)
    @rule()
    def catch_up(self) -> None:
        assert self.coming is not None
        self.coming.update()

    @precondition(lambda self: self.coming is not None)
    @rule()
    def end_reload(self) -> None:
        before, after = self.shown, self.coming
        assert after is not None
        before.update()
        after.update()
        own = {after.label_set(totals): Counters.of(totals) for totals in after.totals()}
        realms = {path: path.realm for path in self.facts.paths.values()}
        carried = {before.label_set(totals): Counters.of(totals) for totals in before.totals()}
        after.take_over(lambda _: ())
        for totals in after.totals():
            labels = after.label_set(totals)
            assert Counters.of(totals) == added(own[labels], carried.get(labels, Counters(0, 0, 0, 0)))
        if self.coming_config == self.config:
            assert everything(after) == everything(before)
            assert all(counters == Counters(0, 0, 0, 0) for counters in own.values())
        self.first += len(self.config[0])
        self.shown, self.config, self.coming = after, self.coming_config, None
        self.all_totals = {}
        self.let_go()
        if any(path.realm != realm or path.has_ended for path, realm in realms.items()):
            for file in self.disk.files:
                if file in self.possible:
                    self.sure[file] = {
                        self.facts.paths[name].realm
                        for name, seen in self.seen.items()
                        if seen is file and name in self.facts.paths
                    }
                    self.possible[file] = {*REALMS.values()}

    @precondition(lambda self: self.coming is not None)
    @rule()
    def abandon(self) -> None:
        assert self.coming is not None
        self.coming.close()
        self.coming = None
        self.let_go()
        for file in self.possible:
            self.sure[file] = set()
            self.possible[file] = {*REALMS.values()}
        # What only the other one had was not shown.
        self.shown.update()
        for totals, group in zip(self.shown.groups, self.config[0], strict=True):
            self.least[REALMS[group.group]] = self.most[REALMS[group.group]] = totals.appended_bytes

    def let_go(self) -> None:
        """Match only what is shown."""
        self.declared = {
            name: (REALMS[group], self.numbers(name, first=self.first)) for name, group in self.config[1].items()
        }
        self.restate()
        assert self.facts.paths.keys() <= self.declared.keys()
        self.seen = {name: file for name, file in self.seen.items() if self.facts.at(name) is not None}

    # -- what holds ---------------------------------------------------------------------------------------------------

    @invariant()
    def no_byte_is_lost_or_invented(self) -> None:
        self.shown.update()
        if self.coming is None:
            for totals, group in zip(self.shown.groups, self.config[0], strict=True):
                realm = REALMS[group.group]
                assert self.least[realm] <= totals.appended_bytes <= self.most[realm]

    @invariant()
    def sizes_are_those_of_the_files_that_were_seen(self) -> None:
        self.shown.update()
        if self.coming is None:
            for totals, group in zip(self.shown.groups, self.config[0], strict=True):
                here = {name: file for name, file in self.seen.items() if self.config[1].get(name) == group.group}
                assert totals.size_bytes == sum(file.size_seen for file in {*here.values()})
                assert totals.files == len(here)

    @invariant()
    def sums_move_by_what_their_paths_move_by(self) -> None:
        """And no counter decreases."""
        self.shown.update()
        moved: dict[Totals, Counters] = {}
        homes = {home for inode in self.facts.inodes.values() for home in inode.homes}
        for path in {*self.facts.paths.values(), *homes, *self.all_paths}:
            by = subtracted(Counters.of(path), self.all_paths.get(path, Counters(0, 0, 0, 0)))
            self.all_paths[path] = Counters.of(path)
            position = self.shown._position(path)
            for totals in () if position is None else self.totals_of(path, position):
                moved[totals] = added(moved.get(totals, Counters(0, 0, 0, 0)), by)
        for totals in self.shown.totals():
            if totals in self.all_totals:
                by = subtracted(Counters.of(totals), self.all_totals[totals])
                assert by == moved.get(totals, Counters(0, 0, 0, 0))
            self.all_totals[totals] = Counters.of(totals)

    def totals_of(self, path: Path, position: int) -> tuple[Totals, ...]:
        row = self.shown.rows.get(path)
        return (self.shown.groups[position],) if row is None else row.totals

    @invariant()
    def another_publication_would_show_the_same(self) -> None:
        """What is there is what it would be if all of it were added up anew."""
        self.shown.update()
        other = Publication(self.facts, self.config[0], REALMS, first=self.first)
        other.update()
        assert present(other) == present(self.shown)
        other.close()

    @invariant()
    def as_many_are_published_as_may_be(self) -> None:
        self.shown.update()
        for position, group in enumerate(self.config[0]):
            rows = [row for row in self.shown.rows.values() if row.group == position]
            waiting = [row for row in rows if row.is_present and not row.is_published]
            assert self.shown.files_without_series(position) == len(waiting)
            has_room = group.max_series is None or sum(row.is_published for row in rows) < group.max_series
            assert not (waiting and has_room)
            published = [each.is_published for (at, _), each in self.shown.aggregates.items() if at == position]
            assert sum(published) == min(len(published), group.max_series or len(NAMES))

    @invariant()
    def what_has_gone_is_to_end(self) -> None:
        self.shown.update()
        gone = {path for path in self.facts.paths.values() if not path.is_present and (path.is_counting or path.stats)}
        assert {*self.shown._gone} == gone

    @invariant()
    def names_are_those_where_files_were_seen(self) -> None:
        assert {name for name in self.declared if name in self.seen} == {
            path.name for path in self.facts.paths.values() if path.is_present
        }
        for inode in self.facts.inodes.values():
            leading = sorted(name for name in NAMES if self.facts.at(name) is inode)
            assert sorted(inode.names) == leading
            assert (inode in self.facts.lost()) == (not leading)
        for name, file in self.seen.items():
            inode = self.facts.at(name)
            if name in self.declared:
                assert inode is not None
            assert inode is None or inode.identity == file.stats.identity

    @invariant()
    def an_inode_has_a_home_and_a_holder_in_each_of_its_groups(self) -> None:
        for inode in self.facts.inodes.values():
            homes = [home.realm for home in inode.homes]
            holders = [holder.realm for holder in inode.holders]
            realms = {self.facts.paths[name].realm for name in inode.names if name in self.facts.paths}
            assert len(homes) == len({*homes})
            assert sorted(holders) == sorted(realms)
            assert realms <= {*homes}
            assert all(home.is_counting for home in inode.homes)
            assert {holder.name for holder in inode.holders} <= {*inode.names}
            assert all(self.facts.paths.get(holder.name) is holder for holder in inode.holders)


def added(one: Counters, other: Counters) -> Counters:
    """The sum of both."""
    return Counters(
        one.changes + other.changes,
        one.appended_bytes + other.appended_bytes,
        one.truncations + other.truncations,
        one.rotations + other.rotations,
    )


def subtracted(one: Counters, other: Counters) -> Counters:
    """What the first is more than the second, which is nowhere less."""
    by = Counters(
        one.changes - other.changes,
        one.appended_bytes - other.appended_bytes,
        one.truncations - other.truncations,
        one.rotations - other.rotations,
    )
    assert min(by.changes, by.appended_bytes, by.truncations, by.rotations) >= 0
    return by


def present(publication: Publication) -> object:
    """What is there now: which rows with which labels, the sums, and the time of the newest file."""
    publication.find_newest()
    for totals in publication.totals():
        assert totals.newest_is_known
        newest = (
            None if totals.newest is None or totals.newest.path.stats is None else totals.newest.path.stats.mtime_ns
        )
        times = [
            row.path.stats.mtime_ns
            for row in publication.rows.values()
            if totals in row.totals and row.is_present and row.path.stats
        ]
        assert newest == max(times, default=None)
        assert newest is None or newest == totals.newest_mtime_ns
        assert totals.rows == sum(totals in row.totals for row in publication.rows.values())
    return (
        {row.path: (row.values, row.is_present, row.group) for row in publication.rows.values()},
        {
            (totals.group, totals.values): (totals.files, totals.unlabelled, totals.size_bytes, totals.newest_mtime_ns)
            for totals in publication.totals()
        },
    )


def everything(publication: Publication) -> object:
    """All that goes over to a publication of the same configuration."""
    return (
        present(publication),
        {totals.values: Counters.of(totals) for totals in publication.totals()},
        {row.path: row.is_published for row in publication.rows.values()},
        {(totals.group, totals.values): totals.is_published for totals in publication.totals()},
        [[row.path for row in places.waiting] for places in publication._places],
        [[totals.values for totals in places.waiting] for places in publication._aggregate_places],
        {path: (gone.since_s, gone.scrapes) for path, gone in publication._gone.items()},
    )


class EverythingIsSeen(AnythingHappens):
    """Where a look came before everything that leaves no trace, and after each truncation, all was counted."""

    def writable(self) -> list[File]:
        return list(self.disk.names.values())

    def before_a_file_goes(self, name: str) -> None:
        self.look_everywhere()

    def after_a_file_was_emptied(self, name: str) -> None:
        self.look(name)

    def teardown(self) -> None:
        self.look_everywhere()
        for file in self.disk.files:
            assert file.booked == (file.written if file.is_known else 0)
        self.no_byte_is_lost_or_invented()


for machine in (AnythingHappens, EverythingIsSeen):
    machine.TestCase.settings = settings(
        max_examples=60,
        stateful_step_count=40,
        deadline=None,
        phases=set(Phase) - {Phase.explain},  # it takes longer than a test may
    )
TestAnythingHappens = AnythingHappens.TestCase
TestEverythingIsSeen = EverythingIsSeen.TestCase
