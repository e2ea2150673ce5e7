"""Goes over to another configuration so that no byte is lost or counted twice, while files are followed and scraped.

For a while discovery matches the groups of both configurations, and the facts hold the files of both. The publication
of the new one catches up with the facts, in steps, while the one before is shown. In one moment it takes its place.
Then the groups of the old configuration are let go. Giving up is the same, with the old groups kept.
"""

from __future__ import annotations

from collections.abc import Callable

from exporter.config.model import Config
from exporter.matching.automaton import PathMatcher, number_groups
from exporter.publication.publication import Publication
from exporter.tracker import Tracker
from fstat_cache import file_time_ns


class Changeover:
    """One change of the configuration. Its methods are to be called in their order; nobody else scans meanwhile.

    Args:
        tracker: it has scanned.
        config: the configuration to come.
    """

    def __init__(self, tracker: Tracker, config: Config) -> None:
        self._tracker = tracker
        self._config = config
        matcher = tracker.matcher
        # No others: those of a changeover that failed half-way may still match.
        position_of = tracker.publication.position_of
        self._old = tuple(rules for rules in matcher.rules.values() if position_of((rules.number,)) is not None)
        self._new = number_groups(
            config.logs, first_group=max(matcher.rules) + 1, first_pattern=max(matcher.patterns, default=-1) + 1
        )
        self._publication: Publication | None = None

    def prepare(self) -> Publication:
        """Find the files of the new configuration too.

        Returns:
            What is to be shown; it has caught up with the facts.
        """
        tracker = self._tracker
        tracker.refresh(0)
        with tracker.lock:
            tracker.since_ns.update(self._inherited_since())
        # Before the scan, which needs the numbers of new names: what it books is to count in the new totals.
        self._publication = tracker.publish(self._config, first=self._new[0].number, before=tracker.publication)
        tracker.match(PathMatcher([*self._old, *self._new]))
        tracker.scan()
        self._publication.catch_up()
        return self._publication

    def finish(self, show: Callable[[], object]) -> None:
        """Go over.

        Args:
            show: called in the moment from which on the figures of the new configuration are those to be shown.
        """
        tracker, publication = self._tracker, self._publication
        assert publication is not None
        matcher = PathMatcher(self._new)
        as_of_ns = file_time_ns()
        tracker.cache.sync()
        with tracker.lock:
            tracker.refresh_locked(as_of_ns)  # who has begun to scrape what was shown before gets what is true now
            with tracker.facts.lock:
                publication.take_over(tracker.matcher.groups_of)
                tracker.matcher, tracker.publication = matcher, publication
                show()

    def let_go(self) -> None:
        """Forget what only the old configuration matched."""
        self._match_only(self._tracker.matcher)

    def abandon(self) -> None:
        """Leave everything as it was, whatever was done so far."""
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

    def _inherited_since(self) -> dict[int, int]:
        """Since when unknown files are new: where their pattern was followed just so, the same as before, else now."""
        tracker = self._tracker
        since = {}
        for group, rules in zip(self._config.logs, self._new, strict=True):
            excludes = set(group.exclude)
            for number, text in rules.patterns.items():
                known = [
                    tracker.since_ns[old]
                    for before, old_rules in zip(tracker.publication.config, self._old, strict=True)
                    if excludes.issuperset(before.exclude)
                    for old, old_text in old_rules.patterns.items()
                    if old_text == text
                ]
                since[number] = min(known, default=tracker.as_of_ns)
        return since
