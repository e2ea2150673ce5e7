"""A seeded workload of log files, made by processes of their own, and its truth: what their `write` calls returned.

usage: python -m tests.e2e.workload --seed SEED --writer NUMBER FOLDER STYLE...

That is one writer, until SIGTERM; `Workload` starts several. A style is the life of one log, or of some in a folder:
a generator that yields how long it pauses. What a log does follows from the seed alone, how the logs interleave does
not. A log that is written to has a name that ends in `.log` first, and is to be counted whatever becomes of that name.

What cannot be seen may be lost: bytes not yet stat'ed when a file is truncated, or deleted and closed. So each of
these waits until the agents have seen the last write: until each of them has answered a scrape that began after it, or
could run for `known_after_s` since (see AgentClock; the wall clock says nothing of an agent on a machine that stands
still). A file that is deleted while it is open is kept open until the agents have seen that. A name that matches is
kept until it was seen, before one that does not takes its place (except by `hasty`, where the kernel tells of both, and
by `eager` and `fresh`, where births tell), and until a truncation was seen less is written than was there before. Logs
are only truncated to nothing: of a file that was left with some bytes nobody can say when these were written.
"""

import argparse
import contextlib
import gzip
import heapq
import json
import mmap
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.clock import LONGEST_TICK_S, AgentClock
from tests.support import Agent, Process, Scrape, wait_until

Life = Generator[float, None, None]

# The second one is told when a test fails; WORKLOAD_SEED=... runs it again.
SEEDS = (
    pytest.param(1, id="fixed"),
    pytest.param(int(os.environ.get("WORKLOAD_SEED", random.randrange(10**6))), id="random", marks=pytest.mark.long),
)

MAX_QUEUED_EVENTS = Path("/proc/sys/fs/inotify/max_queued_events")
FILES = 1 << 15  # that one writer can open
MOST_WRITERS = 16
ROTATIONS = ("0.log.20260102-150405{}", "0.log.{}")  # a rotated file's name tells which file it was
PODS = 25  # that one writer has at a time
SECOND_NS = 10**9
SAMPLED_NS = 3 * SECOND_NS // 2
"""For how long a file may be sampled after its last write."""
BYTES = b"a line of a log, more or less\n" * 4096


class Counts:
    """Numbers in a file, which processes share: each is written by one of them and read by any, at any moment."""

    def __init__(self, path: Path, size: int) -> None:
        """Open the file, made when it is missing: zeros."""
        with path.open("a+b") as file:
            file.truncate(size * 8)
            self.numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")


class Truth(Counts):
    """What one writer has written: two counters a file, one set before each write and one after it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 2 * FILES)

    def announce(self, file: int, size: int) -> None:
        """A write is about to be made."""
        self.numbers[2 * file] += size

    def complete(self, file: int, size: int) -> None:
        """A write has returned."""
        self.numbers[2 * file + 1] += size

    def announced(self) -> list[int]:
        """Bounds from above for what has been written, by file."""
        return list(self.numbers[::2])

    def completed(self) -> list[int]:
        """Bounds from below."""
        return list(self.numbers[1::2])


class Moment(NamedTuple):
    """When something was done."""

    monotonic_ns: int
    agent_ns: int  # on the AgentClock


class Control(Counts):
    """Tells the writers when the agents may be away, and what they have seen.

    While an agent is away the writers truncate and unlink nothing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "control", _WRITERS + MOST_WRITERS)

    def allow(self, seconds: float) -> None:
        """Take for granted that an agent has seen what was done once it could run for so long."""
        self.numbers[_ALLOWED] = int((seconds + LONGEST_TICK_S) * SECOND_NS)

    def tick(self, agent_ns: int) -> None:
        """Show the writers the AgentClock."""
        self.numbers[_CLOCK] = agent_ns

    def scraped(self, began_ns: int) -> None:
        """Each agent has answered a scrape that began at `began_ns` (monotonic) or later."""
        self.numbers[_SCRAPED] = began_ns

    def hold(self) -> None:
        """From now on nothing is truncated, nothing loses its last name or leaves.

        Returns when no writer is left that has begun something before it could know.
        """
        held = time.monotonic_ns()
        self.numbers[_HELD_CLOCK] = self.numbers[_CLOCK]
        self.numbers[_HELD] = held
        wait_until(lambda: all(number in (_RESTING, held) for number in self.numbers[_WRITERS:]), 30)

    def release(self) -> None:
        """The agents are there again."""
        self.numbers[_RELEASED_CLOCK] = self.numbers[_CLOCK]
        self.numbers[_HELD] = 0

    def is_held(self) -> bool:
        return self.numbers[_HELD] != 0

    def work(self, writer: int) -> None:
        """A writer begins with something, for which it asks whether it `is_held`."""
        self.numbers[_WRITERS + writer] = _WORKING
        self.numbers[_WRITERS + writer] = self.numbers[_HELD] or _WORKING

    def rest(self, writer: int) -> None:
        """It is done with that."""
        self.numbers[_WRITERS + writer] = _RESTING

    def now(self) -> Moment:
        return Moment(time.monotonic_ns(), self.numbers[_CLOCK])

    def was_looked_at(self, since: Moment) -> bool:
        """Whether the agents have seen what was done then."""
        if self.numbers[_SCRAPED] > since.monotonic_ns:
            return True
        until_ns = self.numbers[_HELD_CLOCK if self.is_held() else _CLOCK]
        return until_ns - max(since.agent_ns, self.numbers[_RELEASED_CLOCK]) >= self.numbers[_ALLOWED]


