"""Random changes of a small tree, links included: after each and one refresh, what is known is what a walk finds.

The walk asks :class:`PathMatcher` name by name, and the kernel for each file. What is not done here is what gives no
event: to rename a directory that no pattern means, but that is above what a link leads to.
"""

import contextlib
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exporter.config.groups import LogGroup
from exporter.matching.automaton import Directory, Loop, Match
from exporter.tracker import Tracker
from tests.exporter.tracking import Track
from tests.support import as_root, chrooted

DIRECTORIES = ("d0", "d1", "x", "l0")
FILES = ("f0.log", "f1.log", "f0.txt", "f1.log.1", "f1.log.2", "y")
CHANGES = {
    "make_directories": 4,
    "write": 9,
    "rename": 4,
    "rename_directory": 4,
    "remove": 3,
    "remove_directory": 1,
    "replace_directory": 1,
    "link": 3,
    "hard_link": 1,
    "truncate": 1,
    "replace": 2,
}


def walk(root: Directory) -> Iterator[tuple[str, Match]]:
    """Yield each matching file. Directories come by the number of links on their path, then by name: a ``**`` that
    follows links enters each once."""
    ahead = {"/": (0, root)}
    entered: set[tuple[Loop, int, int]] = set()
    while ahead:
        folder = min(ahead, key=lambda path: (ahead[path][0], path.split("/")))
        links, state = ahead.pop(folder)
        try:
            status = os.stat(folder)
            lost = {loop for loop in state.loops if (loop, status.st_dev, status.st_ino) in entered}
            entered |= {(loop, status.st_dev, status.st_ino) for loop in state.loops}
            state = state.without(lost)
            names = os.listdir(folder) if state.listed else state.names
        except OSError:
            continue
        for name in names:
            here = os.path.join(folder, name)
            if os.path.isdir(here):
                is_link = os.path.islink(here)
                below = state.enter(name, is_symlink=is_link)
                if below is not None:
                    ahead[here] = (links + is_link, below)
            elif os.path.isfile(here) and (match := state.match(name)) is not None:
                yield here, match


class Changer:
    """Changes a tree that is watched and one outside."""

    def __init__(self, root: Path, seed: int) -> None:
        self.watched, self.outside = root / "t", root / "o"
        self._pick = random.Random(seed)
        for tree in (self.watched, self.outside):
            tree.mkdir()

    def change(self) -> None:
        """Make one change; one that is not possible just now is left out."""
        (name,) = self._pick.choices([*CHANGES], [*CHANGES.values()])
        with contextlib.suppress(OSError, IndexError):
            getattr(self, name)()

    def _all(self, *, directories: bool) -> list[Path]:
        found = []
        for tree in (self.watched, self.outside):
            for folder, folders, files in os.walk(tree):
                found += [Path(folder, name) for name in (folders if directories else files)]
        return found

    def _directory(self) -> Path:
        return self._pick.choice([self.watched, self.outside, *self._all(directories=True)])

    def _inner_directory(self) -> Path:
        return self._pick.choice(self._all(directories=True))

    def _file(self) -> Path:
        return self._pick.choice(self._all(directories=False))

    def _new(self, names: tuple[str, ...]) -> Path:
        return self._directory() / self._pick.choice(names)

    def make_directories(self) -> None:
        """`mkdir -p`, and perhaps a file in it at once."""
        path = self._directory().joinpath(*self._pick.choices(DIRECTORIES, k=self._pick.randint(1, 3)))
        path.mkdir(parents=True, exist_ok=True)
        if self._pick.random() < 0.5:
            (path / self._pick.choice(FILES)).write_text("x")

    def write(self) -> None:
        """Append to a file, or to a new one."""
        path = self._new(FILES) if self._pick.random() < 0.7 else self._file()
        with path.open("a") as file:
            file.write("x" * self._pick.randint(0, 9))

    def rename(self) -> None:
        """A file or a link, to anywhere, over anything."""
        self._file().rename(self._new(FILES))

    def rename_directory(self) -> None:
        """To anywhere."""
        path, new = self._inner_directory(), self._new(DIRECTORIES)
        if path.is_symlink() or not self._leads_below(path.resolve()):
            path.rename(new)

    def _leads_below(self, directory: Path) -> bool:
        """Whether a link leads below a directory outside, so that nobody could hear that it was renamed."""
        if not directory.is_relative_to(self.outside.resolve()):
            return False
        for link in (path for kind in (True, False) for path in self._all(directories=kind) if path.is_symlink()):
            here = link
            for _ in range(40):
                if not here.is_symlink():
                    break
                here = here.parent / os.readlink(here)
                if Path(os.path.realpath(here.parent)).is_relative_to(directory):
                    return True
        return False

    def remove(self) -> None:
        """A file or a link."""
        self._file().unlink()

    def remove_directory(self) -> None:
        """With all that is in it."""
        shutil.rmtree(self._inner_directory())

    def replace_directory(self) -> None:
        """By a new one, which may well have the same inode number."""
        path = self._inner_directory()
        shutil.rmtree(path)
        path.mkdir()
        (path / self._pick.choice(FILES)).write_text("x")

    def link(self) -> None:
        """A symbolic one, to anything or nothing, by a path of either kind."""
        path = self._new(DIRECTORIES + FILES)
        new = self._new(DIRECTORIES + FILES)
        target = self._pick.choice([new, self._directory(), *self._all(directories=False)[:1]])
        path.symlink_to(os.path.relpath(target, path.parent) if self._pick.random() < 0.5 else target)

    def hard_link(self) -> None:
        """A second name."""
        os.link(self._file(), self._new(FILES), follow_symlinks=False)

    def truncate(self) -> None:
        """To nothing."""
        os.truncate(self._file(), 0)

    def replace(self) -> None:
        """As an editor saves."""
        path = self._file()
        new = path.with_name("tmp~")
        new.write_text("z" * self._pick.randint(0, 9))
        new.replace(path)


