"""A configuration file that changes, in all the ways in which people and programs change one."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from exporter import config_watch
from exporter.config_watch import ConfigWatch
from tests.support import REPOSITORY, as_root, program, skip_unless_ci

TOLD_S = 10


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing settles for long."""
    monkeypatch.setattr(config_watch, "SETTLE_S", 0.1)
    monkeypatch.setattr(config_watch, "MISSING_S", 0.1)
    monkeypatch.setattr(config_watch, "DEADLINE_S", 2)


class Heard:
    """What a watch tells, and when it has nothing to tell."""

    def __init__(self) -> None:
        self.watch: ConfigWatch
        self.count = 0
        self._told = asyncio.Event()

    async def listen(self) -> None:
        async for _ in self.watch.changes():
            self.count += 1
            self._told.set()

    async def wait(self) -> None:
        """Wait until it tells, once."""
        await asyncio.wait_for(self._told.wait(), TOLD_S)
        self._told.clear()

    async def nothing(self) -> None:
        """Nothing is told for several times as long as it takes to settle."""
        await asyncio.sleep(0.5)
        assert not self._told.is_set()


def watched(path: Path, scenario: Callable[[Heard], Coroutine[object, object, None]]) -> Heard:
    """Run a scenario while a file is watched, after what is told at the start."""

    async def run() -> Heard:
        heard = Heard()
        heard.watch = ConfigWatch(str(path))
        listening = asyncio.create_task(heard.listen())
        try:
            await heard.wait()
            await scenario(heard)
        finally:
            listening.cancel()
            await asyncio.wait([listening])
        return heard

    return asyncio.run(run())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file, in a directory of its own."""
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "exporter.yml"
    path.write_text("1")
    return path


def test_rewritten_again_and_again(path: Path) -> None:
    """Each time it is told once, however many writes there were; what happens to other files is not."""

    async def scenario(heard: Heard) -> None:
        for _ in range(3):
            for number in range(5):
                path.write_text(str(number))
            await heard.wait()
            await heard.nothing()
        path.with_name("other").write_text("x")
        path.with_name("other").rename(path.with_name("another"))
        path.with_name("another").unlink()
        path.read_text()
        await heard.nothing()

    assert watched(path, scenario).count == 4


@pytest.mark.parametrize("way", ["renamed over it", "removed and renamed", "linked"])
def test_replaced(path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As editors do; and the new one is watched as the old one was."""
    if way == "linked":  # a link without the other name looks like a new file that somebody has open
        monkeypatch.setattr(config_watch, "DEADLINE_S", 0.2)

    async def scenario(heard: Heard) -> None:
        for number in range(3):
            fresh = path.with_name("fresh")
            fresh.write_text(str(number))
            if way != "renamed over it":
                path.rename(path.with_name("exporter.yml~"))
            if way == "linked":
                path.hardlink_to(fresh)
                fresh.unlink()
            else:
                fresh.rename(path)
            await heard.wait()
        path.write_text("again")
        await heard.wait()

    watched(path, scenario)


@pytest.mark.parametrize("is_new", [False, True])
def test_half_written(path: Path, is_new: bool) -> None:
    """A file that somebody has open and writes to is not told until that is over, however long it takes."""

    async def scenario(heard: Heard) -> None:
        if is_new:
            path.unlink()
        with path.open("w") as file:
            file.write("half")
            file.flush()
            await heard.nothing()
            file.write("whole")
            file.flush()
            await heard.nothing()
        await heard.wait()

    watched(path, scenario)


def test_held_open(path: Path) -> None:
    """One that somebody never closes is told all the same, in the end."""

    async def scenario(heard: Heard) -> None:
        with path.open("w") as file:
            file.write("x")
            file.flush()
            await heard.nothing()
            await heard.wait()

    watched(path, scenario)


def swap(folder: Path, number: int) -> None:
    """Write a ConfigMap as the kubelet does: all of it into a new directory, then one rename of a symbolic link."""
    version = folder / f"..2026_0{number}"
    version.mkdir()
    (version / "exporter.yml").write_text(str(number))
    (folder / "..data_tmp").symlink_to(version.name)
    before = folder / "..data"
    old = before.resolve() if before.exists() else None
    (folder / "..data_tmp").rename(before)
    if old is not None:
        (old / "exporter.yml").unlink()
        old.rmdir()


