"""Switches to another configuration without losing or double-counting a byte, while files are followed and scraped.

For a while discovery matches the groups of both configurations, and the facts hold the files of both. The new
publication processes the facts in batches, while the old one is shown. Then it replaces the old one at once, and the
old groups are dropped. When a changeover is abandoned, the new groups are dropped instead.
"""

from __future__ import annotations

from collections.abc import Callable

from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.ledger.records import Path
from exporter.matching.automaton import PathMatcher, number_groups
from exporter.publication.publication import Publication
from exporter.tracker import Tracker


class Changeover:
    """One change of the configuration. Call prepare(), finish() and drop_old() in this order; no other scan may run.

    Args:
        tracker: its first scan is done.
        config: the next configuration.
        midnight_s: when the dates in patterns have changed last, unix time; None: there are none.
    """

    def __init__(self, tracker: Tracker, config: Config, midnight_s: float | None = None) -> None:
        self._tracker = tracker
        self._config = config
        self._midnight_s = midnight_s
        self._leaving: set[Path] = set()  # paths that only the dates of the old configuration match
        matcher = tracker.matcher
        # Only the groups that are published: the matcher may still have those of a changeover that failed.
        position_of = tracker.publication.position_of
        self._old = tuple(rules for rules in matcher.rules.values() if position_of((rules.number,)) is not None)
        self._new = number_groups(
            config.logs, first_group=max(matcher.rules) + 1, first_pattern=max(matcher.patterns, default=-1) + 1
        )
        self._publication: Publication | None = None

    def prepare(self) -> Publication:
        """Find the files of the new configuration, in addition to those of the old one.

        Returns:
            The new publication, which is up to date with the facts.
        """
        tracker = self._tracker
        tracker.refresh(0)
        with tracker.lock:
            tracker.since_ns.update(self._inherited_since())
        # Before the scan, which needs the numbers of new names, and whose bookings must count in the new totals.
        self._publication = tracker.publish(self._config, first=self._new[0].number, before=tracker.publication)
        tracker.match(PathMatcher([*self._old, *self._new]))
        tracker.scan()
        with tracker.lock, tracker.facts.lock:
            self._declare_leaving()  # after the scan, which declares names without wildcards again
        self._publication.catch_up()
        return self._publication

    def finish(self, show: Callable[[], object]) -> None:
        """Replace the old publication by the new one.

        Args:
            show: called with the tracker's and the facts' lock held, to show the new publication from then on.
        """
        tracker, publication = self._tracker, self._publication
        assert publication is not None
        matcher = PathMatcher(self._new)
        as_of_ns = tracker.clock.file_now_ns()
        tracker.cache.sync()
        with tracker.lock:
            tracker.refresh_locked(as_of_ns)  # so that a scrape of the old publication in progress is up to date
            with tracker.facts.lock:
                publication.take_over(tracker.matcher.groups_of)
                publication.keep_gone(self._leaving)
                tracker.matcher, tracker.publication = matcher, publication
                show()

    def drop_old(self) -> None:
        """Forget the files that only the old configuration matches."""
        self._match_only(self._tracker.matcher)

    def abandon(self) -> None:
        """Undo everything that was done so far, and keep the old configuration."""
        matcher = PathMatcher(self._old)
        with self._tracker.lock:
            self._tracker.matcher = matcher
            if self._publication is not None:
                self._publication.close()
        self._match_only(matcher)

    def _match_only(self, matcher: PathMatcher) -> None:
        tracker = self._tracker
        tracker.match(matcher)
        with tracker.lock:
            tracker.since_ns = {number: tracker.since_ns[number] for number in matcher.patterns}

    def _declare_leaving(self) -> None:
        """Have the new publication show the files that leave only because of their dates."""
        tracker, before = self._tracker, self._tracker.publication
        new = {_as_written(group): rules.number for group, rules in zip(self._config.logs, self._new, strict=True)}
        numbers = [new.get(_as_written(group)) for group in before.config]
        for path, row in before.rows.items():
            number = numbers[row.group]
            if number is not None and not path.has_ended and max(path.groups) < self._new[0].number:
                groups = (*path.groups, number)
                tracker.facts.declare(path.name, path.realm, groups, since_ns=path.since_ns, is_new=path.is_new)
                self._leaving.add(path)

    def _inherited_since(self) -> dict[int, int]:
        """Return pattern number -> since when unknown files are new: as before if the pattern is not new, else now.

        If only its dates are others, since they changed: what was written before is no growth of this moment.
        """
        tracker = self._tracker
        midnight_ns = None if self._midnight_s is None else tracker.clock.moment_of(int(self._midnight_s * 1e9))
        changed_ns = tracker.as_of_ns if midnight_ns is None else midnight_ns
        since = {}
        for group, rules in zip(self._config.logs, self._new, strict=True):
            excludes, written = set(group.exclude), set(group.written_exclude)
            for number, pattern in rules.patterns.items():
                known = [
                    tracker.since_ns[old]
                    if old_pattern == pattern and excludes.issuperset(before.exclude)
                    else max(tracker.since_ns[old], changed_ns)
                    for before, old_rules in zip(tracker.publication.config, self._old, strict=True)
                    if written.issuperset(before.written_exclude) and before.follow_symlinks >= group.follow_symlinks
                    for old, old_pattern in old_rules.patterns.items()
                    if old_pattern.written == pattern.written
                ]
                since[number] = min(known, default=tracker.as_of_ns)
        return since


def _as_written(group: LogGroup) -> tuple[object, ...]:
    """Return what decides which files belong to a group on some day."""
    return group.group, group.written_paths, group.written_exclude, group.follow_symlinks
