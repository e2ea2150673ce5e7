"""Which files the configuration means, and which labels a file gets: globs, excludes, path expressions.

All patterns of all groups make one state machine over the components of a path. A :class:`Directory` is one of its
states: it says which patterns and groups mean a file name in it and which state a directory name in it leads to. So a
scanner enters only directories that can contain a match, and a single new name can be judged by itself.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import bracex
from wcmatch import fnmatch

COMPRESSED_ENDINGS = (".gz", ".xz", ".zst", ".bz2")
"""Endings of files that are left out unless a pattern names them: compressed files are copies, not growth."""

_MAX_ALTERNATIVES = 1000
MAX_LENGTH = 4096  # PATH_MAX: no path is longer, and braces take more than linear time
_MAGIC = re.compile(r"(?<!\\)(?:\\\\)*[*?\[]")
_STARS = re.compile(r"(?<!\\)(?:\\\\)*\*\*")
_PLAIN_ENDING = re.compile(r"[^*?\[\]\\]*$")  # always there, if only as nothing
_CLASS_MEMBER = re.compile(r"\[:[^\]]*:\]|\\.|.", re.DOTALL)
_CLASSES = (
    *("alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph"),
    *("lower", "print", "punct", "space", "upper", "word", "xdigit"),
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

Test = Callable[[str], object]  # of one name; true when it matches


class PatternError(ValueError):
    """A pattern that can not be meant; the message says why."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One component of a pattern.

    Attributes:
        literal: the only name that matches, or None.
        test: whether a name matches; of no use for ``**``.
        any_name: whether this is ``*``.
        any_depth: whether this is ``**``.
        ending: what every name that matches ends with.
    """

    literal: str | None
    test: Test
    any_name: bool = False
    any_depth: bool = False
    ending: str = ""


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern with its braces expanded into one alternative.

    Attributes:
        segments: one each component, the last one for the file's own name.
        compressed: whether the pattern ends with one of COMPRESSED_ENDINGS.
    """

    segments: tuple[Segment, ...]
    compressed: bool = False


def compile_include(text: str) -> tuple[Glob, ...]:
    """Compile an absolute pattern of files.

    Args:
        text: segments of ``*``, ``?``, ``[...]``, and ``**`` for any depth; ``{a,b}`` and ``{1..3}`` anywhere;
            a backslash takes a character's meaning away. ``*``, ``?``, ``[...]`` and ``**`` match no leading dot.

    Returns:
        One glob for each alternative of the braces.

    Raises:
        PatternError: the pattern is not valid.
    """
    return tuple(_glob(alternative, text, dots=False) for alternative in _alternatives(text))


def compile_exclude(text: str) -> tuple[Glob, ...]:
    """Compile a pattern of what to leave out: like `compile_include`, but wildcards match leading dots too.

    A pattern without ``/`` is for the base name and gives globs of one segment.

    Raises:
        PatternError: the pattern is not valid.
    """
    return tuple(_glob(alternative, text, dots=True) for alternative in _alternatives(text))


def escape(text: str) -> str:
    """Return the pattern that matches exactly `text`."""
    return re.sub(r"([\\*?\[\]{},])", r"\\\1", text)


def _alternatives(text: str) -> list[str]:
    if not text:
        raise PatternError("the pattern is empty")
    if len(text) > MAX_LENGTH:
        raise PatternError(f"it has {len(text)} characters, expected {MAX_LENGTH} at most")
    if "\0" in text:
        raise PatternError("a NUL character is in no file name")
    if re.search(r"(?<!\\)(?:\\\\)*\\$", text):
        raise PatternError("it ends with a lone backslash")
    _check_brackets(text)
    if "{" not in text:
        return [text]
    try:
        expanded: list[str] = bracex.expand(text, keep_escapes=True, limit=_MAX_ALTERNATIVES)
    except bracex.ExpansionLimitException:
        raise PatternError(f"its braces give more than {_MAX_ALTERNATIVES} patterns") from None
    except RecursionError:
        raise PatternError("its braces are nested too deeply") from None
    return list(dict.fromkeys(expanded))


def _check_brackets(text: str) -> None:
    opened: list[int] = []
    position = 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "[":
            position = _end_of_class(text, position)
        elif character == "{":
            opened.append(position)
        elif character == "}" and opened:
            opened.pop()
        position += 1
    if opened:
        raise PatternError(
            rf"the '{{' of '{_quoted(text, opened[-1])}' is never closed; write '\{{' for the character itself"
        )


def _end_of_class(text: str, start: int) -> int:
    position = start + 1
    if text[position : position + 1] in ("!", "^"):
        position += 1
    first = position
    while position < len(text) and text[position] != "/":
        if text[position] == "\\":
            position += 1
        elif text.startswith("[:", position) and ":]" in text[position:]:
            position = text.index(":]", position) + 1
        elif text[position] == "]" and position > first:
            _check_class(text[first:position])
            return position
        position += 1
    raise PatternError(rf"the '[' of '{_quoted(text, start)}' is never closed; write '\[' for the character itself")


def _quoted(text: str, start: int) -> str:
    """Enough of it to be found."""
    return text[start:] if len(text) < start + 20 else text[start : start + 20] + "..."


def _check_class(content: str) -> None:
    """Refuse what would match nothing, or something else than was meant."""
    members = _CLASS_MEMBER.findall(content)
    for name in members:
        if len(name) > 2 and name[2:-2] not in _CLASSES:
            raise PatternError(f"unknown class '{name}', expected one of: {', '.join(_CLASSES)}")
    for low, dash, high in zip(members, members[1:], members[2:], strict=False):
        if dash == "-" and len(low) < 3 > len(high) and low[-1] > high[-1]:
            raise PatternError(f"the range '{low}-{high}' in a '[...]' is the wrong way round")


