"""Reading the state files of one shipper: which are found, when they are read, and what is kept."""

import contextlib
import dataclasses
import errno
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from exporter.shippers import filebeat, files, state_reader, syslog_ng
from exporter.shippers.formats import FLUSH_INTERVALS_S, FORMATS, Format
from exporter.shippers.positions import Position, StateFormatError
from exporter.shippers.state_reader import ProcessReader, Reading, StateReader
from fstat_cache.paths import Root
from tests.exporter.shippers import state_files
from tests.exporter.shippers.sample_cases import SAMPLES, check_offsets, damaged
from tests.exporter.shippers.test_filebeat import changes, checkpoint, log_input
from tests.exporter.shippers.test_fluent_bit import TABLE, writing
from tests.exporter.shippers.test_process import MOUNTS, fake, fdinfo
from tests.exporter.shippers.test_syslog_ng import curpos, persist, value

LONG_AGO = 1_700_000_000


@pytest.fixture
def copies(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory for copies of databases."""
    return str(tmp_path_factory.mktemp("copies"))


@pytest.fixture
def reader(copies: str) -> Callable[..., StateReader]:
    """Makes a reader of a type of shipper."""
    return lambda kind, path: StateReader(FORMATS[kind], str(path), copies=copies)


def counting(state_format: Format) -> tuple[Format, list[str]]:
    """A format that notes the names of what it reads."""
    names: list[str] = []

    def read(path: str, copies: str, before: Sequence[Position] = ()) -> list[Position]:
        names.append(os.path.basename(path))
        return state_format.read(path, copies, before)

    return dataclasses.replace(state_format, read=read), names


def after(state_format: Format, action: Callable[[], object]) -> Format:
    """A format before whose first read something happens, after the state files were found."""
    actions = [action]

    def read(path: str, copies: str, before: Sequence[Position] = ()) -> list[Position]:
        if actions:
            actions.pop()()
        return state_format.read(path, copies, before)

    return dataclasses.replace(state_format, read=read)


def settle(*paths: Path, at: int = LONG_AGO) -> None:
    """Give files an mtime that no write of now can have."""
    for path in paths:
        os.utime(path, (at, at))


def promtail(path: Path, *offsets: int, name: str = "/a") -> Path:
    """Write a positions file in place."""
    path.write_text("positions:\n" + "".join(f'  {name}{at}: "{to}"\n' for at, to in enumerate(offsets)))
    return path


def rsyslog(directory: Path, offset: int, inode: int = 7, suffix: str = "") -> Path:
    """Write a state file of imfile."""
    path = directory / f"imfile-state:{inode}{suffix}"
    path.write_text(json.dumps({"filename": "/a", "curr_offs": offset}))
    return path


def offsets(reading: Reading) -> list[int]:
    """The offsets of a reading."""
    return sorted(position.offset for position in reading.positions)


def errors(reading: Reading) -> list[str]:
    """The errors of a reading."""
    return [file.error for file in reading.files if file.error is not None]


TYPES = {"grafana-agent-static": "promtail", **{name: name for name in FORMATS}}
LAYOUTS = {
    "alloy": ("loki.source.file.pods", ("", "loki.source.file.pods", "loki.source.file.*/positions.yml")),
    "datadog": ("", ("", "registry.json")),
    "filebeat": ("registry/filebeat", ("", "registry", "registry/filebeat", "registry/filebeat/log.json", "reg*/*")),
    "fluent-bit": ("", ("", "flb_tail.db", "*.db")),
    "fluentd": ("", ("", "app.log.pos", "*.pos")),
    "logstash": ("plugins/inputs/file", ("", "plugins/inputs/file", "plugins/*/file/.sincedb_*")),
    "otel-filelog": ("", ("", "receiver_filelog_")),
    "promtail": ("", ("", "*.y*ml")),
    "rsyslog": ("", ("", "imfile-state:*")),
    "syslog-ng": ("", ("", "syslog-ng.persist")),
    "vector": ("in", ("", "in", "in/checkpoints.json", "*/checkpoints.json")),
}
"""Where a shipper has its state files below its directory, and what users give as the path."""

CASES = [
    pytest.param(kind, case, path, id=f"{case.parent.name}-{case.name}-{path}")
    for name, kind in TYPES.items()
    for case in sorted((SAMPLES / name).iterdir())
    for path in LAYOUTS[kind][1]
]


@pytest.mark.parametrize(("kind", "case", "path"), CASES)
def test_samples(kind: str, case: Path, path: str, tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """Each log of a sample has its offset, by each path that users give: of a file, a directory, or a glob."""
    data = tmp_path / "data"
    shutil.copytree(case, data / LAYOUTS[kind][0])
    reading = reader(kind, data / path).read()
    assert reading.is_readable, errors(reading)
    assert reading.changed
    assert reading.failures == 0
    if kind in ("alloy", "fluent-bit", "fluentd", "promtail", "rsyslog"):
        check_offsets(case, reading.positions)
    else:
        for log in state_files.logs_of(case):
            assert state_files.find_offset(list(reading.positions), case, log, FORMATS[kind]) == log["offset"]


def test_formats() -> None:
    """Every type has samples and a flush interval; a format with fingerprints says how many bytes they need."""
    assert LAYOUTS.keys() == FORMATS.keys()
    assert FLUSH_INTERVALS_S.keys() == {*FORMATS, "process"}
    assert FLUSH_INTERVALS_S["promtail"] == 20
    assert [name for name, each in FORMATS.items() if each.fingerprints] == ["filebeat", "otel-filelog", "vector"]
    assert all(bool(each.head_bytes) == bool(each.fingerprints) for each in FORMATS.values())


def test_several_state_files(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """The positions of all state files of a directory count; those of other files and of subdirectories do not."""
    promtail(tmp_path / "a.yaml", 1)
    promtail(tmp_path / "b.yml", 2)
    promtail(tmp_path / ".c.yaml", 3)
    (tmp_path / "sub").mkdir()
    promtail(tmp_path / "sub" / "d.yaml", 4)
    assert offsets(reader("promtail", tmp_path).read()) == [1, 2]
    assert offsets(reader("promtail", tmp_path / "*").read()) == [1, 2, 4]
    assert offsets(reader("promtail", tmp_path / "[ab].y*").read()) == [1, 2]
    assert offsets(reader("promtail", tmp_path / ".*").read()) == [3]


def test_components(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """Below a shipper's data directory the state files of all components count."""
    for number in (1, 2):
        directory = tmp_path / f"loki.source.file.{number}"
        directory.mkdir()
        (directory / "positions.yml").write_text(f'positions:\n  ? path: /a\n    labels: "{{}}"\n  : "{number}"\n')
    assert offsets(reader("alloy", tmp_path).read()) == [1, 2]


def test_unchanged_files_are_not_opened(tmp_path: Path, copies: str) -> None:
    """Only a file that has another size, mtime or inode is read again; the others keep their positions."""
    state_format, names = counting(FORMATS["promtail"])
    reader = StateReader(state_format, str(tmp_path), copies=copies)
    a, b = promtail(tmp_path / "a.yaml", 1), promtail(tmp_path / "b.yaml", 2)
    settle(a, b)
    assert offsets(reader.read()) == [1, 2]
    reading = reader.read()
    assert offsets(reading) == [1, 2]
    assert not reading.changed
    assert sorted(names) == ["a.yaml", "b.yaml"]
    names.clear()

    settle(promtail(a, 3), at=LONG_AGO + 1)  # another mtime
    assert offsets(reader.read()) == [2, 3]
    settle(promtail(a, 10), at=LONG_AGO + 1)  # another size
    assert offsets(reader.read()) == [2, 10]
    promtail(tmp_path / "new", 20).rename(a)  # another inode
    settle(a, at=LONG_AGO + 1)
    reading = reader.read()
    assert offsets(reading) == [2, 20]
    assert reading.changed
    assert names == ["a.yaml"] * 3


def test_a_file_written_just_now_is_read_again(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """A later write may get the same mtime and size: a file is read again until no write can."""
    path = promtail(tmp_path / "a.yaml", 1)
    read = reader("promtail", path).read
    assert offsets(read()) == [1]
    status = path.stat()
    promtail(path, 2)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert offsets(read()) == [2]


def test_mtime(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """The mtime is that of the newest file; a file written again with the same positions is a change."""
    a, b = promtail(tmp_path / "a.yaml", 1), promtail(tmp_path / "b.yaml", 2)
    settle(a)
    settle(b, at=LONG_AGO + 5)
    read = reader("promtail", tmp_path).read
    assert read().mtime_s == LONG_AGO + 5
    settle(a, at=LONG_AGO + 7)
    reading = read()
    assert reading.mtime_s == LONG_AGO + 7
    assert {file.path: file.mtime_s for file in reading.files} == {str(a): LONG_AGO + 7, str(b): LONG_AGO + 5}
    assert reading.changed


def test_damaged(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """A damaged file keeps its last positions, and is a failure once for each change of it."""
    path, other = promtail(tmp_path / "a.yaml", 1), promtail(tmp_path / "b.yaml", 2)
    settle(other)
    read = reader("promtail", tmp_path).read
    assert offsets(read()) == [1, 2]
    path.write_text("damaged secret")
    for failures in (1, 0, 0):
        reading = read()
        assert offsets(reading) == [1, 2]
        assert reading.failures == failures
        assert not reading.is_readable
        assert [file.path for file in reading.files if file.error] == [str(path)]
        assert "secret" not in str(errors(reading))
    settle(path)
    assert read().failures == 1
    assert read().failures == 0
    promtail(path, 3)
    reading = read()
    assert offsets(reading) == [2, 3]
    assert reading.is_readable
    assert reading.failures == 0
    path.write_text("damaged secret")
    settle(path)
    assert read().failures == 1


def test_unchanged_damaged_content_is_not_read_again(tmp_path: Path, copies: str) -> None:
    """Three attempts, and then none before the file changes."""
    state_format, names = counting(FORMATS["promtail"])
    (tmp_path / "a.yaml").write_text("damaged")
    settle(tmp_path / "a.yaml")
    reader = StateReader(state_format, str(tmp_path / "a.yaml"), copies=copies)
    assert reader.read().failures == 1
    assert reader.read().failures == 0
    assert len(names) == 3


def test_half_written(tmp_path: Path, copies: str) -> None:
    """A file that is complete a few milliseconds later is no failure."""
    path = tmp_path / "a.yaml"
    attempts = iter(range(3))

    def read(place: str, copies: str, before: Sequence[Position] = ()) -> list[Position]:
        try:
            return FORMATS["promtail"].read(place, copies, before)
        finally:
            if next(attempts) == 1:
                promtail(path, 5)

    path.write_text("positions:\n  /a")
    reading = StateReader(dataclasses.replace(FORMATS["promtail"], read=read), str(path), copies=copies).read()
    assert offsets(reading) == [5]
    assert reading.is_readable
    assert reading.failures == 0


def test_vanished(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """The positions of a file that vanished are gone; without any file the shipper is not readable."""
    a, b = promtail(tmp_path / "a.yaml", 1), promtail(tmp_path / "b.yaml", 2)
    settle(a, b)
    read = reader("promtail", tmp_path).read
    assert offsets(read()) == [1, 2]
    a.unlink()
    reading = read()
    assert offsets(reading) == [2]
    assert reading.is_readable
    assert reading.changed
    b.unlink()
    reading = read()
    assert offsets(reading) == []
    assert not reading.is_readable
    assert reading.mtime_s is None
    promtail(b, 3)
    assert offsets(read()) == [3]
    assert read().is_readable


@pytest.mark.parametrize("path", ["", "none.yaml", "none/positions.yaml", "*/none.yaml", "none*", "none/*.yaml"])
def test_no_state_file(path: str, tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """A path without state files is not readable, and the error says what to check; it is counted once."""
    read = reader("promtail", tmp_path / path).read
    reading = read()
    assert not reading.is_readable
    assert [(file.path, file.mtime_s) for file in reading.files] == [(str(tmp_path / path), None)]
    assert "check path and type" in errors(reading)[0]
    assert (reading.failures, reading.changed) == (1, True)
    reading = read()
    assert not reading.is_readable
    assert (reading.failures, reading.changed) == (0, False)


def test_renamed_while_it_was_read(tmp_path: Path, copies: str) -> None:
    """If a file vanishes after it was found, the directory is listed again: its new name is found at once."""
    path = promtail(tmp_path / "a.yaml", 1)
    state_format = after(FORMATS["promtail"], lambda: path.rename(tmp_path / "b.yaml"))
    reading = StateReader(state_format, str(tmp_path), copies=copies).read()
    assert offsets(reading) == [1]
    assert [file.path for file in reading.files] == [str(tmp_path / "b.yaml")]
    assert (reading.is_readable, reading.failures) == (True, 0)


def test_renamed_before_it_was_statted(
    tmp_path: Path, reader: Callable[..., StateReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same if it vanishes before its stat."""
    path = promtail(tmp_path / "a.yaml", 1)
    states = reader("promtail", tmp_path)
    assert offsets(states.read()) == [1]
    find = states._finder.find

    def find_before_a_rename() -> dict[str, str | None]:
        found = find()
        monkeypatch.setattr(states._finder, "find", find)
        path.rename(tmp_path / "b.yaml")
        return found

    monkeypatch.setattr(states._finder, "find", find_before_a_rename)
    reading = states.read()
    assert offsets(reading) == [1]
    assert reading.is_readable


def test_emptied(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """fluentd empties its file, then writes it: without any positions it is believed at the second call in a row."""
    path = tmp_path / "a.pos"
    line = "/a\t0000000000000007\t0000000000000009\n"
    path.write_text(line)
    settle(path)
    read = reader("fluentd", path).read
    assert offsets(read()) == [7]
    for content, expected in [("", [7]), (line, [7]), ("", [7]), ("", []), (line, [7]), ("x", [7]), ("", [7])]:
        path.write_text(content)
        settle(path)
        assert offsets(read()) == expected
    assert read().is_readable
    assert offsets(read()) == []


def test_two_rsyslog_states_of_one_inode(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """The state file that was written last counts, also after the other one changes."""
    one, two = rsyslog(tmp_path, 1), rsyslog(tmp_path, 2, suffix=":abc")
    rsyslog(tmp_path, 5, inode=8)
    read = reader("rsyslog", tmp_path).read
    settle(one)
    settle(two, at=LONG_AGO + 1)
    assert offsets(read()) == [2, 5]
    settle(one, at=LONG_AGO + 2)
    assert offsets(read()) == [1, 5]
    two.unlink()
    assert offsets(read()) == [1, 5]


def test_emptied_rsyslog_state(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """rsyslog empties a state file before it writes it: the last offset stays."""
    path = rsyslog(tmp_path, 1)
    read = reader("rsyslog", tmp_path).read
    assert offsets(read()) == [1]
    path.write_bytes(b"")
    assert (offsets(read()), read().is_readable) == ([1], False)
    rsyslog(tmp_path, 2)
    assert (offsets(read()), read().is_readable) == ([2], True)


def test_filebeat_writes_a_checkpoint_meanwhile(tmp_path: Path, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filebeat writes a checkpoint, truncates the log and removes the old checkpoint, at any moment of a read."""
    for moment in range(4):
        directory = tmp_path / str(moment)
        directory.mkdir()
        (directory / "meta.json").write_text('{"version":"1"}')
        (directory / "5.json").write_bytes(checkpoint(log_input(1)))
        (directory / "log.json").write_bytes(changes(log_input(2), begin=6))
        reads = iter(range(100))

        def read_file(path: str, directory: Path = directory, moment: int = moment) -> bytes:
            if next(reads) == moment:  # noqa: B023
                (directory / "6.json").write_bytes(checkpoint(log_input(2)))
                (directory / "log.json").write_bytes(b"")
                (directory / "5.json").unlink()
            return files.read_file(path)

        monkeypatch.setattr(filebeat, "read_file", read_file)
        reading = StateReader(FORMATS["filebeat"], str(directory), copies=copies).read()
        assert offsets(reading) == [2]
        assert (reading.is_readable, reading.failures) == (True, 0)


def test_filebeats_log_is_read_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is read before the checkpoint, and not again after it: Filebeat truncates it after a checkpoint."""
    names: list[str] = []

    def read_file(path: str) -> bytes:
        names.append(os.path.basename(path))
        return files.read_file(path)

    (tmp_path / "5.json").write_bytes(checkpoint(log_input(1)))
    (tmp_path / "log.json").write_bytes(changes(log_input(2), begin=6))
    monkeypatch.setattr(filebeat, "read_file", read_file)
    assert [each.offset for each in filebeat.read(str(tmp_path), "")] == [2]
    assert names == ["log.json", "5.json"]


def test_filebeats_data_directory(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """The data directory has a meta.json too, which is no registry."""
    registry = tmp_path / "registry" / "filebeat"
    registry.mkdir(parents=True)
    (tmp_path / "meta.json").write_text('{"uuid":"x"}')
    (registry / "log.json").write_bytes(changes(log_input(2)))
    reading = reader("filebeat", tmp_path).read()
    assert offsets(reading) == [2]
    assert [file.path for file in reading.files] == [str(registry)]
    assert not reader("filebeat", tmp_path / "data").read().is_readable


@contextlib.contextmanager
def without_permission(path: Path) -> Iterator[None]:
    """Take away all permission on a path, also from root, which reads everything."""
    mode = path.stat().st_mode
    user = os.geteuid()
    path.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        path.chmod(mode)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory that every user can reach."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.mark.parametrize("is_file", [True, False])
@pytest.mark.parametrize("pattern", ["", "*.yaml", "a.yaml"])
def test_no_permission(public_path: Path, reader: Callable[..., StateReader], is_file: bool, pattern: str) -> None:
    """Without permission on a file or its directory the last positions stay; the error names the remedy."""
    path = promtail(public_path / "a.yaml", 1)
    read = reader("promtail", public_path / pattern).read
    assert offsets(read()) == [1]
    promtail(path, 2)
    with without_permission(path if is_file else public_path):
        for failures in (1, 0):
            reading = read()
            assert offsets(reading) == [1]
            assert reading.failures == failures
            assert [error.partition(":")[0] for error in errors(reading)] == ["no permission to read"]
    settle(path)
    assert (offsets(read()), read().is_readable) == ([2], True)
    with without_permission(path if is_file else public_path):
        assert (offsets(read()), read().is_readable) == ([2], False)
    assert (offsets(read()), read().is_readable) == ([2], True)


def test_a_refused_read_is_tried_again(tmp_path: Path, copies: str) -> None:
    """After a refusal that no stat shows, such as one of a broken disk, the next call reads again."""

    def refuse() -> None:
        raise OSError(errno.EIO, "Input/output error")

    settle(path := promtail(tmp_path / "a.yaml", 1))
    reader = StateReader(after(FORMATS["promtail"], refuse), str(path), copies=copies)
    assert errors(reader.read()) == ["cannot be read: Input/output error"]
    assert offsets(reader.read()) == [1]


def test_other_refusals(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """What else the system refuses is an error with its text: here a link to itself."""
    path = promtail(tmp_path / "a.yaml", 1)
    read = reader("promtail", path).read
    assert offsets(read()) == [1]
    path.unlink()
    path.symlink_to(path)
    reading = read()
    assert offsets(reading) == [1]
    assert "Too many levels of symbolic links" in errors(reading)[0]


def test_no_directory_for_copies(public_path: Path) -> None:
    """A fault of the agent's own directory is not taken for one of the state file: the error has its path."""
    shutil.copytree(SAMPLES / "fluent-bit" / "01-running-caught-up", public_path / "case")
    copies = public_path / "copies"
    reader = StateReader(FORMATS["fluent-bit"], str(public_path / "case"), copies=str(copies))
    assert f"cannot be read: No such file or directory: {copies}" in errors(reader.read())[0]
    copies.mkdir()
    with without_permission(copies):
        assert f"cannot be read: Permission denied: {copies}" in errors(reader.read())[0]
    assert reader.read().is_readable


@pytest.mark.parametrize("kind", FORMATS)
def test_only_regular_files_are_opened(kind: str, tmp_path: Path, copies: str) -> None:
    """A pipe, which nobody writes to, a directory, a link to nothing and a device are no state files."""
    name = {"filebeat": "log.json", "logstash": f".sincedb_{'a' * 32}", "rsyslog": "imfile-state:7"}.get(kind)
    path = tmp_path / (
        name or next(each.name for each in sorted((SAMPLES / kind).glob("*/*")) if _is_state(kind, each))
    )
    state_format, names = counting(FORMATS[kind])
    read = StateReader(state_format, str(tmp_path), copies=copies).read
    os.mkfifo(path)
    assert errors(read()) == ["is not a regular file"]
    path.unlink()
    path.symlink_to("/dev/zero")
    assert errors(read()) == ["is not a regular file"]
    path.unlink()
    path.symlink_to(tmp_path / "none")
    assert not read().is_readable
    path.unlink()
    path.mkdir()
    assert not read().is_readable
    assert names == []


def _is_state(kind: str, path: Path) -> bool:
    return FORMATS[kind].is_state_file(path.name)


@pytest.mark.parametrize(("kind", "name", "mib"), [("promtail", "a.yaml", 64), ("datadog", "registry.json", 16)])
def test_too_large(kind: str, name: str, mib: int, tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """A file of more than 64 MiB is not read, nor one of JSON of more than 16 MiB."""
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, (mib << 20) + 1)
    assert errors(reader(kind, tmp_path).read()) == [f"is larger than {mib} MiB, the most that is read"]


def test_grows_while_it_is_read(tmp_path: Path, copies: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the limit is read of a file that was smaller when it was stat'ed."""
    path = promtail(tmp_path / "a.yaml", 1)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1000)
    state_format = after(FORMATS["promtail"], lambda: os.truncate(path, 2000))
    assert "is larger than" in errors(StateReader(state_format, str(path), copies=copies).read())[0]


def test_written_by_mmap(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """syslog-ng's file is read at each call: no stat shows its writes."""
    path = tmp_path / "syslog-ng.persist"
    path.write_bytes(persist((curpos(b"/a"), value(1))))
    settle(path)
    read = reader("syslog-ng", path).read
    assert offsets(read()) == [1]
    assert not read().changed
    with path.open("r+b") as file:
        file.write(persist((curpos(b"/a"), value(2))))
    settle(path)
    reading = read()
    assert offsets(reading) == [2]
    assert reading.changed


def test_torn_mmap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What two reads in a row do not agree on is not believed."""
    contents = [persist((curpos(b"/a"), value(number))) for number in range(30)]
    reads = iter([contents[1], contents[2], contents[3], contents[3]])
    monkeypatch.setattr(syslog_ng, "read_file", lambda _path: next(reads))
    assert [each.offset for each in syslog_ng.read("", "")] == [3]
    reads = iter(contents)
    with pytest.raises(StateFormatError, match="all the time"):
        syslog_ng.read("", "")


def test_companion(tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """Beside a running fluent-bit only the -wal changes: it counts for positions and mtime."""
    path = tmp_path / "flb.db"
    read = reader("fluent-bit", path).read
    with writing(str(path), "journal_mode=wal") as writer:
        writer.execute(TABLE.replace("\n", " "))
        writer.execute("INSERT INTO in_tail_files (name, offset, inode) VALUES ('/a', 1, 7)")
        assert offsets(read()) == [1]
        settle(path, Path(f"{path}-wal"))
        assert offsets(read()) == [1]
        assert not read().changed
        before = path.stat()
        writer.write(2)
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        reading = read()
        assert offsets(reading) == [2]
        assert reading.mtime_s is not None
        assert reading.mtime_s > LONG_AGO
    assert offsets(read()) == [2]


@pytest.mark.parametrize("path", ["link", "link/flb.db", "flb.db", ""])
def test_companion_of_a_link(path: str, tmp_path: Path, reader: Callable[..., StateReader]) -> None:
    """SQLite has the -wal beside the file that a link leads to: there it is found."""
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "links" / "flb.db").symlink_to(tmp_path / "real" / "flb.db")
    with writing(str(tmp_path / "real" / "flb.db"), "journal_mode=wal") as writer:
        writer.execute(TABLE.replace("\n", " "))
        writer.execute("INSERT INTO in_tail_files (name, offset, inode) VALUES ('/a', 1, 7)")
        read = reader("fluent-bit", tmp_path / "links" / path).read
        assert offsets(read()) == [1]
        settle(*(tmp_path / "real").iterdir())
        read()
        writer.write(2)
        assert offsets(read()) == [2]


def test_root(tmp_path: Path, copies: str) -> None:
    """Beneath another root, paths and links begin there: of directories, files, and what a glob matches."""
    host = tmp_path / "host"
    (host / "var/lib/promtail").mkdir(parents=True)
    (host / "positions").mkdir()
    promtail(host / "positions" / "real.yaml", 1)
    (host / "var/lib/promtail/link.yaml").symlink_to("/positions/real.yaml")
    (host / "run").symlink_to("/var/lib")
    for path in ("/run/promtail", "/run/promtail/link.yaml", "/r*/promtail/*.yaml", "/positions/", "/positions/*"):
        reading = StateReader(FORMATS["promtail"], path, copies=copies, root=Root(str(host))).read()
        assert offsets(reading) == [1], path
        assert all(not file.path.startswith(str(host)) for file in reading.files)
    (host / "var/lib/promtail/link.yaml").unlink()
    (host / "var/lib/promtail/link.yaml").symlink_to(host / "positions" / "real.yaml")  # outside, seen from there
    assert not StateReader(FORMATS["promtail"], "/run/promtail", copies=copies, root=Root(str(host))).read().is_readable


def test_processes(tmp_path: Path) -> None:
    """Of processes the last offsets stay while there is none, with one failure."""
    proc = fake(tmp_path, {"self/mountinfo": MOUNTS, "7/comm": "vector\n", "7/fdinfo/3": fdinfo(5)})
    reader = ProcessReader("vec*", proc=proc)
    reading = reader.read()
    assert (offsets(reading), reading.is_readable, reading.mtime_s) == ([5], True, None)
    assert reading.changed
    reading = reader.read()
    assert (reading.changed, reading.is_current) == (True, True)  # what it reads and closes again leaves no trace
    (tmp_path / "7/fdinfo/3").write_text(fdinfo(6))
    assert offsets(reader.read()) == [6]
    shutil.rmtree(tmp_path / "7")
    for failures in (1, 0):
        reading = reader.read()
        assert (offsets(reading), reading.is_readable, reading.failures) == ([6], False, failures)
        assert reading.is_current  # nothing reads on
        assert errors(reading) == ["no process has this name"]
        assert [file.path for file in reading.files] == ["vec*"]
    fake(tmp_path, {"8/comm": "vector\n", "8/fdinfo/3": fdinfo(ino=None)})
    reading = reader.read()
    assert (offsets(reading), reading.failures, reading.is_current) == ([6], 1, False)
    assert "Linux 5.14" in errors(reading)[0]


def _contents(kind: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((SAMPLES / kind).glob("*/*")) if _is_state(kind, path)]


@pytest.mark.parametrize("kind", FORMATS)
def test_damage_never_raises(
    kind: str, tmp_path: Path, reader: Callable[..., StateReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a state file has, a read returns: positions of it, or the last ones with an error."""
    monkeypatch.setattr(state_reader, "_PAUSE_S", 0)
    case = next(iter(sorted((SAMPLES / kind).iterdir())))
    (state, *_) = sorted(path.name for path in case.iterdir() if _is_state(kind, path))
    shutil.copytree(case, tmp_path, dirs_exist_ok=True)
    read = reader(kind, tmp_path).read
    last: Sequence[Position] = read().positions
    assert last
    for content in damaged(_contents(kind), 150):
        (tmp_path / state).write_bytes(content)
        reading = read()
        if not reading.is_readable:
            assert reading.positions == last
        last = reading.positions


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["promtail", "fluentd"])
def test_random_changes(
    kind: str, seed: int, tmp_path: Path, reader: Callable[..., StateReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through writes, damage, renames and removals in any order, each file has the positions of its last good read."""
    monkeypatch.setattr(state_reader, "_PAUSE_S", 0)
    dice = random.Random(seed)
    write = promtail if kind == "promtail" else fluentd
    paths = [tmp_path / f"{number}.{'yaml' if kind == 'promtail' else 'pos'}" for number in range(3)]
    now: dict[Path, int | str] = {}  # an offset, "damaged" or "empty"
    expected: dict[Path, int | None] = {}
    emptied: set[Path] = set()
    read = reader(kind, tmp_path).read
    for offset in range(150):
        path, other = dice.sample(paths, 2)
        if path.is_dir():
            path.rmdir()
            del now[path]
        match dice.randrange(7):
            case 0:
                write(path, offset)
                now[path] = offset
            case 1:
                write(tmp_path / "new", offset).replace(path)
                now[path] = offset
            case 2:
                path.write_bytes(dice.choice([b"secret", b"\0" * 50, b"positions: [", b"/a\t00"]))
                now[path] = "damaged"
            case 3:
                path.write_bytes(b"")
                now[path] = "empty"
            case 4 if path.exists() and not other.is_dir():
                path.replace(other)
                now[other] = now.pop(path)
            case 5:
                path.unlink(missing_ok=True)
                now.pop(path, None)
            case 6:
                path.unlink(missing_ok=True)
                path.mkdir()
                now[path] = "damaged"
        if dice.random() < 0.3:
            continue
        reading = read()
        expected = {path: expected.get(path) for path in now}
        for path, content in now.items():
            if content == "empty" and expected[path] is not None and path not in emptied:
                emptied.add(path)
                continue
            emptied.discard(path)
            if content != "damaged":
                expected[path] = None if content == "empty" else int(content)
        emptied &= now.keys()
        assert offsets(reading) == sorted(each for each in expected.values() if each is not None)
        assert reading.is_readable == (bool(now) and "damaged" not in now.values())
        assert "secret" not in str(errors(reading))


def fluentd(path: Path, offset: int) -> Path:
    """Write a position file."""
    path.write_text(f"/a\t{offset:016x}\t0000000000000009\n")
    return path
