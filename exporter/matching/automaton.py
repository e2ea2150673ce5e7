"""The matcher: the patterns and excludes of all groups as one state machine over the components of a path.

A :class:`Directory` is a state: it knows which patterns match a file name, and to which state a directory name leads.
So a scanner enters only directories that can contain a match, and a new name can be matched alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from exporter.config.globs import COMPRESSED_ENDINGS, Exclude, Glob, Include, Segment, Test
from exporter.config.groups import DISK, MODE, LogGroup

Loop = tuple[int, tuple[str, ...]]
"""A group, and the rest of a pattern from a ``**`` on that follows symbolic links. It enters each directory once."""


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A segment of a pattern or exclude, as a step of the state machine.

    Attributes:
        group: the number of its group.
        pattern: the number of its pattern; None for an exclude.
        segment: the segment.
        after: the step of the next segment; None if this is the last one.
        all_below: whether it is an exclude that matches all files below.
        compressed: whether its pattern names the ending of compressed files.
        loop: set for a ``**`` that follows symbolic links to directories.
        meaning: equal for two steps that match the same files when the same path has reached them.
    """

    group: int
    pattern: int | None
    segment: Segment
    after: _Step | None
    all_below: bool
    compressed: bool
    loop: Loop | None
    meaning: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Match:
    """The groups and patterns that match a file. Their numbers are the same in each matcher that has the groups.

    Attributes:
        groups: the numbers of the groups that match it, in order.
        patterns: the numbers of the patterns that match it, in order, without those of groups that exclude it.
    """

    groups: tuple[int, ...]
    patterns: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GroupPatterns:
    """The patterns of one group in the state machine. Several matchers can share it. Made by :func:`number_groups`.

    Attributes:
        number: the group's number.
        name: the group's name.
        patterns: number of an include pattern -> the pattern.
        starts: the first step of each pattern and exclude.
        name_excludes: the excludes that test the base name.
        is_detailed: whether the group shows details of its files, so that their stats must have them.
    """

    number: int
    name: str
    patterns: Mapping[int, Include]
    starts: tuple[_Step, ...]
    name_excludes: tuple[Test, ...]
    is_detailed: bool = False


def number_groups(
    groups: Iterable[LogGroup], *, first_group: int = 0, first_pattern: int = 0
) -> tuple[GroupPatterns, ...]:
    """Number groups and their patterns, in order; a pattern that a group repeats has one number.

    Args:
        groups: the groups of one configuration.
        first_group: the number of the first group; for a second configuration, one that was never used.
        first_pattern: the number of the first pattern; for a second configuration, one that was never used.

    Raises:
        PatternError: a pattern is not valid.
    """
    numbered = []
    for number, group in enumerate(groups, first_group):
        # By what is written: two dates may be the same on some days.
        different = {pattern.written: pattern for pattern in map(Include, group.paths)}
        patterns = dict(enumerate(different.values(), first_pattern))
        first_pattern += len(patterns)
        excludes = frozenset(group.exclude)
        starts = [
            _first_step(number, pattern, glob, (text, alternative, excludes), follows=group.follow_symlinks)
            for pattern, text in patterns.items()
            for alternative, glob in enumerate(text.globs)
        ]
        by_name: list[Test] = []
        for text in group.exclude:
            for glob in Exclude(text).globs:
                if len(glob.segments) == 1 and "/" not in text:
                    by_name.append(glob.segments[0].test)
                else:
                    starts.append(_first_step(number, None, glob, ()))
        is_detailed = not group.metrics.isdisjoint((DISK, MODE))
        numbered.append(GroupPatterns(number, group.group, patterns, tuple(starts), tuple(by_name), is_detailed))
    return tuple(numbered)


def _first_step(
    group: int, pattern: int | None, glob: Glob, meaning: tuple[object, ...], *, follows: bool = False
) -> _Step:
    step = None
    count = len(glob.segments)
    for index in reversed(range(count)):
        segment = glob.segments[index]
        all_below = pattern is None and index == count - 2 and segment.any_depth and glob.segments[-1].any_name
        loop = (group, glob.names[index:]) if follows and segment.any_depth else None
        step = _Step(group, pattern, segment, step, all_below, glob.compressed, loop, (*meaning, follows, index))
    assert step is not None  # a glob has a segment
    return step


