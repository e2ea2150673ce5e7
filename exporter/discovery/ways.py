"""The paths on which ``**`` reaches a directory where it follows symbolic links: it enters each directory by one path.

So loops of links end, and a directory with several paths has one series for each file in it.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from typing import NamedTuple

from exporter.discovery.matches import Matches
from exporter.matching.automaton import Directory, Loop


class _Way(NamedTuple):
    """A path to a directory.

    Attributes:
        links: how many of its components are symbolic links.
        loops: the ``**`` that reach the directory by this path.
    """

    links: int
    loops: frozenset[Loop]


class Ways:
    """Decides by which path each ``**`` enters a directory: the one with the fewest links, then the first by name.

    A path has more links than a part of it that leads to the same directory, or the same and is longer. So no path is
    entered because of another one below itself.

    Args:
        matches: the groups of its matcher are those for which a change of a decision matters.
        leads: directory -> its names that are symbolic links.
        to_check: gets the paths for which the decision has changed.
    """

    def __init__(self, matches: Matches, leads: Mapping[str, Container[str]], to_check: dict[str, None]) -> None:
        self._matches = matches
        self._leads = leads
        self._to_check = to_check
        self._identities: dict[str, int] = {}
        self._by_identity: dict[int, dict[str, _Way]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._identities

    def identity(self, path: str) -> int | None:
        """Return the identity of the directory to which a path led when it was set; None for an unknown path."""
        return self._identities.get(path)

    def choose(self, path: str, identity: int | None, state: Directory) -> Directory:
        """Set where a path leads, and what can match there; leave out what is entered by another path.

        Args:
            path: of a directory.
            identity: device and inode number of the directory; None: not known, so nothing is left out.
            state: what can match in the directory.

        Returns:
            What is left of the state.
        """
        if self._identities.get(path) != identity:
            self.forget(path)
        if identity is None:
            return state
        ways = self._by_identity.get(identity, {})
        way = _Way(self._links_on(path), state.loops)
        if ways.get(path) != way:
            self._change(identity, path, way)
        lost = self._lost(path, self._by_identity.get(identity, {}))
        return state.without(lost) if lost else state

    def forget(self, path: str) -> None:
        """Forget a path; an unknown one is no error."""
        if path in self._identities:
            self._change(self._identities[path], path, _Way(0, frozenset()))

    def in_order(self, paths: Collection[str]) -> list[str]:
        """Return paths in the order in which to enter them, so that most decisions are final at once."""
        return sorted(paths, key=lambda path: (self._links_on(path), path.split("/")))

    def _change(self, identity: int, path: str, way: _Way) -> None:
        ways = self._by_identity.setdefault(identity, {})
        others = [other for other in ways if other != path]
        before = [self._lost(other, ways) for other in others]
        if way.loops:
            ways[path] = way
            self._identities[path] = identity
        else:
            ways.pop(path, None)
            self._identities.pop(path, None)
            if not ways:
                del self._by_identity[identity]
        for other, lost in zip(others, before, strict=True):
            if any(group in self._matches.matcher.rules for group, _ in lost ^ self._lost(other, ways)):
                self._to_check[other] = None

    def _lost(self, path: str, ways: Mapping[str, _Way]) -> frozenset[Loop]:
        if len(ways) < 2 or path not in ways:
            return frozenset()
        ranks = {other: (way.links, other.split("/")) for other, way in ways.items()}
        better = [ways[other].loops for other in ways if ranks[other] < ranks[path]]
        return ways[path].loops.intersection(frozenset().union(*better))

    def _links_on(self, path: str) -> int:
        links = 0
        above = ""
        for name in path.split("/")[1:]:
            links += name in self._leads.get(above or "/", ())
            above = f"{above}/{name}"
        return links
