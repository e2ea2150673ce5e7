"""The families of files, groups and aggregates as text, of which a scrape renders only the changed lines.

The text is the same as prometheus_client's, which would render every sample at every scrape. The library renders the
other families, a few hundred lines, which follow these.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from types import SimpleNamespace
from typing import Any, Generic, NamedTuple

from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.config.groups import (
    CONTENT_METRICS,
    DIRECTORIES,
    DISK,
    FILE_METRICS,
    MODE,
    MODE_LABELS,
    OLDEST_MTIME,
    UNREAD,
    LogGroup,
)
from exporter.exposition.catalogue import (
    content_families,
    file_families,
    mode_families,
    sample_name,
    totals_families,
    unread_families,
)
from exporter.exposition.chunks import ABSENT, K, Rows, Section
from exporter.exposition.deflate import Deflater, gzip_member, join
from exporter.ledger.records import Path
from exporter.publication.publication import Changed, Publication
from exporter.publication.rows import Row, Totals
from fstat_cache import DetailedStats

TEXT_KEPT_SCRAPES = 10
"""For how many compressed scrapes text is kept after an uncompressed one; it is ten times as long as the blocks."""
TEXT_KEPT_ROWS = 10_000
"""Up to how many rows a group always keeps its text, because patching it is faster than inflating it first."""
_EOF = b"# EOF\n"
_ZEROS = 0, 0, 0, 0
_OPTIONAL = {"disk_bytes": DISK, "oldest_mtime_seconds": OLDEST_MTIME, "directories": DIRECTORIES}
"""Family of totals -> its name in `metrics`; all groups have the others."""
_RowOfShipper = tuple[Row, str]
_RowWithMode = tuple[Row, tuple[int, int, int]]


class Unread(NamedTuple):
    """Which bytes of files shippers have not read.

    Attributes:
        size_bytes: shipper and file -> how many; None: no position is of the file.
        is_all: whether others are not shown any more; else they have not changed.
    """

    size_bytes: Mapping[tuple[str, Path], int | None]
    is_all: bool


class Exposition:
    """The lines of all files, groups and aggregates. Safe to call from several threads.

    Args:
        publication: has the rows and totals.

    Attributes:
        publication: as given.
    """

    def __init__(self, publication: Publication) -> None:
        self.publication = publication
        self._config = groups = publication.config
        self._columns = [
            [column for column, name in enumerate(FILE_METRICS) if name in group.metrics] for group in groups
        ]
        kept = dict.fromkeys(("group", *(name for group in groups for name in group.aggregate_by)))
        static = (name for group in groups if group.aggregate_by for name in group.labels)
        self._aggregate_names = tuple(dict.fromkeys((*kept, *static)))
        file_labels = labels_writer(publication.labeller.names)
        group_labels = [labels_writer(tuple(labels))(tuple(labels.values())) for labels in publication.group_labels]
        aggregate_labels = labels_writer(self._aggregate_names, kept)
        self._lock = threading.Lock()  # protects everything below; taken before the facts' lock, never after
        self._files = _Table[Row](file_families(), self._columns, lambda row: file_labels(row.values))
        self._content_columns = [
            [column for column, name in enumerate(CONTENT_METRICS) if name in group.metrics] for group in groups
        ]
        self._content = _Table[Row](content_families(), self._content_columns, lambda row: file_labels(row.values))
        unread_labels = labels_writer((*publication.labeller.names, "shipper"))
        unread_columns = [range(UNREAD in group.metrics) for group in groups]
        self._unread = _Table[_RowOfShipper](
            unread_families(), unread_columns, lambda key: unread_labels((*key[0].values, key[1]))
        )
        self._unread_bytes: defaultdict[Path, dict[str, int]] = defaultdict(dict)
        mode_labels = labels_writer((*publication.labeller.names, *MODE_LABELS))
        mode_columns = [range(MODE in group.metrics) for group in groups]
        self._modes = _Table[_RowWithMode](
            mode_families(),
            mode_columns,
            lambda key: mode_labels((*key[0].values, f"{key[1][0]:04o}", *map(str, key[1][1:]))),
        )
        self._shown_modes: dict[Row, tuple[int, int, int]] = {}
        # Groups are few, but here their values are of the same moment as those of their files.
        families = totals_families("group", "in the group")
        self._group_columns = _columns_of_totals(families, groups)
        self._totals = _Table[Totals](families, self._group_columns, lambda totals: group_labels[totals.group])
        families = totals_families("aggregate", "in the aggregate")
        self._aggregate_columns = columns = _columns_of_totals(families, groups)
        self._aggregates = _Table[Totals](families, columns, lambda totals: aggregate_labels(self._values(totals)))
        content = (self._content,) if any(self._content_columns) else ()
        unread = (self._unread,) if any(unread_columns) else ()
        modes = (self._modes,) if any(mode_columns) else ()
        self._tables: tuple[_Table[Any], ...] = (
            self._files,
            *content,
            *unread,
            *modes,
            self._totals,
            self._aggregates,
        )
        self._deflater = Deflater()
        self._text_is_kept_for = 0

    def update(self, unread: Unread | None = None) -> Changed:
        """Apply the changes of the publication, all at one moment, and return them.

        To be called at intervals even without scrapes, because the publication remembers all changes until then.

        Args:
            unread: which bytes of files are unread.
        """
        with self._lock, self.publication.facts.lock:
            self.publication.update()
            self.publication.find_newest()
            changed = self.publication.take()
            try:
                self._apply(changed)
                if unread is not None:
                    self._apply_unread(unread)
            except BaseException:
                self.publication.put_back(changed)
                raise
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
        """Return a whole answer in immutable parts.

        Args:
            rest: renders the other families as the library does, with the ``# EOF`` of OpenMetrics; called last.
            is_openmetrics: whether to write OpenMetrics, otherwise the classic format.
            is_compressed: whether to return a gzip file.
            groups: the groups of the samples; None for all.
            names: the names of the samples; None for all. As in the library's ``restricted_registry``, families without
                samples are left out, and the others have no unit.
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

    def _apply(self, changed: Changed) -> None:
        # Sorted, because neighbours compress well together, and come and go together.
        for row in sorted(changed.rows, key=attrgetter("path.name")):
            path, stats = row.path, row.path.stats
            rows = self._files.rows[row.group]
            if self._content_columns[row.group]:
                self._show_content(row)
            if row.path in self._unread_bytes:
                self._show_unread(row)
            is_shown = row.is_published and not path.is_hidden
            if MODE in self._config[row.group].metrics:
                self._show_mode(row, stats.access if is_shown and isinstance(stats, DetailedStats) else None)
            if stats is None or not is_shown:
                rows.discard(row)
                continue
            counters: tuple[float, ...] = (ABSENT,) * 4
            if row.is_zero:
                counters = _ZEROS
            elif path.is_counting:
                counters = path.changes, path.appended_bytes, path.truncations, path.rotations
            disk_bytes = stats.disk_bytes if isinstance(stats, DetailedStats) else ABSENT
            values = (stats.size, stats.mtime, *counters, disk_bytes)
            rows.put(row, [values[column] for column in self._columns[row.group]])
        for totals in sorted(changed.totals, key=attrgetter("values")):
            self._update_totals(totals)

    def _show_content(self, row: Row) -> None:
        rows, path, content = self._content.rows[row.group], row.path, row.path.content
        if content is None or path.is_hidden or not row.is_published:
            rows.discard(row)
            return
        lines = 0 if row.is_zero else content.lines
        crc32 = content.crc32 if content.has_checksum_of(path.stats) else ABSENT
        values = lines if content.has_lines else ABSENT, crc32
        rows.put(row, [values[column] for column in self._content_columns[row.group]])

    def _show_mode(self, row: Row, access: tuple[int, int, int] | None) -> None:
        rows = self._modes.rows[row.group]
        before = self._shown_modes.pop(row, None)
        if before is not None and before != access:
            rows.discard((row, before))
        if access is not None:
            self._shown_modes[row] = access
            rows.put((row, access), [1])

    def _apply_unread(self, unread: Unread) -> None:
        changed = dict(unread.size_bytes)
        if unread.is_all:
            known = [(shipper, path) for path, shippers in self._unread_bytes.items() for shipper in shippers]
            changed = {**dict.fromkeys(known), **changed}
        for (shipper, path), size_bytes in changed.items():
            row = self.publication.rows.get(path)
            if size_bytes is not None:
                self._unread_bytes[path][shipper] = size_bytes
            elif self._unread_bytes[path].pop(shipper, None) is not None and row is not None:
                self._unread.rows[row.group].discard((row, shipper))
            if row is not None:
                self._show_unread(row)

    def _show_unread(self, row: Row) -> None:
        rows, path = self._unread.rows[row.group], row.path
        for shipper, size_bytes in self._unread_bytes.get(path, {}).items():
            if path.stats is None or path.is_hidden or not row.is_published:
                rows.discard((row, shipper))
            else:
                rows.put((row, shipper), [size_bytes])
        if row.has_ended:
            self._unread_bytes.pop(row.path, None)

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
        if totals.is_zero:
            counters = _ZEROS
        values = [totals.files, totals.size_bytes, mtime, *counters, totals.disk_bytes]
        columns = self._aggregate_columns
        if not totals.values:
            columns = self._group_columns
            oldest = self.publication.oldest[totals.group].find() if totals.group in self.publication.oldest else None
            values += [ABSENT if oldest is None else oldest.mtime]
            values += [len(self.publication.directories.get(totals.group, ()))]
        rows.put(totals, [values[column] for column in columns[totals.group]])

    def _values(self, totals: Totals) -> list[str]:
        own = dict(zip(self._config[totals.group].aggregate_by, totals.values, strict=True))
        labels = {**self.publication.group_labels[totals.group], **own}
        return [labels.get(name, "") for name in self._aggregate_names]


