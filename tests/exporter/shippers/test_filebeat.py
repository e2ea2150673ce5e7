"""Filebeat's registry: a log of changes after a checkpoint."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.shippers import filebeat
from exporter.shippers.positions import Fingerprint, Position, StateFormatError
from tests.exporter.shippers.state_files import JSON_BOMBS, cases, check, damaged, find_offset, logs_of, state_of

PATHS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(lambda name: f"/var/log/{name}")
COUNTS = st.integers(0, 2**63 - 1)

Entry = dict[str, object]


def log_input(offset: float, inode: float = 7, *, ttl: int = -1, path: str = "/a") -> tuple[str, Entry]:
    """An entry of the log input."""
    state = {"source": path, "offset": offset, "ttl": ttl, "FileStateOS": {"inode": inode, "device": 3}}
    return f"filebeat::logs::native::{inode}-3", state


def filestream(identity: str, offset: int | None, *, ttl: int = -1, path: str = "/a") -> tuple[str, Entry]:
    """An entry of the filestream input."""
    cursor = None if offset is None else {"offset": offset}
    return f"filestream::an-id::{identity}", {"ttl": ttl, "cursor": cursor, "meta": {"source": path}}


def changes(*entries: tuple[str, Entry | None], begin: int = 1) -> bytes:
    """Write a log: an entry of None is removed."""
    lines = []
    for number, (key, state) in enumerate(entries, begin):
        lines.append({"op": "remove" if state is None else "set", "id": number})
        lines.append({"k": key} if state is None else {"k": key, "v": state})
    return b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)


def checkpoint(*entries: tuple[str, Entry]) -> bytes:
    """Write a checkpoint."""
    return ("[" + ",\n".join(json.dumps({"_key": key, **state}) for key, state in entries) + "\n]").encode()


def offsets(**files: bytes) -> list[int]:
    """Parse a registry: ``log`` is log.json, ``c5`` is 5.json."""
    names = {"log": "log.json", "meta": "meta.json"}
    parsed = filebeat.parse({names.get(name, f"{name[1:]}.json"): data for name, data in files.items()})
    return [position.offset for position in parsed]


@pytest.mark.parametrize("case", cases("filebeat"))
def test_samples(case: Path) -> None:
    """Each log of a sample has its offset."""
    positions = filebeat.parse(state_of(case, filebeat))
    for log in logs_of(case):
        assert find_offset(positions, case, log, filebeat) == log["offset"]
        if "fingerprint" in log:
            head = (case / Path(log["path"]).name).read_bytes()
            assert [each.value for each in filebeat.fingerprints(head)] == [log["fingerprint"]]


@given(st.lists(st.tuples(PATHS, COUNTS, COUNTS, COUNTS), max_size=20), st.integers(0, 20))
def test_written_is_read(logs: list[tuple[str, int, int, int]], count: int) -> None:
    """What a checkpoint and the changes after it say is read back; a later entry of a key counts."""
    positions = [Position(offset, path, inode, device) for path, offset, inode, device in logs]
    entries = [
        filestream(f"native::{each.inode}-{each.device}", each.offset, path=str(each.path)) for each in positions
    ]
    files = {
        "meta.json": b'{"version":"1"}',
        "99.json": checkpoint(*entries[:count]),
        "log.json": changes(*entries[count:], begin=100),
    }
    assert set(filebeat.parse(files)) == set({(each.inode, each.device): each for each in positions}.values())


def test_checkpoint_and_log() -> None:
    """The newest checkpoint counts; of the log, what is newer than it. Another file's name is not one."""
    old, new = checkpoint(log_input(1)), checkpoint(log_input(20))
    assert offsets(c9=old, c10=new) == [20]
    log = changes(log_input(10), log_input(20), log_input(30), begin=9)
    assert offsets(c10=new, log=log) == [30]
    assert not filebeat.is_state_file("checkpoint.new")
    assert not filebeat.is_state_file("active.dat")
    assert filebeat.is_state_file("18446744073709551615.json")


def test_log_is_older_than_the_checkpoint() -> None:
    """A log that was not truncated after the checkpoint changes nothing."""
    assert offsets(c10=checkpoint(log_input(20)), log=changes(log_input(1), log_input(2))) == [20]


def test_numbers_overflow() -> None:
    """The numbers of changes begin again after 2^64 - 1."""
    last = 2**64 - 1
    log = changes(log_input(3)).replace(b'"id":1', b'"id":0')
    assert filebeat.parse({f"{last}.json": checkpoint(log_input(2)), "log.json": log})[0].offset == 3


def test_gap() -> None:
    """Nothing counts after a gap in the numbers, as in Filebeat."""
    log = changes(log_input(1)) + changes(log_input(2), begin=3) + changes(log_input(3), begin=4)
    assert offsets(log=log) == [1]


def test_torn_tail() -> None:
    """A change that is cut off anywhere is as if it had not begun."""
    first = changes(log_input(1))
    log = first + changes(log_input(2), begin=2)
    for end in range(len(first), len(log) - 1):
        assert offsets(log=log[:end]) == [1]
    assert offsets(log=log[:-1]) == offsets(log=log) == [2]


def test_removed() -> None:
    """Neither a removed entry nor one that is about to be has a position."""
    key, state = log_input(5)
    assert offsets(log=changes((key, state), (key, None))) == []
    assert offsets(log=changes((key, state), (key, None), (key, state))) == [5]
    assert offsets(c1=checkpoint((key, state)), log=changes((key, None), begin=2)) == []
    assert offsets(log=changes(log_input(5, ttl=0))) == []
    assert offsets(log=changes(filestream("native::1-2", 5, ttl=0))) == []


