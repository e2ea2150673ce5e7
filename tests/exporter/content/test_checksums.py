"""Checksums of small files: real files, a real tracker, the worker's thread."""

import errno
import os
import time
import zlib
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from exporter.content import contents
from exporter.content.reading import checksum
from tests.exporter.content.reading_agent import ReadingAgent, StartReading
from tests.exporter.tracking import append
from tests.support import as_root, wait_until

NOBODY = 65534


@pytest.fixture
def group(tmp_path: Path) -> LogGroup:
    """A group whose files have checksums."""
    return LogGroup("g", (f"{tmp_path}/*.conf",), metrics=frozenset(["crc32"]))


def shown(agent: ReadingAgent, path: Path) -> float | None:
    """What a scrape shows of a file."""
    return agent.scrape().value("fstat_file_crc32", path=str(path))


def wait_for(agent: ReadingAgent, path: Path) -> None:
    """Wait until the checksum is that of the content."""
    wait_until(lambda: shown(agent, path) == zlib.crc32(path.read_bytes()))


def test_checksums(tmp_path: Path, group: LogGroup, start_reading: StartReading) -> None:
    """It is the CRC-32 of the content; after a change, or with another file at the path, it is that or absent."""
    path, empty = tmp_path / "a.conf", tmp_path / "b.conf"
    path.write_text("one\n" * 50_000)
    empty.touch()
    agent = start_reading(group)
    wait_for(agent, path)
    wait_until(lambda: shown(agent, empty) == 0)
    before = shown(agent, path)
    append(path, "two\n")
    assert shown(agent, path) in (None, zlib.crc32(path.read_bytes()))
    wait_for(agent, path)
    new = tmp_path / "new"
    new.write_text("one\n" * 50_000)
    new.replace(path)
    wait_for(agent, path)
    assert shown(agent, path) == before
    path.rename(tmp_path / "c.conf")
    wait_for(agent, tmp_path / "c.conf")


def test_a_change_of_permissions_alone(tmp_path: Path, start_reading: StartReading) -> None:
    """The checksum stays, because the content does, also where the group shows permissions."""
    path = tmp_path / "a.conf"
    path.write_text("one\n")
    agent = start_reading(LogGroup("g", (f"{tmp_path}/*.conf",), metrics=frozenset(["crc32", "mode"])))
    wait_for(agent, path)
    path.chmod(0o600)
    scrape = agent.scrape()
    assert scrape.value("fstat_file_mode_info", mode="0600") == 1
    assert scrape.value("fstat_file_crc32") == zlib.crc32(path.read_bytes())


def test_same_size_and_time_of_another_second(tmp_path: Path, group: LogGroup, start_reading: StartReading) -> None:
    """Changes in quick succession that keep the size are not missed."""
    path = tmp_path / "a.conf"
    path.write_text("0000")
    agent = start_reading(group)
    for number in range(300):
        with path.open("r+") as file:
            file.write(f"{number:04}")
    wait_for(agent, path)


def test_only_after_a_change(
    tmp_path: Path, group: LogGroup, start_reading: StartReading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read once, and again only if its size, time or inode is another one."""
    reads: list[int] = []
    monkeypatch.setattr(contents, "checksum", lambda fd, stats: (reads.append(fd), checksum(fd, stats))[1])
    path = tmp_path / "a.conf"
    path.write_text("1")
    os.utime(path, ns=(0, 10**18))
    agent = start_reading(group)
    wait_for(agent, path)
    assert len(reads) == 1
    path.chmod(0o600)
    os.link(path, tmp_path / "other")
    append(tmp_path / "b.conf", "2")
    wait_for(agent, tmp_path / "b.conf")
    assert shown(agent, path) == zlib.crc32(b"1")
    count = len(reads)
    os.utime(path, ns=(0, 2 * 10**18))
    wait_for(agent, path)
    assert len(reads) == count + 1


def test_large_files(tmp_path: Path, group: LogGroup, start_reading: StartReading) -> None:
    """One beyond the limit has no checksum, until it is smaller."""
    path, small = tmp_path / "a.conf", tmp_path / "b.conf"
    path.write_bytes(b"1" * 101)
    small.write_bytes(b"1" * 100)
    agent = start_reading(group, max_size=100)
    wait_for(agent, small)
    assert shown(agent, path) is None
    os.truncate(path, 100)
    wait_for(agent, path)
    append(path, "1")
    assert shown(agent, path) is None


def test_a_failure_that_passes(
    tmp_path: Path, group: LogGroup, start_reading: StartReading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cannot be opened for a moment is read after it, though it does not change."""
    monkeypatch.setattr(contents, "PAUSE_S", 0.1)
    real_open, until_s = contents.open_for_reading, time.monotonic() + 0.5

    def refuse_for_a_moment(found: int, identity: tuple[int, int, int]) -> int:
        if time.monotonic() < until_s:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real_open(found, identity)

    monkeypatch.setattr(contents, "open_for_reading", refuse_for_a_moment)
    path = tmp_path / "a.conf"
    path.write_text("1")
    os.utime(path, ns=(0, 10**18))
    wait_for(start_reading(group), path)


@as_root
def test_links_of_others(tmp_path: Path, group: LogGroup, start_reading: StartReading) -> None:
    """A user's link to a file of root does not publish its checksum."""
    secret, link, plain = tmp_path / "secret", tmp_path / "a.conf", tmp_path / "b.conf"
    secret.write_text("password")
    plain.write_text("plain")
    link.symlink_to(secret)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    agent = start_reading(group)
    wait_for(agent, plain)
    append(secret, "s")
    append(plain, "s")
    wait_for(agent, plain)
    assert shown(agent, link) is None
    os.chown(secret, NOBODY, NOBODY)
    append(secret, "s")
    wait_for(agent, link)