def labels_writer(names: Sequence[str], kept: Collection[str] = ()) -> Callable[[Sequence[str]], str]:
    """Return a function that writes the labels of a line from their values, of which at least one is not empty.

    Args:
        names: the label names, in the order of the values.
        kept: the names to write even where the value is empty. To Prometheus that is no label; but with
            ``honor_labels`` it keeps away the target's label of that name.
    """
    order = sorted(range(len(names)), key=names.__getitem__)
    known: dict[tuple[bool, ...], tuple[str, Callable[[Sequence[str]], object], int]] = {}

    def write(values: Sequence[str]) -> str:
        present = tuple(map(bool, values))
        if present not in known:
            shown = [at for at in order if present[at] or names[at] in kept]
            template = "{" + ",".join([f'{names[at]}="%s"' for at in shown]) + "}"
            known[present] = template, itemgetter(*shown), 2 * len(shown)
        template, pick, quotes = known[present]
        text: str = template % pick(values)
        if "\\" not in text and "\n" not in text and text.count('"') == quotes:
            return text  # nothing to escape: the most frequent case, in a third of the time
        escaped = [value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in values]
        return str(template % pick(escaped))

    return write


def _columns_of_totals(families: Iterable[str], groups: Sequence[LogGroup]) -> list[list[int]]:
    """Return for each group the numbers of the families of its totals."""
    return [
        [column for column, name in enumerate(families) if _OPTIONAL.get(name) in (None, *group.metrics)]
        for group in groups
    ]