# Where the numbers of Control are, and what those of the writers mean.
_HELD, _HELD_CLOCK, _RELEASED_CLOCK, _ALLOWED, _CLOCK, _SCRAPED, _WRITERS = range(7)
_RESTING, _WORKING = range(2)


class Log:
    """A file, open to append."""

    def __init__(self, path: Path, fd: int, file: int, truth: Truth, now: Callable[[], Moment]) -> None:
        self.path, self.fd = path, fd
        self._file, self._truth, self._now = file, truth, now
        self.born = self.written = now()

    def write(self, size: int) -> None:
        """Append `size` bytes in one call."""
        self._truth.announce(self._file, size)
        written = os.write(self.fd, BYTES[:size])
        self._truth.complete(self._file, written)
        self.written = self._now()
        assert written == size

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def close(self) -> None:
        os.close(self.fd)


class Writer:
    """Writes logs, and counts and tells what it does.

    Args:
        top: where everything is.
        number: which writer it is.
        seed: what it does follows from it.
    """

    def __init__(self, top: Path, number: int, seed: int) -> None:
        self.top, self.number, self.seed = top, number, seed
        self.control = Control(top)
        self._truth = Truth(top / f"truth-{number}")
        self._journal = top / f"journal-{number}"
        self._files = 0
        self._is_told_to_stop = False

    def tell(self, action: str, *about: object) -> None:
        """Write into the journal, for whoever looks for a byte."""
        with self._journal.open("a") as journal:
            print(json.dumps([time.time(), action, *map(str, about)]), file=journal)

    def open(self, path: Path, *, known_as: Path | None = None) -> Log:
        """Open a file that is not open yet, or make it. `known_as`: the link to it, when only that is watched."""
        file, self._files = self._files, self._files + 1
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.tell("open", known_as or path, file)
        return Log(path, fd, file, self._truth, self.control.now)

    def run(self, styles: list[str]) -> None:
        """Live until SIGTERM, each style once."""
        signal.signal(signal.SIGTERM, self._stop)
        self.control.work(self.number)
        for pause_s in interleave([STYLES[style](Scene(self, style)) for style in styles]):
            self.control.rest(self.number)
            time.sleep(pause_s)
            if self._is_told_to_stop:
                break
            self.control.work(self.number)

    def _stop(self, *_: object) -> None:
        # A flag, not an exception: none may come between a write and its count.
        self._is_told_to_stop = True


def interleave(lives: Sequence[Life]) -> Life:
    """Lead several lives at once."""
    queue = [(0, number) for number in range(len(lives))]
    while True:
        due_ns, number = heapq.heappop(queue)
        yield max(0, due_ns - time.monotonic_ns()) / SECOND_NS
        pause_s = next(lives[number])
        heapq.heappush(queue, (time.monotonic_ns() + int(pause_s * SECOND_NS), number))