def compare(tracker: Tracker) -> None:
    """Compare what is known with what is there."""
    assert tracker.matcher.root is not None
    expected = dict(walk(tracker.matcher.root))
    found = {series.name: series for series in tracker.facts.paths.values() if series.is_present}
    assert found.keys() == expected.keys()
    sizes: dict[tuple[int, int, int], int] = {}  # an inode counts once in each group
    for path, series in found.items():
        status = os.stat(path)
        sizes[expected[path].groups[0], status.st_dev, status.st_ino] = status.st_size
        assert series.stats is not None
        assert (series.stats.size, series.stats.inode, series.stats.mtime_ns) == (
            status.st_size,
            status.st_ino,
            status.st_mtime_ns,
        )
        assert series.realm == expected[path].groups[0]
    groups = Counter(match.groups[0] for match in expected.values())
    assert [totals.files for totals in tracker.publication.groups] == [groups[number] for number in range(3)]
    assert sum(totals.size_bytes for totals in tracker.publication.groups) == sum(sizes.values())
    assert +tracker.discovery.matches == Counter(number for match in expected.values() for number in match.patterns)


@pytest.mark.parametrize("seed", range(20))
def test_random_changes(tmp_path: Path, track: Track, seed: int) -> None:
    """After them all is right; rescans find nothing unknown, and when all is gone nothing of it is left behind."""
    run(tmp_path, track, seed, lambda function, *arguments: function(*arguments))


@pytest.mark.parametrize("seed", range(20))
def test_random_changes_with_links_followed(tmp_path: Path, track: Track, seed: int) -> None:
    """The same holds if ``**`` follows links: loops end, and it enters each directory once, by the best path."""
    folder = tmp_path.joinpath(*"n" * 16)  # relative links that are moved up lead out of the trees
    folder.mkdir(parents=True)
    run(folder, track, seed, lambda function, *arguments: function(*arguments), follows=True)


@as_root
@pytest.mark.parametrize("seed", range(20))
def test_random_changes_on_a_host(tmp_path: Path, track: Track, seed: int) -> None:
    """The same holds for what a process with another root does and sees, absolute links included."""
    with chrooted(tmp_path) as on_host:
        run(Path("/"), track, seed, on_host, rootfs=str(tmp_path))


def run(
    folder: Path, track: Track, seed: int, there: Callable[..., Any], rootfs: str = "/", *, follows: bool = False
) -> None:
    """Change files in `folder`; `there` calls functions where it is."""

    def check() -> None:
        tracker.refresh(0)
        there(compare, tracker)

    changer = there(Changer, folder, seed)
    pick = random.Random(seed)
    tree = changer.watched
    for _ in range(pick.randint(0, 25)):
        there(changer.change)
    tracker = track(
        groups=(
            LogGroup("a", (f"{tree}/**/*.log",), follow_symlinks=follows),
            LogGroup("b", (f"{tree}/*/x/*", f"{tree}/d0/f0.log", f"{tree}/d1/x/f0.txt")),
            LogGroup("c", (f"{tree}/l*/*.txt", f"{tree}/d1/l0/f0.txt", f"{tree}/l0/*/d0/f0.*")),
        ),
        rootfs=rootfs,
    )
    check()
    for _ in range(30):
        for _ in range(pick.choice([1, 1, 2, 3, 6, 12])):
            there(changer.change)
        check()
        if pick.random() < 0.15:
            tracker.scan()
            check()
            assert tracker.discovery.missed == 0
    for directory in (changer.watched, changer.outside):
        there(shutil.rmtree, directory)
    there(tree.mkdir)
    check()
    known = tracker.discovery._tree
    assert not [path for path in known.folders if path.startswith(f"{tree}/") or path == str(changer.outside)]
    assert not [path for path in tracker._names if not there(os.path.exists, path)]
    assert (known.links.leads, known.folders.crossed) == ({}, {})
    assert not [path for path in known.ways._identities if path.startswith(f"{tree}/")]
