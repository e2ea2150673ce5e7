"""Globs: checks the patterns of the configuration and compiles them, one component of the path at a time."""

from __future__ import annotations

import itertools
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import bracex
from wcmatch import fnmatch

from exporter.config import dates
from exporter.config.errors import shortened

COMPRESSED_ENDINGS = (".gz", ".xz", ".zst", ".bz2")
"""Endings of files that match only patterns that name the ending: a compressed file is a copy, not growth."""

_MAX_ALTERNATIVES = 1000
MAX_LENGTH = 4096  # PATH_MAX: no path is longer, and expanding braces takes more than linear time
_MAGIC = re.compile(r"(?<!\\)(?:\\\\)*[*?\[]")
_STARS = re.compile(r"(?<!\\)(?:\\\\)*\*\*")
_PLAIN_ENDING = re.compile(r"[^*?\[\]\\]*$")  # always matches, if only the empty string
_BRACKETS = re.compile(
    r"""
    \\.                           # an escaped character, not a bracket
    | \[ [!^]?+ (?P<class>        # the content of a "[...]"
        \]?+                      # a "]" at the beginning is a character of the class
        (?: \\. | \[(?=:).*?:\] | [^\\/\]] )*+   # an escaped character, a "[:class:]", any but "/"
      ) \]
    | [\[{}]                      # another bracket; a "[" here is never closed
    """,
    re.DOTALL | re.VERBOSE,
)
_CLASS_MEMBER = re.compile(r"\[:[^\]]*:\]|\\.|.", re.DOTALL)
_CLASSES = (
    *("alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph"),
    *("lower", "print", "punct", "space", "upper", "word", "xdigit"),
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)

Test = Callable[[str], object]  # of one name; true if it matches