class Scene:
    """Where one life is lived, and what all lives do.

    Attributes:
        rng: what is done follows from it; never asked a number of times that depends on the clock.
        part: which of several lives of this style that share the folder.
        folder: watched; all others' are elsewhere.
        elsewhere: on the same filesystem, not watched.
    """

    def __init__(self, writer: Writer, style: str, *, part: int | None = None) -> None:
        self.writer, self.style, self.part = writer, style, part
        self.rng = random.Random(f"{writer.seed} {writer.number} {style}" + ("" if part is None else f" {part}"))
        self.folder, self.elsewhere = folders_of(writer.top, writer.number, style)
        for folder in (self.folder, self.elsewhere):
            folder.mkdir(parents=True, exist_ok=True)

    def size(self) -> int:
        """How much to write at once."""
        return self.rng.randint(1, 50_000) if self.rng.random() < 0.02 else self.rng.randint(1, 500)

    def write(self, *logs: Log, bursts: tuple[int, int] = (3, 30), pause_s: float = 0.03) -> Life:
        """Append to the logs at random; number of bursts, from and to; average pause between two."""
        for _ in range(self.rng.randint(*bursts)):
            for _ in range(self.rng.randint(1, 8)):
                self.rng.choice(logs).write(self.size())
            yield min(1.0, self.rng.expovariate(1 / pause_s))

    def quiet(self, *logs: Log) -> Life:
        """Wait until bytes that disappear right after this are lost to nobody."""
        control = self.writer.control
        while control.is_held() or not all(control.was_looked_at(log.written) for log in logs):
            yield 0.02
        now = control.now()
        for log in logs:
            if now.agent_ns - log.written.agent_ns < SAMPLED_NS:
                self.writer.tell("abrupt", log.path)  # it may be sampled: then nobody can say whether it was written

    def known(self, since: Moment) -> Life:
        """Wait until what was made then has been looked at; returns when the agent is away too."""
        while not self.writer.control.was_looked_at(since):
            yield 0.02

    def rename(self, old: Path, new: Path) -> None:
        """Rename a file or folder; what has the new name loses it."""
        os.replace(old, new)
        self.writer.tell("rename", old, new)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        os.unlink(path)
        self.writer.tell("unlink", path)


def append(scene: Scene) -> Life:
    """Appends, and now and then opens its log anew."""
    log = scene.writer.open(scene.folder / "0.log")
    while True:
        yield from scene.write(log)
        fd = os.open(log.path, os.O_WRONLY | os.O_APPEND)
        os.dup2(fd, log.fd)
        os.close(fd)


def busy(scene: Scene) -> Life:
    """Appends all the time."""
    log = scene.writer.open(scene.folder / "0.log")
    while True:
        yield from scene.write(log, pause_s=0.002)


def create(scene: Scene) -> Life:
    """Logrotate's `create`, under all kinds of names; two rotated files are kept."""
    names = ("0.log.{}", "0.log-2026010{}", "0-{}.log", "rotated-{}")
    yield from rotate(scene, scene.folder / "0.log", names)


def symlink(scene: Scene) -> Life:
    """The same behind two symbolic links: what is rotated is outside of the watched folders."""
    target, middle = scene.elsewhere / "target.log", scene.elsewhere / "links" / "middle"
    middle.parent.mkdir(exist_ok=True)
    middle.symlink_to(Path("..", target.name))
    known_as = scene.folder / "0.log"
    known_as.symlink_to(middle)
    yield from rotate(scene, target, ("target.log.{}", "rotated-{}"), known_as=known_as)


def rotate(scene: Scene, path: Path, names: tuple[str, ...], *, known_as: Path | None = None) -> Life:
    """Rotates a log whose writer goes on in the old file for a while."""
    log = scene.writer.open(path, known_as=known_as)
    rotated: list[tuple[Path, Log]] = []
    number = 0
    while True:
        yield from scene.write(log)
        yield from scene.known(log.born)
        number += 1
        target = path.with_name(scene.rng.choice(names).format(number))
        scene.rename(path, target)
        rotated.append((target, log))
        if scene.rng.random() < 0.5:  # for a moment there is none
            yield from scene.write(log, bursts=(1, 5))
        old, log = log, scene.writer.open(path, known_as=known_as)
        yield from scene.write(old, log)
        yield from retire(scene, rotated, 2)


def retire(scene: Scene, rotated: list[tuple[Path, Log]], kept: int) -> Life:
    """Deletes the oldest of the rotated files, but for some."""
    while len(rotated) > kept:
        oldest, last = rotated.pop(0)
        yield from scene.quiet(last)
        scene.unlink(oldest)
        last.close()


def numbered(scene: Scene) -> Life:
    """Shifts .1 to .2 to .3, the last of which is deleted or replaced; a slow writer goes on in the old ones."""
    path = scene.folder / "0.log"
    shelf = [scene.writer.open(path)]
    while True:
        yield from scene.write(*shelf[:3])
        yield from scene.known(shelf[0].born)
        if len(shelf) > 3:
            last = shelf.pop()
            yield from scene.quiet(last)
            last.close()
            if scene.rng.random() < 0.5:
                scene.unlink(scene.folder / "0.log.3")
        for number in reversed(range(1, len(shelf))):
            scene.rename(scene.folder / f"0.log.{number}", scene.folder / f"0.log.{number + 1}")
        scene.rename(path, scene.folder / "0.log.1")
        shelf.insert(0, scene.writer.open(path))


