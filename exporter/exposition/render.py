"""What is published of files, groups and aggregates, as text of which only what has changed is written again.

The letters are those of prometheus_client, which would write every sample on every scrape. It renders the rest, a few
hundred lines, and they go behind these.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import attrgetter, itemgetter
from types import SimpleNamespace
from typing import Generic

from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.config.groups import FILE_METRICS
from exporter.exposition.catalogue import file_families, sample_name, totals_families
from exporter.exposition.chunks import ABSENT, K, Rows, Section
from exporter.exposition.deflate import Deflater, gzip_member, join
from exporter.publication.publication import Changed, Publication
from exporter.publication.rows import Row, Totals

TEXT_KEPT_SCRAPES = 10
"""For how many compressed scrapes the text is kept after one that was not: it is ten times as long."""
TEXT_KEPT_ROWS = 10_000
"""Of groups with so many at most it always is, for patching text takes less time than inflating it first."""
_EOF = b"# EOF\n"


class Exposition:
    """The lines of all files, groups and aggregates. Safe to call from several threads.

    Args:
        publication: what is shown.

    Attributes:
        publication: the same.
    """

    def __init__(self, publication: Publication) -> None:
        self.publication = publication
        self._config = groups = publication.config
        self._columns = [
            [column for column, name in enumerate(FILE_METRICS) if name in group.metrics] for group in groups
        ]
        self._aggregate_names = tuple(
            dict.fromkeys(("group", *(name for group in groups for name in group.aggregate_by)))
        )
        file_labels, group_labels = labels_writer(publication.labeller.names), labels_writer(("group",))
        aggregate_labels = labels_writer(self._aggregate_names, keeps_empty=True)
        self._lock = threading.Lock()  # protects what is below; taken before the facts', never after
        self._files = _Table[Row](file_families(), self._columns, lambda row: file_labels(row.values))
        # Groups are few, but so they are of the same moment as their files.
        families = totals_families("group", "the group")
        columns = [range(len(families))] * len(groups)
        self._totals = _Table[Totals](families, columns, lambda totals: group_labels([groups[totals.group].group]))
        families = totals_families("aggregate", "the files with these labels")
        self._aggregates = _Table[Totals](families, columns, lambda totals: aggregate_labels(self._values(totals)))
        self._tables = self._files, self._totals, self._aggregates
        self._deflater = Deflater()
        self._text_is_kept_for = 0

    def update(self) -> Changed:
        """Take over what has changed in the publication, all of it as of one moment, and return it.

        To be called now and then while nobody scrapes too: until it is, the publication remembers what has changed.
        """
        with self._lock, self.publication.facts.lock:
            self.publication.update()
            self.publication.find_newest()
            changed = self.publication.take()
            # Neighbours are alike, which is good for the compression, and they come and go together.
            for row in sorted(changed.rows, key=attrgetter("path.name")):
                path, stats = row.path, row.path.stats
                rows = self._files.rows[row.group]
                if stats is None or path.is_hidden or not row.is_published:
                    rows.discard(row)
                    continue
                counters: tuple[float, ...] = (ABSENT,) * 4
                if path.is_counting:
                    counters = path.changes, path.appended_bytes, path.truncations, path.rotations
                values = (stats.size, stats.mtime, *counters)
                rows.put(row, [values[column] for column in self._columns[row.group]])
            for totals in sorted(changed.totals, key=attrgetter("values")):
                self._update_totals(totals)
            return changed

    def render(
        self,
        rest: Callable[[], bytes],
        *,
        is_openmetrics: bool,
        is_compressed: bool,
        groups: Collection[str] | None = None,
        names: Collection[str] | None = None,
    ) -> list[bytes]:
        """Return a whole answer in parts, which nothing changes any more.

        Args:
            rest: writes the other families, when all else is written: as the library does, in OpenMetrics with the end.
            is_openmetrics: whether to write OpenMetrics, otherwise the classic format.
            is_compressed: whether to give a gzip file.
            groups: those of the samples; None for all.
            names: those of the samples, as the library's ``restricted_registry`` has it: families without any are left
                out, and what stays is told without its unit. None for all.
        """
        numbers = [number for number, group in enumerate(self._config) if groups is None or group.group in groups]
        sections = []
        with self._lock:
            deflater = self._deflater if is_compressed else None
            self._decide_on_text(is_compressed=is_compressed)
            for table in self._tables:
                bodies = table.bodies(numbers, names, deflater, keeps_text=self._text_is_kept_for > 0)
                for family, body in bodies:
                    if names is None or any(section.has_lines for section in body):
                        sections += [family.heads[is_openmetrics, names is not None, is_compressed], *body]
            sections.append(_section(rest(), deflater))
        parts = [part for section in sections for part in section.parts]
        if not is_compressed:
            return parts
        return gzip_member(parts, join(section.checksum for section in sections if section.checksum is not None))

    def _decide_on_text(self, *, is_compressed: bool) -> None:
        if not is_compressed:
            self._text_is_kept_for = TEXT_KEPT_SCRAPES
        elif self._text_is_kept_for:
            self._text_is_kept_for -= 1
            if not self._text_is_kept_for:
                for table in self._tables:
                    for rows in table.rows:
                        rows.drop_text()

    def _update_totals(self, totals: Totals) -> None:
        rows = (self._aggregates if totals.values else self._totals).rows[totals.group]
        if totals.has_ended or not totals.is_published:
            rows.discard(totals)
            return
        newest = None if totals.newest is None else totals.newest.path.stats
        mtime = ABSENT if newest is None else newest.mtime
        counters = totals.changes, totals.appended_bytes, totals.truncations, totals.rotations
        rows.put(totals, (totals.files, totals.size_bytes, mtime, *counters))

    def _values(self, totals: Totals) -> list[str]:
        group = self._config[totals.group]
        own = {"group": group.group, **dict(zip(group.aggregate_by, totals.values, strict=True))}
        return [own.get(name, "") for name in self._aggregate_names]


def labels_writer(names: Sequence[str], *, keeps_empty: bool = False) -> Callable[[Sequence[str]], str]:
    """Return a function that writes the labels of a line from their values, of which at least one is not empty.

    Args:
        names: the label names, in the order of the values.
        keeps_empty: whether to write empty labels. To Prometheus they are none; but with ``honor_labels`` they keep
            away the target's label of that name.
    """
    order = sorted(range(len(names)), key=names.__getitem__)
    all_present = (True,) * len(names)
    known: dict[tuple[bool, ...], tuple[str, Callable[[Sequence[str]], object], int]] = {}

    def write(values: Sequence[str]) -> str:
        present = all_present if keeps_empty else tuple(map(bool, values))
        if present not in known:
            shown = [at for at in order if present[at]]
            template = "{" + ",".join([f'{names[at]}="%s"' for at in shown]) + "}"
            known[present] = template, itemgetter(*shown), 2 * len(shown)
        template, pick, quotes = known[present]
        text: str = template % pick(values)
        if "\\" not in text and "\n" not in text and text.count('"') == quotes:
            return text  # as nearly every one, in a third of the time
        escaped = [value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in values]
        return str(template % pick(escaped))

    return write


class _Family:
    """A family as the library itself introduces it."""

    def __init__(self, metric: Metric) -> None:
        self.name = sample_name(metric)
        deflater = Deflater()
        self.heads = {}  # what stands before the samples, by how it is asked for
        for key in itertools.product((False, True), repeat=3):
            is_openmetrics, is_restricted, is_compressed = key
            shown = Metric(metric.name, metric.documentation, metric.type) if is_restricted else metric
            encode = generate_openmetrics if is_openmetrics else generate_latest
            text = encode(SimpleNamespace(collect=lambda shown=shown: [shown])).removesuffix(_EOF)
            self.heads[key] = _section(text, deflater if is_compressed else None)


class _Table(Generic[K]):
    """Families, and by group the rows that have samples in some of them."""

    def __init__(
        self, families: Mapping[str, Metric], columns: Sequence[Sequence[int]], labels_text: Callable[[K], str]
    ) -> None:
        self._families = [_Family(metric) for metric in families.values()]
        self.rows = [Rows([self._families[column].name for column in group], labels_text) for group in columns]

    def bodies(
        self, groups: Sequence[int], names: Collection[str] | None, deflater: Deflater | None, *, keeps_text: bool
    ) -> list[tuple[_Family, list[Section]]]:
        """Return what stands behind the heads of the families asked for."""
        found: Mapping[str, list[Section]] = {
            family.name: [] for family in self._families if names is None or family.name in names
        }
        for group in groups:
            rows = self.rows[group]
            wanted = [name for name in rows.names if name in found]
            keeps = keeps_text or len(rows) <= TEXT_KEPT_ROWS
            for name, section in zip(wanted, rows.sections(wanted, deflater, keeps_text=keeps), strict=True):
                found[name].append(section)
        return [(family, found[family.name]) for family in self._families if family.name in found]


def _section(text: bytes, deflater: Deflater | None) -> Section:
    if deflater is None:
        return Section([text])
    block = deflater.block(text)
    return Section([block.deflated], block.checksum)