class PatternError(ValueError):
    """A pattern is not valid; the message says why."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One component of a pattern.

    Attributes:
        literal: the only name that matches, or None.
        test: whether a name matches; unused for ``**``.
        any_name: whether this is ``*``.
        any_depth: whether this is ``**``.
        ending: the ending of every name that matches.
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
        segments: one for each component, the last one for the file name.
        compressed: whether the pattern ends with one of COMPRESSED_ENDINGS.
        names: the components as written; empty for a pattern without ``/``.
    """

    segments: tuple[Segment, ...]
    compressed: bool = False
    names: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The path up to the first wildcard: without one the only path that matches, else a directory."""
        names = itertools.takewhile(lambda name: name is not None, (segment.literal for segment in self.segments))
        return "/" + "/".join(filter(None, names))

    @property
    def is_literal(self) -> bool:
        """Whether there is no wildcard."""
        return all(segment.literal is not None for segment in self.segments)


class Pattern(str):
    """A pattern, compiled once, with the dates in it as of one day. It compares and hashes like its text.

    Args:
        text: the pattern as written; a compiled one is returned unchanged.
        now_s: the moment of its dates, unix time; None: now.

    Attributes:
        written: the pattern as written.
        globs: one for each alternative of the braces.

    Raises:
        PatternError: the pattern is not valid.
    """

    __slots__ = ("globs", "written")
    globs: tuple[Glob, ...]
    written: str
    _matches_dots = False

    def __new__(cls, text: str, now_s: float | None = None) -> Self:
        if isinstance(text, cls):
            return text
        try:
            self = super().__new__(cls, dates.resolve(text, time.time() if now_s is None else now_s, escape))
        except ValueError as error:
            raise PatternError(str(error)) from None
        self.written = text
        self.globs = tuple(_glob(alternative, dots=cls._matches_dots) for alternative in _alternatives(self))
        return self

    def at(self, now_s: float) -> Self:
        """Return the pattern with its dates as of a moment, unix time; itself if they are the same."""
        dated = type(self)(self.written, now_s)
        return self if dated == self else dated


class Include(Pattern):
    """An absolute pattern of files.

    ``*``, ``?`` and ``[...]`` match within a segment, ``**`` matches any depth; none of them matches a leading dot.
    ``{a,b}`` and ``{1..3}`` may be anywhere, and so may dates, see :mod:`exporter.config.dates`. A backslash makes the
    next character literal.
    """

    __slots__ = ()


class Exclude(Pattern):
    """A pattern of files to leave out: like `Include`, but wildcards match leading dots too.

    A pattern without ``/`` matches the base name and gives globs of one segment.
    """

    __slots__ = ()
    _matches_dots = True


def escape(text: str) -> str:
    """Return the pattern that matches exactly `text`."""
    return re.sub(r"([\\*?\[\]{},])", r"\\\1", text)


def directory_hint(path: str) -> str:
    """Return the fault and the remedy for a pattern that is a directory."""
    directory = escape(path)
    return f"{path} is a directory; write {directory}/* or {directory}/**"


def _alternatives(text: str) -> list[str]:
    if not text:
        raise PatternError("the pattern is empty")
    if len(text) > MAX_LENGTH:
        raise PatternError(f"it has {len(text)} characters, expected {MAX_LENGTH} at most")
    if "\0" in text:
        raise PatternError("it contains a NUL character, which no file name has")
    if re.search(r"(?<!\\)(?:\\\\)*\\$", text):
        raise PatternError("it ends with a lone backslash")
    _check_brackets(text)
    if "{" not in text:
        return [text]
    try:
        expanded: list[str] = bracex.expand(text, keep_escapes=True, limit=_MAX_ALTERNATIVES)
    except bracex.ExpansionLimitException:
        raise PatternError(f"its braces expand to more than {_MAX_ALTERNATIVES} patterns") from None
    except RecursionError:
        raise PatternError("its braces are nested too deeply") from None
    return list(dict.fromkeys(expanded))


def _check_brackets(text: str) -> None:
    opened: list[int] = []
    for found in _BRACKETS.finditer(text):
        if found["class"] is not None:
            _check_class(found["class"])
        elif found[0] == "[":
            raise _never_closed(text, found.start())
        elif found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            opened.pop()
    if opened:
        raise _never_closed(text, opened[-1])


def _never_closed(text: str, start: int) -> PatternError:
    what = f"the '{text[start]}' of '{shortened(text[start:], 20)}' is never closed"
    return PatternError(rf"{what}; write '\{text[start]}' for the character itself")


def _check_class(content: str) -> None:
    """Refuse classes that match nothing, or not what the user expects."""
    members = _CLASS_MEMBER.findall(content)
    for name in members:
        if len(name) > 2 and name[2:-2] not in _CLASSES:
            raise PatternError(f"unknown class '{name}', expected one of: {', '.join(_CLASSES)}")
    for low, dash, high in zip(members, members[1:], members[2:], strict=False):
        if dash == "-" and len(low) < 3 > len(high) and low[-1] > high[-1]:
            raise PatternError(f"the range '{low}-{high}' in '[...]' is reversed, expected '{high}-{low}'")


def _glob(alternative: str, *, dots: bool) -> Glob:
    if dots and "/" not in alternative:
        return Glob((_segment(alternative, dots=True),))
    if not alternative.startswith("/"):
        remedy = "; write the home directory out instead of '~'" if alternative.startswith("~") else ""
        raise PatternError(
            f"a pattern with a '/' must be absolute{remedy}" if dots else f"the path is not absolute{remedy}"
        )
    names = [name for name in alternative.split("/")[1:] if name]
    if not names or (not dots and alternative.endswith("/")):
        raise PatternError("it ends with '/', so it matches directories only; add '*' or '**' for the files in them")
    kept: list[str] = []
    for name in names:
        if name in (".", ".."):
            raise PatternError(f"it contains '/{name}/'; write the path without it")
        if not (name == "**" and kept and kept[-1] == "**"):
            kept.append(name)
    if kept[-1] == "**":
        kept.append("*")
    segments = tuple(_segment(name, dots=dots) for name in kept)
    return Glob(segments, kept[-1].endswith(COMPRESSED_ENDINGS), tuple(kept))


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
    with warnings.catch_warnings(action="ignore"):  # Python warns of "[["
        return Segment(None, re.compile(expression).fullmatch, ending=_PLAIN_ENDING.search(text)[0])  # type: ignore[index]


def _ending_test(ending: str, *, dots: bool) -> Test:
    # By far the most common segment ("*.log"), so it does without the regular expression.
    if dots:
        return lambda name: name.endswith(ending)
    return lambda name: name.endswith(ending) and name[0] != "."
