"""The parser of the configuration under junk: a configuration, or lines that say what is wrong, soon; nothing else."""

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.config import yaml_file
from exporter.config.errors import MAX_MISTAKES, ConfigError
from exporter.config.model import Config, load, parse
from exporter.config.presets import PRESETS
from exporter.config.shippers import SHIPPER_TYPES
from tests.support import REPOSITORY

DEFAULT_FILE = (REPOSITORY / "config" / "exporter.yml").read_text()
BAD_FILES = [path.read_text("latin-1") for path in sorted((Path(__file__).parent / "bad_config").glob("*.yml"))]

MESSAGE = re.compile(r"x\.yml(:[1-9][0-9]*:[1-9][0-9]*)?: \S.*")

MAX_CPU_S = 5  # the usual text takes a hundredth of a second, a MiB takes some

bounded = settings(max_examples=150)


def check(text: str) -> None:
    """Parse a text."""
    tell(lambda: parse(text, "x.yml"))


def tell(parsed: Callable[[], Config]) -> None:
    """See what comes of it: a configuration, or what a user can be told."""
    began = time.process_time()
    try:
        told = [] if parsed().logs else [""]
    except ConfigError as error:
        told = [str(mistake) for mistake in error.mistakes] or [""]
    assert time.process_time() - began < MAX_CPU_S
    assert len(told) <= MAX_MISTAKES + 1
    for line in told:
        assert MESSAGE.fullmatch(line), line
        assert len(line) < 1500
        assert not re.search("[\0-\x1f\x7f-\x9f\u2028\u2029]", line)


@bounded
@given(st.text() | st.text(st.characters(codec="utf-8")) | st.text("-:[]{},&*!|>'\"%@#?` \t\nab<1=~"))
def test_any_text(text: str) -> None:
    """Of any characters, or only of those that mean something in YAML."""
    check(text)


@settings(bounded, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.binary() | st.text().map(lambda text: text.encode("utf-16", "replace")))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    """In a file."""
    path = tmp_path / "x.yml"
    path.write_bytes(content)

    def loaded() -> Config:
        with contextlib.chdir(tmp_path):
            return load("x.yml")

    tell(loaded)


@bounded
@given(st.data())
def test_a_file_with_something_wrong(data: st.DataObject) -> None:
    """A good or a bad one of which some of the text is gone, there twice, or something else."""
    text = data.draw(st.sampled_from([DEFAULT_FILE, *BAD_FILES]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        junk = data.draw(
            st.sampled_from(["", text[start:end] * 2, "\t", "\0", "'", ": ", "- ", "*a", "&a ", "[", "{", "<<: "])
        )
        text = text[:start] + junk + text[end:]
    check(text)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.dates(),
    st.text(max_size=20),
    st.sampled_from(["5m", "1%", ":1", "/a", "/a/*.log", "/[b", "/{a,b}", "size", "(?P<a>.)", "(", *PRESETS, "group"]),
)
KEYS = st.sampled_from(
    sorted(set(re.findall(r"(?m)^[-# ]*([a-z_]+):", DEFAULT_FILE)) | {"path_regex", "aggregate_by", "per_file", "<<"})
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | SCALARS, inner, max_size=5),
    max_leaves=30,
)


@bounded
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_values_under_known_keys(config: dict[str, object]) -> None:
    """Of any kind, in any place."""
    check(yaml.safe_dump(config))


GROUPS = st.lists(
    st.fixed_dictionaries(
        {"group": SCALARS, "paths": st.lists(SCALARS, max_size=3)},
        optional={
            "labels": st.dictionaries(st.sampled_from(["a", "b", "path", "1"]), SCALARS, max_size=3),
            "path_regex": st.sampled_from(["(?P<a>.)", "(?P<c>.)", "(", "x"]) | SCALARS,
            "aggregate_by": st.lists(st.sampled_from(["a", "b", "c", "group"]), max_size=3) | SCALARS,
            "preset": st.sampled_from(sorted(PRESETS)) | SCALARS,
            "per_file": SCALARS,
            "metrics": st.lists(st.sampled_from(["size", "mtime", "siez"]), max_size=3),
        },
    ),
    max_size=4,
)


@bounded
@given(GROUPS)
def test_any_groups(groups: list[dict[str, object]]) -> None:
    """Nearly right ones."""
    check(yaml.safe_dump({"logs": groups}))


SHIPPERS = st.lists(
    st.fixed_dictionaries(
        {"name": SCALARS, "type": st.sampled_from([*SHIPPER_TYPES, "fluentbit"])},
        optional={
            "path": SCALARS,
            "match": SCALARS,
            "groups": st.lists(st.sampled_from(["a", "b"]) | SCALARS, max_size=3) | SCALARS,
            "paths": st.lists(SCALARS, max_size=3),
            "complete": SCALARS,
            "flush_interval": SCALARS,
            "path_map": st.dictionaries(SCALARS, SCALARS, max_size=3),
        },
    ),
    max_size=4,
)


@bounded
@given(GROUPS, SHIPPERS)
def test_any_shippers(groups: list[dict[str, object]], shippers: list[dict[str, object]]) -> None:
    """Nearly right ones, beside groups that may be right."""
    check(yaml.safe_dump({"logs": [{"group": "a", "paths": ["/a"]}, *groups], "shippers": shippers}))


@settings(bounded, max_examples=60)
@given(st.text("[]{}-?:,&*!'\" \nab", min_size=1, max_size=6), st.sampled_from([1, 1000, 30_000]))
@pytest.mark.skipif(not yaml.__with_libyaml__, reason="without libyaml PyYAML takes ten seconds for a MiB")
def test_much_of_the_same(text: str, count: int) -> None:
    """Takes no longer than its length says."""
    check((text * count)[: yaml_file.MAX_FILE_BYTES])
