"""Real shippers, rsyslog and syslog-ng, beside the agent: what they have not read, and what they have lost.

Each is configured twice, once by the type of its state and once as `type: process`. Both must show the truth, to the
byte, and no scrape before that more losses than there were.
"""

import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support import REPOSITORY, Agent, Process, skip_unless_ci, wait_until

AGENT = """
rescan_interval: 1h  # longer than the test
state: {{path: {folder}/state/fstat.db}}
logs:
  - group: all
    paths: ["{folder}/logs/*.log*"]
shippers:
  - name: state
    type: {kind}
    path: {folder}/work
  - name: process
    type: process
    match: {process}
"""
RSYSLOG = r"""
global(workDirectory="{folder}/work")
module(load="imfile" mode="inotify")
input(type="imfile" File="{folder}/logs/app.log" Tag="app" PersistStateInterval="1" reopenOnTruncate="on")
template(name="line" type="string" string="%rawmsg%\n")
action(type="omfile" file="{folder}/shipped" template="line")
"""
SYSLOG_NG = r"""
@version: 3.38
source logs {{ file("{folder}/logs/app.log" follow-freq(0.1) flags(no-parse)); }};
destination shipped {{ file("{folder}/shipped" template("$MSG\n")); }};
log {{ source(logs); destination(shipped); }};
"""
BOTH = ("state", "process")
TICK_S = 0.01  # how much older than a write its mtime may be
PACKAGES = {"rsyslog": "rsyslog", "syslog-ng": "syslog-ng-core"}


