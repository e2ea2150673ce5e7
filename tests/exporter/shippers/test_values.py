"""Values of state files: only possible ones are taken."""

import pytest

from exporter.shippers.positions import StateFormatError
from exporter.shippers.values import as_count, as_path, load_json


@pytest.mark.parametrize("text", ["0", "5", "9223372036854775807", "5.0", "1.234567e+06"])
def test_counts(text: str) -> None:
    """Counts are whole numbers of 63 bits, however they are written."""
    assert as_count(load_json(text.encode())) == (int(text) if text.isdecimal() else float(text))


@pytest.mark.parametrize(
    "text",
    ["-1", "1.5", "9223372036854775808", "1e300", "1e999", "NaN", "-Infinity", "true", "null", '"5"', "[5]", "{}"],
)
def test_no_counts(text: str) -> None:
    """Anything else is none."""
    assert as_count(load_json(text.encode())) is None


@pytest.mark.parametrize("value", ["", "a", "a/b", "/a\0b", "/\ud800", 5, None, ["/a"]])
def test_no_paths(value: object) -> None:
    """What no file's absolute path can be is no path."""
    assert as_path(value) is None


@pytest.mark.parametrize("value", ["/", "/a b", "/\udcff", "/ä"])
def test_paths(value: str) -> None:
    """Names may have any other character; bytes that are no UTF-8 too."""
    assert as_path(value) == value


def test_refusal_shows_nothing() -> None:
    """A refusal keeps no cause whose message or traceback would show the content."""
    with pytest.raises(StateFormatError) as refusal:
        load_json(b'{"secret": nothing}')
    assert str(refusal.value) == "it is not valid JSON"
    assert refusal.value.__suppress_context__
