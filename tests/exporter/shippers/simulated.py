"""Real logs in simulated time, and simulated shippers: one for each way to identify a log and to forget it."""

from __future__ import annotations

import os
import random
import shutil
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exporter.shippers.matching import StateRead
from exporter.shippers.positions import Position
from fstat_cache import file_time_ns
from fstat_cache.stats import status_of

SECOND = 10**9
_ROTATE_WAIT_NS = 5 * SECOND
_LATE_NS = 3 * SECOND


def _tick() -> None:
    """Let the clock of files go on, without the pause of a test that waits for something slow."""
    now_ns = time.time_ns()
    while file_time_ns() <= now_ns:
        time.sleep(0.001)


@dataclass(eq=False)
class File:
    """A log file of the world, whatever its names are.

    Attributes:
        path: where it is; None: deleted.
        number, device: of its inode.
        writer: the descriptor that it is written by; -1: closed.
        writes: moments, and the size after each.
        whole: up to where its lines are finished.
        truncations: how often it was truncated.
    """

    path: Path | None
    number: int
    device: int
    writer: int
    writes: list[tuple[int, int]] = field(default_factory=list)
    whole: int = 0
    truncations: int = 0

    @property
    def size(self) -> int:
        """Its size, bytes."""
        return self.writes[-1][1] if self.writes else 0

    def written_ns(self, offset: int) -> int:
        """When the byte at an offset was written."""
        return self.writes[bisect_left(self.writes, offset + 1, key=lambda write: write[1])][0]


