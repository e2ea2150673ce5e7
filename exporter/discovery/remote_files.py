"""The files that the remote scanner has found."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from exporter.discovery.findings import Appeared, Findings, Gone, Rematched
from exporter.discovery.tree import Tree
from exporter.matching.automaton import Match, PathMatcher


class RemoteFiles(dict[str, Match]):
    """The matching files on remote filesystems, each with its match.

    Args:
        tree: counts their matches, and logs errors.
    """

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._tree = tree

    def take(self, found: Mapping[str, Match], left_out: Collection[str]) -> Findings:
        """Update the files by the result of a scan.

        Args:
            found: path -> its match.
            left_out: places that did not answer: known files at or below them are kept.
        """
        kept = tuple(os.path.join(path, "") for path in left_out)
        for path in sorted(found.keys() | self.keys()):
            match = found.get(path)
            if match is None:
                if path not in left_out and not path.startswith(kept):
                    yield from self.stat(path, self[path])
            elif path not in self:
                yield from self.stat(path, match)
            elif self[path] != match:
                self._tree.matches.set(self, path, match)
                yield Rematched(path, match)

    def stat(self, path: str, match: Match) -> Findings:
        """Stat a file that may have been created or deleted."""
        try:
            is_there = yield Appeared(path, match)
        except Exception as error:  # noqa: BLE001 - see Failures
            self._tree.failures.note(error, os.path.dirname(path))
            return
        if is_there and path not in self:
            self._tree.matches.set(self, path, match)
        elif not is_there:
            self._tree.matches.set(self, path, None)

    def restate(self, matcher: PathMatcher) -> Findings:
        """Keep the files that the groups of a matcher still match. The next scan finds those that only they match."""
        for path, old in tuple(self.items()):
            match = matcher.narrow(old)
            if match != old:
                self._tree.matches.set(self, path, match)
                yield Gone(path) if match is None else Rematched(path, match)
