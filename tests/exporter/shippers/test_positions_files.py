"""The positions files of promtail, Grafana Agent in static mode, and Alloy."""

import base64
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers import alloy, promtail, yaml_positions
from exporter.shippers.positions import Position, StateFormatError
from tests.exporter.shippers.sample_cases import SAMPLES, cases, check_offsets, check_plausible, damaged

Parse = Callable[[bytes], list[Position]]

OFFSETS = st.integers(0, (1 << 63) - 1)
PATHS = st.binary().filter(lambda path: 0 not in path).map(lambda path: b"/" + path + b"/a.log")
POD_PATH = "/var/log/pods/default_web-{0}_0b0f2f6e-1111-2222-3333-444455556666/web/{1}0.log"
ALLOY_ENTRY = '  ? path: {}\n    labels: \'{{app="it\'\'s",\n      job="a"}}\'\n  : "{}"\n'


@pytest.mark.parametrize("case", [*cases("promtail"), *cases("grafana-agent-static")])
def test_finds_the_offsets_of_promtails_samples(case: Path) -> None:
    """Each log of a sample has the offset that promtail stored."""
    (state,) = (path for path in case.iterdir() if promtail.is_state_file(path.name))
    check_offsets(case, promtail.parse(state.read_bytes()))


@pytest.mark.parametrize("case", cases("alloy"))
def test_finds_the_offsets_of_alloys_samples(case: Path) -> None:
    """Each log of a sample has the offset that Alloy stored; labels may span lines."""
    check_offsets(case, alloy.parse((case / "positions.yml").read_bytes()))


def _scalar(text: bytes) -> str:
    """As Go's library writes any text: what is not UTF-8 in base64."""
    try:
        written: str = yaml.safe_dump(text.decode(), default_style='"', width=1 << 30, allow_unicode=True)
    except UnicodeDecodeError:
        return f"!!binary {base64.b64encode(text).decode()}"
    return written.strip()


@given(st.lists(st.tuples(PATHS, OFFSETS)))
def test_reads_what_promtail_writes(logs: list[tuple[bytes, int]]) -> None:
    """Paths of any bytes are read, quoted or in base64, in long keys too; of equal keys both."""
    content = "positions:\n" + "".join(f'  ? {_scalar(path)}\n  : "{offset}"\n' for path, offset in logs)
    assert promtail.parse(content.encode()) == [Position(offset, os.fsdecode(path)) for path, offset in logs]


@given(st.lists(st.tuples(PATHS, OFFSETS, st.text(st.characters(blacklist_categories=["Cs"])))))
def test_reads_what_alloy_writes(logs: list[tuple[bytes, int, str]]) -> None:
    """A path has as many positions as sets of labels, whatever the labels are."""
    content = "positions:\n" + "".join(
        f'  ? path: {_scalar(path)}\n    labels: {_scalar(labels.encode())}\n  : "{offset}"\n'
        for path, offset, labels in logs
    )
    assert alloy.parse(content.encode()) == [Position(offset, os.fsdecode(path)) for path, offset, _ in logs]


def _large(format_entry: Callable[[str, int], str]) -> bytes:
    paths = [POD_PATH.format(number, "long-" * (number % 20)) for number in range(5000)]
    return ("positions:\n" + "".join(map(format_entry, paths, range(5000)))).encode()


PROMTAIL_5000 = _large(lambda path, to: f'  ? {path}\n  : "{to}"\n' if len(path) > 128 else f'  {path}: "{to}"\n')
ALLOY_5000 = _large(ALLOY_ENTRY.format)


@pytest.mark.parametrize(("parse", "content"), [(promtail.parse, PROMTAIL_5000), (alloy.parse, ALLOY_5000)])
def test_the_usual_shape_and_yaml_give_the_same(parse: Parse, content: bytes) -> None:
    """A comment makes the file one for the YAML parser."""
    positions = parse(content)
    assert [position.offset for position in positions] == list(range(5000))
    assert parse(content + b"# end\n") == positions


@pytest.mark.alone
@pytest.mark.parametrize(("parse", "content"), [(promtail.parse, PROMTAIL_5000), (alloy.parse, ALLOY_5000)])
@pytest.mark.parametrize("end", [b"", b"# end\n"])
def test_is_fast(parse: Parse, content: bytes, end: bytes) -> None:
    """5,000 logs take less than 100 ms, of any shape."""

    def took() -> float:
        begin = time.process_time()
        parse(content + end)
        return time.process_time() - begin

    assert min(took() for _ in range(5)) < 0.1


