"""Which files the configuration means: the patterns and excludes of all groups as one automaton over directories.

All patterns of all groups make one state machine over the components of a path. A :class:`Directory` is one of its
states: it says which patterns and groups mean a file name in it and which state a directory name in it leads to. So a
scanner enters only directories that can contain a match, and a single new name can be judged by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from exporter.config.globs import COMPRESSED_ENDINGS, Glob, Segment, Test, compile_exclude, compile_include


@dataclass(frozen=True, slots=True)
class _Step:
    """A segment in its place in the state machine; the step that follows it has the next number."""

    group: int
    pattern: int | None  # None: an exclude
    segment: Segment
    last: bool
    all_below: bool
    compressed: bool


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """What a file is matched by. One :class:`PathMatcher` gives one object for one content, so they compare by `is`.

    Attributes:
        groups: the numbers of the groups that the file belongs to, in order.
        patterns: the numbers of the patterns that match it, in order; those of a group that excludes it do not.
    """

    groups: tuple[int, ...]
    patterns: tuple[int, ...]


class PathMatcher:
    """The state machine of all groups.

    Args:
        groups: for each group its include patterns and its exclude patterns, as the user wrote them.

    Attributes:
        patterns: each include pattern as it is written, after the number of its group; in order, and once for each
            group that has it.

    Raises:
        PatternError: a pattern is not valid.
    """

    def __init__(self, groups: Iterable[tuple[Sequence[str], Sequence[str]]]) -> None:
        self._steps: list[_Step] = []
        self._name_excludes: list[tuple[Test, ...]] = []
        self._directories: dict[frozenset[int], Directory | None] = {}
        self._matches: dict[tuple[int, ...], Match] = {}
        patterns: list[tuple[int, str]] = []
        starts: set[int] = set()
        for number, (includes, excludes) in enumerate(groups):
            for text in dict.fromkeys(includes):
                starts.update(self._add(number, glob, len(patterns)) for glob in compile_include(text))
                patterns.append((number, text))
            by_name: list[Test] = []
            for text in excludes:
                for glob in compile_exclude(text):
                    if len(glob.segments) == 1 and "/" not in text:
                        by_name.append(glob.segments[0].test)
                    else:
                        starts.add(self._add(number, glob, None))
            self._name_excludes.append(tuple(by_name))
        self.patterns = tuple(patterns)
        self.root = self._directory(starts)

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
        """Return the numbers of the groups of a file of this absolute path, as if no directory were a symbolic link."""
        match = self.match(path)
        return () if match is None else match.groups

    def _add(self, group: int, glob: Glob, pattern: int | None) -> int:
        exclude = pattern is None
        start = len(self._steps)
        count = len(glob.segments)
        for index, segment in enumerate(glob.segments):
            last = index == count - 1
            all_below = exclude and index == count - 2 and segment.any_depth and glob.segments[-1].any_name
            self._steps.append(_Step(group, pattern, segment, last, all_below, glob.compressed))
        return start

    def _directory(self, numbers: Iterable[int]) -> Directory | None:
        """The state for these steps: the same object for the same steps, None when no file below can match."""
        steps = self._steps
        reached = set(numbers)
        # "**" may stand for no directory at all, so what follows it is reached as well. No two "**" follow each other.
        reached |= {number + 1 for number in reached if steps[number].segment.any_depth}
        lost = {steps[number].group for number in reached if steps[number].all_below}
        alive = {steps[number].group for number in reached if steps[number].pattern is not None} - lost
        key = frozenset(number for number in reached if steps[number].group in alive)
        try:
            return self._directories[key]
        except KeyError:
            made = Directory(self, key, steps, self._name_excludes) if key else None
            self._directories[key] = made
            return made

    def _match(self, found: tuple[int, ...]) -> Match:
        """The match of these patterns, in any order and repeated or not: the same object for the same patterns."""
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

    def patterns_of(self, name: str) -> tuple[int, ...]:
        """The patterns in any order; one with braces may be there more than once."""
        if name.endswith(COMPRESSED_ENDINGS):
            found: tuple[int, ...] = ()
            for test, pattern in self.compressed_tests:
                if test(name):
                    found += pattern
        else:
            found = self.names.get(name, ())
            for test, pattern in self.tests:
                if test(name):
                    found += pattern
        if found:
            for exclude in self.excludes:
                if exclude(name):
                    return ()
        return found


class Directory:
    """What can match in a directory. Made by :class:`PathMatcher` only; two directories alike share one object.

    Attributes:
        names: names in it that the patterns spell out.
        listed: whether other names can matter too, so that it has to be listed.
        follows_links: whether a symbolic link in it can lead to a directory that matters.
    """

    __slots__ = (
        "_endings",
        "_files",
        "_is_steady",
        "_key",
        "_matcher",
        "_matches",
        "_name_excludes",
        "_steadily",
        "_steps",
        "follows_links",
        "listed",
        "names",
    )

    def __init__(
        self, matcher: PathMatcher, key: frozenset[int], steps: list[_Step], name_excludes: list[tuple[Test, ...]]
    ) -> None:
        self._matcher = matcher
        self._matches = matcher._matches
        self._key = sorted(key)
        self._steps = steps
        self._name_excludes = name_excludes
        reached = [steps[number] for number in self._key]
        includes = [(step, step.pattern) for step in reached if step.pattern is not None]
        files = []
        for group in sorted({step.group for step, _ in includes}):
            last = [(step, (pattern,)) for step, pattern in includes if step.last and step.group == group]
            excludes = [
                step.segment.test for step in reached if step.pattern is None and step.last and step.group == group
            ]
            names: dict[str, tuple[int, ...]] = {}
            for step, pattern in last:
                if step.segment.literal is not None:
                    names[step.segment.literal] = names.get(step.segment.literal, ()) + pattern
            if last:
                files.append(
                    _FileTests(
                        names=names,
                        tests=tuple(
                            (step.segment.test, pattern) for step, pattern in last if step.segment.literal is None
                        ),
                        compressed_tests=tuple(
                            (step.segment.test, pattern) for step, pattern in last if step.compressed
                        ),
                        excludes=(*name_excludes[group], *excludes),
                    )
                )
        self._files = tuple(files)
        literals = [step.segment.literal for step, _ in includes]
        self.names = tuple(dict.fromkeys(name for name in literals if name is not None))
        self.listed = None in literals
        self.follows_links = any(not step.last and not step.segment.any_depth for step, _ in includes)
        # Whether all directories in it lead to the same, to `_steadily` once known: but for hidden ones and links.
        self._is_steady = all(
            step.segment.any_depth or (step.pattern is not None and (step.last or step.segment.any_name))
            for step in reached
        ) and not any(name_excludes[step.group] for step in reached)
        self._steadily: Directory | None = None
        # Most names in a directory that fills up with something else are told from logs by these.
        self._endings = tuple({step.segment.ending for step, _ in includes if step.last})

    def match(self, name: str) -> Match | None:
        """Return what a regular file of this name in this directory is matched by, or None."""
        if not name.endswith(self._endings):
            return None
        found: tuple[int, ...] = ()
        for tests in self._files:
            found += tests.patterns_of(name)
        if not found:
            return None
        return self._matches.get(found) or self._matcher._match(found)

    def groups_of(self, name: str) -> tuple[int, ...]:
        """Return the numbers of the groups that a regular file of this name in this directory belongs to, in order."""
        match = self.match(name)
        return () if match is None else match.groups

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
        below = self._find_below(name, is_symlink=is_symlink)
        if is_plain:
            self._steadily = below
        return below

    def _find_below(self, name: str, *, is_symlink: bool) -> Directory | None:
        reached: set[int] = set()
        excluded: set[int] = set()
        for number in self._key:
            step = self._steps[number]
            if step.segment.any_depth:
                if step.pattern is None or not (is_symlink or name[0] == "."):
                    reached.add(number)
            elif step.segment.test(name):
                if not step.last:
                    reached.add(number + 1)
                elif step.pattern is None:
                    excluded.add(step.group)
        alive = {
            group
            for group in {self._steps[number].group for number in reached} - excluded
            if not any(test(name) for test in self._name_excludes[group])
        }
        return self._matcher._directory(number for number in reached if self._steps[number].group in alive)
