"""Logs what a configuration may have got wrong, once the files are known."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

from exporter.config.errors import shortened
from exporter.config.globs import Include, directory_hint
from exporter.ops.log import fields
from exporter.tracker import Tracker
from fstat_cache.paths import Root

_log = logging.getLogger(__name__)


class Advice:
    """Logs each finding once, for as long as what it is about stays configured.

    Args:
        tracker: knows the files.
    """

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._checked: set[tuple[str, str]] = set()  # group, pattern
        self._shadowed: set[tuple[str, str]] = set()
        self._unlabelled: set[tuple[str, str]] = set()  # group, expression
        self._is_full = False

    def log(self) -> None:
        """Log what is new. To be called after a scan, while one configuration is followed."""
        self._log_patterns()
        self._log_unlabelled()
        self._log_full()

    def _log_patterns(self) -> None:
        matcher, discovery = self._tracker.matcher, self._tracker.discovery
        patterns = {
            (matcher.rules[group].name, pattern.written): number
            for number, (group, pattern) in matcher.patterns.items()
        }
        unmatched: dict[str, list[str]] = {}
        for group, text in sorted(patterns.keys() - self._checked):
            directories = list(self._directories(matcher.patterns[patterns[group, text]][1]))
            for path in directories:
                about = fields(group=group, pattern=text, hint=directory_hint(path))
                _log.warning("a pattern names a directory and matches no file in it", extra=about)
            if not directories and not discovery.matches[patterns[group, text]]:
                unmatched.setdefault(group, []).append(text)
        self._checked = set(patterns)
        for group, texts in unmatched.items():
            about = fields(group=group, count=len(texts), patterns=shortened(", ".join(texts), 400))
            _log.info(
                "patterns match no file: check paths and permissions; files that come later are found", extra=about
            )
        shadowed = {
            key for key, number in patterns.items() if discovery.shadowed[number] == discovery.matches[number] > 0
        }
        for group, text in sorted(shadowed - self._shadowed):
            about = fields(group=group, pattern=text)
            _log.info(
                "all files of a pattern belong to earlier groups: move its group before them, or remove the pattern",
                extra=about,
            )
        self._shadowed = (self._shadowed | shadowed) & patterns.keys()

    def _log_unlabelled(self) -> None:
        publication = self._tracker.publication
        publication.catch_up()
        keys = [(group.group, group.path_regex.pattern if group.path_regex else "") for group in publication.config]
        self._unlabelled.intersection_update(keys)
        for key, totals in zip(keys, publication.groups, strict=True):
            if totals.unlabelled and key not in self._unlabelled:
                self._unlabelled.add(key)
                with publication.facts.lock:
                    of_group = (row for row in publication.rows.values() if row.group == totals.group)
                    example = next((row.path.name for row in of_group if row.is_unlabelled and row.is_present), "")
                _log.warning(
                    "path_regex does not match some paths, so their labels are missing: correct path_regex or paths",
                    extra=fields(group=key[0], count=totals.unlabelled, example=example),
                )

    def _log_full(self) -> None:
        files, max_files = self._tracker.files, self._tracker.max_files
        if files > max_files and not self._is_full:
            _log.warning(
                "more files than cache.max_files: raise it, each file beyond costs an os.stat a scrape",
                extra=fields(files=files, max_files=max_files),
            )
        self._is_full = files > max_files

    def _directories(self, pattern: Include) -> Iterator[str]:
        for glob in pattern.globs:
            if glob.is_literal:
                with self._tracker.lock:
                    is_directory = self._tracker.discovery.is_directory(glob.base)
                    self._tracker.catch_up()  # with events that this took from the kernel's queue: nobody else has them
                if is_directory:
                    yield glob.base


def pattern_hint(pattern: str, root: Root) -> str:
    """Return what is odd about a pattern on this machine, without a scan; "" when nothing is.

    Args:
        pattern: as configured.
        root: the directory where its paths begin.
    """
    globs = Include(pattern).globs
    for glob in globs:
        if glob.is_literal and _is(os.path.isdir, glob.base, root):
            return directory_hint(glob.base)
    if any(_is(os.path.isfile if glob.is_literal else os.path.isdir, glob.base, root) for glob in globs):
        return ""
    places = list(dict.fromkeys(f"the {'file' if glob.is_literal else 'directory'} {glob.base}" for glob in globs))
    more = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"matches no file now: cannot find {places[0]}{more}"


def _is(kind: Callable[[str], bool], path: str, root: Root) -> bool:
    try:
        return kind(root.real(path))
    except OSError:
        return False
