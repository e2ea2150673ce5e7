"""Which files the configuration matches: the patterns and excludes of all groups as one automaton over directories.

All patterns of all groups make one state machine over the components of a path. A :class:`Directory` is one of its
states: which patterns and groups match a file name in it, and which state a directory name in it leads to. So a scanner
enters only directories that can contain a match, and one new name is matched by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exporter.config.globs import COMPRESSED_ENDINGS, Exclude, Glob, Include, Segment, Test
from exporter.config.groups import LogGroup


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A segment in its place in the state machine.

    Attributes:
        group: the number of its group.
        pattern: the number of its pattern; None for an exclude.
        segment: the segment.
        after: the step of the next segment; None if this is the last one.
        all_below: whether it is an exclude that matches all files below.
        compressed: whether its pattern names the ending of compressed files.
        meaning: compares equal where two steps, reached by the same path, match the same files.
    """

    group: int
    pattern: int | None
    segment: Segment
    after: _Step | None
    all_below: bool
    compressed: bool
    meaning: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """What matches a file. Its numbers are the same in each matcher that the groups are part of.

    Attributes:
        groups: the numbers of the groups that the file belongs to, in order.
        patterns: the numbers of the patterns that match it, in order; those of a group that excludes it do not.
    """

    groups: tuple[int, ...]
    patterns: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GroupPatterns:
    """The patterns of one group in the state machine. Several matchers can share it. Made by :func:`number_groups`.

    Attributes:
        number: the group's number.
        name: the group's name.
        patterns: the number of each include pattern -> its text.
        starts: the first step of each pattern and exclude.
        name_excludes: the excludes by base name.
    """

    number: int
    name: str
    patterns: Mapping[int, str]
    starts: tuple[_Step, ...]
    name_excludes: tuple[Test, ...]


def number_groups(
    groups: Iterable[LogGroup], *, first_group: int = 0, first_pattern: int = 0
) -> tuple[GroupPatterns, ...]:
    """Give numbers to groups and to their patterns, in order; a pattern that a group repeats has one number.

    Args:
        groups: the groups of one configuration.
        first_group: the number of the first group: for a second configuration, one that was never given.
        first_pattern: the number of the first pattern, likewise.

    Raises:
        PatternError: a pattern is not valid.
    """
    numbered = []
    for number, group in enumerate(groups, first_group):
        patterns = dict(enumerate(dict.fromkeys(group.paths), first_pattern))
        first_pattern += len(patterns)
        excludes = frozenset(group.exclude)
        starts = [
            _first_step(number, pattern, glob, (text, alternative, excludes))
            for pattern, text in patterns.items()
            for alternative, glob in enumerate(Include(text).globs)
        ]
        by_name: list[Test] = []
        for text in group.exclude:
            for glob in Exclude(text).globs:
                if len(glob.segments) == 1 and "/" not in text:
                    by_name.append(glob.segments[0].test)
                else:
                    starts.append(_first_step(number, None, glob, ()))
        numbered.append(GroupPatterns(number, group.group, patterns, tuple(starts), tuple(by_name)))
    return tuple(numbered)


def _first_step(group: int, pattern: int | None, glob: Glob, meaning: tuple[object, ...]) -> _Step:
    step = None
    count = len(glob.segments)
    for index in reversed(range(count)):
        segment = glob.segments[index]
        all_below = pattern is None and index == count - 2 and segment.any_depth and glob.segments[-1].any_name
        step = _Step(group, pattern, segment, step, all_below, glob.compressed, (*meaning, index))
    assert step is not None  # a glob has a segment
    return step


class PathMatcher:
    """The state machine of some groups, of one configuration or of two.

    Args:
        rules: the groups.

    Attributes:
        rules: the groups by their numbers, in order.
        patterns: the number of each include pattern -> the number of its group, and its text.
        root: the state of the root directory; None when nothing can match.
    """

    def __init__(self, rules: Iterable[GroupPatterns]) -> None:
        self.rules = {group.number: group for group in rules}
        self.patterns = {
            pattern: (group.number, text) for group in self.rules.values() for pattern, text in group.patterns.items()
        }
        self._directories: dict[frozenset[_Step], Directory | None] = {}
        self._matches: dict[tuple[int, ...], Match] = {}
        self.root = self._directory(step for group in self.rules.values() for step in group.starts)

    def match(self, path: str) -> Match | None:
        """Return what a file of this absolute path is matched by, as if no directory were a symbolic link."""
        directory: Directory | None = self.root
        *parents, name = path.split("/")[1:]
        for parent in parents:
            if directory is None:
                return None
            directory = directory.enter(parent, is_symlink=False)
        return None if directory is None else directory.match(name)

    def groups_of(self, path: str) -> tuple[int, ...]:
        """Return the numbers of the groups that match this path, as :meth:`match` does."""
        match = self.match(path)
        return () if match is None else match.groups

    def narrow(self, match: Match) -> Match | None:
        """Return what is left of another matcher's match with the groups of this one only."""
        return self._match(tuple(number for number in match.patterns if number in self.patterns))

    def _directory(self, steps: Iterable[_Step]) -> Directory | None:
        """The state for these steps: the same object for the same steps, None when no file below can match."""
        reached = list(steps)
        # "**" may stand for no directory at all, so what follows it is reached as well. No two "**" follow each other.
        reached += [step.after for step in reached if step.segment.any_depth and step.after is not None]
        lost = {step.group for step in reached if step.all_below}
        alive = {step.group for step in reached if step.pattern is not None} - lost
        kept = dict.fromkeys(step for step in reached if step.group in alive)
        key = frozenset(kept)
        try:
            return self._directories[key]
        except KeyError:
            made = self._directories[key] = Directory(self, tuple(kept)) if kept else None
            return made

    def _match(self, found: tuple[int, ...]) -> Match | None:
        """The match of these patterns, in any order and repeated or not: the same object for the same patterns."""
        if not found:
            return None
        patterns = tuple(sorted(set(found)))
        groups = tuple(dict.fromkeys(self.patterns[number][0] for number in patterns))
        match = self._matches[found] = self._matches.setdefault(patterns, Match(groups, patterns))
        return match


