"""Counts the functions between an event and a scrape, and between a new file and its series (make hops).

A hop is a function of the two packages that is entered in a scrape after an event, but not in an idle scrape. The
scrape does all the work: the tracker's own thread does not run, so the lists do not depend on who comes first.
Functions that dataclasses and named tuples generate are not counted.
"""

import argparse
import contextlib
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from unittest import mock

from prometheus_client.openmetrics.exposition import generate_latest

from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.scrape import Scraper
from exporter.tracker import Tracker
from fstat_cache import file_time_ns, mounts

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "development.md"
BEGIN, END = "<!-- hops: begin, written by make hops -->", "<!-- hops: end -->"

PACKAGES = ("fstat_cache", "exporter")
FILES = 3
WARM_UP_ROUNDS = 3
EQUAL_ROUNDS = 3
SCRAPES_UNTIL_FORGOTTEN = 4
MOST_ROUNDS = 50
"""A scrape sometimes does more than the others: a timer is due, or something was mounted."""

_INNER = re.compile(r"(\.<locals>\.<\w+>)+$")

Calls = dict[str, int]
"""Function -> how often it was entered, in the order in which functions were first entered."""


# -- recording --------------------------------------------------------------------------------------------------------


def function_of(code: CodeType, module: str) -> str | None:
    """Return the module and qualified name of a function of the packages; None for any other code.

    A comprehension and a lambda are part of the function around them.
    """
    if module.partition(".")[0] not in PACKAGES or code.co_filename.startswith("<"):
        return None
    return f"{module}.{_INNER.sub('', code.co_qualname)}"


class _Recorder:
    """A profile function that counts the functions entered."""

    def __init__(self) -> None:
        self.calls: Calls = {}
        self._starts: dict[CodeType, int] = {}  # a generator that goes on does so further down

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        function = function_of(code, frame.f_globals.get("__name__", ""))
        if function is None:
            return
        is_entry = self._starts.setdefault(code, frame.f_lasti) == frame.f_lasti
        is_comprehension = code.co_name.startswith("<") and code.co_name != "<lambda>"  # Python 3.12 inlines most
        self.calls[function] = self.calls.get(function, 0) + (is_entry and not is_comprehension)


@contextlib.contextmanager
def recorded() -> Iterator[Calls]:
    """Record the functions that all threads enter meanwhile."""
    recorder = _Recorder()
    set_everywhere = getattr(threading, "setprofile_all_threads", threading.setprofile)  # since Python 3.12
    set_everywhere(recorder)
    sys.setprofile(recorder)
    try:
        yield recorder.calls
    finally:
        sys.setprofile(None)
        set_everywhere(None)


# -- measuring --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Agent:
    """What the agent follows files with, without HTTP, state file and thread.

    Attributes:
        folder: its patterns match all `*.log` in there.
    """

    folder: Path
    tracker: Tracker = field(init=False)
    scraper: Scraper = field(init=False)

    def __post_init__(self) -> None:
        for number in range(FILES):
            self.folder.joinpath(f"{number}.log").write_text("first\n")
        groups = (LogGroup("logs", (f"{self.folder}/*.log",)),)
        self.tracker = Tracker(Config(logs=groups, stale_grace_s=0))
        self.tracker.cache.limit(max_files=None, cpu_budget=None)
        self.tracker.scan()
        self.scraper = Scraper(self.tracker)

    def scrape(self) -> Calls:
        """Scrape as Prometheus does; return the functions entered."""
        _let_file_clock_advance()  # settles what was written just before
        with recorded() as calls:
            self.scraper.scrape(generate_latest, is_openmetrics=True, is_compressed=True)
        return calls

    def check(self) -> None:
        """Raise RuntimeError unless each file and directory is watched: the figures are those of watched ones."""
        status = self.tracker.cache.status()
        if status.hot or status.hot_directories or status.guarded or status.polled or status.queue_overflows:
            raise RuntimeError(f"not everything is watched: {status}")


def measure() -> tuple[Calls, Calls]:
    """Return the hops of an append to a watched file, and those of a new file in a watched directory.

    Raises:
        RuntimeError: the scrapes differ again and again.
    """
    # As on a machine without remote mounts: with one, each new path is looked up in the table of mounts.
    no_remote_mounts = mock.patch.object(mounts, "REMOTE_TYPES", frozenset[str]())
    with tempfile.TemporaryDirectory(prefix="fstat-hops-") as folder, no_remote_mounts:
        agent = Agent(Path(folder))
        try:
            rounds: list[tuple[Calls, Calls]] = []
            for number in range(MOST_ROUNDS):
                rounds.append(_round(agent, number))
                agent.check()
                latest = rounds[WARM_UP_ROUNDS:][-EQUAL_ROUNDS:]
                if len(latest) == EQUAL_ROUNDS and len({_in_order(*each) for each in latest}) == 1:
                    return latest[0]
        finally:
            agent.tracker.close()
    raise RuntimeError(f"no {EQUAL_ROUNDS} rounds of {MOST_ROUNDS} in a row were the same")


def _round(agent: Agent, number: int) -> tuple[Calls, Calls]:
    idle = agent.scrape()
    with agent.folder.joinpath("0.log").open("a") as file:
        file.write("one line\n")
    event = agent.scrape()
    agent.scrape()
    new_path = agent.folder / f"new-{number}.log"
    new_path.write_text("first\n")
    new_file = agent.scrape()
    new_path.unlink()  # each round has the same number of files: that of the calls depends on it
    for _ in range(SCRAPES_UNTIL_FORGOTTEN):
        agent.scrape()
    return _hops(event, idle), _hops(new_file, idle)


def _hops(calls: Calls, idle: Calls) -> Calls:
    return {function: count for function, count in calls.items() if function not in idle}


def _in_order(*recorded: Calls) -> tuple[tuple[tuple[str, int], ...], ...]:
    """Return what is equal only if the order is, too."""
    return tuple(tuple(calls.items()) for calls in recorded)


def _let_file_clock_advance() -> None:
    before_ns = time.time_ns()
    while file_time_ns() <= before_ns:
        time.sleep(0.001)


# -- showing ----------------------------------------------------------------------------------------------------------


def markdown(event: Calls, new_file: Calls) -> str:
    """Return both lists."""
    parts = [
        _section("From an event to a scrape", "one append to a watched file", event),
        _section("From a new file to its series", "one new file in a watched directory", new_file),
    ]
    return "\n".join(parts)


def _section(title: str, what: str, hops: Calls) -> str:
    lines = [
        f"### {title}",
        "",
        f"The scrape after {what} enters {len(hops)} functions that an idle scrape does not enter, by "
        f"{sum(hops.values())} calls.",
        "",
        *(
            f"{number}. `{function}`" + (f" ({count} calls)" if count != 1 else "")
            for number, (function, count) in enumerate(hops.items(), 1)
        ),
    ]
    return "\n".join(lines) + "\n"


def replaced(text: str, lists: str) -> str:
    """Return a document with these lists between its markers.

    Raises:
        ValueError: it lacks a marker, or has one twice.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"expected one line {BEGIN!r} and below it one line {END!r}")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{lists}\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Print the lists, or write them into docs/development.md."""
    parser = argparse.ArgumentParser(prog="python -m tools.hops", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the lists into docs/development.md")
    is_written = parser.parse_args().write
    lists = markdown(*measure())
    if is_written:
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(), lists))
    else:
        sys.stdout.write(lists)


if __name__ == "__main__":
    main()
