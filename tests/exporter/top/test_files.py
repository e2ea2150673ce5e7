"""What top shows of an answer of /api/v1/files."""

from typing import Any

import pytest

from exporter.top.files import Rates, plain_lines, size_text


def answer(as_of_s: float, **counters: int | None) -> dict[str, Any]:
    """An answer as of a moment, with these files and their counters; each was written ten seconds before."""
    files = [
        {
            "path": path,
            "device": 1,
            "inode": 2,
            "size_bytes": 3,
            "mtime_seconds": as_of_s - 10,
            "appended_bytes_total": counter,
        }
        for path, counter in counters.items()
    ]
    return {"as_of_seconds": as_of_s, "files": files}


def shown(rates: Rates, at_s: float, sort: str = "rate", **counters: int | None) -> dict[str, float | None]:
    """The rates of an answer, in the order of the files."""
    return {file.path: file.rate for file in rates.update(answer(at_s, **counters), sort)}


def test_rate_is_what_was_appended_between_two_reads() -> None:
    """By the answer's own time. Unknown at the first read of a file, when the agent or its clock began anew."""
    rates = Rates()
    assert shown(rates, 10, a=100, b=100, c=None) == {"a": None, "b": None, "c": None}
    second = shown(rates, 14, a=100, b=500, c=None, d=7)
    assert second == {"b": 100, "a": 0, "c": None, "d": None}
    assert next(iter(second)) == "b"
    assert shown(rates, 16, a=50, b=502) == {"b": 1, "a": None}
    assert shown(rates, 8, a=50, b=600) == {"a": None, "b": None}
    assert shown(rates, 10, a=60, b=600) == {"a": 5, "b": 0}


def test_rate_is_not_computed_over_less_than_half_a_second() -> None:
    """As when the user sorts anew between two reads."""
    rates = Rates()
    shown(rates, 10, a=0)
    assert shown(rates, 12, a=20) == {"a": 10}
    assert shown(rates, 12.1, a=520) == {"a": 10}
    assert shown(rates, 14, a=620) == {"a": 300}


def test_other_orders_are_the_agents() -> None:
    """Only by rate the files are sorted again."""
    rates = Rates()
    shown(rates, 1, a=0, b=0)
    assert list(shown(rates, 2, "size", a=1, b=2)) == ["a", "b"]


def test_text() -> None:
    """One line a file: the fastest has the longest bar, one that hardly grows the shortest."""
    rates = Rates()
    shown(rates, 0, a=0, b=0, c=0)
    assert list(plain_lines(rates.update(answer(1, a=1 << 20, b=1, c=0), "rate"))) == [
        "      RATE      SIZE  LAST WRITE            PATH",
        " 1.0 MiB/s       3 B    10 s ago  ########  a",
        "     1 B/s       3 B    10 s ago  #         b",
        "     0 B/s       3 B    10 s ago            c",
    ]


def test_last_write_in_the_future() -> None:
    """A time that is set, or of another clock, is shown as it is; less than a second ahead counts as now."""
    later = answer(10, a=0, b=0)
    for file, mtime_s in zip(later["files"], (10 + 7200, 10.9), strict=True):
        file["mtime_seconds"] = mtime_s
    _, first, second = plain_lines(Rates().update(later, "path"))
    assert (first[22:32].strip(), second[22:32].strip()) == ("in 2 h", "0 s ago")


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, "0 B"), (999.4, "999 B"), (999.5, "1.0 KiB"), (1536, "1.5 KiB"), (102400, "100 KiB"), (1 << 60, "1024 PiB")],
)
def test_sizes(size: float, expected: str) -> None:
    """With two or three digits and the unit."""
    assert size_text(size) == expected


def test_control_characters_are_escaped() -> None:
    """A name on the disk cannot send sequences to the terminal."""
    assert [file.path for file in Rates().update(answer(0, **{"a\x1b[2J\n\x9b": 1}), "rate")] == [r"a\x1b[2J\n\x9b"]
