"""Which files the configuration means, and which labels a file gets: globs, excludes, path expressions.

All patterns of all groups make one state machine over the components of a path. A :class:`Directory` is one of its
states: it says which group a file name in it belongs to and which state a directory name in it leads to. So a scanner
enters only directories that can contain a match, and a single new name can be judged by itself.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import bracex
from wcmatch import fnmatch

COMPRESSED_ENDINGS = (".gz", ".xz", ".zst", ".bz2")
"""Endings of files that are left out unless a pattern names them: compressed files are copies, not growth."""

_MAX_ALTERNATIVES = 1000
_MAX_LENGTH = 4096  # PATH_MAX: no path is longer, and braces take more than linear time
_MAGIC = re.compile(r"(?<!\\)(?:\\\\)*[*?\[]")
_STARS = re.compile(r"(?<!\\)(?:\\\\)*\*\*")
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
    """

    literal: str | None
    test: Test
    any_name: bool = False
    any_depth: bool = False


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern with its braces expanded into one alternative.

    Attributes:
        segments: one each component, the last one for the file's own name.
        ending: which of COMPRESSED_ENDINGS the pattern ends with, or "".
    """

    segments: tuple[Segment, ...]
    ending: str = ""


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
    if len(text) > _MAX_LENGTH:
        raise PatternError(f"it has {len(text)} characters, expected {_MAX_LENGTH} at most")
    if "\0" in text:
        raise PatternError("a NUL character is in no file name")
    if re.search(r"(?<!\\)(?:\\\\)*\\$", text):
        raise PatternError("it ends with a lone backslash")
    _check_brackets(text)
    try:
        expanded: list[str] = bracex.expand(text, keep_escapes=True, limit=_MAX_ALTERNATIVES)
    except bracex.ExpansionLimitException:
        raise PatternError(f"its braces give more than {_MAX_ALTERNATIVES} patterns") from None
    except RecursionError:
        raise PatternError("its braces are nested too deeply") from None
    return list(dict.fromkeys(expanded))


def _check_brackets(text: str) -> None:
    depth = 0
    position = 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "[":
            position = _end_of_class(text, position)
        elif character == "{":
            depth += 1
        elif character == "}" and depth:
            depth -= 1
        position += 1
    if depth:
        raise PatternError(r"a '{' is never closed; write '\{' for the character itself")


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
            return position
        position += 1
    raise PatternError(r"a '[' is never closed; write '\[' for the character itself")


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
    ending = next((ending for ending in COMPRESSED_ENDINGS if kept[-1].endswith(ending)), "")
    return Glob(tuple(_segment(name, dots=dots) for name in kept), ending)


def _segment(text: str, *, dots: bool) -> Segment:
    if text == "**":
        return Segment(None, bool, any_depth=True)
    if _STARS.search(text):
        raise PatternError("'**' must be a whole component of the path, as in '/**/'")
    if not _MAGIC.search(text):
        literal = _ESCAPED.sub(r"\1", text)
        return Segment(literal, literal.__eq__)
    ending = text[1:]
    if text[0] == "*" and not _MAGIC.search(ending):
        return Segment(None, _ending_test(_ESCAPED.sub(r"\1", ending), dots=dots), any_name=not ending)
    flags = fnmatch.CASE | fnmatch.FORCEUNIX | (fnmatch.DOTMATCH if dots else 0)
    (expression,), _ = fnmatch.translate(text, flags=flags)
    with warnings.catch_warnings(action="ignore"):  # a "[[" of the user's is no news
        return Segment(None, re.compile(expression).fullmatch)


def _ending_test(ending: str, *, dots: bool) -> Test:
    # By far the commonest segment ("*.log"), so it is spared the regular expression.
    if dots:
        return lambda name: name.endswith(ending)
    return lambda name: name.endswith(ending) and name[0] != "."


@dataclass(frozen=True, slots=True)
class _Step:
    """A segment in its place in the state machine; the step that follows it has the next number."""

    group: int
    exclude: bool
    segment: Segment
    last: bool
    all_below: bool
    ending: str


class PathMatcher:
    """The state machine of all groups.

    Args:
        groups: for each group its include patterns and its exclude patterns, as the user wrote them.

    Raises:
        PatternError: a pattern is not valid.
    """

    def __init__(self, groups: Iterable[tuple[Sequence[str], Sequence[str]]]) -> None:
        self._steps: list[_Step] = []
        self._name_excludes: list[tuple[Test, ...]] = []
        self._directories: dict[frozenset[int], Directory | None] = {}
        starts: set[int] = set()
        for number, (includes, excludes) in enumerate(groups):
            for text in includes:
                starts.update(self._add(number, glob, exclude=False) for glob in compile_include(text))
            by_name: list[Test] = []
            for text in excludes:
                for glob in compile_exclude(text):
                    if len(glob.segments) == 1 and "/" not in text:
                        by_name.append(glob.segments[0].test)
                    else:
                        starts.add(self._add(number, glob, exclude=True))
            self._name_excludes.append(tuple(by_name))
        self.root = self._directory(starts)

    def groups_of(self, path: str) -> tuple[int, ...]:
        """Return the numbers of the groups of a file of this absolute path, as if no directory were a symbolic link."""
        directory: Directory | None = self.root
        *parents, name = path.split("/")[1:]
        for parent in parents:
            if directory is None:
                return ()
            directory = directory.enter(parent, is_symlink=False)
        return () if directory is None else directory.groups_of(name)

    def _add(self, group: int, glob: Glob, *, exclude: bool) -> int:
        start = len(self._steps)
        count = len(glob.segments)
        for index, segment in enumerate(glob.segments):
            last = index == count - 1
            all_below = exclude and index == count - 2 and segment.any_depth and glob.segments[-1].any_name
            self._steps.append(_Step(group, exclude, segment, last, all_below, glob.ending))
        return start

    def _directory(self, numbers: Iterable[int]) -> Directory | None:
        """The state for these steps: the same object for the same steps, None when no file below can match."""
        steps = self._steps
        reached = set(numbers)
        # "**" may stand for no directory at all, so what follows it is reached as well. No two "**" follow each other.
        reached |= {number + 1 for number in reached if steps[number].segment.any_depth}
        lost = {steps[number].group for number in reached if steps[number].all_below}
        alive = {steps[number].group for number in reached if not steps[number].exclude} - lost
        key = frozenset(number for number in reached if steps[number].group in alive)
        try:
            return self._directories[key]
        except KeyError:
            made = Directory(self, key, steps, self._name_excludes) if key else None
            self._directories[key] = made
            return made


@dataclass(frozen=True, slots=True)
class _FileTests:
    """What decides for one group whether a file name in a directory is one of its files."""

    group: int
    names: frozenset[str]
    tests: tuple[Test, ...]
    compressed_tests: tuple[tuple[str, Test], ...]
    excludes: tuple[Test, ...]

    def match(self, name: str) -> bool:
        if name.endswith(COMPRESSED_ENDINGS):
            if not any(name.endswith(ending) and test(name) for ending, test in self.compressed_tests):
                return False
        elif name not in self.names:
            for test in self.tests:
                if test(name):
                    break
            else:
                return False
        for exclude in self.excludes:  # noqa: SIM110 - twice as fast as any(), and there are many names
            if exclude(name):
                return False
        return True


class Directory:
    """What can match in a directory. Made by :class:`PathMatcher` only; two directories alike share one object.

    Attributes:
        names: names in it that the patterns spell out.
        listed: whether other names can matter too, so that it has to be listed.
    """

    __slots__ = ("_files", "_key", "_matcher", "_name_excludes", "_steps", "listed", "names")

    def __init__(
        self, matcher: PathMatcher, key: frozenset[int], steps: list[_Step], name_excludes: list[tuple[Test, ...]]
    ) -> None:
        self._matcher = matcher
        self._key = sorted(key)
        self._steps = steps
        self._name_excludes = name_excludes
        reached = [steps[number] for number in self._key]
        includes = [step for step in reached if not step.exclude]
        files = []
        for group in sorted({step.group for step in includes}):
            last = [step for step in includes if step.last and step.group == group]
            excludes = [step.segment.test for step in reached if step.exclude and step.last and step.group == group]
            if last:
                files.append(
                    _FileTests(
                        group,
                        names=frozenset(step.segment.literal for step in last if step.segment.literal is not None),
                        tests=tuple(step.segment.test for step in last if step.segment.literal is None),
                        compressed_tests=tuple((step.ending, step.segment.test) for step in last if step.ending),
                        excludes=(*name_excludes[group], *excludes),
                    )
                )
        self._files = tuple(files)
        literals = [step.segment.literal for step in includes]
        self.names = tuple(dict.fromkeys(name for name in literals if name is not None))
        self.listed = None in literals

    def groups_of(self, name: str) -> tuple[int, ...]:
        """Return the numbers of the groups that a regular file of this name in this directory belongs to, in order."""
        found: tuple[int, ...] = ()
        for tests in self._files:
            if tests.match(name):
                found = (*found, tests.group)
        return found

    def enter(self, name: str, *, is_symlink: bool) -> Directory | None:
        """Return what can match in the directory of this name, or None when nothing can.

        Args:
            name: the name of a directory in this directory.
            is_symlink: whether it is a symbolic link to a directory; ``**`` does not go through those, so that a loop
                of links ends.
        """
        reached: set[int] = set()
        excluded: set[int] = set()
        for number in self._key:
            step = self._steps[number]
            if step.segment.any_depth:
                if step.exclude or not (is_symlink or name[0] == "."):
                    reached.add(number)
            elif step.segment.test(name):
                if not step.last:
                    reached.add(number + 1)
                elif step.exclude:
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
        self._rules = tuple(rules)

    def values(self, group: int, path: str) -> tuple[str, ...]:
        """Return the label values of a file, in the order of `names`.

        Args:
            group: the number of the file's group.
            path: the file's path.
        """
        rule = self._rules[group]
        found: dict[str, str] = dict(rule.labels)
        if rule.path_regex is not None and (match := rule.path_regex.search(path)):
            found.update({name: printable(value) for name, value in match.groupdict("").items()})
        return (rule.group, printable(path), *(found.get(name, "") for name in self.names[2:]))
