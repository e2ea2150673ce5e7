"""A scrape: make everything true, write what has changed, have the counters on the disk, then show them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from prometheus_client import Metric
from prometheus_client.samples import Sample

from exporter.collector import Part, audit_share, parts_of
from exporter.exposition.catalogue import SCRAPE, family
from exporter.exposition.families import Encode, FamilyTexts
from exporter.exposition.render import Exposition
from exporter.ops.log import fields
from exporter.ops.transitions import Transitions
from exporter.publication.history import History
from exporter.publication.publication import Publication
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker
from fstat_cache import CacheClosedError

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Scraper:
    """Answers scrapes. Safe to call from several threads.

    Args:
        tracker: follows the files.
        save: called before anything is shown, so that no counter that was shown ever goes back.
        checkpoint: where to, if at all.
        more: other parts by their names.

    Attributes:
        history: what has grown within the last quarter of an hour.
    """

    def __init__(
        self,
        tracker: Tracker,
        save: Callable[[], object] = lambda: None,
        checkpoint: Checkpoint | None = None,
        more: Mapping[str, Part] | None = None,
    ) -> None:
        self._tracker = tracker
        self._save = save
        self._parts = {**parts_of(tracker, checkpoint), **(more or {})}
        self._failed = Transitions()
        self._family_texts = FamilyTexts()
        self._exposition = Exposition(tracker.publication)
        self.history = History(tracker.publication)

    @property
    def publication(self) -> Publication:
        """What is shown."""
        return self._exposition.publication

    @property
    def groups(self) -> frozenset[str]:
        """The names of the groups."""
        return frozenset(group.group for group in self.publication.config)

    def look(self, *, is_scrape: bool) -> Exposition:
        """Make everything true as of now, and return it; also to be called now and then while nobody scrapes."""
        self._tracker.refresh(audit_share(self._tracker.cache.cache_info().files))
        self._tracker.expire(is_scrape=is_scrape)
        exposition = self._exposition
        self.history.update(exposition.update().rows)
        return exposition

    def show(self, exposition: Exposition) -> None:
        """Show another publication from now on."""
        self._exposition = exposition
        self.history.switch_to(exposition.publication)

    def about_the_agent(self, encode: Encode) -> bytes:
        """Make an answer without files and groups, of which nothing true is known before the first scan is done."""
        families = _filtered(self._collect(_Attempts()), lambda sample: not sample.name.startswith("fstat_group_"))
        return self._family_texts.encode(encode, families)

    def scrape(
        self,
        encode: Encode,
        *,
        is_openmetrics: bool,
        is_compressed: bool,
        names: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> list[bytes]:
        """Make an answer.

        Args:
            encode: writes what the library collects; the same object for the same format, so that it need not do all.
            is_openmetrics: whether it writes OpenMetrics, otherwise the classic format.
            is_compressed: whether to give a gzip file.
            names: those of the samples to show, as the library's ``restricted_registry`` has it; none for all.
            groups: to show nothing but samples of these; none for all.

        Returns:
            The answer in parts, which nothing changes any more.
        """
        attempts = _Attempts()
        exposition = attempts.run("files", lambda: self.look(is_scrape=True))
        families = self._collect(attempts)
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
        self._save()  # after the text was made: another scrape may have written a later value into it
        return parts

    def _collect(self, attempts: _Attempts) -> Iterator[Metric]:
        """Give the families of all parts but the files, then how each part did."""
        for name, part in self._parts.items():
            yield from attempts.run(name, lambda part=part: list(part())) or ()  # type: ignore[misc]
        yield from attempts.families()
        changed = self._failed.update(attempts.errors)
        for name in sorted(changed.begun):
            text, error = "a part of the scrape failed and is left out", attempts.errors[name]
            _log.error(text, extra=fields(collector=name), exc_info=error)
        for name in sorted(changed.ended):
            _log.info("a part of the scrape succeeds again", extra=fields(collector=name))


class _Attempts:
    """What the parts of one scrape took, and which of them failed."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._durations_s: dict[str, float] = {}
        self.errors: dict[str, Exception] = {}

    def run(self, name: str, part: Callable[[], T]) -> T | None:
        """Return what a part gives; None if it fails, unless the agent is stopping."""
        began_s = time.perf_counter()
        try:
            return part()
        except CacheClosedError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, the other parts are shown
            self.errors[name] = error
            return None
        finally:
            self._durations_s[name] = time.perf_counter() - began_s

    def families(self) -> Iterator[Metric]:
        """Return the families that show this."""
        whole, duration, success = (family(name, text) for name, text in SCRAPE.items())
        for name, duration_s in self._durations_s.items():
            duration.add_sample(duration.name, {"collector": name}, duration_s)
            success.add_sample(success.name, {"collector": name}, int(name not in self.errors))
        whole.add_sample(whole.name, {}, time.perf_counter() - self._began_s)
        return iter((whole, duration, success))


def _filtered(families: Iterable[Metric], is_asked_for: Callable[[Sample], bool]) -> Iterator[Metric]:
    """Give families with those samples only, without their unit, as the library filters them."""
    for each in families:
        if samples := [sample for sample in each.samples if is_asked_for(sample)]:
            found = Metric(each.name, each.documentation, each.type)
            found.samples = samples
            yield found