class PathMatcher:
    """The state machine of some groups, of one configuration or of two.

    Args:
        rules: the groups.

    Attributes:
        rules: the groups by their numbers, in order.
        patterns: number of an include pattern -> the number of its group, and the pattern.
        root: the state of the root directory; None when nothing can match.
    """

    def __init__(self, rules: Iterable[GroupPatterns]) -> None:
        self.rules = {group.number: group for group in rules}
        self.patterns = {
            pattern: (group.number, text) for group in self.rules.values() for pattern, text in group.patterns.items()
        }
        self._directories: dict[frozenset[_Step], Directory | None] = {}
        self._matches: dict[tuple[int, ...], Match] = {}
        self._nothing = Directory(self, ())
        self.root = self._directory(step for group in self.rules.values() for step in group.starts)

    def match(self, path: str) -> Match | None:
        """Return the match of a file with this absolute path, as if no directory were a symbolic link."""
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

    def is_detailed(self, match: Match) -> bool:
        """Return whether a group that matches a file shows details of its files; another matcher's match will do."""
        return any(self.rules[number].is_detailed for number in match.groups if number in self.rules)

    def narrow(self, match: Match) -> Match | None:
        """Return another matcher's match reduced to this matcher's patterns; None when nothing is left."""
        return self._match(tuple(number for number in match.patterns if number in self.patterns))

    def _directory(self, steps: Iterable[_Step]) -> Directory | None:
        """Return the state for these steps, one object for equal steps; None when no file below can match."""
        reached = list(steps)
        # "**" may stand for no directory, so the step after it is reached as well. No two "**" follow each other.
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
        """Return the match of these patterns, in any order and perhaps repeated; one object for equal patterns."""
        if not found:
            return None
        patterns = tuple(sorted(set(found)))
        groups = tuple(dict.fromkeys(self.patterns[number][0] for number in patterns))
        match = self._matches[found] = self._matches.setdefault(patterns, Match(groups, patterns))
        return match


@dataclass(frozen=True, slots=True)
class _FileTests:
    """The tests of one group for file names in a directory.

    Attributes:
        names: name without wildcards -> the patterns that have it.
        tests: the patterns with wildcards, each as a tuple of one.
        compressed_tests: the patterns that name the ending of a compressed file.
        excludes: the group's excludes.
    """

    names: Mapping[str, tuple[int, ...]]
    tests: tuple[tuple[Test, tuple[int, ...]], ...]
    compressed_tests: tuple[tuple[Test, tuple[int, ...]], ...]
    excludes: tuple[Test, ...]

    @classmethod
    def of(cls, last: Iterable[_Step], name_excludes: tuple[Test, ...]) -> _FileTests:
        """Return the tests for a group's last steps and its excludes by base name."""
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
    """A state: what can match in a directory. Made by :class:`PathMatcher` only; equal directories share one object.

    Attributes:
        groups: the numbers of the groups that can match in it or below it.
        names: the names in it without wildcards.
        listed: whether patterns with wildcards apply too, so that it has to be listed.
        follows_links: whether something can match below a symbolic link in it.
        loops: of its ``**`` that follow symbolic links; nearly always empty.
    """

    def __init__(self, matcher: PathMatcher, steps: tuple[_Step, ...]) -> None:
        self._matcher = matcher
        self._matches = matcher._matches
        self._steps = steps
        includes = [step for step in steps if step.pattern is not None]
        ends: dict[int, list[_Step]] = {}  # group -> its steps that are the last of a pattern or exclude
        for step in steps:
            if step.after is None:
                ends.setdefault(step.group, []).append(step)
        self._files = tuple(
            _FileTests.of(last, matcher.rules[group].name_excludes)
            for group, last in sorted(ends.items())
            if any(step.pattern is not None for step in last)
        )
        self.groups = frozenset(step.group for step in includes)
        literals = [step.segment.literal for step in includes]
        self.names = tuple(dict.fromkeys(name for name in literals if name is not None))
        self.listed = None in literals
        self.loops = frozenset(step.loop for step in steps if step.loop is not None)
        is_below = any(step.after is not None and not step.segment.any_depth for step in includes)
        self.follows_links = is_below or bool(self.loops)
        # Whether all directories in it, but hidden ones and links, have the same state: `_steady` once it is known.
        self._is_steady = all(
            step.segment.any_depth or (step.pattern is not None and (step.after is None or step.segment.any_name))
            for step in steps
        ) and not any(matcher.rules[step.group].name_excludes for step in steps)
        self._steady: Directory | None = None
        # These exclude most names in a directory full of other files quickly.
        self._endings = tuple({step.segment.ending for step in includes if step.after is None})

    def match(self, name: str) -> Match | None:
        """Return the match of a regular file with this name in this directory; None when nothing matches."""
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
                    found += patterns  # unsorted; a pattern with braces may be in it more than once
        return (self._matches.get(found) or self._matcher._match(found)) if found else None

    def reaches_more_than(self, other: Directory) -> bool:
        """Return whether this state can match files that another matcher's state of the same directory cannot."""
        known = {step.meaning for step in other._steps if step.pattern is not None}
        return any(step.pattern is not None and step.meaning not in known for step in self._steps)

    def without(self, loops: Collection[Loop]) -> Directory:
        """Return the state of the same directory without what these ``**`` can match in it and below."""
        left_out = [step for step in self._steps if step.loop in loops]
        left_out += [step.after for step in left_out if step.after is not None]
        kept = self._matcher._directory(step for step in self._steps if step not in left_out)
        return kept or self._matcher._nothing

    def enter(self, name: str, *, is_symlink: bool) -> Directory | None:
        """Return the state of the directory with this name; None when nothing can match in it.

        Args:
            name: the name of a directory in this directory.
            is_symlink: whether it is a symbolic link to a directory; ``**`` only follows those if its group says so.
        """
        is_plain = self._is_steady and not is_symlink and name[0] != "."
        if is_plain and self._steady is not None:
            return self._steady
        reached: list[_Step] = []
        excluded: set[int] = set()
        for step in self._steps:
            if step.segment.any_depth:
                if step.pattern is None or not ((is_symlink and step.loop is None) or name[0] == "."):
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
            self._steady = below
        return below