def truncate(scene: Scene) -> Life:
    """Logrotate's `copytruncate`, or a truncation without a copy."""
    log = scene.writer.open(scene.folder / "0.log")
    while True:
        yield from scene.write(log)
        yield from scene.quiet(log)
        left = log.size()
        if scene.rng.random() < 0.5:
            shutil.copyfile(log.path, scene.folder / "copy")
        os.ftruncate(log.fd, 0)
        scene.writer.tell("truncate", log.path, left)
        truncated = scene.writer.control.now()
        for _ in range(scene.rng.randint(0, 20)):
            size = min(scene.size(), left - 1)
            left -= size
            if size > 0:
                log.write(size)
            yield 0.01
        yield from scene.known(truncated)


def kubelet(scene: Scene) -> Life:
    """Rotates to a name with a date, compresses that a little later and removes it."""
    log = scene.writer.open(scene.folder / "0.log")
    number = 0
    while True:
        yield from scene.write(log)
        number += 1
        log = yield from rotate_as_kubelet(scene, log, number)


def rotate_as_kubelet(scene: Scene, log: Log, number: int) -> Generator[float, None, Log]:
    """Do that once; returns the new log."""
    yield from scene.known(log.born)
    rotated = log.path.with_name(f"0.log.20260102-15{number // 60:02}{number % 60:02}")
    packed = Path(f"{rotated}.gz")
    scene.rename(log.path, rotated)
    fresh = scene.writer.open(log.path)
    yield from scene.write(log, fresh, bursts=(1, 10))
    yield from scene.write(fresh)
    with rotated.open("rb") as plain, gzip.open(packed, "wb", compresslevel=1) as copy:
        shutil.copyfileobj(plain, copy)
    yield from scene.quiet(log)
    scene.unlink(rotated)
    log.close()
    if scene.rng.random() < 0.5:
        scene.unlink(packed)  # its inode is free for the next file
    return fresh


def pods(scene: Scene) -> Life:
    """The pods of a node, in one folder."""
    yield from interleave([succeeding_pods(Scene(scene.writer, scene.style, part=part)) for part in range(PODS)])


def succeeding_pods(scene: Scene) -> Life:
    """One pod after the other, of two containers: born, written, rotated by the kubelet or not, deleted."""
    number = 0
    while True:
        number += 1
        uid = f"{scene.rng.getrandbits(32):08x}"
        pod = scene.folder / f"{scene.rng.choice('abc')}_app-{scene.part}-{number}_{uid}"
        logs = []
        for container in ("main", "sidecar"):
            os.makedirs(pod / container)
            logs.append(scene.writer.open(pod / container / "0.log"))
            logs[-1].write(scene.size())
        for rotation in range(scene.rng.randint(0, 3)):
            yield from scene.write(*logs)
            rotating = scene.rng.randrange(2)
            logs[rotating] = yield from rotate_as_kubelet(scene, logs[rotating], rotation)
        yield from scene.write(*logs)
        yield from scene.quiet(*logs)
        for log in logs:
            log.close()
        shutil.rmtree(pod)
        scene.writer.tell("rmtree", pod)


def recreate(scene: Scene) -> Life:
    """Deletes its log and makes it again, often with the same inode number, or puts another file in its place."""
    path = scene.folder / "0.log"
    log = scene.writer.open(path)
    while True:
        yield from scene.write(log)
        yield from scene.quiet(log)
        way = scene.rng.choice(("at once", "still open", "later", "replaced"))
        if way != "still open":
            log.close()
        if way == "replaced":
            fresh = scene.folder / "fresh"
            fresh.touch()
            scene.rename(fresh, path)
        else:
            scene.unlink(path)
        if way == "later":
            yield scene.rng.uniform(0, 2)
        old, log = log, scene.writer.open(path)
        log.write(scene.size())
        if way == "still open":
            yield 0.1
            yield from scene.quiet()  # else nobody can say whether it was written before that
            old.close()