def _glob(alternative: str, text: str, *, dots: bool) -> Glob:
    if dots and "/" not in alternative:
        return Glob((_segment(alternative, dots=True),))
    if not alternative.startswith("/"):
        raise PatternError("with a '/' in it the path must be absolute" if dots else "the path is not absolute")
    names = [name for name in alternative.split("/")[1:] if name]
    if not names or (not dots and alternative.endswith("/")):
        raise PatternError("it ends with '/', so it can only be a directory; add '/*' or '/**' for the files in it")
    kept: list[str] = []
    for name in names:
        if name in (".", ".."):
            raise PatternError(f"it contains '/{name}/'; write the path that is meant")
        if not (name == "**" and kept and kept[-1] == "**"):
            kept.append(name)
    if kept[-1] == "**":
        kept.append("*")
    return Glob(tuple(_segment(name, dots=dots) for name in kept), kept[-1].endswith(COMPRESSED_ENDINGS))


def _segment(text: str, *, dots: bool) -> Segment:
    if text == "**":
        return Segment(None, bool, any_depth=True)
    if _STARS.search(text):
        raise PatternError("'**' must be a whole component of the path, as in '/**/'")
    if not _MAGIC.search(text):
        literal = _ESCAPED.sub(r"\1", text)
        return Segment(literal, literal.__eq__, ending=literal)
    ending = text[1:]
    if text[0] == "*" and not _MAGIC.search(ending):
        ending = _ESCAPED.sub(r"\1", ending)
        return Segment(None, _ending_test(ending, dots=dots), any_name=not ending, ending=ending)
    flags = fnmatch.CASE | fnmatch.FORCEUNIX | (fnmatch.DOTMATCH if dots else 0)
    (expression,), _ = fnmatch.translate(text, flags=flags)
    with warnings.catch_warnings(action="ignore"):  # a "[[" of the user's is no news
        return Segment(None, re.compile(expression).fullmatch, ending=_PLAIN_ENDING.search(text)[0])  # type: ignore[index]


def _ending_test(ending: str, *, dots: bool) -> Test:
    # By far the commonest segment ("*.log"), so it is spared the regular expression.
    if dots:
        return lambda name: name.endswith(ending)
    return lambda name: name.endswith(ending) and name[0] != "."


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


_UNDECODABLE = re.compile("[\udc80-\udcff]")
_LOOKS_ESCAPED = re.compile(r"\\x[89a-f][0-9a-f]")


def printable(text: str) -> str:
    r"""Return `text` as valid Unicode, different for every different `text`.

    Args:
        text: a path or a part of it as :mod:`os` gives it (undecodable bytes as lone surrogates, PEP 383).

    Returns:
        `text` itself as a rule. When it holds undecodable bytes, these become ``\xNN`` and every backslash is doubled.
        When it holds none but looks as if it had been escaped so, its backslashes are doubled too: a name never shares
        its label with another one, whichever of the two exist.
    """
    if text.isascii() and "\\" not in text:
        return text  # as nearly every text is, and this takes a tenth of the time
    if _UNDECODABLE.search(text):
        text = text.replace("\\", "\\\\")
        return _UNDECODABLE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    if _LOOKS_ESCAPED.search(text):
        return text.replace("\\", "\\\\")
    return text


@dataclass(frozen=True, slots=True)
class LabelRule:
    """How the files of one group get their labels.

    Attributes:
        group: value of the label ``group``.
        labels: static labels.
        path_regex: its named groups are labels; searched for in the path as :mod:`os` gives it.
    """

    group: str
    labels: Mapping[str, str]
    path_regex: re.Pattern[str] | None


class Labels(NamedTuple):
    """The labels of a file.

    Attributes:
        values: in the order of :attr:`Labeller.names`.
        is_unlabelled: whether the group has a `path_regex` and the path does not match it: its labels are empty.
    """

    values: tuple[str, ...]
    is_unlabelled: bool


class Labeller:
    """Gives each file its label values.

    Args:
        rules: one each group, in the order of the groups' numbers.

    Attributes:
        names: the label names of every file series: ``group``, ``path``, then those of all groups. A family's series
            all have the same names; a label that a group does not have is empty.
    """

    def __init__(self, rules: Sequence[LabelRule]) -> None:
        own: set[str] = set()
        for rule in rules:
            own.update(rule.labels)
            if rule.path_regex is not None:
                own.update(rule.path_regex.groupindex)
        self.names: tuple[str, ...] = ("group", "path", *sorted(own))
        # The values that all files of a group have in common, the expression, and where its named groups go.
        self._rules = [
            (
                (rule.group, "", *(rule.labels.get(name, "") for name in self.names[2:])),
                rule.path_regex,
                [(self.names.index(name), name) for name in (rule.path_regex.groupindex if rule.path_regex else ())],
            )
            for rule in rules
        ]

    def positions(self, names: Iterable[str]) -> tuple[int, ...]:
        """Return where in `names`, and so in the values of each file, the labels of these names are."""
        return tuple(self.names.index(name) for name in names)

    def label(self, group: int, path: str) -> Labels:
        """Return the labels of a file.

        Args:
            group: the number of the file's group.
            path: the file's path.
        """
        constant, regex, places = self._rules[group]
        values = list(constant)
        values[1] = printable(path)
        match = None if regex is None else regex.search(path)
        if match is not None:
            for position, name in places:
                values[position] = printable(match[name] or "")
        return Labels(tuple(values), is_unlabelled=match is None and regex is not None)

    def values(self, group: int, path: str) -> tuple[str, ...]:
        """Return the values of :meth:`label`."""
        return self.label(group, path).values
