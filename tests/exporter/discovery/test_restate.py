"""Going over to other patterns: what is known afterwards is what a discovery with these patterns would find."""

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from exporter.discovery.discovery import Discovery
from exporter.discovery.findings import Appeared, Findings, Gone, Moved, Rematched
from exporter.matching.automaton import GroupPatterns, Match, PathMatcher, number_groups
from fstat_cache import DirectoryEvent, FStatCache, file_time_ns, is_settled
from tests.exporter.tracking import touch
from tests.support import wait_until

NAMES = ("a", "b", "c", ".d")
FILES = ("a.log", "b.log", "a.txt", "a", "b.log.1")
SEGMENTS = ("a", "b", "*", "**", "?", "[ab]", ".d", "{a,c}", "*c*")
LAST = ("*.log", "a.log", "*", "a.*", "b.log", "a", "**", "{a,b}.log")
EXCLUDES = ("a.log", "*.txt", "a", ".d")


class World:
    """A discovery whose findings are performed by os.stat, as the tracker does by the cache.

    Attributes:
        files: the files that the findings tell of.
        stats: how many files were stat'ed.
        moved: renamed files that were asked for -> their origins.
        first_names: paths whose files had no other name before.
    """

    def __init__(self, rules: Sequence[GroupPatterns]) -> None:
        self.cache = FStatCache(keep_changes=True)
        self.discovery = Discovery(PathMatcher(rules), self.cache)
        self.files: dict[str, Match] = {}
        self.moved: dict[str, str] = {}
        self.first_names: set[str] = set()
        self.stats = 0
        self.is_there: Callable[[str], bool] = os.path.isfile

    def perform(self, findings: Findings) -> None:
        """Perform them and answer."""
        answer: bool | None = None
        while True:
            try:
                finding = findings.send(answer)
            except StopIteration:
                return
            answer = None
            match finding:
                case Appeared(path, found):
                    self.stats += 1
                    answer = self.is_there(path)
                    if answer:
                        self.files[path] = found
                        if path not in self.moved:
                            self.first_names.add(path)
                    else:
                        self.files.pop(path, None)
                case Moved(path, _, birth_ns) if birth_ns:
                    answer = False  # it was born before anybody looked
                case Moved(path, origin):
                    is_unmatched = self.files.pop(path, None) is not None
                    answer = os.path.isfile(path) and not (is_unmatched and path in self.first_names)
                    if answer or not is_unmatched:
                        self.moved[path] = origin
                case Gone(path):
                    self.files.pop(path, None)
                    self.moved.pop(path, None)
                case Rematched(path, found):
                    assert path in self.files
                    self.files[path] = found

    def scan(self) -> None:
        """Look everywhere."""
        discovery = self.discovery
        discovery.begin_scan({})
        while True:
            self.perform(discovery.scan(3))
            self.perform(discovery.settle())
            if not discovery.is_scanning:
                return

    def catch_up(self) -> None:
        """Take in all that has happened in directories."""
        self.cache.advance()
        events = [change for change in self.cache.take() if isinstance(change, DirectoryEvent)]
        self.perform(self.discovery.catch_up(events, {}))

    def restate(self, *rules: GroupPatterns) -> Iterator[None]:
        """Go over to other patterns, a directory each time."""
        self.perform(self.discovery.restate(PathMatcher(rules)))
        while self.discovery.is_restating:
            self.perform(self.discovery.restate_some(1))
            yield

    def restate_at_once(self, *rules: GroupPatterns) -> None:
        """Go over to other patterns."""
        for _ in self.restate(*rules):
            pass

    def known(self) -> tuple[object, ...]:
        """All that is to be as if no other patterns had ever been."""
        discovery = self.discovery
        tree = discovery._tree
        known = dict(discovery._remote_files)
        for folder in tree.folders.values():
            known.update(folder.files)
        assert known == self.files
        folders = {path: (folder.files, set(folder.folders)) for path, folder in tree.folders.items()}
        return (
            self.files,
            +discovery.matches,
            {folder.path for folder in tree.folders.values() if folder.is_watched},
            folders,
            {directory: set(names) for directory, names in tree.links.leads.items()},
            tree.folders.crossed,
            set(tree.faults),
            discovery.missed,
        )


@pytest.fixture
def worlds() -> Iterator[list[World]]:
    """Closes the caches of those that are put into it."""
    made: list[World] = []
    yield made
    for world in made:
        world.cache.close()


def make_tree(root: Path, pick: random.Random) -> None:
    """Directories, files, and symbolic links to either, to nothing, and to each other."""
    root.mkdir(parents=True)
    places = [root]
    for _ in range(pick.randint(3, 14)):
        folder = pick.choice(places) / pick.choice(NAMES)
        folder.mkdir(exist_ok=True)
        places.append(folder)
    for _ in range(pick.randint(3, 14)):
        path = pick.choice(places) / pick.choice(FILES)
        if not path.exists():
            path.touch()
    for _ in range(pick.randint(0, 6)):
        path = pick.choice(places) / pick.choice((*NAMES, *FILES))
        target = pick.choice([*places, root / "a.log", root / "b", pick.choice(places) / pick.choice(FILES)])
        if not path.is_symlink() and not path.exists():
            path.symlink_to(pick.choice([str(target), os.path.relpath(target, path.parent)]))


