"""The labels of a file."""

import os
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.matching.labels import Labeller, LabelRule, printable


def test_labels() -> None:
    """Every series has the labels of all groups; static ones and named groups have values, the others are empty."""
    labeller = Labeller(
        [
            LabelRule("system", {"team": "infra"}, None),
            LabelRule("pods", {}, re.compile(r"/(?P<pod>[^/_]+)_(?P<uid>\d+)?")),
        ]
    )
    assert labeller.names == ("group", "path", "pod", "team", "uid")
    assert labeller.label(0, "/a").values == ("system", "/a", "", "infra", "")
    assert labeller.label(1, "/a/b_1/c").values == ("pods", "/a/b_1/c", "b", "", "1")
    assert labeller.label(1, "/a/b_x/c").values == ("pods", "/a/b_x/c", "b", "", "")
    assert labeller.label(1, "/a/b/c").values == ("pods", "/a/b/c", "", "", "")


def test_paths_that_get_no_labels() -> None:
    """A path that the group's expression does not match is told from others, those of a group without one included."""
    labeller = Labeller(
        [LabelRule("system", {"team": "infra"}, None), LabelRule("pods", {"team": "b"}, re.compile("_(?P<pod>x)?"))]
    )
    assert labeller.label(0, "/a") == (("system", "/a", "", "infra"), False)
    assert labeller.label(1, "/a_x") == (("pods", "/a_x", "x", "b"), False)
    assert labeller.label(1, "/a_") == (("pods", "/a_", "", "b"), False)
    assert labeller.label(1, "/a") == (("pods", "/a", "", "b"), True)


def test_positions_of_labels() -> None:
    """The values of some labels are taken out of all values by their positions, in the order asked for."""
    labeller = Labeller([LabelRule("g", {"team": "infra"}, re.compile("/(?P<pod>.)"))])
    values = labeller.label(0, "/a").values
    assert [values[position] for position in labeller.positions(["team", "pod"])] == ["infra", "a"]
    assert labeller.positions([]) == ()


def test_labels_of_groups() -> None:
    """The series of the group itself have the static labels, without empty ones, as the series of files have them."""
    assert LabelRule("g", {"team": "infra", "none": ""}, re.compile("(?P<pod>.)")).group_labels == {
        "group": "g",
        "team": "infra",
    }


def test_labels_of_undecodable_names() -> None:
    """Labels taken out of such a name are escaped as well."""
    labeller = Labeller([LabelRule("g", {}, re.compile("/(?P<name>.*)"))])
    assert labeller.label(0, os.fsdecode(b"/a\xff\\")).values == ("g", r"/a\xff\\", r"a\xff\\")


def test_printable() -> None:
    """Names that are text stay as they are; undecodable bytes are escaped, and nothing else can look like that."""
    assert printable('a\\b"\n\té') == 'a\\b"\n\té'
    assert printable(os.fsdecode(b"a\xff\\b\xc3\xa9\xe9")) == r"a\xff\\bé\xe9"
    assert printable(r"a\xff\b") == r"a\\xff\\b"
    assert printable(r"a\xFF") == r"a\xFF"


@settings(max_examples=2000)
@given(st.lists(st.sampled_from([b"a", b"\\", b"x", b"f", b"\xff", b"\xc3\xa9", b"\\xff", b"\\\\", b"8"]), max_size=8))
def test_printable_is_decodable(parts: list[bytes]) -> None:
    """The name can be computed back from its label, so two names never have the same one."""
    name = b"".join(parts)
    label = printable(os.fsdecode(name))
    label.encode()
    if re.search(r"\\x[89a-f][0-9a-f]", label):
        back = re.sub(
            rb"\\(\\|x(..))",
            lambda found: bytes.fromhex(found[2].decode()) if found[2] else b"\\",
            label.encode(),
        )
    else:
        back = label.encode()
    assert back == name