def tree(scene: Scene) -> Life:
    """Makes nested folders and writes into them at once; some are deleted, and made again under the same name."""
    trees: dict[Path, list[Log]] = {}
    while True:
        top = scene.folder / scene.rng.choice("abc")
        if top in trees:
            logs = trees.pop(top)
            yield from scene.quiet(*logs)
            for log in logs:
                log.close()
            shutil.rmtree(top)
            scene.writer.tell("rmtree", top)
        folder = top / scene.rng.choice(("", "x", "x/y", "x/y/z"))
        os.makedirs(folder)
        trees[top] = [scene.writer.open(folder / f"{number}.log") for number in range(scene.rng.randint(1, 4))]
        for log in trees[top]:
            log.write(scene.size())
        yield from scene.write(*(log for logs in trees.values() for log in logs))


def move(scene: Scene) -> Life:
    """Renames a folder while its logs are written, and moves it out of the watched folders and back."""
    home = scene.folder / "home"
    home.mkdir(exist_ok=True)
    logs = [scene.writer.open(home / f"{number}.log") for number in range(3)]
    number = 0
    while True:
        yield from scene.write(*logs)
        number += 1
        target = scene.folder / scene.rng.choice((f"home-{number}", f"deeper/{number}/home"))
        target.parent.mkdir(parents=True, exist_ok=True)
        if scene.rng.random() < 0.5:
            yield from scene.quiet(*logs)
            outside = scene.elsewhere / "home"
            scene.rename(home, outside)
            home = outside
            yield scene.rng.uniform(0, 2)
            yield from scene.quiet()
        scene.rename(home, target)
        home = target
        logs[number % 3].close()
        logs[number % 3] = scene.writer.open(home / f"{number + 2}.log")
        for log in logs:
            log.write(scene.size())


def hardlink(scene: Scene) -> Life:
    """Two names for one file, in two folders: either goes and comes again, in turn with writes."""
    one, other = scene.folder / "0.log", scene.folder / "other" / "1.log"
    other.parent.mkdir(exist_ok=True)
    log = scene.writer.open(one)
    there, missing = one, other
    while True:
        yield from scene.write(log)
        os.link(there, missing)
        linked = scene.writer.control.now()
        scene.writer.tell("link", there, missing)
        yield from scene.write(log)
        yield from scene.quiet()
        there, missing = scene.rng.sample((one, other), 2)
        if not scene.writer.control.was_looked_at(linked):
            scene.writer.tell("abrupt", missing)  # it may have been a file of its own
        scene.unlink(missing)
        log.write(scene.size())
        if scene.rng.random() < 0.3:
            scene.rename(there, missing)
            there, missing = missing, there


def hasty(scene: Scene) -> Life:
    """Writes, renames to a name that does not match and begins a new file, several times in a row without a pause."""
    path = scene.folder / "0.log"
    log = scene.writer.open(path)
    rotated: list[tuple[Path, Log]] = []
    number = 0
    yield from scene.write(log)
    yield from scene.known(log.written)  # what is renamed before its folder is watched, nobody can know
    while True:
        yield from scene.write(log)
        yield from scene.quiet()  # nothing more than that the agent is there
        for _ in range(scene.rng.randint(1, 3)):
            number += 1
            log.write(scene.size())
            target = scene.folder / f"rotated-{number}"
            scene.rename(path, target)
            rotated.append((target, log))
            log = scene.writer.open(path)
            log.write(scene.size())
        yield from scene.write(log, rotated[-1][1])
        yield from retire(scene, rotated, 4)


def eager(scene: Scene) -> Life:
    """Rotates by renaming, several times in a row without a pause, whether the agent is there or not."""
    path = scene.folder / "0.log"
    log = scene.writer.open(path)
    rotated: list[tuple[Path, Log]] = []
    number = 0
    yield from scene.write(log)
    yield from scene.known(log.written)  # it may be older than the agent
    while True:
        yield from scene.write(log)
        for _ in range(scene.rng.randint(1, 4)):
            number += 1
            log.write(scene.size())
            target = scene.folder / scene.rng.choice(ROTATIONS).format(number)
            scene.rename(path, target)
            rotated.append((target, log))
            log = scene.writer.open(path)
            log.write(scene.size())
        yield from scene.write(log, *(each for _, each in rotated[-3:]))
        yield from retire(scene, rotated, 4)