@dataclass(frozen=True, slots=True)
class _FileTests:
    """What decides for one group which of its patterns match a file name in a directory.

    Attributes:
        names: for each name that is spelt out, the patterns that do so.
        tests: the patterns with wildcards, each as a tuple of one.
        compressed_tests: the patterns that name the ending of a compressed file.
        excludes: those of the group.
    """

    names: Mapping[str, tuple[int, ...]]
    tests: tuple[tuple[Test, tuple[int, ...]], ...]
    compressed_tests: tuple[tuple[Test, tuple[int, ...]], ...]
    excludes: tuple[Test, ...]

    @classmethod
    def of(cls, last: Iterable[_Step], name_excludes: tuple[Test, ...]) -> _FileTests:
        """Return the tests of a group's last steps, and of what it excludes by name."""
        names: dict[str, tuple[int, ...]] = {}
        tests, compressed_tests, excludes = [], [], [*name_excludes]
        for step in last:
            test, literal = step.segment.test, step.segment.literal
            if step.pattern is None:
                excludes.append(test)
                continue
            if step.compressed:
                compressed_tests.append((test, (step.pattern,)))
            if literal is None:
                tests.append((test, (step.pattern,)))
            else:
                names[literal] = (*names.get(literal, ()), step.pattern)
        return cls(names, tuple(tests), tuple(compressed_tests), tuple(excludes))


class Directory:
    """What can match in a directory. Made by :class:`PathMatcher` only; two directories alike share one object.

    Attributes:
        names: names in it that the patterns spell out.
        listed: whether other names can matter too, so that it has to be listed.
        follows_links: whether a symbolic link in it can lead to a directory that matters.
    """

    def __init__(self, matcher: PathMatcher, steps: tuple[_Step, ...]) -> None:
        self._matcher = matcher
        self._matches = matcher._matches
        self._steps = steps
        includes = [step for step in steps if step.pattern is not None]
        ends: dict[int, list[_Step]] = {}  # of each group: the steps that a file in this directory can be at the end of
        for step in steps:
            if step.after is None:
                ends.setdefault(step.group, []).append(step)
        self._files = tuple(
            _FileTests.of(last, matcher.rules[group].name_excludes)
            for group, last in sorted(ends.items())
            if any(step.pattern is not None for step in last)
        )
        literals = [step.segment.literal for step in includes]
        self.names = tuple(dict.fromkeys(name for name in literals if name is not None))
        self.listed = None in literals
        self.follows_links = any(step.after is not None and not step.segment.any_depth for step in includes)
        # Whether all directories in it lead to the same, to `_steadily` once known: but for hidden ones and links.
        self._is_steady = all(
            step.segment.any_depth or (step.pattern is not None and (step.after is None or step.segment.any_name))
            for step in steps
        ) and not any(matcher.rules[step.group].name_excludes for step in steps)
        self._steadily: Directory | None = None
        # Most names in a directory that fills up with something else are told from logs by these.
        self._endings = tuple({step.segment.ending for step in includes if step.after is None})

    def match(self, name: str) -> Match | None:
        """Return what a regular file of this name in this directory is matched by, or None."""
        if not name.endswith(self._endings):
            return None
        is_compressed = name.endswith(COMPRESSED_ENDINGS)
        found: tuple[int, ...] = ()
        for group in self._files:
            patterns = () if is_compressed else group.names.get(name, ())
            for test, pattern in group.compressed_tests if is_compressed else group.tests:
                if test(name):
                    patterns += pattern
            if patterns:
                for exclude in group.excludes:
                    if exclude(name):
                        break
                else:
                    found += patterns  # in any order; one with braces may be there more than once
        return (self._matches.get(found) or self._matcher._match(found)) if found else None

    def reaches_more_than(self, other: Directory) -> bool:
        """Return whether anything can match here that cannot with another matcher's state of the same directory."""
        known = {step.meaning for step in other._steps if step.pattern is not None}
        return any(step.pattern is not None and step.meaning not in known for step in self._steps)

    def enter(self, name: str, *, is_symlink: bool) -> Directory | None:
        """Return what can match in the directory of this name, or None when nothing can.

        Args:
            name: the name of a directory in this directory.
            is_symlink: whether it is a symbolic link to a directory; ``**`` does not go through those, so that a loop
                of links ends.
        """
        is_plain = self._is_steady and not is_symlink and name[0] != "."
        if is_plain and self._steadily is not None:
            return self._steadily
        reached: list[_Step] = []
        excluded: set[int] = set()
        for step in self._steps:
            if step.segment.any_depth:
                if step.pattern is None or not (is_symlink or name[0] == "."):
                    reached.append(step)
            elif step.segment.test(name):
                if step.after is not None:
                    reached.append(step.after)
                elif step.pattern is None:
                    excluded.add(step.group)
        alive = {
            group
            for group in {step.group for step in reached} - excluded
            if not any(test(name) for test in self._matcher.rules[group].name_excludes)
        }
        below = self._matcher._directory(step for step in reached if step.group in alive)
        if is_plain:
            self._steadily = below
        return below
