"""What `fstat-exporter shippers` finds of real logs and state files."""

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from exporter.config.model import Config, StateConfig
from exporter.config.shippers import ShipperConfig
from exporter.shippers.inspection import inspect
from exporter.shippers.report import LogLine, ShipperReport

Inspect = Callable[[ShipperConfig], ShipperReport]


@pytest.fixture
def inspect_one(tmp_path: Path) -> Inspect:
    """Inspects one shipper of the groups `a` and `b`, of the logs below directories of these names."""

    def inspect_one(shipper: ShipperConfig) -> ShipperReport:
        groups = tuple([LogGroup(name, (f"{tmp_path}/{name}/*.log",)) for name in ("a", "b")])
        (report,), hints = inspect(Config(logs=groups, shippers=(shipper,)), "/")
        assert hints == []
        return report

    return inspect_one


def log(path: Path, size: int, age_s: float = 0, *, has_line: bool = True) -> Path:
    """Write a log that was written last some time ago."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("x" * (size - 1) + ("\n" if has_line else "x"))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def promtail(tmp_path: Path, positions: dict[str, int], age_s: float = 0) -> ShipperConfig:
    """A promtail with these positions."""
    path = tmp_path / "positions.yml"
    path.write_text("\n".join(["positions:", *(f"  {log}: '{offset}'" for log, offset in positions.items())]))
    os.utime(path, (time.time() - age_s,) * 2)
    return ShipperConfig("loki", "promtail", str(path))


def by_name(report: ShipperReport) -> dict[str, LogLine]:
    """The logs of a report by their base names."""
    return {os.path.basename(line.path): line for line in report.logs}


def test_states(tmp_path: Path, inspect_one: Inspect) -> None:
    """Read, recent, behind, held and unclaimed, with the unread bytes and how old they are at least."""
    positions = {
        str(log(tmp_path / "a/read.log", 100, 500)): 100,
        str(log(tmp_path / "a/recent.log", 100)): 40,
        str(log(tmp_path / "b/behind.log", 100, 500)): 10,
        str(log(tmp_path / "b/held.log", 100, 500, has_line=False)): 80,
    }
    log(tmp_path / "b/unclaimed.log", 30)
    report = inspect_one(promtail(tmp_path, positions))
    lines = by_name(report)
    assert {name: (line.state, line.size_bytes, line.groups) for name, line in lines.items()} == {
        "read.log": ("read", 0, ["a"]),
        "recent.log": ("recent", 60, ["a"]),
        "behind.log": ("behind", 90, ["b"]),
        "held.log": ("held", 20, ["b"]),
        "unclaimed.log": ("unclaimed", 30, ["b"]),
    }
    assert 500 <= lines["behind.log"].age_s < 600
    assert lines["unclaimed.log"].reason == "no entry in its state"
    complete = by_name(inspect_one(replace(promtail(tmp_path, positions), complete=True)))
    assert complete["unclaimed.log"][:4] == lines["unclaimed.log"][:4]
    assert report.groups == ["a", "b"]
    ((path, age_s, error),) = report.states
    assert (path, error) == (f"{tmp_path}/positions.yml", None)
    assert age_s is not None
    assert 0 <= age_s < 60
    assert report.is_readable
    assert report.hints == []


def test_positions_by_other_paths(tmp_path: Path, inspect_one: Inspect) -> None:
    """If the paths in the state do not exist here, the report has the missing line of the configuration."""
    first, second = log(tmp_path / "a/1.log", 100), log(tmp_path / "b/1.log", 100)
    log(tmp_path / "b/other.log", 100)
    shipper = promtail(tmp_path, {f"/no-such/root{first}": 50, f"/no-such/root{second}": 60})
    report = inspect_one(shipper)
    lines = {line.path: line for line in report.logs}
    suggestion = "set path_map: {/no-such/root: /}"
    assert lines[str(first)].reason == f"its state has /no-such/root{first}: {suggestion}"
    assert lines[f"{tmp_path}/b/other.log"].reason == "no entry in its state"
    assert report.hints == [f"paths in its state do not exist here: {suggestion} for 2 of 3 unclaimed logs"]
    mapped = inspect_one(replace(shipper, path_map={"/no-such/root": "/"}))
    assert sorted(line.size_bytes for line in mapped.logs if line.state != "unclaimed") == [40, 50]


def test_entries_that_do_not_fit(tmp_path: Path, inspect_one: Inspect) -> None:
    """An offset beyond the end, and an entry of an older file of this name."""
    short, new = log(tmp_path / "a/short.log", 100), log(tmp_path / "a/new.log", 100)
    inode = short.stat().st_ino
    (tmp_path / "pos").write_text(f"{short}\t{500:016x}\t{inode:016x}\n{new}\t{5:016x}\t{1 << 60:016x}\n")
    lines = by_name(inspect_one(ShipperConfig("f", "fluentd", f"{tmp_path}/pos")))
    assert lines["short.log"].reason == "its entry is beyond the end of the file: 500 of 100 bytes"
    assert lines["new.log"].reason == "its entry is of an older file of this name"


def test_a_state_that_cannot_be_read(tmp_path: Path, inspect_one: Inspect) -> None:
    """Each of its logs says so, and the report is not readable."""
    log(tmp_path / "a/1.log", 100)
    report = inspect_one(ShipperConfig("f", "fluentd", f"{tmp_path}/no-such"))
    (line,) = report.logs
    assert line.reason.startswith(f"its state cannot be read: {tmp_path}/no-such: no state file found: ")
    assert not report.is_readable
    assert report.hints == []


def test_logs_that_the_configuration_leaves_out(tmp_path: Path, inspect_one: Inspect) -> None:
    """Positions of logs outside its groups, paths and exclude are a hint, with an example."""
    left_out, kept = log(tmp_path / "a/1.log", 100), log(tmp_path / "b/1.log", 100)
    shipper = promtail(tmp_path, {str(left_out): 5, str(kept): 6})
    what = "positions of logs that its groups, paths and exclude leave out: 1"
    hint = f"{what}, such as of {left_out}: correct these keys if the logs are to count"
    for config in (
        replace(shipper, groups=("b",)),
        replace(shipper, paths=(f"{tmp_path}/b/*",)),
        replace(shipper, exclude=(str(left_out),)),
    ):
        report = inspect_one(config)
        assert [line.path for line in report.logs] == [str(kept)]
        assert report.hints == [hint]


def test_a_state_of_other_logs(tmp_path: Path, inspect_one: Inspect) -> None:
    """A state without positions, or only with some of logs that no group matches, is a hint."""
    log(tmp_path / "a/1.log", 100)
    (hint,) = inspect_one(promtail(tmp_path, {})).hints
    assert hint == "its state has no position: it has read no file yet, or this is another state"
    (hint,) = inspect_one(promtail(tmp_path, {"/no/such": 5})).hints
    assert hint == (
        "of its positions (1) none is of a log here, such as the one of /no/such: check groups, path and path_map"
    )


def test_a_state_that_is_older_than_the_logs(tmp_path: Path, inspect_one: Inspect) -> None:
    """It is a hint, with what rsyslog needs."""
    path = log(tmp_path / "a/1.log", 100)
    (hint,) = inspect_one(promtail(tmp_path, {str(path): 50}, age_s=7300)).hints
    assert hint == (
        f"its state was last written 2 h ago, before {path} (0 s ago): check that it runs, and that this is its state"
    )
    assert inspect_one(promtail(tmp_path, {str(path): 100})).hints == []
    state = tmp_path / f"imfile-state:{path.stat().st_ino}"
    state.write_text(f'{{"filename": "{path}", "curr_offs": 50}}')
    os.utime(state, (1, 1))
    (hint,) = inspect_one(ShipperConfig("r", "rsyslog", str(state))).hints
    assert 'set PersistStateInterval="1" in its inputs, or use type: process' in hint


def test_logs_that_are_known_by_their_content(tmp_path: Path, inspect_one: Inspect) -> None:
    """Fingerprints are computed before the report is made."""
    path = log(tmp_path / "a/1.log", 5000)
    digest = hashlib.sha256(path.read_bytes()[:1024]).hexdigest()
    folder = tmp_path / "registry/filebeat"
    folder.mkdir(parents=True)
    key = f"filestream::id::fingerprint::{digest}"
    (folder / "log.json").write_text(
        '{"op":"set","id":1}\n{"k":"' + key + '","v":{"cursor":{"offset":2000},"meta":{"source":"/x"},"ttl":-1}}\n'
    )
    (folder / "meta.json").write_text('{"version":"1"}')
    (line,) = inspect_one(ShipperConfig("fb", "filebeat", str(folder))).logs
    assert (line.state, line.size_bytes) == ("recent", 3000)


def test_open_descriptors(tmp_path: Path, inspect_one: Inspect) -> None:
    """Without a process of the name nothing is readable; a log that the process does not have open is unclaimed."""
    path = log(tmp_path / "a/1.log", 100)
    log(tmp_path / "a/2.log", 100)
    report = inspect_one(ShipperConfig("p", "process", match="no-such-process"))
    assert [(state.path, state.error) for state in report.states] == [
        ("no-such-process", "no process has this name"),
    ]
    name = f"ship{os.getpid()}"
    (tmp_path / name).symlink_to("/bin/sleep")
    with path.open("rb", buffering=0) as file:
        file.read(30)
        with subprocess.Popen([tmp_path / name, "60"], stdin=file) as process:
            lines = by_name(inspect_one(ShipperConfig("p", "process", match=f"{name}*")))
            process.kill()
    assert (lines["1.log"].state, lines["1.log"].size_bytes) == ("recent", 70)
    assert lines["2.log"].reason == "no process of this name has it open"


def test_another_root(tmp_path: Path) -> None:
    """With --path.rootfs all paths are those of the host."""
    log(tmp_path / "logs/1.log", 100)
    (tmp_path / "positions.yml").write_text("positions:\n  /logs/1.log: '40'\n")
    shipper = ShipperConfig("loki", "promtail", "/positions.yml")
    ((report,), _) = inspect(Config(logs=(LogGroup("g", ("/logs/*.log",)),), shippers=(shipper,)), str(tmp_path))
    assert [(line.path, line.size_bytes) for line in report.logs] == [("/logs/1.log", 60)]
    assert report.states[0].path == "/positions.yml"


def test_directories_that_cannot_be_listed(tmp_path: Path) -> None:
    """They are a hint of no shipper."""
    (tmp_path / "loop").symlink_to("loop")
    group = LogGroup("g", (f"{tmp_path}/*/*.log",))
    _, hints = inspect(Config(logs=(group,), shippers=(promtail(tmp_path, {}),)), "/")
    why = "Too many levels of symbolic links"
    assert hints == [f"directories of logs that cannot be listed: 1, such as {tmp_path}/loop: {why}"]


def test_the_state_of_a_running_agent_is_left_alone(tmp_path: Path) -> None:
    """The report changes no file beside the agent's own state."""
    log(tmp_path / "a/1.log", 100)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/fstat.db").write_bytes(b"not read")
    group = LogGroup("a", (f"{tmp_path}/a/*.log",))
    shipper = promtail(tmp_path, {})
    inspect(Config(logs=(group,), shippers=(shipper,), state=StateConfig(f"{tmp_path}/state/fstat.db")), "/")
    assert {path.name: path.read_bytes() for path in (tmp_path / "state").iterdir()} == {"fstat.db": b"not read"}
