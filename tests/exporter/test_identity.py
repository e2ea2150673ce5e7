"""The same inode or another one, where births and device numbers do not show it: on real filesystems."""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.state.checkpoint import Checkpoint
from exporter.tracker import Tracker
from tests.exporter.tracking import append, appended, tick
from tests.support import as_root

pytestmark = as_root

OLD = 100_000


def run(*command: str | Path) -> str:
    """Run a command, and return what it writes."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class Restarts:
    """Trackers one after the other, each with the saved state of the one before."""

    def __init__(self, tmp_path: Path, *patterns: str) -> None:
        self._state = str(tmp_path / "state.db")
        self._patterns = patterns
        self._stack = contextlib.ExitStack()
        self.tracker = self._start()

    def _start(self) -> Tracker:
        tracker = Tracker(Config(logs=(LogGroup("g", self._patterns),)))
        self._stack.callback(tracker.close)
        checkpoint = Checkpoint(self._state, tracker.publication, tracker.realms, tracker.clock)
        self._stack.callback(checkpoint.close)
        restored = checkpoint.load(tracker.matcher.groups_of)
        if restored.saved_at_ns:
            since_ns = tracker.clock.restored(restored.saved_at_ns, restored.saved_at_boottime_ns, restored.boot_id)
            tracker.since_ns = dict.fromkeys(tracker.matcher.patterns, since_ns)
        self._checkpoint = checkpoint
        tracker.start()
        tracker.scan()
        tick()
        return tracker

    def appended(self) -> int:
        """What all files have grown by."""
        return appended(self.tracker)

    def rotations(self) -> int:
        """How often a log was replaced."""
        return self.tracker.publication.groups[0].rotations

    def stop(self) -> None:
        """Save, and close the tracker."""
        self.tracker.refresh(0)
        assert self._checkpoint.save(self.tracker.as_of_ns)
        self._stack.close()

    def start(self) -> None:
        """Go on with the next one."""
        self.tracker = self._start()


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., Restarts]]:
    """Starts a tracker that can be restarted: `follow("PATTERN", ...)`."""
    with contextlib.ExitStack() as stack:

        def start(*patterns: str) -> Restarts:
            restarts = Restarts(tmp_path, *patterns)
            stack.callback(restarts._stack.close)
            return restarts

        yield start


# -- overlayfs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def merged(tmp_path: Path) -> Iterator[Path]:
    """An overlay; `app.log` is old and comes with its lower layer."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for directory in (lower, upper, work, merged):
        directory.mkdir()
    (lower / "app.log").write_bytes(b"x" * OLD)
    tick()
    try:
        run("mount", "-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "overlay", merged)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no overlay here: {error.stderr}")
    yield merged
    run("umount", merged)


def birth_ns(tracker: Tracker, path: Path) -> int:
    """The birth of a file, by a stat now."""
    assert tracker.cache.look(str(path))
    tracker.refresh(0)
    stats = tracker.facts.paths[str(path)].stats
    assert stats is not None
    return stats.birth_ns


def test_a_file_that_is_copied_up(merged: Path, follow: Callable[..., Restarts]) -> None:
    """Written first, renamed then: it is the same file, and its rotation is one."""
    log = merged / "app.log"
    agent = follow(f"{merged}/*.log")
    append(log, "x" * 10)
    assert agent.appended() == 10
    log.rename(merged / "app.log.1")
    append(log, "x" * 5)
    append(merged / "app.log.1", "x" * 3)
    assert agent.appended() == 18
    assert agent.rotations() == 1


@pytest.mark.parametrize("is_written_before", [False, True])
def test_a_file_that_is_copied_up_while_nobody_looks(
    merged: Path, follow: Callable[..., Restarts], is_written_before: bool
) -> None:
    """It is the same after a restart, though it has another birth by now."""
    log = merged / "app.log"
    agent = follow(f"{merged}/*.log")
    before_ns = birth_ns(agent.tracker, log)
    if is_written_before:
        append(log, "x" * 10)
    agent.stop()
    append(log, "x" * 5)
    agent.start()
    assert birth_ns(agent.tracker, log) != before_ns, "it was copied up"
    assert agent.appended() == (15 if is_written_before else 5)
    assert agent.rotations() == 0


@pytest.mark.parametrize("is_noticed", [False, True])
def test_a_number_that_an_overlay_gives_again(merged: Path, follow: Callable[..., Restarts], is_noticed: bool) -> None:
    """A deleted log that is made again is a new one, whether its end was noticed before or not."""
    log = merged / "new.log"
    agent = follow(f"{merged}/*.log")
    append(log, "x" * 100)
    assert agent.appended() == 100
    number = log.stat().st_ino
    tick()
    log.unlink()
    if is_noticed:
        assert agent.appended() == 100
    append(log, "x" * 200)
    if log.stat().st_ino != number:
        pytest.skip("the filesystem below does not give numbers again at once")
    assert agent.appended() == 300
    assert agent.rotations() == 1
    append(log, "x" * 5)
    assert agent.appended() == 305


def test_a_log_made_while_nobody_looks(merged: Path, follow: Callable[..., Restarts]) -> None:
    """The birth says that it is new, though it is no part of the identity."""
    agent = follow(f"{merged}/*.log")
    agent.stop()
    append(merged / "new.log", "x" * 50)
    agent.start()
    assert agent.appended() == 50