def test_nothing_acknowledged() -> None:
    """A log that the filestream input has found, but of which nothing is acknowledged, has no position."""
    assert offsets(log=changes(filestream("native::1-2", None))) == []


def test_moved_from_log_to_filestream() -> None:
    """An entry that an unused log input has left does not count beside the one that replaced it; alone it does."""
    old, new = log_input(5, ttl=-2), filestream("native::7-3", 9)
    assert offsets(log=changes(old, new)) == [9]
    assert offsets(log=changes(old)) == [5]


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("native::12-34", Position(5, "/a", 12, 34)),
        ("native::12-34-stdout", Position(5, "/a", 12, 34)),
        ("inode_marker::12-a-marker", Position(5, "/a", 12)),
        ("path::/a::b", Position(5, "/a")),
        (f"fingerprint::{'ab' * 32}", Position(5, "/a", fingerprint=Fingerprint("sha256", "ab" * 32, 1024))),
        (f"fingerprint::{'ab' * 32}-s", Position(5, "/a", fingerprint=Fingerprint("sha256", "ab" * 32, 1024))),
        ("native::x", Position(5, "/a")),
        (f"native::{'9' * 20}-34", Position(5, "/a", None, 34)),
        ("", Position(5, "/a")),
    ],
)
def test_identities(identity: str, expected: Position) -> None:
    """The key says what identifies a log; where it does not, the path does."""
    assert filebeat.parse({"log.json": changes(filestream(identity, 5))}) == [expected]


def test_numbers_of_go() -> None:
    """After a restart Filebeat may write numbers as Go writes floats."""
    log = changes(log_input(1.0, 2.0)).replace(b'"offset":1.0', b'"offset":1.234567e+06')
    assert filebeat.parse({"log.json": log.replace(b'"inode":2.0', b'"inode":1.556738e+06')}) == [
        Position(1234567, "/a", 1556738, 3)
    ]


def test_path_is_no_text() -> None:
    """A path that is not UTF-8 is the one that the agent has; half of a surrogate pair is no path."""
    log = changes(log_input(1, path="/PATH"))
    assert filebeat.parse({"log.json": log.replace(b"/PATH", b"/\xff")})[0].path == "/\udcff"
    assert filebeat.parse({"log.json": log.replace(b"/PATH", b"/\\ud800")})[0].path is None
    assert filebeat.parse({"log.json": log.replace(b"/PATH", b"/\\u0000")})[0].path is None


def test_other_inputs_are_left_out() -> None:
    """Entries of inputs that read no files are of no concern, whatever their shape."""
    assert offsets(log=changes(("journald::x", {"cursor": "s=abc"}), ("winlog::y", {}))) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither"),
        ({"meta.json": b'{"version":"1"}'}, "neither"),
        ({"meta.json": b'{"version":"2"}', "log.json": b""}, "meta.json"),
        ({"1.json": b"{}"}, "not a list"),
        ({"1.json": b'[{"x":1}]'}, "without a key"),
        ({"1.json": b'[{"_key":"filebeat::logs::x"'}, "JSON"),
        ({"1.json": checkpoint(("filebeat::logs::x", {"offset": 1}))}, "no inode"),
        ({"log.json": changes(log_input(-1))}, "offset"),
        ({"log.json": changes(("filestream::x", {"cursor": 5}))}, "cursor"),
        ({"log.json": b"x\n" + changes(log_input(1))}, "damaged"),
        ({"log.json": changes(log_input(1)).replace(b"set", b"sot") + changes(log_input(2), begin=2)}, "damaged"),
        ({"log.json": b"x"}, "damaged"),
        (
            {"log.json": b'{"op":"set","id":1}\n{"k":"filestream::a","v":{]}}\n' + changes(log_input(2), begin=2)},
            "JSON",
        ),
    ],
)
def test_refused(files: dict[str, bytes], message: str) -> None:
    """What cannot be right is refused, with its fault."""
    with pytest.raises(StateFormatError, match=message):
        filebeat.parse(files)


@pytest.mark.parametrize("data", JSON_BOMBS)
@pytest.mark.parametrize("name", ["log.json", "meta.json", "1.json"])
def test_bombs(name: str, data: bytes) -> None:
    """JSON that is no registry is refused soon, or is the beginning of a log."""
    log = changes(log_input(1))
    positions = check(lambda: filebeat.parse({"log.json": log, name: data}), filebeat)
    assert not positions or name != "1.json"
    check(lambda: filebeat.parse({"log.json": log + data}), filebeat)
    check(lambda: filebeat.parse({"log.json": log + data + b"\n" + log}), filebeat)


@pytest.mark.parametrize("case", cases("filebeat"))
def test_damage(case: Path) -> None:
    """A damaged registry gives positions or one sentence."""
    files = state_of(case, filebeat)
    entries = [json.loads(line) for line in files["log.json"].splitlines()[1::2]]
    files["2.json"] = checkpoint(*((each["k"], each["v"]) for each in entries))
    for name, content in files.items():
        for data in damaged(content, 17, 400):
            check(lambda name=name, data=data: filebeat.parse({**files, name: data}), filebeat)


def test_fingerprint_needs_its_size() -> None:
    """A log shorter than the fingerprint has none; bytes behind it do not count."""
    head = bytes(range(256)) * 4
    assert list(filebeat.fingerprints(head[:-1])) == []
    assert list(filebeat.fingerprints(head)) == list(filebeat.fingerprints(head + b"more"))


def test_many_changes() -> None:
    """A log of 40,000 changes, as large as Filebeat lets it become, is read in bounded time."""
    log = changes(*(log_input(number, number % 500 + 1) for number in range(40_000)))
    positions = check(lambda: filebeat.parse({"log.json": log}), filebeat)
    assert positions is not None
    assert len(positions) == 500