class _Family:
    """A family, and its head lines as the library writes them."""

    def __init__(self, metric: Metric) -> None:
        self.name = sample_name(metric)
        deflater = Deflater()
        self.heads = {}  # the lines before the samples, by the kind of answer
        for key in itertools.product((False, True), repeat=3):
            is_openmetrics, is_restricted, is_compressed = key
            shown = Metric(metric.name, metric.documentation, metric.type) if is_restricted else metric
            encode = generate_openmetrics if is_openmetrics else generate_latest
            text = encode(SimpleNamespace(collect=lambda shown=shown: [shown])).removesuffix(_EOF)
            self.heads[key] = _section(text, deflater if is_compressed else None)


class _Table(Generic[K]):
    """Families, and for each group its rows, which have samples in some of the families."""

    def __init__(
        self, families: Mapping[str, Metric], columns: Sequence[Sequence[int]], labels_text: Callable[[K], str]
    ) -> None:
        self._families = [_Family(metric) for metric in families.values()]
        self.rows = [Rows([self._families[column].name for column in group], labels_text) for group in columns]

    def bodies(
        self, groups: Sequence[int], names: Collection[str] | None, deflater: Deflater | None, *, keeps_text: bool
    ) -> list[tuple[_Family, list[Section]]]:
        """Return for each requested family the sections that follow its head."""
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