def test_a_hole(merged: Path, follow: Callable[..., Restarts]) -> None:
    """It does not count on an overlay either."""
    log = merged / "hole.log"
    agent = follow(f"{merged}/*.log")
    append(log, "x" * 10)
    assert agent.appended() == 10
    with log.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"x" * 5)
    assert agent.appended() == 15


# -- other device numbers ----------------------------------------------------------------------------------------------


class Disks:
    """Two images of filesystems, mounted below a directory.

    Args:
        folder: where the images and mounts are.
        inode_bytes: ext4 has births in inodes of more than 128 bytes.
    """

    def __init__(self, folder: Path, inode_bytes: int) -> None:
        self.has_births = inode_bytes > 128
        self._folder = folder
        self._loops: dict[str, str] = {}
        for name in ("a", "b"):
            (folder / name).mkdir()
            image = folder / f"{name}.img"
            with image.open("wb") as file:
                file.truncate(4 << 20)
            run("mkfs.ext4", "-q", "-F", "-I", str(inode_bytes), image)

    def mount(self, names: str) -> None:
        """Mount them in this order, so that another order gives other numbers."""
        for name in names:
            self._loops[name] = run("losetup", "--find", "--show", self._folder / f"{name}.img")
            run("mount", self._loops[name], self._folder / name)

    def unmount(self) -> None:
        """Unmount all."""
        for name, loop in self._loops.items():
            run("umount", self._folder / name)
            run("losetup", "--detach", loop)
        self._loops.clear()

    def devices(self) -> dict[str, int]:
        """Their numbers."""
        return {name: (self._folder / name).stat().st_dev for name in self._loops}


@pytest.fixture(params=[256, 128], ids=["births", "no births"])
def disks(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Disks]:
    """Two disks, with births or without."""
    try:
        disks = Disks(tmp_path, request.param)
        disks.mount("ab")
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop devices or no mkfs.ext4 here: {error}")
    yield disks
    disks.unmount()


def renumber(disks: Disks) -> None:
    """Have the disks swap their numbers, as a reboot may do."""
    before = disks.devices()
    disks.unmount()
    disks.mount("ba")
    after = disks.devices()
    if before["a"] != after["b"]:
        pytest.skip("another process has taken the loop device")


def test_devices_that_swap_their_numbers(tmp_path: Path, disks: Disks, follow: Callable[..., Restarts]) -> None:
    """Each log is the one that was at its path before, though both have the same inode number."""
    logs = [tmp_path / name / "app.log" for name in "ab"]
    for number, log in enumerate(logs):
        log.write_bytes(b"x" * OLD * (number + 1))
    assert len({log.stat().st_ino for log in logs}) == 1
    agent = follow(f"{tmp_path}/?/*.log")
    assert bool(birth_ns(agent.tracker, logs[0])) == disks.has_births
    agent.stop()
    renumber(disks)
    append(logs[0], "x" * 10)
    append(logs[1], "x" * 5)
    agent.start()
    paths = agent.tracker.facts.paths
    assert agent.appended() == 15
    assert [paths[str(log)].appended_bytes for log in logs] == [10, 5]
    assert agent.rotations() == 0
    agent.stop()
    agent.start()
    assert agent.appended() == 15
    assert [agent.tracker.facts.paths[str(log)].appended_bytes for log in logs] == [10, 5]


@pytest.mark.parametrize("disks", [256], indirect=True)
def test_a_rotation_before_the_device_got_another_number(
    tmp_path: Path, disks: Disks, follow: Callable[..., Restarts]
) -> None:
    """The renamed log is found in its directory; its late bytes and those of its successor count."""
    log = tmp_path / "a/app.log"
    log.write_bytes(b"x" * OLD)
    agent = follow(f"{tmp_path}/?/*.log")
    agent.stop()
    log.rename(tmp_path / "a/app.log.1")
    append(tmp_path / "a/app.log.1", "x" * 10)
    append(log, "x" * 5)
    renumber(disks)
    agent.start()
    assert agent.appended() == 15
    assert agent.rotations() == 1
    append(tmp_path / "a/app.log.1", "x" * 3)
    assert agent.appended() == 18


# -- no filesystem -----------------------------------------------------------------------------------------------------


def test_a_filesystem_that_is_unmounted_for_a_while(tmp_path: Path, follow: Callable[..., Restarts]) -> None:
    """A rescan does not take its files for gone, though their handles lead nowhere: they count once."""
    disk, place = tmp_path / "disk", tmp_path / "place"
    for directory in (disk, place):
        directory.mkdir()
    run("mount", "-t", "tmpfs", "none", disk)
    try:
        run("mount", "--bind", disk, place)
        agent = follow(f"{place}/*.log")
        append(place / "a.log", "x" * OLD)
        assert agent.appended() == OLD
        run("umount", place)
        agent.tracker.scan()
        append(disk / "a.log", "x" * 10)
        run("mount", "--bind", disk, place)
        assert agent.appended() == OLD + 10
        assert agent.rotations() == 0
        run("umount", place)
    finally:
        run("umount", "--lazy", disk)