class World:
    """Logs that are written and rotated.

    Args:
        folder: where the logs are.
        rng: what happens follows from it.
        copies: whether logs may be rotated by a copy and a truncation.
        is_tidy: whether lines are written whole, and nothing is written to renamed or deleted logs.

    Attributes:
        now_ns: the present moment.
        changed_ns: when a log was renamed, deleted or truncated last.
        files: those at a path, by it.
        known: all files by number, the latest last.
        shipper: reads all before a truncation.
    """

    names = ("a.log", "b.log", "c.log")

    def __init__(self, folder: Path, rng: random.Random, *, copies: bool, is_tidy: bool) -> None:
        self.folder = folder
        self.rng = rng
        self.is_tidy = is_tidy
        self.now_ns = 1000 * SECOND
        self.changed_ns = 0
        self.files: dict[Path, File] = {}
        self.known: dict[tuple[int, int, int], File] = {}
        self.shipper: Shipper | None = None
        self._births: dict[int, int] = {}
        self._steps = [(0, 0)]  # times of files, and the moments that began then
        self._written_ns = 0
        self._late: dict[File, int] = {}
        appending: list[Callable[[Path], None]] = [self.append] * 8 + [self.append_partially] * 2 * (not is_tidy)
        renaming = [*appending, self.rotate, self.rotate, self.recreate, self.remove]
        copying = [*appending, self.copy_and_truncate, self.copy_and_truncate, self.recreate, self.remove]
        self._actions = {name: copying if copies and rng.random() < 0.4 else renaming for name in self.names}

    def moment_of(self, time_ns: int) -> int | None:
        """The moment of a birth; of another time of a file one that is not before it."""
        if time_ns in self._births:
            return self._births[time_ns]
        return self._steps[bisect_right(self._steps, time_ns, key=lambda step: step[0]) - 1][1]

    def act(self, quiet: float) -> None:
        """Let something happen to some logs."""
        moment_ns = self._steps[-1][1]
        is_precise = self.now_ns - moment_ns < SECOND or (self.shipper is not None and self.shipper.quiet_s)
        if is_precise and self._written_ns == moment_ns:
            _tick()  # else the time of a write is that of any of several moments
        self._steps.append((file_time_ns(), self.now_ns))
        for file in [file for file, until_ns in self._late.items() if self.now_ns >= until_ns]:
            del self._late[file]
            self.close(file)
        for file in self._late:
            if self.rng.random() < 0.3:
                self.write(file, self.rng.choice([b"late\n", b"late"]))
        for name in self.names:
            path = self.folder / name
            if self.rng.random() < quiet:
                continue
            if path in self.files:
                self.rng.choice(self._actions[name])(path)
            else:
                self.create(path)

    def create(self, path: Path) -> File:
        """Begin a log."""
        _tick()  # births have its resolution
        writer = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND)
        status = status_of(path)
        file = self.files[path] = File(path, status[3], status[4], writer)
        self.known[status[4], status[3], status[5]] = file
        self._births[status[5]] = self.now_ns
        _tick()
        if self.rng.random() < 0.5:
            self.write(file, b"first%s\n" % (b"x" * self.rng.randint(0, 99) * self.is_tidy))
        return file

    def write(self, file: File, data: bytes) -> None:
        """Append to a log."""
        os.write(file.writer, data)
        if b"\n" in data:
            file.whole = file.size + data.rindex(b"\n") + 1
        self._written_ns = self.now_ns
        file.writes.append((self.now_ns, file.size + len(data)))

    def close(self, file: File) -> None:
        """Close a log's writer."""
        os.close(file.writer)
        file.writer = -1

    def append(self, path: Path) -> None:
        """Append lines, at times many."""
        lines = self.rng.choice([1, 1, 1, 2, 5, 400])
        self.write(self.files[path], b"".join(b"x" * self.rng.randint(0, 99) + b"\n" for _ in range(lines)))

    def append_partially(self, path: Path) -> None:
        """Append an unfinished line, at times after a finished one."""
        self.write(
            self.files[path],
            self.rng.choice([b"", b"", b"x" * self.rng.randint(7, 99) + b"\n"]) + b"y" * self.rng.randint(1, 50),
        )

    def rotate(self, path: Path) -> None:
        """Rename a.log.1 to a.log.2, and the log to a.log.1; create it again."""
        self._shift(path)
        self._move(path, Path(f"{path}.1"))
        if self.rng.random() < 0.9:
            self.create(path)

    def recreate(self, path: Path) -> None:
        """Delete a log and create it again, mostly with the same inode number."""
        self.remove(path)
        if path not in self.files:
            self.create(path)

    def remove(self, path: Path) -> None:
        """Delete a log; at times it is still written for a while."""
        if self.files[path].truncations:
            return  # what was written right before would count as a hole: deleted, nobody can read it
        file = self.files.pop(path)
        self._end_soon(file)
        os.unlink(path)
        file.path, self.changed_ns = None, self.now_ns

    def copy_and_truncate(self, path: Path) -> None:
        """Rotate a log by copying and truncating it, after the shipper has read all lines."""
        file = self.files[path]
        self._shift(path)
        if self.shipper is not None:
            self.shipper.step()
        shutil.copyfile(path, f"{path}.1")
        os.ftruncate(file.writer, 0)
        file.writes, file.whole, self.changed_ns = [], 0, self.now_ns
        file.truncations += 1

    def _shift(self, path: Path) -> None:
        if os.path.exists(f"{path}.1"):
            if (oldest := self.files.get(Path(f"{path}.2"))) is not None:
                oldest.path = None
            self._move(Path(f"{path}.1"), Path(f"{path}.2"))

    def _move(self, old: Path, new: Path) -> None:
        os.rename(old, new)
        self.changed_ns = self.now_ns
        self.files.pop(new, None)
        if (file := self.files.pop(old, None)) is not None:
            file.path, self.files[new] = new, file
            if file not in self._late and file.writer >= 0:
                self._end_soon(file)

    def _end_soon(self, file: File) -> None:
        if file.writer >= 0 and file not in self._late:
            if self.rng.random() < 0.5 and not self.is_tidy:
                self._late[file] = self.now_ns + self.rng.randint(1, 3) * SECOND
            else:
                self.close(file)


@dataclass(eq=False)
class Reader:
    """A file that a shipper has open.

    Attributes:
        descriptor: it is read by.
        name: the path by which it was found.
        offset: up to where it is read.
        reported: up to where the shipper says so.
        reported_ns: when that last moved.
        left_ns: when it was found renamed or deleted; None: not yet.
        truncations: see :class:`File`.
    """

    descriptor: int
    name: str
    offset: int = 0
    reported: int = 0
    reported_ns: int = -(10**18)
    left_ns: int | None = None
    truncations: int = 0