def test_skips_what_has_no_offset_in_bytes() -> None:
    """Cursors are no logs; the offset of a compressed log is a number of lines."""
    content = b"""\
positions:
  cursor-docker: "2024-01-01"
  journal-system: s=1;i=2
  /var/log/a.log.gz: "7"
  /var/log/a.log: "6987"
"""
    assert promtail.parse(content) == [Position(6987, "/var/log/a.log")]
    assert promtail.parse(b'positions:\n  /b.log: "1"\n  /a.log.1.bz2: "7"\n') == [Position(1, "/b.log")]
    cursor = "  ? path: cursor-a\n    labels: '{}'\n  : s=1;i=2\n"
    content = ("positions:\n" + cursor + ALLOY_ENTRY.format("/a.gz", 7) + ALLOY_ENTRY.format("/a.log", 1)).encode()
    assert alloy.parse(content) == [Position(1, "/a.log")]


@pytest.mark.parametrize("parse", [promtail.parse, alloy.parse])
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n", b"positions: {}\n", b"positions:\n", b"{}"])
def test_a_file_may_have_no_positions(parse: Parse, content: bytes) -> None:
    """A new file may be empty, or have no logs."""
    assert parse(content) == []


def test_line_ends_and_a_byte_order_mark_do_not_matter() -> None:
    """As they do not to YAML."""
    assert promtail.parse(b'\xef\xbb\xbfpositions:\r\n  /a: "1"\r\n') == [Position(1, "/a")]


@pytest.mark.parametrize("parse", [promtail.parse, alloy.parse])
@pytest.mark.parametrize(
    "content",
    [
        b'positions:\n  /a: "-1"\n',
        b'positions:\n  /a: "9223372036854775808"\n',
        b'positions:\n  /a: "1e3"\n',
        'positions:\n  /a: "\N{ARABIC-INDIC DIGIT ONE}"\n'.encode(),
        b"positions:\n  /a: [1]\n",
        b"positions:\n  - /a\n",
        b"positions:\n  [/a]: 1\n",
        b'positions:\n  "": "1"\n',
        b'positions:\n  "/\\0": "1"\n',
        b'positions:\n  "/\\ud800": "1"\n',
        b'positions:\n  "/\\UFFFFFFFF": "1"\n',
        b'positions:\n  "/\\U00110000": "1"\n',
        b'positions:\n  !!binary "=": "1"\n',
        b'positions:\n  !!binary "\xc3\xa4": "1"\n',
        b'positions:\n  ? {path: /a, labels: "{}"}\n  : "-1"\n',
        b'positions:\n  ? {labels: "{}"}\n  : "1"\n',
        b'positions:\n  ? {path: {path: /a}}\n  : "1"\n',
        b'positions:\n  /a: "1',
        b"positions:\n  /a",
        b"offsets: {}\n",
        b"- positions\n",
        b"positions: 7\n",
        b"positions: {}\n---\npositions: {}\n",
        b"a\0b",
        b"\xff",
        "positions: {}\n".encode("utf-16"),
        b"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n",
        b"positions: &a {/a: *a}\n",
        b"positions: " + b"[" * 100_000,
        b"positions:\n  " + b"? " * 100_000,
        b"positions: " + b"{a: " * 100_000,
    ],
)
@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
def test_refuses_what_is_damaged(
    parse: Parse, content: bytes, loader: type[yaml.SafeLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not a mapping of logs to offsets raises, and the message quotes nothing of it."""
    monkeypatch.setattr(yaml_positions, "_LOADER", loader)
    with pytest.raises(StateFormatError) as caught:
        parse(content)
    assert "/a" not in str(caught.value)


def test_says_which_type_a_file_is_of() -> None:
    """A positions file under the other type is refused with the type to use."""
    with pytest.raises(StateFormatError, match="use type: alloy"):
        promtail.parse(ALLOY_5000)
    with pytest.raises(StateFormatError, match="use type: promtail"):
        alloy.parse(PROMTAIL_5000)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, yaml.CSafeLoader])
@pytest.mark.parametrize(
    ("parse", "files"), [(promtail.parse, "promtail/*/positions.yaml"), (alloy.parse, "alloy/*/positions.yml")]
)
def test_damage_raises_nothing_else(
    parse: Parse, files: str, loader: type[yaml.SafeLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any damaged file the positions are possible ones, or it is refused; with both parsers of PyYAML."""
    monkeypatch.setattr(yaml_positions, "_LOADER", loader)
    refused = 0
    for content in damaged([path.read_bytes() for path in SAMPLES.glob(files)], 1000):
        try:
            check_plausible(parse(content))
        except StateFormatError:
            refused += 1
    assert refused > 300


def test_names() -> None:
    """Of a directory, positions files count, and not the temporary ones beside them."""
    assert promtail.is_state_file("positions.yaml")
    assert promtail.is_state_file("default.yml")
    assert not promtail.is_state_file(".positions.yaml123")
    assert not promtail.is_state_file("positions.yaml-new")
    assert alloy.is_state_file("positions.yml")
    assert not alloy.is_state_file("positions.yml.tmp")
