"""Whatever happens to the logs between any two steps of changeovers, each refresh is exact."""

import os
import random
from pathlib import Path
from typing import BinaryIO

import pytest

from exporter.changeover import Changeover
from exporter.config.groups import LogGroup
from exporter.config.model import Config
from exporter.ops.fair_lock import FairLock
from exporter.tracker import Tracker
from tests.exporter.tracking import tick

PATTERNS = (("*/*.log",), ("*/*.log*",), ("[a-c]/*.log", "*/*.log"), ("a/*.log*", "*/*.log"))
"""Of which all match what is written first, and some what it is renamed to."""
KEPT = 3


class Shelf:
    """A log in a directory of its own, and what it was rotated to; writers still have all of them open."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        self._folder, self._rng = folder, rng
        self._is_numbered = rng.random() < 0.5
        self._rotations = 0
        self._names: list[str] = []
        self._files: list[BinaryIO] = []
        folder.mkdir()
        self.begin()

    def begin(self) -> None:
        """Make the log."""
        self._names.insert(0, "0.log")
        self._files.insert(0, (self._folder / "0.log").open("ab", buffering=0))

    def write(self) -> int:
        """Append to one of the files; return how much."""
        return self._rng.choice(self._files).write(b"x" * self._rng.randrange(1, 100))

    def retire(self) -> None:
        """Delete the oldest file, if there are enough."""
        if len(self._files) > KEPT:
            os.unlink(self._folder / self._names.pop())
            self._files.pop().close()

    def rotate(self) -> None:
        """Give the log another name, which some pattern matches or none does."""
        self._rotations += 1
        if self._is_numbered:
            for number in reversed(range(len(self._names))):
                self._rename(number, f"0.log.{number + 1}")
        else:
            self._rename(0, self._rng.choice(("0.log.{}", "0-{}.log", "rotated-{}")).format(self._rotations))

    def close(self) -> None:
        """End the writers."""
        for file in self._files:
            file.close()

    def _rename(self, number: int, name: str) -> None:
        os.rename(self._folder / self._names[number], self._folder / name)
        self._names[number] = name


class Node:
    """Logs that a tracker follows, and the truth."""

    def __init__(self, top: Path, rng: random.Random) -> None:
        self._top, self._rng = top, rng
        self._shelves = [Shelf(top / name, rng) for name in "abcde"]
        self._written = 0
        self.tracker = Tracker(self.config())
        self.tracker.scan()
        tick()

    def config(self) -> Config:
        """Return one that has all logs."""
        return Config(logs=(LogGroup("g", tuple(f"{self._top}/{each}" for each in self._rng.choice(PATTERNS)), ()),))

    def check(self) -> None:
        """Refresh, and compare."""
        self.tracker.refresh(0)
        assert self.tracker.publication.groups[0].appended_bytes == self._written

    def live(self, *moments: int) -> None:
        """Have something happen, a number of times; one of these numbers."""
        for _ in range(self._rng.choice(moments)):
            shelf = self._rng.choice(self._shelves)
            action = self._rng.randrange(6)
            if action < 3:
                self._written += shelf.write()
            else:
                self.check()  # what disappears next was looked at
            if action == 5:
                shelf.retire()
                shelf.rotate()
                if self._rng.random() < 0.5:
                    self._written += shelf.write()
                shelf.begin()

    def close(self) -> None:
        """End it."""
        self.tracker.close()
        for shelf in self._shelves:
            shelf.close()


@pytest.mark.parametrize("seed", [*range(20), *[pytest.param(seed, marks=pytest.mark.long) for seed in range(20, 200)]])
def test_each_refresh_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Logs are rotated, written late and deleted whenever the tracker lets go of its lock in a changeover, given up or
    not: nothing is counted twice, nothing is missing.
    """
    rng = random.Random(seed)
    node = Node(tmp_path, rng)
    release = FairLock.release
    is_alive = False

    def live_at_release(lock: FairLock) -> None:
        nonlocal is_alive
        release(lock)
        if is_alive:
            is_alive = False  # in what happens meanwhile the lock is released too
            node.live(0, 0, 1, 2, 4)
            is_alive = True

    monkeypatch.setattr("exporter.tracker.DIRECTORIES_AT_ONCE", 1)
    monkeypatch.setattr(FairLock, "release", live_at_release)
    for _ in range(8):
        node.live(*range(10))
        node.check()
        changeover = Changeover(node.tracker, node.config())
        is_alive = True
        if rng.random() < 0.8:
            changeover.prepare()
            changeover.finish(lambda: None)
            changeover.drop_old()
        else:
            if rng.random() < 0.7:
                changeover.prepare()
            changeover.abandon()
        is_alive = False
        node.check()
    node.close()
