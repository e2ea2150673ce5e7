"""A cache with another root: what it finds, watches and reports is what a process of the host would find there."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fstat_cache import FILESYSTEM, REMOTE, DirectoryEvent, FileStats, FStatCache
from fstat_cache.states import DIRECTORIES
from tests.fstat_cache.driven import events_taken, stats_taken
from tests.support import Mount, as_root, wait_until

POD = "/var/log/pods/ns_pod_uid/c/0.log"
CONTAINER = "/var/lib/docker/containers/x/x-json.log"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root of a host: what the container writes is reached through two absolute links."""
    host = tmp_path / "host"
    for path in ("/var/log/containers", POD.rpartition("/")[0], CONTAINER.rpartition("/")[0]):
        Path(f"{host}{path}").mkdir(parents=True)
    Path(f"{host}{CONTAINER}").write_text("12345")
    Path(f"{host}{POD}").symlink_to(CONTAINER)
    Path(f"{host}/var/log/containers/c.log").symlink_to(POD)
    return host


@pytest.fixture
def cache(host: Path) -> Iterator[FStatCache]:
    """A cache of that host, whose changes can be taken."""
    with FStatCache(root=host, keep_changes=True) as cache:
        yield cache


def size(stats: FileStats | None) -> int | None:
    return None if stats is None else stats.size


@pytest.mark.parametrize("path", [CONTAINER, POD, "/var/log/containers/c.log", f"/../..{POD}", f"/.//var/../{POD}"])
def test_a_file_is_followed_by_its_path_on_the_host(host: Path, cache: FStatCache, path: str) -> None:
    """Its growth, replacement and end are known after a sync(), by a watch; errors and lists have the host's path."""
    file = Path(f"{host}{CONTAINER}")
    assert size(cache.get_file_stats(path)) == 5
    assert cache.how_followed([path]) == ["watched"]
    assert cache.list_files_in_cache() == [path]
    with file.open("a") as opened:
        opened.write("6")
    cache.sync()
    assert size(cache.get_file_stats(path)) == 6
    (host / "new").write_text("another inode")
    (host / "new").replace(file)
    cache.sync()
    assert size(cache.get_file_stats(path)) == 13
    assert cache.cache_info().misses == 1
    file.unlink()
    cache.sync()
    assert cache.get_file_stats(path) is None
    assert [(name, size(stats)) for name, stats in stats_taken(cache)] == [
        (path, 5),
        (path, 6),
        (path, 13),
        (path, None),
    ]


def test_links_lead_as_on_the_host(tmp_path: Path, host: Path, cache: FStatCache) -> None:
    """A target that is there only for the agent is missing, ".." does not lead out, and a loop is an error."""
    own = tmp_path / "own.log"
    own.write_text("of the agent")
    for name, target in {
        "own": str(own),
        "out": "../../own.log",
        "out-and-in": f"../../../..{CONTAINER}",
        "nowhere": "/missing/at/all",
        "loop": "/loop",
        "directory": "/var/lib/docker",
        "below": "directory/containers/x/x-json.log",
    }.items():
        (host / name).symlink_to(target)
    for path in ("/own", "/out", "/nowhere", "/directory", str(own)):
        assert cache.get_file_stats(path) is None
        assert cache.look(path) is False
    for path in ("/out-and-in", "/below", "/directory/containers/x/x-json.log"):
        assert size(cache.get_file_stats(path)) == 5
        assert cache.look(path) is True
    with pytest.raises(OSError, match="/loop/x") as raised:
        cache.get_file_stats("/loop/x")
    assert (raised.value.errno, raised.value.filename) == (errno.ELOOP, "/loop/x")
    assert cache.survey({"/loop"}).keys() == {"/loop"}
    (host / "own").unlink()
    (host / "own").symlink_to(POD)
    assert size(cache.get_file_stats("/own")) == 5


def test_directories_are_watched_where_they_are_on_the_host(host: Path, cache: FStatCache) -> None:
    """What comes in one that an absolute link leads to is reported by the link's path."""
    (host / "logs").symlink_to("/var/log")
    assert cache.watch_directory("/logs/containers") is None
    assert cache.watch_directory("/") is None
    (host / "var/log/containers/new").touch()
    (host / "other").touch()
    cache.sync()
    assert events_taken(cache) == [
        DirectoryEvent("/logs/containers", "new", is_created=True),
        DirectoryEvent("/", "other", is_created=True),
    ]
    with pytest.raises(FileNotFoundError):
        cache.watch_directory(str(host))


