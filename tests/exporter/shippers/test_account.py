"""The account of a shipper, against simulated shippers that read real files in simulated time."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from exporter.ledger.books import InodeBookings
from exporter.shippers.account import Account
from exporter.shippers.logs import Log
from exporter.shippers.matching import StateRead
from exporter.tracker import Tracker
from tests.exporter.shippers.simulated import SECOND, SHIPPERS, File, Shipper, World
from tests.exporter.tracking import Track

SEEDS = [*range(1), *[pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 13)]]
INTERVALS_S = (5, 15, 30, 60)
TOTAL = (0, ())


class Simulation:
    """An agent beside a shipper, with checks after each update.

    Args:
        folder: where the logs are.
        tracker: tracks them.
        kind: the shipper's type.
        seed: what happens follows from it.
        copies, is_tidy: see :class:`World`.
        is_complete: see :class:`Account`.

    Attributes:
        is_lossless: whether it is wrong to show lost bytes, or a log that is behind.
    """

    def __init__(
        self,
        folder: Path,
        tracker: Tracker,
        kind: type[Shipper],
        seed: int,
        *,
        copies: bool = False,
        is_tidy: bool = False,
        is_complete: bool = False,
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.tracker = tracker
        self.world = World(folder, rng, copies=copies, is_tidy=is_tidy)
        self.shipper = self.world.shipper = kind(self.world)
        self.is_lossless = True
        self._interval_ns = rng.choice(INTERVALS_S) * SECOND
        self._next_ns = 0
        self.account = Account(
            tracker.facts,
            lambda inode: list(inode.homes),
            lambda home: ((home.realm, ()), (home.realm, (os.path.basename(home.name)[:1],))),
            moment_of=self.world.moment_of,
            flush_ns=int(kind.flush_s * SECOND),
            quiet_ns=kind.quiet_s * SECOND,
            is_complete=is_complete,
        )
        self.sums = self.account.sums[TOTAL]
        for path in [folder / name for name in self.world.names]:
            self.world.create(path)
            for _ in range(rng.randint(0, 2)):
                self.world.append(path)
        self.shipper.step()
        self.shipper.flush()
        tracker.refresh(0)
        self._bookings = InodeBookings()
        tracker.facts.read_inodes(self._bookings)
        self.world.now_ns += SECOND
        state = self.shipper.state()
        shown = sum(position.offset for positions, _ in state.files.values() for position in positions)
        self._baseline = shown - sum(file.size for file in self.world.known.values()) + self.appended
        self._update(state)

    @property
    def appended(self) -> int:
        """How many bytes were written, as the facts know it."""
        return sum(path.appended_bytes for path in self.tracker.facts.paths.values())

    def live(self, seconds: int, quiet: float) -> None:
        """Let time pass: in each second something may happen, and the shipper reads. The agent is brought up to date
        when it is time for a scrape, and each second for ten seconds after a rename, deletion or truncation.

        Args:
            seconds: for how long.
            quiet: how likely it is that nothing happens to a log in a second.
        """
        world = self.world
        for _ in range(seconds):
            world.now_ns += SECOND
            world.act(quiet)
            self.tracker.advance()  # as its thread does
            if world.changed_ns == world.now_ns and self.rng.random() < 0.5:
                self.update()
            self.shipper.step()
            if world.now_ns >= self._next_ns or world.now_ns - world.changed_ns <= 10 * SECOND:
                self.update(races=self.rng.random() < 0.2 and quiet < 1)
            if world.now_ns >= self._next_ns:
                self._next_ns = world.now_ns + self._interval_ns

    def update(self, *, races: bool = False) -> None:
        """Bring the account up to date. At times the state cannot be read, or is older than the facts."""
        state = self.shipper.state() if self.rng.random() < 0.97 or not self.is_lossless else None
        if races:
            self.world.now_ns += SECOND // 1000
            self.world.act(0.5)
            self.shipper.step()
        self._update(state)

    def _update(self, state: StateRead | None) -> None:
        self.tracker.refresh(0)
        with self.tracker.facts.lock:
            self.account.update(self.world.now_ns, self._bookings, state)
            self._bookings.clear()
            for log in self.account.to_examine():
                if (path := self.file(log).path) is not None:
                    self.account.examine(log, path.read_bytes()[log.begin : log.size])
            self.check()

    def file(self, log: Log) -> File:
        """The file of a log."""
        return self.world.known[log.inode.identity]

    def check(self) -> None:
        """Check what holds at any moment."""
        account, sums, now_ns = self.account, self.sums, self.world.now_ns
        # Read again: an unseen truncation shows by an offset that goes back.
        again = {log: log.unread - log.rest for log in account.logs.values() if log.unread}
        assert all(self.file(log).truncations for log, count in again.items() if count)
        counted = sums.read + sums.unread - sum(again.values()) + sums.lost + sums.unaccounted
        assert counted == self.appended - self._baseline
        assert sums.unread == sum(log.unread for log in account.logs.values())
        if self.is_lossless:
            assert sums.lost == 0
            assert sums.files["behind"] == 0
        for log in account.logs.values():
            writes = [written_ns for written_ns, size in self.file(log).writes if size > (log.offset or 0)]
            if not self.file(log).truncations:  # a truncation shows only if the size is less then
                assert log.since_ns is None or log.since_ns >= min(writes, default=now_ns)
        parts = [part for key, part in account.sums.items() if key != TOTAL]
        for name in ("read", "lost", "unaccounted", "unread", "unclaimed"):
            assert sum(getattr(part, name) for part in parts) == getattr(sums, name) >= 0
        assert sum([part.files for part in parts], Counter()) == +sums.files
        assert min(sums.files.values(), default=0) >= 0


@pytest.mark.parametrize("kind", SHIPPERS)
@pytest.mark.parametrize("seed", SEEDS)
def test_lossless(tmp_path: Path, track: Track, kind: type[Shipper], seed: int) -> None:
    """A shipper that reads all before it lets go of a log has lost nothing and is never behind, at any moment. All
    bytes are accounted for, no age is overstated, and in the end only what it does not read or report is unread."""
    rng = random.Random(seed)
    copies = rng.random() < 0.7  # a copy that is tracked would be a log without a position
    tracker = track(*["*.log", "*.log.1"][: 2 - copies], has_thread=False)
    simulation = Simulation(tmp_path, tracker, kind, seed, copies=copies, is_complete=rng.random() < 0.3)
    for _ in range(rng.randint(1, 6)):
        simulation.live(rng.randint(10, 200), rng.choice([0.5, 0.9, 0.98]))
    simulation.live(800, 1)
    parts = sum(file.size - file.whole for file in simulation.world.files.values())
    assert simulation.sums.unread <= (0 if kind.reads_parts else parts) or kind.quiet_s
    assert set(+simulation.sums.files) <= {"read", "held"}


@pytest.mark.parametrize("kind", [kind for kind in SHIPPERS if not kind.quiet_s])
@pytest.mark.parametrize("seed", SEEDS[:30])
def test_stopped(tmp_path: Path, track: Track, kind: type[Shipper], seed: int) -> None:
    """While a shipper is stopped, what is written is unread. What is then deleted, or renamed before it starts again,
    is lost, to the byte; the rest is read afterwards."""
    rng = random.Random(seed)
    tracker = track("*.log", has_thread=False)
    simulation = Simulation(tmp_path, tracker, kind, seed, is_tidy=True)
    world, shipper, sums = simulation.world, simulation.shipper, simulation.sums
    simulation.live(rng.randint(10, 60), 0.9)
    simulation.live(700, 1)
    for path in [tmp_path / name for name in world.names if tmp_path / name not in world.files]:
        world.create(path)
    simulation.live(130, 1)
    assert (sums.unread, sums.lost) == (0, 0)
    shipper.stop()
    simulation.live(130, 1)
    simulation.is_lossless = False  # from now on, all states can be read
    unaccounted, offsets = sums.unaccounted, {file: file.size for file in world.files.values() if file.writer >= 0}
    old = {*world.known.values()} - offsets.keys()

    def unread(*, is_deleted: bool) -> int:
        files = {*world.known.values()} - old
        return sum(file.size - offsets.get(file, 0) for file in files if (file.path is None) == is_deleted)

    rest_s = int(kind.flush_s) + 62
    for _ in range(rng.randint(1, 4)):
        for path in [tmp_path / name for name in world.names]:
            for _ in range(rng.randint(0, 2)):
                world.append(path)
        simulation.live(61, 1)
        assert (sums.unread, sums.unaccounted) == (unread(is_deleted=False) + unread(is_deleted=True), unaccounted)
        world.rotate(tmp_path / rng.choice(world.names))
        for path in [tmp_path / name for name in world.names if tmp_path / name not in world.files]:
            world.create(path)
    assert sums.lost == 0
    simulation.live(rest_s, 1)
    world.recreate(tmp_path / rng.choice(world.names))
    simulation.live(rest_s, 1)
    held = sum(file.size - offsets[file] for file in shipper.readers if file.path is None)  # by a stopped process
    assert (sums.lost, sums.unaccounted) == (unread(is_deleted=True) - held, unaccounted)
    assert sums.unread == unread(is_deleted=False) + held
    renamed = [file for file in {*world.known.values()} - old if file.writer < 0 and file not in shipper.readers]
    shipper.resume()
    simulation.update()  # before it closes renamed logs that it reads now: nothing would show that it has
    simulation.live(800, 1)
    assert sums.lost == sum(file.size - offsets.get(file, 0) for file in renamed)
    assert (sums.unread, sums.unaccounted, +sums.files) == (0, unaccounted, Counter(read=len(world.names)))
