"""The files that top shows, their rates, and their text. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from exporter.config.errors import one_line
from exporter.shippers.report import duration

SORTS: Mapping[str, Mapping[str, str]] = {
    "rate": {"sort": "growth", "window": "15"},  # the shortest window: what grows now comes first
    "size": {"sort": "size"},
    "last write": {"sort": "silent", "order": "asc"},
    "path": {"sort": "path"},
}
"""What files can be sorted by, and how to ask /api/v1/files for the first of them."""
LIMIT = 200
"""How many files are read and shown at most."""

_LEAST_S = 0.5  # over a shorter time a rate would say little
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_BAR_WIDTH = 8
_FORMAT = "{:>10}  {:>8}  {:>10}  {:<8}  "
HEADING = _FORMAT.format("RATE", "SIZE", "LAST WRITE", "") + "PATH"
"""The names of the columns."""


@dataclass(frozen=True, slots=True)
class File:
    """One file as the agent shows it.

    Attributes:
        path: without control characters.
        inode: device and inode number.
        size_bytes: its size.
        age_s: how long ago it was last written; negative: its mtime is in the future.
        rate: appended bytes per second; None: unknown, as at the first read.
        share: the rate, divided by the greatest one.
    """

    path: str
    inode: tuple[int, int]
    size_bytes: int
    age_s: float
    rate: float | None
    share: float

    def columns(self) -> str:
        """Return the text of all columns but the path, with a space at the end."""
        rate = "-" if self.rate is None else f"{size_text(self.rate)}/s"
        bar = "#" * max(round(self.share * _BAR_WIDTH), int(self.share > 0))
        age = f"{duration(self.age_s)} ago" if self.age_s > -1 else f"in {duration(-self.age_s)}"  # mtime can be set
        return _FORMAT.format(rate, size_text(self.size_bytes), age, bar)


class _Reading(NamedTuple):
    counter: int | None
    as_of_s: float
    rate: float | None


class Rates:
    """Computes the rates between two reads."""

    def __init__(self) -> None:
        self._readings: dict[str, _Reading] = {}

    def update(self, answer: Any, sort: str) -> list[File]:
        """Return the files of an answer.

        Args:
            answer: of /api/v1/files. Its own time counts, because the agent gives one answer to several readers for up
                to a second. Within half a second the rates stay as they are.
            sort: one of :data:`SORTS`; by rate they are sorted here, because the answer has the growth of 15 seconds.

        Raises:
            KeyError, TypeError: it is no answer of /api/v1/files.
        """
        self._readings = {
            file["path"]: self._read(file["path"], file["appended_bytes_total"], answer["as_of_seconds"])
            for file in answer["files"]
        }
        greatest = max((reading.rate or 0 for reading in self._readings.values()), default=0) or 1
        files = [
            File(
                one_line(file["path"]),
                (file["device"], file["inode"]),
                file["size_bytes"],
                answer["as_of_seconds"] - file["mtime_seconds"],
                rate := self._readings[file["path"]].rate,
                (rate or 0) / greatest,
            )
            for file in answer["files"]
        ]
        return sorted(files, key=lambda file: -(file.rate or 0)) if sort == "rate" else files

    def _read(self, path: str, counter: int | None, as_of_s: float) -> _Reading:
        before = self._readings.get(path)
        rate = None
        if before is not None:
            elapsed_s = as_of_s - before.as_of_s
            if 0 <= elapsed_s < _LEAST_S:
                return before
            # An agent that restarts may begin at 0, and its clock may step back.
            if elapsed_s > 0 and counter is not None and before.counter is not None and counter >= before.counter:
                rate = (counter - before.counter) / elapsed_s
        return _Reading(counter, as_of_s, rate)


def size_text(size_bytes: float) -> str:
    """Return a number of bytes in at most eight characters."""
    power = 0
    while size_bytes >= 999.5 and power < len(_UNITS) - 1:
        size_bytes /= 1024
        power += 1
    return f"{size_bytes:.{int(power > 0 and size_bytes < 99.95)}f} {_UNITS[power]}"


def plain_lines(files: Sequence[File]) -> Iterator[str]:
    """Yield the lines of the plain text."""
    yield HEADING
    for file in files:
        yield file.columns() + file.path