def fresh(scene: Scene) -> Life:
    """Rotates at once in folders just made, then goes on in all generations; the oldest folder is deleted."""
    folders: list[tuple[Path, list[Log]]] = []
    number = 0
    while True:
        number += 1
        folder = scene.folder / scene.rng.choice(("{}", "deep/{}", "deep/er/{}")).format(number)
        folder.mkdir(parents=True)
        path = folder / "0.log"
        logs = [scene.writer.open(path)]
        for rotation in range(scene.rng.randint(1, 3)):
            logs[-1].write(scene.size())
            if scene.rng.random() < 0.3:
                yield 0.001
            scene.rename(path, folder / scene.rng.choice(ROTATIONS).format(rotation))
            logs.append(scene.writer.open(path))
        folders.append((folder, logs))
        yield from scene.write(*logs)
        if len(folders) > 3:
            folder, logs = folders.pop(0)
            yield from scene.quiet(*logs)
            for log in logs:
                log.close()
            shutil.rmtree(folder)
            scene.writer.tell("rmtree", folder)


def savelog(scene: Scene) -> Life:
    """Rotates by a hard link and a rename over the old name; a slow writer goes on in the old file."""
    path = scene.folder / "0.log"
    log = scene.writer.open(path)
    rotated: list[tuple[Path, Log]] = []
    number = 0
    while True:
        yield from scene.write(log)
        yield from scene.known(log.born)
        yield from scene.quiet()
        number += 1
        target = scene.folder / f"0.log.{number}"
        os.link(path, target)
        scene.writer.tell("link", path, target)
        if scene.rng.random() < 0.5:
            yield scene.rng.uniform(0, 0.2)
        log.write(scene.size())
        made = scene.folder / "0.new"
        made.touch()  # just before it comes to its name: an agent that starts in between cannot know that it is new
        scene.rename(made, path)
        log.write(scene.size())
        rotated.append((target, log))
        log = scene.writer.open(path)
        yield from scene.write(rotated[-1][1], log)
        yield from retire(scene, rotated, 2)


def late(scene: Scene) -> Life:
    """Deletes its log or moves it away, out of all watched folders, and goes on in it to a last write before closing.

    Some are renamed first, and some moved ones are deleted while they are open.
    """
    path = scene.folder / "0.log"
    log = scene.writer.open(path)
    away: list[tuple[Path, Log]] = []
    number = 0
    while True:
        yield from scene.write(log)
        yield from scene.known(log.born)
        yield from scene.quiet()
        number += 1
        log.write(scene.size())
        gone = scene.folder / "rotated"
        if scene.rng.random() < 0.3:
            scene.rename(path, gone)
            log.write(scene.size())
        else:
            gone = path
        if scene.rng.random() < 0.5:
            away.append((scene.elsewhere / str(number), log))
            scene.rename(gone, away[-1][0])
            log.write(scene.size())
            old, log = log, scene.writer.open(path)
            yield from scene.write(old, log)
        else:
            yield from delete_open(scene, gone, log)
            log = scene.writer.open(path)
        if len(away) > 2:
            yield from delete_open(scene, *away.pop(0))


def delete_open(scene: Scene, path: Path, log: Log) -> Life:
    """Deletes a log and writes on; closes it after the last write at once."""
    yield from scene.quiet()
    scene.unlink(path)
    deleted = scene.writer.control.now()
    log.write(scene.size())
    yield from scene.write(log, bursts=(1, 10))
    yield from scene.known(deleted)  # from here on the kernel tells when it is closed
    yield from scene.quiet()
    log.write(scene.size())
    log.close()


def reopening(scene: Scene) -> Life:
    """Appends to a log that others rotate; opens it anew when the name leads to another file."""
    path = scene.folder / "0.log"
    log = scene.writer.open(path)
    while True:
        yield from scene.write(log, bursts=(1, 5), pause_s=0.005)
        with contextlib.suppress(FileNotFoundError):
            if not path.samefile(f"/proc/self/fd/{log.fd}"):
                log.close()
                log = scene.writer.open(path)


STYLES: Mapping[str, Callable[[Scene], Life]] = {
    life.__name__: life
    for life in (
        append,
        busy,
        create,
        symlink,
        numbered,
        truncate,
        kubelet,
        recreate,
        tree,
        move,
        hardlink,
        hasty,
        eager,
        fresh,
        savelog,
        late,
        reopening,
        pods,
    )
}
# Nobody else rotates where `reopening` is; `pods` is for the soak.
ALL = tuple(style for style in STYLES if style not in ("reopening", "pods"))
# Of these an agent may see a rotated name first. If only another configuration matches that, its bytes count no more.
SEEN_LATE = ("eager", "fresh")


def folders_of(top: Path, writer: int, style: str) -> tuple[Path, Path]:
    """The watched folder of a style, and the one that is not watched."""
    return top / "logs" / f"writer-{writer}" / style, top / "elsewhere" / f"writer-{writer}" / style


