"""Rows of samples in chunks, against the library and a dictionary."""

import gzip
import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from prometheus_client import Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from exporter.exposition.chunks import ABSENT, CHUNK_ROWS, Rows, Section
from exporter.exposition.deflate import Deflater, gzip_member

NAMES = ("a", "b")
VALUES = st.one_of(
    st.just(ABSENT),
    st.integers(min_value=-(1 << 70), max_value=1 << 70),
    st.floats(allow_nan=False).filter(lambda value: value != ABSENT),
    st.sampled_from([0, 999_999, 1e6, 1_000_000.5, 999_999.9999999999, 1e15, 1e16, 1e17, 1e100, math.inf, 2**53 + 1]),
)
KEYS = st.integers(0, 5 * CHUNK_ROWS)


@pytest.fixture(autouse=True)
def _short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few chunks are several runs."""
    monkeypatch.setattr("exporter.exposition.chunks._RUN_CHUNKS", 2)


class Family(Collector):
    """Some samples of one name, for the library to render."""

    def __init__(self, name: str, samples: dict[int, float]) -> None:
        self._metric = Metric(name, "", "gauge")
        self._metric.samples = [Sample(name, {"key": str(key)}, value) for key, value in samples.items()]

    def collect(self) -> list[Metric]:
        """The family."""
        return [self._metric]


def make_rows() -> Rows[int]:
    """Empty ones."""
    return Rows(NAMES, lambda key: f'{{key="{key}"}}')


def unzip(section: Section) -> bytes:
    """What is in the blocks of a section."""
    assert section.checksum is not None
    return gzip.decompress(b"".join(gzip_member(section.parts, section.checksum)))


class Model(RuleBasedStateMachine):
    """Rows that come, change and go, and are asked for now and then in one form or the other."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = make_rows()
        self.values: dict[int, tuple[float, float]] = {}
        self.deflater = Deflater()

    @rule(keys=st.sets(KEYS), values=st.tuples(VALUES, VALUES))
    def put(self, keys: set[int], values: tuple[float, float]) -> None:
        """Rows get values, new or not."""
        for key in keys:
            self.rows.put(key, values)
            self.values[key] = values

    @rule(first=KEYS, count=KEYS, values=st.tuples(VALUES, VALUES))
    def put_many(self, first: int, count: int, values: tuple[float, float]) -> None:
        """As a pod comes."""
        self.put(set(range(first, first + count)), values)

    @rule(keys=st.sets(KEYS))
    def discard(self, keys: set[int]) -> None:
        """Rows go, if they are there."""
        for key in keys:
            self.rows.discard(key)
            self.values.pop(key, None)

    @rule(first=KEYS, count=KEYS, step=st.integers(1, 3))
    def discard_many(self, first: int, count: int, step: int) -> None:
        """As a pod goes."""
        self.discard(set(range(first, first + count, step)))

    @rule(names=st.lists(st.sampled_from(NAMES), unique=True), keeps_text=st.booleans(), is_compressed=st.booleans())
    def read(self, names: list[str], keeps_text: bool, is_compressed: bool) -> None:
        """The lines are those of the library, but for their order."""
        sections = self.rows.sections(names, self.deflater if is_compressed else None, keeps_text=keeps_text)
        for name, section in zip(names, sections, strict=True):
            number = NAMES.index(name)
            samples = {key: row[number] for key, row in self.values.items() if row[number] != ABSENT}
            text = unzip(section) if is_compressed else b"".join(section.parts)
            head, _, lines = generate_latest(Family(name, samples)).rpartition(b"# TYPE ")
            assert head.startswith(b"# HELP")
            assert sorted(text.split(b"\n")) == sorted(lines.split(b"\n")[1:])
            assert section.has_lines == bool(samples)

    @rule()
    def drop_text(self) -> None:
        """Nothing is lost by it."""
        self.rows.drop_text()

    @invariant()
    def memory_is_given_back(self) -> None:
        """Whatever has been there, there are no more chunks than are needed."""
        assert len(self.rows) == len(self.values)
        assert self.rows.chunks == math.ceil(len(self.values) / CHUNK_ROWS)
        assert self.values.keys() == self.rows._places.keys()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=25)


def test_rows_stay_in_order() -> None:
    """New ones stand behind those that are there."""
    rows = make_rows()
    for key in range(3 * CHUNK_ROWS):
        rows.put(key, (key, ABSENT))
    expected = b"".join(b'a{key="%d"} %d.0\n' % (key, key) for key in range(3 * CHUNK_ROWS))
    a, b = rows.sections(NAMES)
    assert b"".join(a.parts) == expected
    assert not b.has_lines


def test_a_line_behind_rows_without_samples_is_written_in_its_place() -> None:
    """Rows that have no sample have no line, and those behind them are told apart all the same."""
    rows = make_rows()
    for key in range(CHUNK_ROWS):
        rows.put(key, (key, ABSENT if key % 3 else key))
    rows.sections(NAMES)
    rows.put(9, (9, 100))
    _, b = rows.sections(NAMES)
    shown = {key: 100 if key == 9 else key for key in range(0, CHUNK_ROWS, 3)}
    assert b"".join(b.parts) == b"".join(b'b{key="%d"} %.1f\n' % item for item in shown.items())


def test_only_the_chunk_of_a_change_is_written_again() -> None:
    """The others are the very same objects as before."""
    rows = make_rows()
    for key in range(3 * CHUNK_ROWS):
        rows.put(key, (1, 2))
    before = rows.sections(NAMES)
    rows.put(CHUNK_ROWS, (1, 3))
    after = rows.sections(NAMES)
    kept = [[new is old for new, old in zip(a.parts, b.parts, strict=True)] for a, b in zip(after, before, strict=True)]
    assert kept == [[True, True, True], [True, False, True]]


def test_what_was_given_does_not_change() -> None:
    """A reader that is slow has what it was given, whatever happens meanwhile."""
    rows, deflater = make_rows(), Deflater()
    for key in range(100):
        rows.put(key, (1, 2))
    given_text, given_blocks = rows.sections("a")[0], rows.sections("a", deflater)[0]
    text = b"".join(given_text.parts)
    for key in range(90):
        rows.discard(key)
    rows.put(95, (9, 9))
    assert b"".join(rows.sections("a")[0].parts) != text
    assert unzip(rows.sections("a", deflater)[0]) != text
    assert b"".join(given_text.parts) == unzip(given_blocks) == text


@pytest.mark.parametrize("gone", range(4))
def test_the_last_chunk_takes_the_place_of_one_that_has_gone(gone: int) -> None:
    """Every line is there once, in what was joined before too."""
    rows, deflater = make_rows(), Deflater()
    for key in range(4 * CHUNK_ROWS):
        rows.put(key, (1, 2))
    rows.sections(NAMES, deflater)
    for key in range(gone * CHUNK_ROWS, (gone + 1) * CHUNK_ROWS):
        rows.discard(key)
    assert rows.chunks == 3
    text, compressed = rows.sections("a")[0], rows.sections("a", deflater)[0]
    assert b"".join(text.parts) == unzip(compressed)
    assert len(set(unzip(compressed).splitlines())) == len(rows) == 3 * CHUNK_ROWS


def test_chunks_that_have_gone_are_not_kept_for_families_that_nobody_asks_for() -> None:
    """Not even when rows come and go, and only one family is read."""
    rows = make_rows()
    for key in range(20 * CHUNK_ROWS):
        rows.put(key, (1, 2))
        rows.discard(key - CHUNK_ROWS)
        rows.sections("a")
    assert len(rows._stale) <= rows.chunks
