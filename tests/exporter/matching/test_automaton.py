"""Patterns: which files they mean."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wcmatch import glob

from exporter.config.globs import Exclude, Include, escape
from exporter.config.groups import LogGroup
from exporter.discovery.remote_scan import RemoteScanner
from exporter.matching.automaton import Directory, GroupPatterns, PathMatcher, number_groups

Patterns = tuple[Sequence[str], Sequence[str]]
"""The patterns and the excludes of a group."""


def numbered(*patterns: Patterns, first_group: int = 0, first_pattern: int = 0) -> tuple[GroupPatterns, ...]:
    """Groups with these patterns."""
    groups = [LogGroup(str(number), tuple(paths), tuple(exclude)) for number, (paths, exclude) in enumerate(patterns)]
    return number_groups(groups, first_group=first_group, first_pattern=first_pattern)


def matcher_of(*patterns: Patterns) -> PathMatcher:
    """The matcher of groups with these patterns."""
    return PathMatcher(numbered(*patterns))


def groups(path: str, *patterns: Patterns) -> tuple[int, ...]:
    """The groups of a path."""
    match = matcher_of(*patterns).match(path)
    return () if match is None else match.groups


def matches(path: str, include: str, *exclude: str) -> bool:
    """Whether one pattern with these excludes means the path."""
    return groups(path, ([include], list(exclude))) == (0,)


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("/a/b.log", ["/a/b.log"], ["/a/b.logs", "/a/c.log", "/b.log", "/a/b/b.log"]),
        ("/a/*.log", ["/a/b.log", "/a/b.c.log"], ["/a/b/c.log", "/a/.b.log", "/a/.log", "/a/b.log.1", "/a/b.log\n"]),
        ("/a/?.log", ["/a/b.log"], ["/a/bb.log", "/a/..log"]),
        ("/a/[bc]d", ["/a/bd", "/a/cd"], ["/a/dd"]),
        ("/a/[!b]*", ["/a/cb"], ["/a/b", "/a/.c"]),
        ("/a/*", ["/a/b"], ["/a/.b", "/a/b/c", "/a"]),
        ("/a/.*", ["/a/.b"], ["/a/b"]),
        ("/a/**/*.log", ["/a/b.log", "/a/b/c.log", "/a/b/c/d.log"], ["/b/a.log", "/a/.b/c.log", "/a/b/.c/d.log"]),
        ("/a/**", ["/a/b", "/a/b/c"], ["/a", "/a/.b", "/a/.b/c"]),
        ("/**/b", ["/b", "/a/b", "/a/c/b"], ["/a/b/c"]),
        ("/a/**/**/b", ["/a/b", "/a/c/d/e/b"], ["/b"]),
        ("/a/**/b/**/c", ["/a/b/c", "/a/x/b/y/c", "/a/b/b/c"], ["/a/c", "/a/x/c"]),
        ("/a/.b/**/c", ["/a/.b/c", "/a/.b/d/c"], ["/a/.b/.d/c"]),
        ("/a/{b,c/d}.log", ["/a/b.log", "/a/c/d.log"], ["/a/d.log", "/a/{b,c/d}.log"]),
        ("/a/x{1..3}", ["/a/x1", "/a/x3"], ["/a/x4"]),
        (r"/a/\*\[\{b\\", ["/a/*[{b\\"], ["/a/x[{b\\"]),
        ("/a/[[:digit:]]", ["/a/1"], ["/a/b"]),
        ("//a///b", ["/a/b"], []),
        ("/a/!b", ["/a/!b"], ["/a/c"]),
        ("/a/B", ["/a/B"], ["/a/b"]),
        ("/a/é*", ["/a/éb"], ["/a/e"]),
    ],
)
def test_meaning(pattern: str, inside: list[str], outside: list[str]) -> None:
    """What each element of a pattern matches, and what it does not."""
    assert [path for path in inside if not matches(path, pattern)] == []
    assert [path for path in outside if matches(path, pattern)] == []


def test_excludes() -> None:
    """Without a slash the base name, else the whole path; what is below an excluded directory is excluded too."""
    assert not matches("/a/b.log", "/a/**", "b.*")
    assert not matches("/a/b.d/c.log", "/a/**", "b.*")
    assert not matches("/a/b/c", "/a/**", "/a/b")
    assert not matches("/a/b/c/d", "/a/**", "/a/b/**")
    assert not matches("/a/b/c", "/a/**", "/**/c")
    assert matches("/a/b/cd", "/a/**", "/**/c", "/b/**", "c", "/a/b/*/*")
    assert matches("/a/b/cd", "/a/**", "/a/b/**/x", "/a/b/**/?")


def test_excludes_match_leading_dots() -> None:
    """A dotfile that is named can be excluded by a wildcard."""
    assert matches("/a/.b.old", "/a/.*")
    assert not matches("/a/.b.old", "/a/.*", "*.old")
    assert not matches("/a/.b/c", "/a/.b/*", "/a/**")


def test_excluded_directories_are_not_entered() -> None:
    """No state is left where nothing can match, be it by the patterns or by the excludes."""
    root = matcher_of((["/a/**/*.log"], ["/a/pods/**", "cache", "/a/x"])).root
    assert root is not None
    assert root.enter("b", is_symlink=False) is None
    a = root.enter("a", is_symlink=False)
    assert a is not None
    for name in ("pods", "cache", "x", ".hidden"):
        assert a.enter(name, is_symlink=False) is None, name
    assert a.enter("other", is_symlink=True) is None
    other = a.enter("other", is_symlink=False)
    assert other is not None
    assert other.enter("x", is_symlink=False) is other


def test_literal_directories_are_known_by_name() -> None:
    """Where only names can match there is nothing to list."""
    root = matcher_of((["/a/b/*.log", "/a/c.log"], []), (["/d"], [])).root
    assert root is not None
    assert (root.names, root.listed) == (("a", "d"), False)
    a = root.enter("a", is_symlink=False)
    assert a is not None
    assert (a.names, a.listed) == (("b", "c.log"), False)
    b = a.enter("b", is_symlink=False)
    assert b is not None
    assert (b.names, b.listed) == ((), True)


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst", ".bz2"])
def test_compressed_files(ending: str) -> None:
    """Compressed files count only for a pattern that names the ending, and only if no exclude names it."""
    path = f"/a/b.log{ending}"
    assert not matches(path, "/a/*")
    assert not matches(path, "/a/b*")
    assert matches(path, f"/a/*{ending}")
    assert matches(path, path)
    assert matches(path, f"/a/*{{.log,{ending}}}")
    assert not matches(path, "/a/*.{gz,xz,zst,bz2}", f"*{ending}")
    assert matches(f"/a/b{ending}/c.log", "/a/**")


def test_groups_in_order() -> None:
    """Every group of a file is told, the first one first; an exclude counts for its own group."""
    a, b = (["/a/*.log"], ["x.log"]), (["/a/*"], [])
    assert groups("/a/b.log", a, b) == (0, 1)
    assert groups("/a/x.log", a, b) == (1,)
    assert groups("/a/c", a, b) == (1,)


def test_patterns_are_numbered() -> None:
    """Each pattern is there as it is written: one with braces once, one that is repeated once in a group."""
    matcher = matcher_of((["/b/{c,d}", "/a", "/b/{c,d}"], ["*.old"]), (["/a"], []))
    assert matcher.patterns == {0: (0, "/b/{c,d}"), 1: (0, "/a"), 2: (1, "/a")}


def test_every_pattern_of_a_file() -> None:
    """All patterns that match a file are told, except those of groups that leave it out."""
    matcher = matcher_of(
        (["/a/*.log", "/a/{b,b.log,b.*}", "/a/b.log", "/a/b.log.gz"], ["/a/c*"]),
        (["/a/b.log", "/**/*.{log,log}", "/a/*"], ["b.*.gz"]),
    )
    expected = {
        "/a/b.log": ((0, 1), (0, 1, 2, 4, 5, 6)),
        "/a/b": ((0, 1), (1, 6)),
        "/a/c.log": ((1,), (5, 6)),
        "/a/b.log.gz": ((0,), (3,)),
        "/a/d/e.log": ((1,), (5,)),
    }
    for path, (numbers, patterns) in expected.items():
        match = matcher.match(path)
        assert match is not None, path
        assert (match.groups, match.patterns) == (numbers, patterns), path
    assert matcher.match("/a/d.gz") is None


def test_matches_are_shared() -> None:
    """Files that the same patterns match have the same object, whichever pattern spells their names out."""
    matcher = matcher_of((["/{a/*,b/x}", "/{a/x,b/*}"], []))
    match = matcher.match("/a/x")
    assert match is matcher.match("/b/x")
    assert match is not None
    assert match.patterns == (0, 1)
    assert match is not matcher.match("/a/y")


def test_numbers_are_the_same_in_each_matcher() -> None:
    """A group has its numbers alone and beside those of another configuration, and a match compares by them."""
    old = numbered((["/a/*.log", "/b"], []), (["/a/*"], ["*.old"]))
    new = numbered((["/a/*"], []), first_group=2, first_pattern=3)
    both, only_old, only_new = PathMatcher([*old, *new]), PathMatcher(old), PathMatcher(new)
    assert both.patterns == {0: (0, "/a/*.log"), 1: (0, "/b"), 2: (1, "/a/*"), 3: (2, "/a/*")}
    assert only_new.patterns == {3: (2, "/a/*")}
    match = both.match("/a/x.log")
    assert match is not None
    assert (match.groups, match.patterns) == ((0, 1, 2), (0, 2, 3))
    assert both.match("/b") == only_old.match("/b")
    for path in ("/a/x.log", "/a/x.old", "/b"):
        match = both.match(path)
        assert match is not None
        assert (only_old.narrow(match), only_new.narrow(match)) == (only_old.match(path), only_new.match(path))


def test_what_another_matcher_reaches() -> None:
    """A directory reaches more where a pattern or a smaller exclude was added, and not where only numbers differ."""

    def state(*patterns: Patterns, number: int = 0) -> Directory:
        root = PathMatcher(numbered(*patterns, first_group=number, first_pattern=number)).root
        assert root is not None
        below = root.enter("a", is_symlink=False)
        assert below is not None
        return below

    old = state((["/a/*.log", "/b/*"], ["x"]))
    assert not old.reaches_more_than(state((["/a/*.log"], ["x"]), number=7))
    assert not state((["/a/*.log"], ["x"]), (["/b/*", "/a/*.log"], ["x"])).reaches_more_than(old)
    assert state((["/a/*.log", "/a/*.txt"], ["x"])).reaches_more_than(old)
    assert state((["/a/*.log"], [])).reaches_more_than(old)


def test_a_pattern_is_compiled_once() -> None:
    """It keeps what it is compiled to, and is otherwise its text."""
    for kind in (Include, Exclude):
        pattern = kind("/a/{b,c}")
        assert kind(pattern) is pattern
        assert (pattern, hash(pattern), len(pattern.globs)) == ("/a/{b,c}", hash("/a/{b,c}"), 2)


@pytest.mark.parametrize("name", ["a*b", "[x]", "{a,b}", "a\\b", "?", "!a", "a{1..2}"])
def test_escape(name: str) -> None:
    """An escaped text matches itself only."""
    assert matches(f"/{name}/f", f"/{escape(name)}/f")
    assert not matches("/a/f", f"/{escape(name)}/f")


NAMES = ("a", "b", "ab", ".a", "a.log", "b.log", ".b.log")
SEGMENTS = ("a", "b", "*", "**", "?", "a*", "*.log", "[ab]", "[!a]*", ".*", "{a,b}", "{*.log,b}", ".a", "*b*")


@settings(max_examples=300)
@given(
    tree=st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4), max_size=12),
    include=st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_scan_is_what_a_shell_would_find(tree: list[list[str]], include: list[list[str]]) -> None:
    """On any tree and patterns the scanner finds the regular files that wcmatch's own glob finds."""
    with tempfile.TemporaryDirectory() as root:
        for parts in tree:
            path = Path(root, *parts)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            except (FileExistsError, NotADirectoryError):
                pass  # a file where a directory should be, or the other way round
        patterns = ["/".join((root, *segments)) for segments in include]
        expected = {
            os.path.normpath(path)
            for pattern in patterns
            for path in glob.glob(pattern, flags=glob.GLOBSTAR | glob.BRACE | glob.CASE)
            if os.path.isfile(path)
        }
        matcher = matcher_of((patterns, []))
        assert matcher.root is not None
        assert set(RemoteScanner().scan({"/": matcher.root}).files) == expected
        everything = {os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names}
        assert {path for path in everything if matcher.match(path)} == expected


