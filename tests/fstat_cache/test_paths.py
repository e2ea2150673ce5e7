"""The symlink resolver, against tables, :func:`os.path.realpath` and the kernel."""

import ctypes
import errno
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fstat_cache.paths import MOST_LINKS, Root, Walk

LINKS = {
    "/to-file": "dir/file",
    "/to-dir": "/dir",
    "/to-root": "/",
    "/dir/up": "..",
    "/dir/below/out": "../../other/./file",
    "/host/to-dir": "/dir",
    "/host/out": "../../../dir",
}


def walked(walk: Walk, readlink: Callable[[str], str | None]) -> list[str]:
    places = []
    for place in walk:
        places.append(place)
        walk.follow(readlink)
    return places


@pytest.mark.parametrize(
    ("path", "root", "places", "end"),
    [
        ("/", "/", [], ""),
        ("/a/b", "/", ["/a", "/a/b"], "/a/b"),
        ("//a/.//b/", "/", ["/a", "/a/b"], "/a/b"),
        ("/../a/..", "/", ["/a"], ""),
        ("/to-file", "/", ["/to-file", "/dir", "/dir/file"], "/dir/file"),
        ("/to-dir/x", "/", ["/to-dir", "/dir", "/dir/x"], "/dir/x"),
        ("/to-root/dir", "/", ["/to-root", "/dir"], "/dir"),
        ("/to-dir/../x", "/", ["/to-dir", "/dir", "/x"], "/x"),  # as of /dir, not of the link
        ("/a/../to-dir", "/", ["/a", "/to-dir", "/dir"], "/dir"),
        ("/dir/up/x", "/", ["/dir", "/dir/up", "/x"], "/x"),
        ("/dir/below/out", "/", ["/dir", "/dir/below", "/dir/below/out", "/other", "/other/file"], "/other/file"),
        ("/to-dir", "/host", ["/host/to-dir", "/host/dir"], "/host/dir"),
        ("/to-dir/../..", "/host/", ["/host/to-dir", "/host/dir"], "/host"),
        ("/out/x", "/host", ["/host/out", "/host/dir", "/host/dir/x"], "/host/dir/x"),
    ],
)
def test_the_places_on_the_way(path: str, root: str, places: list[str], end: str) -> None:
    """Each component and each link is one; what is no directory entry ("..", ".", the root) is none."""
    walk = Walk(path, root=root)
    assert walked(walk, LINKS.get) == places
    assert walk.here == end


@pytest.mark.parametrize(
    ("path", "start", "end"),
    [("x", "/dir", "/dir/x"), ("up/x", "/dir/", "/x"), ("/x", "/dir", "/x"), ("to-dir", "/", "/dir")],
)
def test_a_walk_from_a_directory(path: str, start: str, end: str) -> None:
    """Relative paths begin there, absolute ones at the root."""
    walk = Walk(path, start=start)
    walked(walk, LINKS.get)
    assert walk.here == end


def test_a_caller_that_stops_has_read_nothing_beyond() -> None:
    """As the mount table does before a remote filesystem: the place is known, and neither it nor its target is read."""
    read: list[str] = []

    def readlink(path: str) -> str | None:
        read.append(path)
        return LINKS.get(path)

    walk = Walk("/to-dir/remote/x")
    for place in walk:
        if place == "/dir/remote":
            break
        walk.follow(readlink)
    assert walk.here == "/dir/remote"
    assert read == ["/to-dir", "/dir"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EACCES])
def test_where_nothing_is_the_walk_ends(number: int) -> None:
    """That place is the last one: what may appear there is what the path waits for."""

    def readlink(path: str) -> str:
        raise OSError(number if path == "/a/b" else errno.EINVAL, "")

    walk = Walk("/a/b/../c")
    assert walked(walk, readlink) == ["/a", "/a/b"]
    assert walk.is_last


def test_the_last_place() -> None:
    """It is last before its target is known, and no more when that has added some."""
    walk = Walk("/to-dir/up")
    assert [(place, walk.is_last, walk.follow(LINKS.get), walk.is_last) for place in walk] == [
        ("/to-dir", False, "/dir", False),
        ("/dir", False, None, False),
        ("/dir/up", True, "..", False),
    ]