class Shipper:
    """Reads all logs, and lets go of none before it has read it. Subclasses say what the state contains.

    Args:
        world: the logs.

    Attributes:
        flush_s: how late its positions are.
        period_s: how often it writes its state.
        rewrites: whether it does so when nothing has changed.
        quiet_s: see :class:`exporter.shippers.account.Account`.
        reads_parts: whether it reads unfinished lines.
        readers: the files that it has open.
        is_running: whether it runs.
    """

    flush_s: float = 1
    period_s: float = 0
    rewrites = False
    quiet_s = 0
    reads_parts = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.readers: dict[File, Reader] = {}
        self.is_running = True
        self.stored: dict[File, int] = {}  # what it knows after a restart
        self._files: dict[str, tuple[frozenset[Position], int]] = {}
        self._flushed_ns = -(10**18)
        self._flushed: dict[File, int] = {}

    def step(self) -> None:
        """Find new logs, read all, and close those that are renamed or deleted and read."""
        world = self.world
        if not self.is_running:
            return
        for name in world.names:
            file = world.files.get(world.folder / name)
            if file is not None and file not in self.readers:
                assert file.path is not None
                offset = self.stored.get(file, 0)
                descriptor = os.open(file.path, os.O_RDONLY)
                self.readers[file] = Reader(descriptor, str(file.path), offset, offset, truncations=file.truncations)
        for file, reader in tuple(self.readers.items()):
            if file.path is None or str(file.path) != reader.name:
                reader.left_ns = world.now_ns if reader.left_ns is None else reader.left_ns
            is_read = self._read(file, reader)
            waited_ns = 0 if reader.left_ns is None else world.now_ns - reader.left_ns
            if is_read and file.writer < 0 and waited_ns >= _ROTATE_WAIT_NS:
                self.close(file)
        if world.now_ns - self._flushed_ns >= self.period_s * SECOND:
            self.flush()

    def _read(self, file: File, reader: Reader) -> bool:
        if reader.truncations != file.truncations:
            reader.offset, reader.reported, reader.truncations = 0, 0, file.truncations
        end = os.fstat(reader.descriptor).st_size
        data = os.pread(reader.descriptor, end - reader.offset, reader.offset)
        assert len(data) == end - reader.offset
        count = len(data) if self.reads_parts else data.rfind(b"\n") + 1
        reader.offset += count
        if count and self.world.now_ns - reader.reported_ns >= self.quiet_s * SECOND:
            reader.reported, reader.reported_ns = reader.offset, self.world.now_ns
        return True

    def is_latest(self, reader: Reader) -> bool:
        """Whether no other file was opened by the same path later."""
        return [each for each in self.readers.values() if each.name == reader.name][-1:] in ([], [reader])

    def close(self, file: File) -> None:
        """Let go of a file."""
        os.close(self.readers.pop(file).descriptor)

    def flush(self) -> None:
        """Write the state: all files whose logs have moved, also if they then contain the same."""
        self._flushed_ns = now_ns = self.world.now_ns
        moved = {file.number for file, reader in self.readers.items() if self._flushed.get(file) != reader.offset}
        self._flushed = {file: reader.offset for file, reader in self.readers.items()}
        files = {name: frozenset(positions) for name, positions in self.files().items()}
        for name in self._files.keys() - files.keys():
            del self._files[name]
        for name, positions in files.items():
            before, written_ns = self._files.get(name, (None, 0))
            is_written = self.rewrites or before != positions or any(each.inode in moved for each in positions)
            self._files[name] = positions if before != positions else before, now_ns if is_written else written_ns

    def state(self) -> StateRead:
        """The state, as the agent reads it."""
        changed_ns = max([written_ns for _, written_ns in self._files.values()], default=0)
        return StateRead(self.world.now_ns, dict(self._files), {}, changed_ns)

    def files(self) -> dict[str, set[Position]]:
        """The content of its state files."""
        return {"state": {position for file, reader in self.readers.items() for position in self.show(file, reader)}}

    def show(self, file: File, reader: Reader) -> list[Position]:
        """The positions of an open file."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it, with its last positions written."""
        self.step()
        self.flush()
        self.stored = {file: reader.offset for file, reader in self.readers.items()}
        self.is_running = False
        for file in tuple(self.readers):
            os.close(self.readers.pop(file).descriptor)

    def resume(self) -> None:
        """Start it again."""
        self.is_running = True
        self.step()
        self.flush()


class FluentBit(Shipper):
    """A row for each inode, with its present name, until it is closed."""

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, path=str(file.path or reader.name), inode=file.number)]


class Promtail(Shipper):
    """By path alone; renamed files have no position."""

    flush_s, period_s, rewrites = 20, 10, True

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, path=reader.name)] if reader.left_ns is None else []