class Shipper:
    """A shipper with one log, which may be stopped and started again."""

    def __init__(self, kind: str, folder: Path) -> None:
        unpacked = REPOSITORY / "build" / "unpacked" / PACKAGES[kind]
        if not unpacked.is_dir():
            skip_unless_ci(f"{unpacked} is missing: `make test` as root unpacks it")
        self._folder = folder
        config = folder / "shipper.conf"
        config.write_text((RSYSLOG if kind == "rsyslog" else SYSLOG_NG).lstrip().format(folder=folder))
        libraries = sorted({str(library.parent) for library in unpacked.rglob("*.so*")})
        (modules,) = {str(module.parent) for name in ("imfile", "libaffile") for module in unpacked.rglob(f"{name}.so")}
        self.process_name = f"ship{os.getpid()}"  # which no other test has
        program = folder / self.process_name
        program.symlink_to(unpacked / "usr/sbin" / ("rsyslogd" if kind == "rsyslog" else kind))
        self._command = ["env", f"LD_LIBRARY_PATH={':'.join(libraries)}", str(program), "-f", str(config)]
        if kind == "rsyslog":
            self._command += ["-n", "-i", f"{folder}/pid", "-M", modules]
        else:
            self._command += ["-F", "--no-caps", "-p", f"{folder}/pid", "-c", f"{folder}/control"]
            self._command += ["-R", f"{folder}/work/syslog-ng.persist", "--module-path", modules]
        self._process: Process | None = None

    def start(self) -> None:
        """Start it."""
        self._process = Process(self._command, self._folder / "shipper.out")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it by SIGTERM, which has to end it well, by SIGKILL, or by SIGSTOP for a while."""
        assert self._process is not None
        if how != signal.SIGTERM:
            os.kill(self._process.pid, how)
        if how == signal.SIGSTOP:
            status = Path(f"/proc/{self._process.pid}/stat")
            wait_until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")
        else:
            assert self._process.stop() == (-how if how == signal.SIGKILL else 0), self._process.log_path.read_text()

    def resume(self) -> None:
        """Go on, whatever stopped it."""
        assert self._process is not None
        try:
            os.kill(self._process.pid, signal.SIGCONT)
        except ProcessLookupError:
            self.start()

    def wait_for(self, read_bytes: int) -> None:
        """Wait until it has shipped so much."""
        shipped = self._folder / "shipped"
        wait_until(lambda: shipped.stat().st_size == read_bytes, explain=lambda: f"{shipped.stat()}, not {read_bytes}")

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGCONT)
            self._process.stop()


class Scene:
    """An agent, a shipper, and its log, which a test writes and rotates.

    Attributes:
        kind: the type of the shipper.
        log: its present log.
        written, lost: the truth since the agent first started, bytes.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        for name in ("logs", "work"):
            (folder / name).mkdir()
        self.log = folder / "logs" / "app.log"
        self.kind = kind
        self.written = self.lost = 0
        self._lines = itertools.count()
        self._folder = folder
        self.shipper = Shipper(kind, folder)
        self._config = folder / "exporter.yml"
        self._config.write_text(AGENT.format(folder=folder, kind=kind, process=self.shipper.process_name))
        self.start_agent()

    def start_agent(self) -> None:
        """Start the agent."""
        self.agent = Agent([f"--config.file={self._config}"], self._folder / "agent.out")

    def stop_agent(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop the agent by SIGTERM, which has to end it well, or by SIGKILL."""
        if how != signal.SIGTERM:
            os.kill(self.agent.pid, how)
        assert self.agent.stop() == (-how if how == signal.SIGKILL else 0), self.agent.log_path.read_text()

    def close(self) -> None:
        """End both."""
        self.shipper.close()
        self.agent.stop()

    def append(self, lines: int = 50) -> int:
        """Append lines of several lengths to the log; return how many bytes."""
        text = "".join(f"{next(self._lines)} {'x' * (number % 91)}\n" for number in range(lines))
        with self.log.open("a") as file:
            file.write(text)
        self.written += len(text)
        return len(text)

    def rotate(self) -> Path:
        """Rename the log to a number, older ones to the next; make a new log; return where the log is now."""
        rotated = [self.log.with_name(f"app.log.{number}") for number in range(1, 5)]
        for path, older in reversed(list(itertools.pairwise(rotated))):
            if path.exists():
                path.rename(older)
        self.log.rename(rotated[0])
        self.log.touch()
        return rotated[0]

    def copytruncate(self) -> None:
        """Copy the log to a number, and truncate it."""
        shutil.copy(self.log, self.log.with_name("app.log.1"))
        os.truncate(self.log, 0)

    def numbers(self, name: str) -> dict[str, float]:
        """Return the numbers of one configured shipper."""
        scrape = self.agent.scrape()
        families = ("read_bytes_total", "unread_bytes", "lost_bytes_total", "unaccounted_bytes_total")
        return {family: scrape.value(f"fstat_shipper_{family}", shipper=name) or 0 for family in families}

    def expect(self, unread: int = 0, *, of: tuple[str, ...] = BOTH) -> None:
        """Wait until so many bytes are unread, all losses are lost, and all others are read."""
        wanted = {
            "read_bytes_total": self.written - unread - self.lost,
            "unread_bytes": unread,
            "lost_bytes_total": self.lost,
            "unaccounted_bytes_total": 0,
        }
        for name in of:
            self._expect(name, wanted)

    def _expect(self, name: str, wanted: dict[str, float]) -> None:
        def is_shown() -> bool:
            shown = self.numbers(name)
            counters = wanted.keys() - {"unread_bytes"}
            assert all(shown[family] <= wanted[family] for family in counters), (name, shown, wanted)
            return shown == wanted

        wait_until(is_shown, explain=lambda: f"{name}: {self.numbers(name)}\nexpected: {wanted}")

    def is_accounted_for(self, name: str) -> bool:
        """Return whether all bytes are read or unaccounted; fail if any are lost."""
        shown = self.numbers(name)
        assert shown["lost_bytes_total"] == 0, (name, shown, self.written)
        return shown["read_bytes_total"] + shown["unaccounted_bytes_total"] == self.written

    def oldest_s(self) -> list[float]:
        """Return how old the oldest unread byte is, as both show it."""
        scrape = self.agent.scrape()
        return [scrape.value("fstat_shipper_oldest_unread_seconds", shipper=name) or 0.0 for name in BOTH]

    def let_rest(self) -> None:
        """Wait until the shipper has left bytes unread for longer than the flush interval of its type."""
        wait_until(lambda: min(self.oldest_s()) > 1.2)


@pytest.fixture(params=PACKAGES)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """An agent and a shipper that has read a log."""
    with closing(Scene(request.param, tmp_path)) as scene:
        scene.append()
        scene.shipper.start()
        scene.expect(unread=0)
        yield scene
        scene.stop_agent()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP], ids=lambda how: how.name)
def test_stopped_and_resumed(scene: Scene, how: signal.Signals) -> None:
    """What is written while a shipper is stopped is unread, grows old, and is read when it resumes."""
    scene.shipper.stop(how)
    scene.expect(unread=0)
    began_s = time.monotonic()
    unread = scene.append()
    scene.expect(unread)
    unread += scene.append(1000)
    scene.expect(unread)
    scene.let_rest()
    assert max(scene.oldest_s()) < time.monotonic() - began_s + TICK_S
    scene.shipper.resume()
    scene.expect(unread=0)
    assert scene.oldest_s() == [0, 0]
    scene.append()
    scene.expect(unread=0)


def test_rotated_while_running(scene: Scene) -> None:
    """Rotations lose nothing of what a running shipper has read, nor do deletions and truncations."""
    for _ in range(3):
        scene.append(500)
        scene.expect(unread=0)
        old = scene.rotate()
        scene.append()
        scene.expect(unread=0)
    old.unlink()
    scene.append()
    scene.expect(unread=0)
    scene.copytruncate()
    scene.append(20)
    scene.expect(unread=0)


def test_rotated_while_reading(scene: Scene) -> None:
    """Of what a shipper reads just when its log is rotated, nothing is lost.

    Its last bytes are unaccounted if nothing remembers them: neither an entry nor a descriptor of the log is left.
    """
    for _ in range(3):
        scene.append(2000)
        scene.rotate()
        scene.append()
        scene.shipper.wait_for(scene.written)
        wait_until(lambda: all(scene.is_accounted_for(name) for name in BOTH))


def test_deleted_while_open(scene: Scene) -> None:
    """A deleted log is unread while a shipper that hangs has it open, and is lost when that is killed."""
    scene.shipper.stop(signal.SIGSTOP)
    unread = scene.append()
    scene.expect(unread)
    old = scene.rotate()
    new = scene.append()
    old.unlink()
    scene.expect(unread + new)
    scene.let_rest()
    scene.expect(unread + new)
    scene.shipper.stop(signal.SIGKILL)
    scene.lost += unread
    scene.expect(new)
    scene.shipper.resume()
    scene.expect(unread=0)


def test_rotated_and_deleted_while_stopped(scene: Scene) -> None:
    """What was unread of a log is lost when it is deleted, in its last generation too."""
    scene.shipper.stop(signal.SIGKILL)
    unread = scene.append()
    scene.expect(unread)
    old = scene.rotate()
    new = scene.append(1000)
    scene.expect(unread + new)
    old.unlink()
    scene.lost += unread
    scene.expect(new)
    scene.rotate().unlink()
    scene.lost += new
    scene.expect(unread=0)
    new = scene.append()
    scene.expect(new)
    scene.shipper.resume()
    scene.expect(unread=0)


def test_truncated_while_stopped(scene: Scene) -> None:
    """What was unread of a log is lost when it is truncated."""
    scene.shipper.stop()
    unread = scene.append()
    scene.expect(unread)
    scene.let_rest()
    scene.copytruncate()
    scene.lost += unread
    scene.expect(unread=0)
    new = scene.append(20)
    scene.expect(new)
    scene.shipper.resume()
    scene.expect(unread=0)


def test_rotated_while_stopped_then_restarted(scene: Scene) -> None:
    """A restarted shipper does not find the log that was renamed: what it had not read is lost.

    The state of rsyslog still has an entry of it, which is believed until the log is deleted.
    """
    scene.shipper.stop()
    unread = scene.append()
    scene.expect(unread)
    scene.let_rest()
    old = scene.rotate()
    new = scene.append()
    scene.expect(unread + new)
    scene.shipper.resume()
    if scene.kind == "rsyslog":
        scene.expect(unread, of=("state",))
    scene.lost += unread
    scene.expect(unread=0, of=("process",) if scene.kind == "rsyslog" else BOTH)
    old.unlink()
    scene.expect(unread=0)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_restarted_agent(scene: Scene, how: signal.Signals) -> None:
    """The counters outlive the agent, however it ends: nothing is lost or counted twice."""
    scene.append(2000)
    scene.stop_agent(how)  # while the shipper reads
    scene.append()
    scene.shipper.wait_for(scene.written)
    scene.start_agent()
    scene.expect(unread=0)

    scene.shipper.stop()
    unread = scene.append()
    scene.expect(unread)
    scene.stop_agent(how)
    unread += scene.append()
    old = scene.rotate()
    new = scene.append()
    scene.start_agent()
    scene.expect(unread + new)
    old.unlink()
    scene.lost += unread
    scene.expect(new)

    scene.stop_agent(how)
    scene.shipper.resume()
    scene.shipper.wait_for(scene.written - scene.lost)
    scene.start_agent()
    scene.expect(unread=0)