@settings(max_examples=300, deadline=None)
@given(
    path=st.lists(st.sampled_from(NAMES), min_size=1, max_size=5),
    exclude=st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4), max_size=3),
    base_names=st.lists(st.sampled_from([name for name in SEGMENTS if name != "**"]), max_size=2),
)
def test_excludes_are_prefixes_that_match(path: list[str], exclude: list[list[str]], base_names: list[str]) -> None:
    """A file is excluded exactly when it or a directory above it matches, by base name or by path."""
    text = "/" + "/".join(path)
    prefixes = ["/" + "/".join(path[:end]) for end in range(1, len(path) + 1)]
    flags = glob.GLOBSTAR | glob.BRACE | glob.CASE | glob.DOTGLOB
    patterns = ["/" + "/".join(segments) for segments in exclude]
    expected = not any(
        any(glob.globmatch(prefix, pattern, flags=flags) for pattern in patterns)
        or any(glob.globmatch(os.path.basename(prefix), name, flags=flags) for name in base_names)
        for prefix in prefixes
    )
    assert matches(text, escape(text), *patterns, *base_names) == expected


@settings(max_examples=300, deadline=None)
@given(
    path=st.lists(st.sampled_from((*NAMES, "a.gz", "b.log.gz")), min_size=1, max_size=3),
    configured=st.lists(
        st.tuples(
            st.lists(
                st.lists(st.sampled_from((*SEGMENTS, "*.gz", "a.gz")), min_size=1, max_size=3), min_size=1, max_size=3
            ),
            st.lists(st.sampled_from(("a", "*.log", "b*", "/a/*", "/**/b")), max_size=1),
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_patterns_match_as_if_alone(path: list[str], configured: list[tuple[list[list[str]], list[str]]]) -> None:
    """A pattern among many matches what it matches with nothing but its group's excludes beside it."""
    text = "/" + "/".join(path)
    rules = [(["/" + "/".join(segments) for segments in include], exclude) for include, exclude in configured]
    matcher = matcher_of(*rules)
    expected = [
        number
        for number, (group, pattern) in matcher.patterns.items()
        if groups(text, ([pattern], rules[group][1])) == (0,)
    ]
    match = matcher.match(text)
    assert (() if match is None else match.patterns) == tuple(expected)
    assert groups(text, *rules) == tuple(sorted({matcher.patterns[number][0] for number in expected}))