class Workload(contextlib.AbstractContextManager["Workload"]):
    """Writers under `top`: what is to be watched is in `top/logs`.

    Half of the folders are there before they start, some logs in them with bytes that count for nothing, unless
    `is_empty`.

    Args:
        top: a folder, empty.
        seed: what they do follows from it.
        styles: the lives that each of them leads.
        writers: how many.
        is_empty: whether there is nothing before they start.
        known_after_s: for how long an agent that is not scraped must have been able to run before the writers take
            away what it must have seen. Few files take it half a second for a look and as much for a rest.
        clock: what measures that, entered already; by default one of its own.

    Attributes:
        logs: what is to be watched.
        own: the number of one more writer, left to the test itself.
    """

    def __init__(
        self,
        top: Path,
        seed: int,
        styles: tuple[str, ...] = ALL,
        writers: int = 3,
        *,
        is_empty: bool = False,
        known_after_s: float = 2.0,
        clock: AgentClock | None = None,
    ) -> None:
        self.top, self.seed = top, seed
        self.logs = top / "logs"
        self.logs.mkdir()
        self.control = Control(top)
        self.control.allow(known_after_s)
        self._ending = contextlib.ExitStack()
        self._clock = AgentClock() if clock is None else clock
        self._is_clock_own = clock is None
        self._scraped_ns: dict[int, int] = {}  # by process id: when the latest scrape began
        self.own = writers
        self._styles = styles
        self._truths = [Truth(top / f"truth-{number}") for number in range(writers + 1)]
        self._processes: list[Process] = []
        self._agents: tuple[Agent, ...] = ()
        rng = random.Random(seed)
        for number in range(writers):
            for style in styles:
                if rng.random() < 0.5 and not is_empty:
                    folder, _ = folders_of(top, number, style)
                    folder.mkdir(parents=True)
                    if style != "symlink":
                        (folder / "0.log").write_bytes(BYTES[: rng.randint(0, 5000)])

    def __enter__(self) -> "Workload":
        if self._is_clock_own:
            self._ending.enter_context(self._clock)
        self._clock.on_tick.append(self.control.tick)
        self._ending.callback(self._clock.on_tick.remove, self.control.tick)
        return self

    def start(self, *agents: Agent) -> None:
        """Start the writers, for these agents; returns when each of them writes."""
        self.follow(*agents)
        for number, _ in enumerate(self._truths[:-1]):
            command = [sys.executable, "-m", __name__, f"--seed={self.seed}", f"--writer={number}", str(self.top)]
            self._processes.append(Process([*command, *self._styles], self.top / f"writer-{number}.out"))
        for process, truth in zip(self._processes, self._truths, strict=False):
            wait_until(lambda process=process, truth=truth: process.alive() and any(truth.completed()))  # type: ignore[misc]

    def follow(self, *agents: Agent) -> None:
        """Have these agents, and no others, see what is done from now on."""
        self._agents = agents
        self._clock.follow(*(agent.pid for agent in agents))

    def scraped(self, agent: Agent, began_ns: int) -> None:
        """It has answered a scrape that began then (monotonic)."""
        self._scraped_ns[agent.pid] = began_ns
        self.control.scraped(min(self._scraped_ns.get(pid, 0) for pid in self._clock.agents))

    def run_for(self, seconds: float) -> None:
        """Let the writers go on for a while."""
        time.sleep(seconds)
        assert all(process.alive() for process in self._processes)

    def stop(self) -> None:
        """Stop the writers; the truth does not change any more.

        They close what is deleted, so the agents see that first.
        """
        self.control.hold()
        for agent in self._agents:
            agent.scrape()
        while self._processes:
            process = self._processes.pop()
            assert process.alive()
            assert process.stop() == 0, process.log_path.read_text()

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.stop()
        self._ending.close()

    def completed(self) -> int:
        """A bound from below for what has been written."""
        return sum(map(sum, self._completed()))

    def announced(self) -> int:
        """A bound from above."""
        return sum(map(sum, self._announced()))

    def completed_by(self, number: int) -> int:
        """What one writer has written."""
        return sum(self._truths[number].completed())

    def check(self, agent: Agent) -> Scrape:
        """Scrape: what was counted lies between the truth before and after, so it is exact once the writers stopped."""
        completed = self._completed()
        began_ns = time.monotonic_ns()
        scrape = agent.scrape()
        self.scraped(agent, began_ns)
        announced = self._announced()
        counted, least, most = appended_bytes(scrape), sum(map(sum, completed)), sum(map(sum, announced))
        if not least <= counted <= most:
            raise AssertionError(
                f"counted {counted:.0f} bytes, written {least} to {most};"
                f" seed {self.seed}\n{self._account(scrape, completed, announced)}\nwhat was done: {self.top}/journal-*"
            )
        return scrape

    def explain(self, scrape: Scrape) -> str:
        """Tell, once the writers stopped, which files were counted wrong."""
        return self._account(scrape, self._completed(), self._announced())

    def _completed(self) -> list[list[int]]:
        return [truth.completed() for truth in self._truths]

    def _announced(self) -> list[list[int]]:
        return [truth.announced() for truth in self._truths]

    def _account(self, scrape: Scrape, completed: list[list[int]], announced: list[list[int]]) -> str:
        """By path, where what was counted is not what was written to the files that had this name first.

        Those that come last may well be right: their series have ended, and took their counters with them.
        """
        least: defaultdict[str, int] = defaultdict(int)
        most: defaultdict[str, int] = defaultdict(int)
        for number, _ in enumerate(self._truths):
            for path, file in self._journal(number, "open"):
                least[path] += completed[number][int(file)]
                most[path] += announced[number][int(file)]
        counted = by_path(scrape, "fstat_file_appended_bytes_total")
        return "\n".join(
            f"{path}: counted {counted.get(path, 'nothing: no series')}, written {least[path]} to {most[path]}"
            for path in sorted(least.keys() | counted.keys(), key=lambda path: (path not in counted, path))
            if not least[path] <= counted.get(path, 0) <= most[path]
        )

    def opened_by(self, number: int) -> int:
        """How many files a writer has opened."""
        return sum(1 for _ in self._journal(number, "open"))

    def truncations(self) -> int:
        """How many logs that were not empty have been truncated."""
        return sum(size != "0" for number in range(self.own) for _, size in self._journal(number, "truncate"))

    def doubts(self) -> dict[str, int]:
        """By reason, how often an agent may rightly be uncertain, at most."""
        return {"truncated": self.truncations(), "deleted": self._count("abrupt")}

    def _count(self, action: str) -> int:
        return sum(1 for number in range(self.own) for _ in self._journal(number, action))

    def _journal(self, number: int, action: str) -> Iterator[list[str]]:
        path = self.top / f"journal-{number}"
        for line in path.read_text().splitlines() if path.exists() else ():
            _, what, *about = json.loads(line)
            if what == action:
                yield about


