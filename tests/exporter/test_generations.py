"""Generations that nobody saw, against a model: random histories of a directory while events are lost.

Every generation that was rotated by renaming and still lies there uncompressed counts, once. No copy ever counts.
"""

import gzip
import os
import random
import shutil
from io import FileIO
from pathlib import Path

import pytest

from exporter.config.groups import LogGroup
from tests.exporter.tracking import Track, append, appended, running, tick

LOGS = ("app.log", "app.log.1", "other.log")  # one name begins with another
ROTATED = ("{}.{}", "{}-2026010{}", "{}.20260102-15040{}", "{}-2026-01-02T15:04:0{}Z", "{}_{}", "{}~{}")
OTHER = ("{}.bak{}", "{}.{}.bak", "{}.{}.gz", "{}-2026010{}.gz", "{}.{}.zst", "{}.copy.{}", "old-{}.{}", "{}.{}.tmp")
PATTERNS = (LOGS, ("app*.log", "oth*.log", "app.log.[1]"))
"""Without wildcards a directory is listed for rotated files only."""
SEEDS = range(12)


class History:
    """What is done to the logs of a directory.

    Args:
        folder: the directory.
        seed: what is done follows from it.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._rng = random.Random(seed)
        self._folder = folder
        self._number = 0
        self._seen: dict[int, int] = {}  # number of an inode -> its size when the agent saw it last
        self._log: dict[int, Path] = {}  # number of an inode -> the name under which it was made
        self._born: set[int] = set()  # inodes that the agent has not seen, made as logs
        self._unrecognizable: set[int] = set()  # those of them whose name does not tell which log they were

    def begin(self) -> None:
        """Write all logs."""
        for log in LOGS:
            self._write(self._folder / log)

    def live(self) -> None:
        """Do something. Copies whose name is like that of a rotated file come last, so that no log is younger."""
        actions = (self._write, self._write, self._rotate, self._rotate, self._rename, self._pack, self._copy)
        for _ in range(self._rng.randint(1, 12)):
            self._rng.choice(actions)(self._folder / self._rng.choice(LOGS))
            if self._rng.random() < 0.3:
                tick()  # else births tie
        tick()
        for log in LOGS:
            if self._rng.random() < 0.5 and (self._folder / log).exists():
                self._copy_as_rotated(self._folder / log)

    def take(self) -> int:
        """Return what has to count since the last call, according to what is there."""
        growth = 0
        sizes = {entry.inode(): entry.stat().st_size for entry in os.scandir(self._folder)}
        for inode in self._born - self._unrecognizable & sizes.keys():
            self._seen[inode] = 0
        self._seen = {inode: size for inode, size in self._seen.items() if inode in sizes}
        for inode, size in self._seen.items():
            growth += sizes[inode] - size if sizes[inode] >= size else sizes[inode]
            self._seen[inode] = sizes[inode]
        self._born.clear()
        self._unrecognizable.clear()
        return growth

    def _write(self, log: Path) -> None:
        is_new = not log.exists()
        append(log, "x" * self._rng.randint(1, 1000))
        if is_new:
            self._born.add(log.stat().st_ino)
            self._log[log.stat().st_ino] = log

    def _rotate(self, log: Path) -> None:
        if log.exists():
            self._replace(log, log.with_name(self._name(self._rng.choice(ROTATED), log)))
        if self._rng.random() < 0.9:
            self._write(log)

    def _rename(self, _: Path) -> None:
        """Renames a generation again: to another number, or to a name that tells nothing."""
        rotated = self._generation()
        if rotated is not None:
            inode = rotated.stat().st_ino
            forms = self._rng.choice((ROTATED, OTHER))
            if forms is OTHER:
                self._unrecognizable.add(inode)
            self._replace(rotated, rotated.with_name(self._name(self._rng.choice(forms), self._log[inode])))

    def _replace(self, old: Path, new: Path) -> None:
        if new.exists():
            self._forget(new)
        old.rename(new)

    def _pack(self, log: Path) -> None:
        """Compresses a generation."""
        rotated = self._generation()
        if rotated is not None:
            Path(f"{rotated}.gz").write_bytes(gzip.compress(rotated.read_bytes()))
            self._forget(rotated)
            rotated.unlink()

    def _copy(self, log: Path) -> None:
        """Copies a log, with its times or to a name that is not a rotated file's."""
        if log.exists() and self._rng.random() < 0.5:
            self._rng.choice((shutil.copy, shutil.copy2))(log, log.with_name(self._name(self._rng.choice(OTHER), log)))
        elif log.exists():
            tick()
            shutil.copy2(log, log.with_name(self._name("{}.8{}", log)))

    def _copy_as_rotated(self, log: Path) -> None:
        """Copies a log as logrotate's `copy` and `copytruncate` do."""
        target = log.with_name(f"{log.name}.9{self._number}")
        self._number += 1
        self._rng.choice((shutil.copy, shutil.copy2))(log, target)
        if self._rng.random() < 0.5:
            os.truncate(log, 0)

    def _generation(self) -> Path | None:
        names = [path for path in sorted(self._folder.iterdir()) if path.name not in LOGS and self._is_of_a_log(path)]
        return self._rng.choice(names) if names else None

    def _is_of_a_log(self, path: Path) -> bool:
        inode = path.stat().st_ino
        return inode in self._seen or inode in self._born - self._unrecognizable

    def _forget(self, path: Path) -> None:
        """Its inode's number may be another file's soon."""
        inode = path.stat().st_ino
        self._seen.pop(inode, None)
        self._born.discard(inode)
        self._unrecognizable.discard(inode)

    def _name(self, form: str, log: Path) -> str:
        self._number += 1
        return form.format(log.name, self._number)