def test_a_directorys_watch_covers_files_of_the_host(host: Path) -> None:
    """Without a watch to be had, a file in a watched directory is served from memory, a link to a file is polled."""
    link = f"{os.path.dirname(CONTAINER)}/link"
    Path(f"{host}{link}").symlink_to(CONTAINER)
    with FStatCache(root=host, max_watches=1, gather_s=60) as cache:
        assert cache.watch_directory(os.path.dirname(CONTAINER)) is None
        cache.build([CONTAINER, link])
        assert (cache.status().guarded, dict(cache.status().polled)) == (1, {"watch_limit": 1})
        with open(f"{host}{CONTAINER}", "a") as file:
            file.write("6")
        cache.sync()
        assert [size(cache.get_file_stats(path)) for path in (CONTAINER, link)] == [6, 6]


def test_a_directory_of_the_host_that_floods_is_sampled(host: Path, cache: FStatCache) -> None:
    """It is reported when it has changed, and no longer when it has not."""
    assert cache.watch_directory("/var/log") is None
    for number in range(DIRECTORIES.events):
        (host / f"var/log/{number}").touch()
    cache.sync()
    assert cache.status().hot_directories == 1
    assert DirectoryEvent("/var/log", None) in events_taken(cache)

    def is_quiet() -> bool:
        cache.sync()
        return events_taken(cache) == []

    wait_until(is_quiet)
    (host / "var/log/new").touch()
    cache.sync()
    assert {event.directory for event in events_taken(cache)} == {"/var/log"}


def test_an_audit_finds_a_link_that_was_pointed_elsewhere(host: Path, cache: FStatCache) -> None:
    """As the kernel reports nothing of it."""
    assert cache.get_file_stats(POD) is not None
    (host / "other").write_text("another")
    Path(f"{host}{POD}").unlink()
    Path(f"{host}{POD}").symlink_to("/other")
    assert cache.audit() == 1
    assert size(cache.get_file_stats(POD)) == 7


@as_root
def test_a_mount_on_the_host_is_seen_at_once(host: Path, cache: FStatCache) -> None:
    """One over what an absolute link leads to hides the file at the next sync(); it is back when it has ended."""
    (host / "link").symlink_to("/var/lib/docker/containers")
    path = "/link/x/x-json.log"
    assert size(cache.get_file_stats(path)) == 5
    point = f"{host}/var/lib/docker"
    subprocess.run(["mount", "-t", "tmpfs", "none", point], check=True)
    try:
        cache.sync()
        assert cache.get_file_stats(path) is None
    finally:
        subprocess.run(["umount", point], check=True)
    assert size(cache.get_file_stats(path)) == 5


@as_root
def test_filesystems_of_the_host_that_report_nothing_are_polled(host: Path, cache: FStatCache) -> None:
    """As /proc is, wherever the host has one."""
    (host / "kernel").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", host / "kernel"], check=True)
    try:
        assert cache.watch_directory("/kernel/sys") == FILESYSTEM
        assert cache.get_file_stats("/kernel/version") is not None
        assert cache.how_followed(["/kernel/version"]) == [FILESYSTEM]
    finally:
        subprocess.run(["umount", host / "kernel"], check=True)


@as_root
def test_remote_files_of_the_host_are_polled(tmp_path: Path, fuse: Mount) -> None:
    """Behind an absolute link, and everywhere where the whole root is remote; one that hangs is not waited for."""
    remote = fuse("host/remote")
    (remote.source / "a.log").write_text("123")
    (tmp_path / "host/link").symlink_to("/remote")
    for root, path in ((tmp_path / "host", "/link/a.log"), (tmp_path / "host/remote", "/a.log")):
        with FStatCache(root=root, remote_timeout_s=0.3) as cache:
            assert size(cache.get_file_stats(path)) == 3
            assert cache.how_followed([path]) == [REMOTE]
            assert cache.watch_directory(os.path.dirname(path)) == REMOTE
            remote.hang()
            try:
                with pytest.raises(TimeoutError):
                    cache.get_file_stats(path)
            finally:
                remote.answer()


def test_a_root_may_be_relative_or_a_link(tmp_path: Path, host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays the directory that it was at first."""
    (tmp_path / "link").symlink_to("host")
    monkeypatch.chdir(tmp_path)
    with FStatCache(root="link") as cache:
        monkeypatch.chdir("/")
        (tmp_path / "link").unlink()
        assert size(cache.get_file_stats(POD)) == 5
