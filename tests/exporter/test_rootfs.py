"""Files of a host whose root is a directory of the agent's: they are found and followed by their paths on the host."""

import os
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from exporter.config.presets import PRESETS
from exporter.tracker import Tracker
from tests.exporter.tracking import Track, append, appended, present, touch
from tests.support import Mount, as_root

POD = "/var/log/pods/ns_pod_uid/c/0.log"
BY_CONTAINER = "/var/log/containers/pod_ns_c-x.log"
GROUPS = (
    LogGroup("pods", tuple(PRESETS["kubernetes-pods"]["paths"]), exclude=("/var/log/pods/*_excluded_*/**",)),
    LogGroup("containers", ("/var/log/containers/*.log",)),
)


def container(host: Path, identifier: str) -> Path:
    """Where docker writes a container's log; the directory is made."""
    path = host / f"var/lib/docker/containers/{identifier}/{identifier}-json.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def lead(host: Path, link: str, target: str) -> None:
    """Make or replace a symbolic link as the kubelet does, to a path on the host."""
    path = Path(f"{host}{link}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("new").symlink_to(target)
    path.with_name("new").rename(path)


def sizes(tracker: Tracker) -> dict[str, int]:
    """The paths of the files that are there, and their sizes."""
    return {path: series.stats.size for path, series in present(tracker).items() if series.stats}


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with one pod, whose log docker writes."""
    host = tmp_path / "host"
    container(host, "x").write_text("12345")
    lead(host, POD, "/var/lib/docker/containers/x/x-json.log")
    lead(host, BY_CONTAINER, POD)
    return host


def test_a_pods_log_is_followed_through_anything(host: Path, track: Track) -> None:
    """Growth, rotation by docker, another container's log, another pod, and the end: each shows in the next refresh,
    without a scan, and each byte counts once."""
    tracker = track(groups=GROUPS, rootfs=str(host))
    log = container(host, "x")
    assert sizes(tracker) == {POD: 5, BY_CONTAINER: 5}
    assert appended(tracker) == 0
    append(log, "67")
    assert sizes(tracker) == {POD: 7, BY_CONTAINER: 7}
    assert tracker.cache.how_followed([POD, BY_CONTAINER]) == ["watched", "watched"]
    log.rename(f"{log}.1")
    log.write_text("1")
    append(Path(f"{log}.1"), "8")
    assert sizes(tracker) == {POD: 1, BY_CONTAINER: 1}
    assert appended(tracker) == 4
    container(host, "y").write_text("12")
    lead(host, POD, "/var/lib/docker/containers/y/y-json.log")
    assert sizes(tracker) == {POD: 2, BY_CONTAINER: 2}
    assert appended(tracker) == 6
    other = "/var/log/pods/ns_other_uid/c/0.log"
    lead(host, other, "/var/lib/docker/containers/x/x-json.log")
    lead(host, "/var/log/pods/ns_excluded_uid/c/0.log", "/var/lib/docker/containers/x/x-json.log")
    assert sizes(tracker) == {POD: 2, BY_CONTAINER: 2, other: 1}
    container(host, "y").unlink()
    assert sizes(tracker) == {other: 1}
    assert tracker.cache.status().polled == {}
    tracker.scan()
    assert tracker.discovery.missed == 0


def test_no_path_of_the_host_is_looked_for_in_the_agents_own_root(
    host: Path, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No system call of Python's gets one, whatever happens."""
    asked: list[str] = []

    def record(name: str) -> None:
        call = getattr(os, name)

        def recording(path: object, *arguments: object, **more: object) -> object:
            asked.append(str(path))
            return call(path, *arguments, **more)

        monkeypatch.setattr(os, name, recording)

    for name in ("stat", "lstat", "readlink", "scandir", "open"):
        record(name)
    tracker = track(groups=GROUPS, rootfs=str(host))
    log = container(host, "x")
    append(log, "67")
    assert sizes(tracker) == {POD: 7, BY_CONTAINER: 7}
    log.rename(f"{log}.1")
    touch(log)
    assert sizes(tracker) == {POD: 0, BY_CONTAINER: 0}
    tracker.scan()
    tracker.cache.audit()
    assert [path for path in asked if path.startswith("/var/log/pods")] == []
    assert [path for path in asked if path.startswith("/var/lib/docker")] == []


def test_only_what_is_on_the_host_is_found(tmp_path: Path, host: Path, track: Track) -> None:
    """Links that loop or lead to what only the agent has are no files until they lead to one; none leads out."""
    touch(tmp_path / "own.log")
    Path(f"{host}{tmp_path}").mkdir(parents=True)
    for name, target in {"own": str(tmp_path / "own.log"), "out": "../../own.log", "loop": "/loop.log"}.items():
        (host / f"{name}.log").symlink_to(target)
    (host / "to-root").symlink_to("../../..")
    groups = (LogGroup("g", ("/*.log", "/to-root/to-root/var/log/containers/*", f"{tmp_path}/*.log")),)
    tracker = track(groups=groups, rootfs=str(host))
    through_links = f"/to-root/to-root{BY_CONTAINER}"
    assert sizes(tracker) == {through_links: 5}
    Path(f"{host}{tmp_path}/own.log").write_text("123")
    (host / "own.log").unlink()
    (host / "own.log").symlink_to(f"{tmp_path}/own.log")
    assert sizes(tracker) == {through_links: 5, f"{tmp_path}/own.log": 3, "/own.log": 3, "/out.log": 3}


def test_what_was_renamed_between_two_agents_is_found(host: Path, track: Track) -> None:
    """Where a link leads, files are sought that were seen through it and have been renamed when nobody watched."""
    tracker = track(groups=GROUPS[:1], rootfs=str(host))
    log = container(host, "x")
    tracker.cache.unwatch_directory(os.path.dirname(f"/{log.relative_to(host)}"))
    log.rename(f"{log}.1")
    touch(log)
    assert sizes(tracker) == {POD: 0}
    append(Path(f"{log}.1"), "678")
    tracker.scan()
    assert appended(tracker) == 3


def test_holes_of_a_cut_file_do_not_count(host: Path, track: Track) -> None:
    """A writer that goes on at its old offset leaves a hole, which is searched for where the file is on the host."""
    tracker = track(groups=GROUPS[:1], rootfs=str(host))
    log = container(host, "x")
    append(log, "x" * 100_000)
    with log.open("r+") as writer:
        writer.seek(0, os.SEEK_END)
        assert appended(tracker) == 100_000
        os.truncate(log, 0)
        assert sizes(tracker) == {POD: 0}
        writer.write("after")
        writer.flush()
    assert appended(tracker) == 100_005


@as_root
def test_remote_directories_of_the_host(tmp_path: Path, fuse: Mount, track: Track) -> None:
    """What an absolute link leads to on a remote filesystem of the host is found by scans and polled."""
    remote = fuse("host/remote")
    touch(remote.source / "a/1.log", remote.source / "2.log")
    (remote.source / "link").symlink_to("/remote/a")
    (remote.source / "l.log").symlink_to("/remote/2.log")
    (tmp_path / "host/logs").symlink_to("/remote")
    tracker = track(groups=(LogGroup("g", ("/logs/**/*.log", "/logs/link/*.log")),), rootfs=str(tmp_path / "host"))
    assert sizes(tracker) == {"/logs/2.log": 0, "/logs/l.log": 0, "/logs/a/1.log": 0, "/logs/link/1.log": 0}
    append(remote.source / "a/1.log", "123")
    assert sizes(tracker) == {"/logs/2.log": 0, "/logs/l.log": 0, "/logs/a/1.log": 3, "/logs/link/1.log": 3}
    assert dict(tracker.cache.status().polled) == {"remote": 4}