@pytest.mark.parametrize("seed", SEEDS)
def test_while_the_agent_does_not_run(tmp_path: Path, seed: int) -> None:
    """A restart finds what was rotated meanwhile, some generations of which nobody ever saw under their first name."""
    folder = tmp_path / "logs"
    folder.mkdir()
    patterns = [f"{folder}/{name}" for name in PATTERNS[seed % 2]]
    history = History(folder, seed)
    counted = 0
    for _ in range(4):
        with running(tmp_path / "state", *patterns) as tracker:
            counted += history.take()
            assert appended(tracker) == counted
        history.live()


@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_new_directory(tmp_path: Path, track: Track, seed: int) -> None:
    """A directory that is listed for the first time may have any history."""
    tracker = track(*(f"*/{name}" for name in PATTERNS[seed % 2]), has_thread=False)
    counted = 0
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        history = History(folder, 100 * seed + number)
        history.live()
        counted += history.take()
        assert appended(tracker) == counted
        assert appended(tracker) == counted


@pytest.mark.parametrize("seed", SEEDS)
def test_after_an_overflow(tmp_path: Path, track: Track, seed: int) -> None:
    """When the kernel dropped the events of renames, the listing finds what was rotated."""
    folder, noise = tmp_path / "logs", tmp_path / "noise"
    for each in (folder, noise):
        each.mkdir()
    with FileIO(noise / "0.log", "a") as one, FileIO(noise / "1.log", "a") as other:
        tracker = track(*(f"logs/{name}" for name in PATTERNS[seed % 2]), "noise/*.log", has_thread=False)
        history = History(folder, seed)
        history.begin()
        counted = history.take()
        assert appended(tracker) == counted
        for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 100):
            counted += one.write(b"x") + other.write(b"x")
        history.live()
        counted += history.take()
        assert appended(tracker) == counted
        assert tracker.cache.status().queue_overflows == 1


@pytest.mark.parametrize("patterns", PATTERNS)
def test_births_that_tie(tmp_path: Path, track: Track, patterns: tuple[str, ...]) -> None:
    """A rotated file may be as old as its successor: here it is the same one. It counts once, and so do its names."""
    tracker = track(*(f"*/{name}" for name in patterns), has_thread=False)
    log = tmp_path / "new/other.log"
    log.parent.mkdir()
    append(log, "12345")
    os.link(log, f"{log}.20260102")
    assert appended(tracker) == 5
    log.unlink()
    append(log, "678")
    assert appended(tracker) == 8


@pytest.mark.parametrize("has_rootfs", [False, True])
def test_a_link_beside_a_copy(tmp_path: Path, track: Track, *, has_rootfs: bool) -> None:
    """A copy is younger than the link that has its name without an ending, whatever the link leads to now."""
    top, rootfs = ("", str(tmp_path)) if has_rootfs else (str(tmp_path), "/")
    tracker = track(groups=(LogGroup("g", (f"{top}/logs/*/*.log",)),), rootfs=rootfs, has_thread=False)
    new, logs = tmp_path / "new", tmp_path / "logs"
    for folder in (new, logs):
        folder.mkdir()
    append(tmp_path / "now", "12345")
    (new / "app.log").symlink_to("../../now")
    tick()
    append(new / "app.log.1", "12345")
    tick()
    (tmp_path / "now").unlink()
    append(tmp_path / "now", "678")
    new.rename(logs / "app")
    assert appended(tracker) == 3