def groups(root: Path, pick: random.Random) -> list[LogGroup]:
    """One or two, with patterns and excludes."""
    made = []
    for number in range(pick.randint(1, 2)):
        paths = [
            "/".join([str(root), *pick.choices(SEGMENTS, k=pick.choice([0, 0, 1, 1, 2])), pick.choice(LAST)])
            for _ in range(pick.randint(1, 3))
        ]
        exclude = pick.choices([*EXCLUDES, f"{root}/a/**", f"{root}/*/b", f"{root}/**/c"], k=pick.choice([0, 0, 1, 2]))
        made.append(LogGroup(str(number), tuple(paths), tuple(exclude), follow_symlinks=pick.random() < 0.5))
    return made


def change(root: Path, pick: random.Random) -> None:
    """Make one change, or none where it is not possible.

    No directory is renamed if there are links: above what a link leads to that gives no event.
    """
    paths = sorted(root.rglob("*"))
    links = [path for path in paths if path.is_symlink()]
    places = [root, *(path for path in paths if path.is_dir() and path not in links)]
    path = pick.choice(places) / pick.choice((*NAMES, *FILES))
    kind = pick.randrange(7)
    if kind >= 5 and links and path in places:
        return
    with contextlib.suppress(OSError):
        match kind:
            case 0:
                path.mkdir()
                (path / pick.choice(FILES)).touch()
            case 1 | 2:
                path.touch()
            case 3:
                path.unlink()
            case 4:
                shutil.rmtree(path)
            case 5:
                path.rename(pick.choice(places) / pick.choice(NAMES))
            case 6:  # the same directory, or file, through a link
                path.rename(root.parent / f"moved-{path.name}")
                path.symlink_to(root.parent / f"moved-{path.name}")


def two_rules(root: Path, pick: random.Random) -> tuple[tuple[GroupPatterns, ...], tuple[GroupPatterns, ...]]:
    """Those of a configuration, and of one that follows it."""
    old = number_groups(groups(root, pick))
    last = old[-1]
    return old, number_groups(groups(root, pick), first_group=last.number + 1, first_pattern=max(last.patterns) + 1)


@pytest.mark.parametrize("seed", range(40))
def test_changes_meanwhile(tmp_path: Path, worlds: list[World], seed: int) -> None:
    """What comes and goes while one pattern takes the other's place is known, and nothing that has gone."""
    pick = random.Random(seed)
    root = tmp_path.joinpath(*"nnnnnn", "t")  # relative links that are moved up lead out of it
    make_tree(root, pick)
    old, new = two_rules(root, pick)
    world = World(old)
    worlds.append(world)
    world.scan()
    for rules in ((*old, *new), pick.choice([old, new])):
        for _ in world.restate(*rules):
            if pick.random() < 0.5:
                change(root, pick)
            if pick.random() < 0.5:
                world.catch_up()
        if len(rules) == len(old) + len(new):
            world.scan()
        for _ in range(3):
            world.catch_up()
        fresh = World(rules)
        worlds.append(fresh)
        fresh.scan()
        assert (world.files, +world.discovery.matches) == (fresh.files, +fresh.discovery.matches)
        for path in world.moved:
            world.discovery.unfollow(path)
        world.scan()
        assert world.known()[:-1] == fresh.known()[:-1]


@pytest.mark.parametrize("seed", range(60))
def test_other_patterns(tmp_path: Path, worlds: list[World], seed: int) -> None:
    """To both, then to the new ones alone: as if these had been the only ones. Back to the old ones: as before."""
    pick = random.Random(seed)
    root = tmp_path.joinpath(*"nnnnnn", "t")  # relative links that are moved up lead out of it
    make_tree(root, pick)
    old, new = two_rules(root, pick)
    moving, staying, fresh_old, fresh_new = (World(rules) for rules in (old, old, old, new))
    worlds += [moving, staying, fresh_old, fresh_new]
    for world in worlds:
        world.scan()
        world.catch_up()
    for world in (moving, staying):
        world.restate_at_once(*old, *new)
        world.scan()
        world.catch_up()
        both = World((*old, *new))
        worlds.append(both)
        both.scan()
        assert world.known() == both.known()
    stats = moving.stats
    moving.restate_at_once(*new)
    staying.restate_at_once(*old)
    assert moving.stats == stats
    assert moving.known() == fresh_new.known()
    assert staying.known() == fresh_old.known()
    for world, expected in ((moving, fresh_new), (staying, fresh_old)):
        world.scan()
        assert world.known() == expected.known()


def one_group(first: int, *paths: str) -> tuple[GroupPatterns, ...]:
    """The patterns of one group, numbered from a number on."""
    return number_groups([LogGroup("g", paths)], first_group=first, first_pattern=first)


