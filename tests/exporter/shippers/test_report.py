"""The report of `fstat-exporter shippers`: reasons, suggestions and text. Nothing is read here."""

import time
from collections import Counter

import pytest

from exporter.ledger.records import Inode
from exporter.shippers.logs import Entry, Log
from exporter.shippers.positions import Position
from exporter.shippers.report import (
    MOST_LINES,
    LogLine,
    PathMap,
    ShipperReport,
    StateLine,
    duration,
    find_path_map,
    why_unclaimed,
    write,
)


def entry(path: str | None, offset: int, inode: int | None = None, device: int | None = None) -> Entry:
    """An entry of a state."""
    return Entry("", Position(0, path, inode, device), path, inode or path or "", Counter([offset]))


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        ([], "no entry in its state"),
        ([entry("/a.log", 5, inode=6)], "its entry is of an older file of this name"),
        ([entry("/a.log", 1000)], "its entry is beyond the end of the file: 1,000 of 100 bytes"),
        ([entry(None, 101, inode=7)], "its entry is beyond the end of the file: 101 of 100 bytes"),
        (
            [entry("/b.log", 5, inode=7, device=9)],
            "an entry has its inode number, but is of another device or an older file",
        ),
        (
            [entry("/a.log", 5, inode=6), entry("/a.log", 101, inode=7)],
            "its entry is beyond the end of the file: 101 of 100 bytes",
        ),
    ],
)
def test_why_a_log_is_unclaimed(candidates: list[Entry], reason: str) -> None:
    """The entry that is nearest to the log says why."""
    inode = Inode((1, 7, 0), size=100, mtime_ns=0, homes=(), last_name="/a.log", names=("/a.log",))
    assert why_unclaimed(Log(inode, born_ns=0, size=100), candidates) == reason


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ("/host/var/log/a.log", "/var/log/a.log", PathMap("/host", "/")),
        ("/var/log/a.log", "/host/var/log/a.log", PathMap("/", "/host")),
        ("/logs/app/a.log", "/var/log/app/a.log", PathMap("/logs", "/var/log")),
        ("/var/log/pods/old/0.log", "/var/log/pods/new/0.log", None),  # another log, which is gone
        ("/host/b.log", "/var/a.log", None),
        ("relative/a.log", "/var/a.log", None),
    ],
)
def test_path_map(theirs: str, ours: str, expected: PathMap | None) -> None:
    """What differs before the common end of two paths is the pair for `path_map`."""
    found = find_path_map([ours], [theirs])
    assert found == (None if expected is None else (expected, {ours: theirs}))


def test_path_map_of_the_longest_common_end() -> None:
    """Of several paths the one with the longest common end counts, in any order."""
    paths = ["/srv/x/0.log", "/host/var/log/x/0.log", "/mnt/0.log"]
    for theirs in (paths, paths[::-1]):
        found = find_path_map(["/var/log/x/0.log"], theirs)
        assert found == (PathMap("/host", "/"), {"/var/log/x/0.log": paths[1]})


def test_path_map_of_most_logs() -> None:
    """Logs that would need another pair have no position for another reason."""
    ours = [f"/var/log/{pod}/c/0.log" for pod in "abcd"]
    found = find_path_map(ours, [f"/host/var/log/{pod}/c/0.log" for pod in "abcx"])
    assert found is not None
    assert found[0] == PathMap("/host", "/")
    assert [*found[1]] == ours[:3]


def test_path_maps_of_very_many_logs() -> None:
    """The time does not depend on the product of both numbers."""
    began_s = time.process_time()
    ours = [f"/var/log/{pod}/c/0.log" for pod in range(20_000)]
    found = find_path_map(ours, [f"/host{path}" for path in ours])
    assert found is not None
    assert len(found[1]) == len(ours)
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (7199, "1 h"), (172_800, "2 d")]
)
def test_duration(seconds: float, text: str) -> None:
    """In the largest unit, rounded down."""
    assert duration(seconds) == text


def test_text() -> None:
    """Tables of states, of groups, of logs with unread bytes and of unclaimed logs; then the hints."""
    logs = [
        LogLine("/b/read.log", ["b"], "read", 0, 5, ""),
        LogLine("/b/recent.log", ["b"], "recent", 7, 5, ""),
        LogLine("/b/held.log", ["b"], "held", 20, 9000, ""),
        LogLine("/b/behind\n.log", ["b"], "behind", 1_234_567, 300, ""),
        LogLine("/b/no.log", ["b"], "unclaimed", 99, 5, "no entry in its state"),
    ]
    loki = ShipperReport("loki", "promtail", ["a", "b"], [StateLine("/p.yml", 3, None)], logs, ["its state is old"])
    other = ShipperReport("fb", "fluent-bit", [], [StateLine("/f.db", None, "no state file found")], [], [])
    assert (
        write([loki, other], ["1 directory"])
        == """\
SHIPPER  TYPE        STATE FILE  AGE  READABLE
loki     promtail    /p.yml      3 s  yes
fb       fluent-bit  /f.db       -    no: no state file found

SHIPPER  GROUP  READ  RECENT  BEHIND  HELD  UNCLAIMED  UNREAD BYTES  OLDEST
loki     a         0       0       0     0          0             0  -
loki     b         1       1       1     1          1     1,234,594  >= 5 min

Logs with unread bytes: 3
SHIPPER  UNREAD BYTES  OLDEST    STATE   LOG
loki        1,234,567  >= 5 min  behind  /b/behind\\n.log
loki               20  >= 2 h    held    /b/held.log
loki                7  >= 5 s    recent  /b/recent.log

Logs with no position (unclaimed): 1
SHIPPER  BYTES  LOG        REASON
loki        99  /b/no.log  no entry in its state

hint: loki: its state is old
hint: 1 directory
"""
    )
    assert (loki.is_readable, other.is_readable) == (True, False)


def test_bounds() -> None:
    """Of many logs the largest are listed, of many state files those that cannot be read."""
    logs = [LogLine(f"/{size}.log", ["g"], "behind", size, 300, "") for size in range(1, 101)]
    states = [StateLine(f"/state-{number:02}", 1, None if number else "is damaged") for number in reversed(range(50))]
    text = write([ShipperReport("s", "rsyslog", ["g"], states, logs, [])])
    assert "Logs with unread bytes: the largest 20 of 100\n" in text
    assert [line.split()[-1] for line in text.splitlines()[-MOST_LINES:]] == [f"/{n}.log" for n in range(100, 80, -1)]
    assert text.splitlines()[1].endswith("no: is damaged")
    assert text.splitlines()[MOST_LINES + 1] == "s        rsyslog  and 30 more"
