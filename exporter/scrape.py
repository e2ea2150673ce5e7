"""A scrape: bring everything up to date, write the changed lines, save the counters, then return the answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeVar

from prometheus_client import Metric
from prometheus_client.samples import Sample

from exporter.collector import Part, audit_share, parts_of
from exporter.config.model import Config
from exporter.content.contents import Contents
from exporter.exposition.catalogue import SCRAPE, family
from exporter.exposition.families import Encode, FamilyTexts
from exporter.exposition.render import Exposition, Unread
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from exporter.publication.history import History
from exporter.publication.publication import Publication
from exporter.shippers.shippers import TIMEOUT_S, Shippers
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker
from fstat_cache import CacheClosedError

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Scraper:
    """Answers scrapes. Safe to call from several threads.

    Args:
        tracker: follows the files.
        save: called before an answer is returned, so that no published counter ever goes back.
        checkpoint: saves the counters; None: they are not saved.
        more: more parts by name.
        shippers: the shippers to follow; None: none.
        contents: reads the files; None: a new one, without limits of a configuration.

    Attributes:
        shippers: the shippers that it follows.
        history: the growth within the last 15 minutes.
    """

    def __init__(
        self,
        tracker: Tracker,
        save: Callable[[], object] = lambda: None,
        checkpoint: Checkpoint | None = None,
        more: Mapping[str, Part] | None = None,
        shippers: Shippers | None = None,
        contents: Contents | None = None,
    ) -> None:
        self._tracker = tracker
        self.shippers = shippers or Shippers(tracker)
        self._contents = contents or Contents(tracker, Config(tracker.publication.config))
        self._save = save
        self._parts = {**parts_of(tracker, checkpoint, self.shippers, self._contents), **(more or {})}
        self._failed = Transitions()
        self._family_texts = FamilyTexts()
        self._exposition = Exposition(tracker.publication)
        self._unread_of: tuple[Exposition, int] | None = None  # what shows the unread bytes, and of which shippers
        self.history = History(tracker.publication)

    @property
    def publication(self) -> Publication:
        """The present publication."""
        return self._exposition.publication

    @property
    def groups(self) -> frozenset[str]:
        """The names of the present groups."""
        return frozenset(group.group for group in self.publication.config)

    def look(self, *, is_scrape: bool, timeout_s: float | None = None) -> Exposition:
        """Bring everything up to date and return it; to be called at intervals even without scrapes.

        Args:
            is_scrape: whether it is for a scrape.
            timeout_s: of the scrape; None: unknown.
        """
        with self.shippers.following(TIMEOUT_S if timeout_s is None else timeout_s / 10):
            self._tracker.refresh(audit_share(self._tracker.cache.cache_info().files))
        self._tracker.expire(is_scrape=is_scrape)
        self._contents.update()  # before the lines of files are shown: a backlog of 0 means that all of them are
        exposition = self._exposition
        is_all = (exposition, self.shippers.changes) != self._unread_of
        self._unread_of = exposition, self.shippers.changes
        self.history.update(exposition.update(Unread(self.shippers.unread(is_all=is_all), is_all)).rows)
        return exposition

    def show(self, exposition: Exposition) -> None:
        """Show another publication from now on."""
        self._exposition = exposition
        self.history.switch_to(exposition.publication)

    def about_the_agent(self, encode: Encode) -> bytes:
        """Return an answer without files and groups, for the time before the first scan is done."""
        attempts = _Attempts()
        families = chain(self._collect(attempts), attempts.families())
        of_agent = _filtered(families, lambda sample: not sample.name.startswith(("fstat_group_", "fstat_shipper_")))
        return self._family_texts.encode(encode, of_agent)

    def scrape(
        self,
        encode: Encode,
        *,
        is_openmetrics: bool,
        is_compressed: bool,
        names: Sequence[str] = (),
        groups: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> list[bytes]:
        """Return the answer to a scrape.

        Args:
            encode: writes the metrics of a collector; pass the same object for the same format, so that unchanged
                families are not written again.
            is_openmetrics: whether it writes OpenMetrics, otherwise the classic format.
            is_compressed: whether to return a gzip file.
            names: the names of the samples to return, as in the library's ``restricted_registry``; empty for all.
            groups: the groups of the samples to return; empty for all samples.
            timeout_s: of the scrape; None: unknown.

        Returns:
            The answer in immutable parts.
        """
        while True:
            attempts = _Attempts()
            exposition = attempts.run("files", lambda: self.look(is_scrape=True, timeout_s=timeout_s))
            others = self._collect(attempts)
            if exposition is None or exposition is self._exposition:
                break  # else another configuration took over meanwhile, and an answer shows one
        if exposition is None and (names or groups):
            raise attempts.errors["files"]  # an answer without files and success would look like a good one
        families: Iterator[Metric] = chain(others, attempts.families())
        if names:
            families = _filtered(families, lambda sample: sample.name in names)
        if groups:
            families = _filtered(families, lambda sample: sample.labels.get("group") in groups)
        parts = (exposition or self._exposition).render(
            lambda: self._family_texts.encode(encode, families),
            is_openmetrics=is_openmetrics,
            is_compressed=is_compressed,
            names=() if exposition is None else names or None,
            groups=groups or None,
        )
        self._save()  # after rendering: another scrape may have put later values into the text
        return parts

    def _collect(self, attempts: _Attempts) -> list[Metric]:
        """Return the families of all parts but the files."""
        families: list[Metric] = []
        for name, part in self._parts.items():
            families += attempts.run(name, lambda part=part: list(part())) or ()  # type: ignore[misc]
        changed = self._failed.update(attempts.errors)
        for name in sorted(changed.begun):
            text, error = "a part of the scrape failed and is left out", attempts.errors[name]
            _log.error(text, extra=fields(collector=name), exc_info=error)
        for name in sorted(changed.ended):
            _log.info("a part of the scrape succeeds again", extra=fields(collector=name))
        return families


class _Attempts:
    """Durations and errors of the parts of one scrape."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._durations_s: dict[str, float] = {}
        self.errors: dict[str, Exception] = {}

    def run(self, name: str, part: Callable[[], T]) -> T | None:
        """Return the result of a part, or None if it fails. The error of an agent that is stopping is raised."""
        began_s = time.perf_counter()
        try:
            return part()
        except CacheClosedError:
            raise
        except Exception as error:  # noqa: BLE001 - the other parts are still published
            self.errors[name] = error
            return None
        finally:
            self._durations_s[name] = time.perf_counter() - began_s

    def families(self) -> Iterator[Metric]:
        """Return the families with durations and success."""
        whole, duration, success = (family(name, text) for name, text in SCRAPE.items())
        for name, duration_s in self._durations_s.items():
            duration.add_sample(duration.name, {"collector": name}, duration_s)
            success.add_sample(success.name, {"collector": name}, int(name not in self.errors))
        whole.add_sample(whole.name, {}, time.perf_counter() - self._began_s)
        return iter((whole, duration, success))


def _filtered(families: Iterable[Metric], is_asked_for: Callable[[Sample], bool]) -> Iterator[Metric]:
    """Yield families with these samples only and without their unit, as the library's ``restricted_registry`` does."""
    for each in families:
        if samples := [sample for sample in each.samples if is_asked_for(sample)]:
            found = Metric(each.name, each.documentation, each.type)
            found.samples = samples
            yield found
