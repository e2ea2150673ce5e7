"""A scrape: make everything true, write what has changed, have the counters on the disk, then show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import Metric
from prometheus_client.registry import Collector

from exporter.collector import AgentCollector, audit_share, make_registry
from exporter.exposition.families import Encode, FamilyTexts
from exporter.exposition.render import Exposition
from exporter.publication.history import History
from exporter.publication.publication import Publication
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker


class Scraper:
    """Answers scrapes. Safe to call from several threads.

    Args:
        tracker: follows the files.
        save: called before anything is shown, so that no counter that was shown ever goes back.
        checkpoint: where to, if at all.
        more: what else to show of the agent.

    Attributes:
        history: what has grown within the last quarter of an hour.
    """

    def __init__(
        self,
        tracker: Tracker,
        save: Callable[[], object] = lambda: None,
        checkpoint: Checkpoint | None = None,
        more: Sequence[Collector] = (),
    ) -> None:
        self._tracker = tracker
        self._save = save
        self._registry = make_registry(AgentCollector(tracker, checkpoint), *more)
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
        self.history.go_on_with(exposition.publication)

    def about_the_agent(self, encode: Encode) -> bytes:
        """Make an answer without files and groups, of which nothing true is known before the first scan is done."""
        return encode(_WithoutGroups(self._registry))

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
        exposition = self.look(is_scrape=True)
        source: Collector = self._registry
        if names:
            source = self._registry.restricted_registry(names)
        if groups:
            source = _OfGroups(source, groups)
        parts = exposition.render(
            self._family_texts.encode(encode, source),
            is_openmetrics=is_openmetrics,
            is_compressed=is_compressed,
            names=names or None,
            groups=groups or None,
        )
        self._save()  # after the text was made: another scrape may have written a later value into it
        return parts


class _WithoutGroups(Collector):
    """What another collector gives, but for what it tells of groups."""

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        return (family for family in self._source.collect() if not family.name.startswith("fstat_group_"))


class _OfGroups(Collector):
    """What another collector gives, but for the samples that are of no group or of another one."""

    def __init__(self, source: Collector, groups: Sequence[str]) -> None:
        self._source = source
        self._groups = groups

    def collect(self) -> Iterable[Metric]:
        for family in self._source.collect():
            samples = [sample for sample in family.samples if sample.labels.get("group") in self._groups]
            if samples:
                family.samples = samples
                yield family