def test_only_what_the_new_patterns_reach_is_listed(
    tmp_path: Path, worlds: list[World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is listed or stat'ed again where the same is looked for as before, and nothing new counts as missed."""
    touch(*(tmp_path / name / "x.log" for name in ("old/a", "old/b", "new/a", "both")), tmp_path / "both/x.txt")
    world = World(old := one_group(0, f"{tmp_path}/old/*/*.log", f"{tmp_path}/both/*.log"))
    worlds.append(world)
    wait_until(lambda: is_settled(max(path.stat().st_ctime_ns for path in tmp_path.rglob("*")), file_time_ns()))
    world.scan()
    listed: list[str] = []
    scandir = os.scandir

    def recording(path: str) -> "os._ScandirIterator[str]":
        listed.append(os.path.relpath(path, tmp_path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", recording)
    world.stats = 0
    same = one_group(10, f"{tmp_path}/old/*/*.log", f"{tmp_path}/new/*/*.log", f"{tmp_path}/both/*.txt")
    world.restate_at_once(*old, *same)
    assert listed == []
    world.scan()
    assert (sorted(listed), world.stats) == (["both", "new", "new/a"], 2)
    listed.clear()
    world.restate_at_once(*same)
    world.scan()
    assert (listed, world.stats, world.discovery.missed) == ([], 2, 0)
    assert {os.path.relpath(path, tmp_path): match.patterns for path, match in world.files.items()} == {
        "old/a/x.log": (10,),
        "old/b/x.log": (10,),
        "new/a/x.log": (11,),
        "both/x.txt": (12,),
    }


def test_a_followed_file_that_matches(tmp_path: Path, worlds: list[World]) -> None:
    """It is a file like others as long as a pattern matches it, and is followed again if that is given up."""
    log, rotated = str(tmp_path / "a.log"), str(tmp_path / "a.log.1")
    touch(tmp_path / "a.log")
    old, new = one_group(0, f"{tmp_path}/*.log"), one_group(1, f"{tmp_path}/*")
    for kept in (old, new):
        world = World(old)
        worlds.append(world)
        world.scan()
        os.rename(log, rotated)
        world.catch_up()
        assert (world.files, world.moved) == ({}, {rotated: log})
        world.restate_at_once(*old, *new)
        assert set(world.files) == {rotated}
        assert world.discovery._tree.renames.origin_of(rotated) is None
        world.restate_at_once(*kept)
        assert world.discovery._tree.renames.origin_of(rotated) == ("" if kept is old else None)
        assert set(world.files) == (set() if kept is old else {rotated})
        os.rename(rotated, log)


def test_remote_files(worlds: list[World]) -> None:
    """They are kept as far as the groups match them that are left; what others match shows in the next scan."""
    old, new = one_group(0, "/no/*.log", "/no/*"), one_group(2, "/no/*.log")
    world = World(old)
    worlds.append(world)
    matchers = {rules: PathMatcher(rules) for rules in (old, (*old, *new), new)}

    def found(matcher: PathMatcher) -> dict[str, Match]:
        return {path: match for path in ("/no/a.log", "/no/b") if (match := matcher.match(path)) is not None}

    world.perform(world.discovery.take_remote(found(matchers[old]), set()))
    assert world.files == {}  # for nothing is there
    world.is_there = lambda _path: True
    world.perform(world.discovery.take_remote(found(matchers[old]), set()))
    assert world.files == found(matchers[old])
    world.restate_at_once(*old, *new)
    assert world.files == found(matchers[old])
    world.perform(world.discovery.take_remote(found(matchers[*old, *new]), set()))
    assert world.files == found(matchers[*old, *new])
    assert +world.discovery.matches == {0: 1, 1: 2, 2: 1}
    world.restate_at_once(*new)
    assert world.files == found(matchers[new])
    assert (+world.discovery.matches, world.stats) == ({2: 1}, 4)


def test_a_link_to_the_directory_that_was_there(tmp_path: Path, worlds: list[World]) -> None:
    """`**` does not go through it, so other patterns match what is in it."""
    root = tmp_path.joinpath(*"nnnnnn", "t")  # relative links that are moved up lead out of it
    touch(root / "d/x.log", root / "d/y.txt", root / "d/e/z.log")
    world = World(rules := one_group(0, f"{root}/**/*.log", f"{root}/d/*.log", f"{root}/d/*/*.log", f"{root}/**/y.txt"))
    worlds.append(world)
    world.scan()
    (root / "d").rename(tmp_path / "d")
    (root / "d").symlink_to(tmp_path / "d")
    world.catch_up()
    assert {os.path.relpath(path, root): match.patterns for path, match in world.files.items()} == {
        "d/x.log": (1,),
        "d/e/z.log": (2,),
    }
    fresh = World(rules)
    worlds.append(fresh)
    fresh.scan()
    assert world.known() == fresh.known()