def overflow(agent: Agent, logs: Sequence[Log], *, times: float = 1.2) -> None:
    """Write more than the kernel's queue of events holds, to logs of which it tells the agent, while that is stopped.

    So the queue overflows, once and for certain. Files that have been written all the time are sampled, and the kernel
    is silent about them: wait until they are quiet enough to be watched again.
    """
    paths = [log.path for log in logs]
    while True:
        wait_until(lambda: agent.is_told_of_writes(paths), 30)
        with agent.stopped():
            if agent.is_told_of_writes(paths):  # what holds now holds until it goes on
                # In turn: the kernel merges equal events only when they come one after the other.
                for number in range(int(times * int(MAX_QUEUED_EVENTS.read_text()))):
                    logs[number % len(logs)].write(1)
                return


def appended_bytes(scrape: Scrape) -> float:
    """What was counted in all groups."""
    return sum(scrape.values("fstat_group_appended_bytes_total"))


def by_path(scrape: Scrape, name: str) -> dict[str, float]:
    """The samples of a family of files."""
    return {dict(labels)["path"]: value for (sample, labels), value in scrape.samples.items() if sample == name}


def uncertain(scrape: Scrape, doubts: Mapping[str, int]) -> dict[str, float]:
    """By reason, how often bytes may have gone uncounted in all groups, where that is more than it may be."""
    found: Counter[str] = Counter()
    for (name, labels), value in scrape.samples.items():
        if name == "fstat_group_uncertain_total":
            found[dict(labels)["reason"]] += int(value)
    assert len(found) == 6
    return {reason: count for reason, count in found.items() if count > doubts.get(reason, 0)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--writer", type=int, required=True)
    parser.add_argument("folder", type=Path)
    parser.add_argument("styles", nargs="+", choices=STYLES)
    arguments = parser.parse_args()
    Writer(arguments.folder, arguments.writer, arguments.seed).run(arguments.styles)


if __name__ == "__main__":
    main()