def test_config_map(tmp_path: Path) -> None:
    """A swap of `..data` is told, one after the other."""
    folder = tmp_path / "etc"
    folder.mkdir()
    swap(folder, 1)
    path = folder / "exporter.yml"
    path.symlink_to("..data/exporter.yml")

    async def scenario(heard: Heard) -> None:
        for number in range(2, 6):
            swap(folder, number)
            await heard.wait()
            assert path.read_text() == str(number)

    assert watched(path, scenario).count == 5


def test_links_on_the_way(path: Path, tmp_path: Path) -> None:
    """Wherever on the way a symbolic link is pointed elsewhere."""
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x.yml").write_text(name)
    current = tmp_path / "current"
    current.symlink_to("one")
    path.unlink()
    path.symlink_to("../current/deep/x.yml")

    async def scenario(heard: Heard) -> None:
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(current)
        await heard.wait()
        assert path.read_text() == "two"
        (tmp_path / "two" / "deep" / "x.yml").write_text("three")
        await heard.wait()

    watched(path, scenario)


def test_gone_and_back(path: Path) -> None:
    """That it has gone is told once; that it is back too, even when its directory had gone with it."""

    async def scenario(heard: Heard) -> None:
        path.unlink()
        await heard.wait()
        await heard.nothing()
        path.write_text("x")
        await heard.wait()
        away = path.parent.with_name("away")
        path.parent.rename(away)
        await heard.wait()
        await heard.nothing()
        path.parent.mkdir()
        path.write_text("y")
        await heard.wait()
        path.write_text("z")
        await heard.wait()

    watched(path, scenario)


def test_its_directory_comes_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event reports it, before the next look for a missing file is due."""
    monkeypatch.setattr(config_watch, "MISSING_S", 10 * TOLD_S)
    away = path.parent.with_name("away")

    async def scenario(heard: Heard) -> None:
        path.parent.rename(away)
        await heard.wait()
        away.rename(path.parent)
        await heard.wait()

    watched(path, scenario)


def test_mode(path: Path) -> None:
    """One that can be read now could not be before, perhaps."""

    async def scenario(heard: Heard) -> None:
        path.chmod(0o600)
        await heard.wait()

    watched(path, scenario)


def test_nothing_stays_behind(path: Path) -> None:
    """The descriptor is closed, and what is pending ends."""
    before = len(os.listdir("/proc/self/fd"))

    async def scenario(heard: Heard) -> None:
        del heard
        path.write_text("x")

    watched(path, scenario)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pipe(tmp_path: Path) -> None:
    """Is read once, by whoever starts the agent."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    async def run() -> None:
        assert [change async for change in ConfigWatch(str(path)).changes()] == []

    asyncio.run(run())


IN_A_NAMESPACE = """
import asyncio, logging, sys
from pathlib import Path
from exporter import config_watch
from tests.exporter.test_config_watch import Heard
logging.basicConfig(format="%(message)s", level="INFO")
config_watch.RETRY_S = config_watch.SETTLE_S = 0.1
limit, path = Path("/proc/sys/user", sys.argv[1]), Path(sys.argv[2])
async def run():
    limit.write_text("0")
    heard = Heard()
    heard.watch = config_watch.ConfigWatch(str(path))
    listening = asyncio.create_task(heard.listen())
    if limit.name == "max_inotify_watches":
        await heard.wait()
    await heard.nothing()
    limit.write_text("100")
    await heard.wait()
    path.write_text("2")
    await heard.wait()
    listening.cancel()
asyncio.run(run())
"""


@as_root
@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_a_limit_of_inotify(path: Path, limit: str) -> None:
    """A watch that the kernel refuses is logged once with what to do, tried again, and reports changes from then on."""
    command = [program("unshare"), "--user", "--map-root-user", sys.executable, "-W", "error", "-c", IN_A_NAMESPACE]
    done = subprocess.run(
        [*command, limit, str(path)], capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=50
    )
    if "unshare failed" in done.stderr:  # as in a chroot, see user_namespaces(7)
        skip_unless_ci("no user namespace can be made here")
    assert (done.returncode, done.stderr.splitlines()) == (
        0,
        [
            "the configuration file cannot be watched: after a change send SIGHUP",
            "the configuration file is watched again",
        ],
    )