class Alloy(Promtail):
    """As promtail; a position moves only with a line that comes ten seconds after its last move."""

    quiet_s = 10

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.reported, path=reader.name)] if reader.left_ns is None else []


class Fluentd(Shipper):
    """A line for each path, with the inode there."""

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, path=reader.name, inode=file.number)] if self.is_latest(reader) else []


class Lingering(Shipper):
    """Entries stay for a while after a file was closed.

    Attributes:
        keeps_s: for how long.
    """

    keeps_s = 14 * 86400.0

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.kept: dict[object, tuple[int, set[Position]]] = {}  # entry -> when it was closed, and what it contains

    def files(self) -> dict[str, set[Position]]:
        now_ns = self.world.now_ns
        for file, reader in self.readers.items():
            self.kept[self.key(file, reader)] = now_ns, set(self.show(file, reader))
        self.kept = {key: kept for key, kept in self.kept.items() if now_ns - kept[0] <= self.keeps_s * SECOND}
        return self.group()

    def key(self, file: File, reader: Reader) -> object:
        """What an entry is overwritten by: another file with the same number."""
        return file.number

    def group(self) -> dict[str, set[Position]]:
        """The content of the state files."""
        return {"state": set().union(*(positions for _, positions in self.kept.values()))}

    def close(self, file: File) -> None:
        reader = self.readers[file]
        self.kept[self.key(file, reader)] = self.world.now_ns, set(self.show(file, reader))
        super().close(file)


class Filebeat(Lingering):
    """By inode and device, acknowledged half a second late."""

    keeps_s = 300

    def _read(self, file: File, reader: Reader) -> bool:
        reader.reported, before = reader.offset, reader.truncations
        is_read = super()._read(file, reader)
        reader.reported = min(reader.reported, reader.offset) if before == reader.truncations else 0
        return is_read and reader.reported == reader.offset

    def show(self, file: File, reader: Reader) -> list[Position]:
        shown = reader.offset if file not in self.readers else reader.reported
        return [Position(shown, path=reader.name, inode=file.number, device=file.device)]


class Vector(Lingering):
    """By device and inode, without a path; removed a minute after a deletion."""

    keeps_s = 60

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, inode=file.number, device=file.device)]


class VectorInKubernetes(Vector):
    """As vector, written once a minute."""

    flush_s, period_s = 60, 59


class Rsyslog(Lingering):
    """A file for each inode, which lingers."""

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, path=reader.name, inode=file.number)]

    def group(self) -> dict[str, set[Position]]:
        return {f"imfile-state:{number}": positions for number, (_, positions) in self.kept.items()}


class SyslogNg(Lingering):
    """An entry for each path, with the inode there."""

    def key(self, file: File, reader: Reader) -> object:
        return reader.name if self.is_latest(reader) else file

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, path=reader.name, inode=file.number)]

    def group(self) -> dict[str, set[Position]]:
        kept = {key: positions for key, (_, positions) in self.kept.items() if isinstance(key, str)}
        return {"state": set().union(*kept.values())}


class Logstash(Lingering):
    """By inode and device, with a path; written each 15 seconds."""

    flush_s, period_s = 15, 14

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, path=reader.name, inode=file.number, device=file.device)]


class Datadog(Lingering):
    """By path alone; an entry stays until another file at the path overwrites it. Written each second."""

    rewrites = True

    def key(self, file: File, reader: Reader) -> object:
        return reader.name if self.is_latest(reader) else file

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, path=reader.name)]

    def group(self) -> dict[str, set[Position]]:
        kept = {key: positions for key, (_, positions) in self.kept.items() if isinstance(key, str)}
        return {"state": set().union(*kept.values())}


class Process(Shipper):
    """The offsets of its open descriptors, now, unfinished lines included. Stopped, it still has them."""

    reads_parts = True

    def show(self, file: File, reader: Reader) -> list[Position]:
        return [Position(reader.offset, inode=file.number, device=file.device)]

    def state(self) -> StateRead:
        self.flush()
        self._files = {name: (positions, self.world.now_ns) for name, (positions, _) in self._files.items()}
        return super().state()

    def stop(self) -> None:
        self.step()
        self.is_running = False


SHIPPERS = (
    FluentBit, Promtail, Alloy, Fluentd, Filebeat, Vector, VectorInKubernetes, Rsyslog, SyslogNg, Logstash, Datadog,
    Process,
)  # fmt: skip