@pytest.mark.parametrize("length", [MOST_LINKS, MOST_LINKS + 1])
def test_the_kernel_follows_as_many_links(tmp_path: Path, length: int) -> None:
    """The one beyond is the end, given with its target."""
    (tmp_path / "0").touch()
    for number in range(length):
        (tmp_path / str(number + 1)).symlink_to(str(number))
    walk = Walk(str(tmp_path / str(length)))
    last = walked(walk, os.readlink)[-1]
    exists = os.path.exists(tmp_path / str(length))
    assert exists == (length <= MOST_LINKS)
    assert last == walk.here == str(tmp_path / ("0" if exists else "1"))


names = st.sampled_from(["a", "b", "c"])
paths = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from(["", "/"]),
    st.lists(st.one_of(names, st.sampled_from(["..", "."])), min_size=1, max_size=5),
)
# Each is made if its directory exists and the name is free: a link's target, None for a directory, "" for a file.
trees = st.lists(
    st.tuples(st.lists(names, min_size=1, max_size=3), st.one_of(st.none(), st.just(""), paths, paths)), max_size=12
)


def build(root: str, tree: list[tuple[list[str], str | None]], *, beneath: bool) -> None:
    for parts, target in sorted(tree, key=lambda entry: len(entry[0])):
        path = os.path.join(root, *parts)
        parent = os.path.dirname(path)
        if os.path.lexists(path) or not os.path.isdir(parent) or os.path.realpath(parent) != parent:
            continue
        if target is None:
            os.mkdir(path)
        elif target == "":
            Path(path).touch()
        else:
            os.symlink(target if beneath or not target.startswith("/") else root + target, path)


@settings(max_examples=200, deadline=None)
@given(tree=trees, path=paths)
@example(tree=[(["a"], None), (["a", "b"], "../c"), (["c"], "a/..")], path="a/b/a")
@example(tree=[(["a"], "b"), (["b"], "a")], path="a/..")
def test_a_walk_ends_where_realpath_does(tree: list[tuple[list[str], str | None]], path: str) -> None:
    """On any tree of links, wherever the path leads to something."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.realpath(folder)
        build(root, tree, beneath=False)
        path = f"{root}/{path.lstrip('/')}"
        walk = Walk(path)
        walked(walk, os.readlink)
        try:
            os.stat(path)
        except OSError as error:
            judge(walk.here, error.errno)
        else:
            assert (walk.here or "/") == os.path.realpath(path, strict=True)


@settings(max_examples=200, deadline=None)
@given(tree=trees, path=paths)
@example(tree=[(["a"], "/b"), (["b"], None), (["b", "c"], "../../../b/..")], path="/a/c/../b")
@example(tree=[(["a"], "/a")], path="../../a")
def test_a_walk_beneath_a_root_ends_where_the_kernel_does(tree: list[tuple[list[str], str | None]], path: str) -> None:
    """As in chroot(2): absolute targets and ".." do not lead out. Where it leads to nothing, the root says why."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.path.realpath(folder)
        build(root, tree, beneath=True)
        walk = Walk(path, root=root)
        assert all(place.startswith(f"{root}/") for place in walked(walk, os.readlink))
        expected = outcome(functools.partial(resolve_in_root, root), path)
        if isinstance(expected, str):
            assert walk.here == expected
        else:
            judge(walk.here, expected)
        if expected != errno.ENOTDIR:  # see below
            assert outcome(Root(root).real, path) == expected


def outcome(resolve: Callable[[str], str], path: str) -> str | int | None:
    """What a path leads to, or the error's number."""
    try:
        return resolve(path)
    except OSError as error:
        return error.errno


def judge(here: str, number: int | None) -> None:
    """Compare the end of a walk with the kernel's reason to give up."""
    if number != errno.ENOTDIR:  # a walk takes a file on its way for a directory
        assert os.path.islink(here) == (number == errno.ELOOP)
    if number == errno.ENOENT:
        assert not os.path.lexists(here)


def resolve_in_root(root: str, path: str) -> str:
    """Resolve a path by openat2(2) with RESOLVE_IN_ROOT, which needs no privileges, unlike chroot(2)."""
    how = (ctypes.c_uint64 * 3)(os.O_PATH, 0, 0x10)
    libc = ctypes.CDLL(None, use_errno=True)
    directory = os.open(root, os.O_PATH)
    try:
        fd = libc.syscall(437, directory, os.fsencode(path), how, ctypes.sizeof(how))
        if fd < 0:
            number = ctypes.get_errno()
            if number in (errno.ENOSYS, errno.EPERM):
                pytest.skip("needs openat2(2)")
            raise OSError(number, os.strerror(number))
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)
    finally:
        os.close(directory)
