"""How far processes have read: real ones, that the test starts."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporter.shippers import process
from exporter.shippers.positions import Position, StateFormatError
from tests.support import REPOSITORY, wait_until

READER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, sys.argv[1].encode())
for argument in sys.argv[2:]:
    mode, at, path = argument.split(":", 2)
    os.lseek(os.open(path, int(mode)), int(at), 0)
r, w = os.pipe()
print("open", flush=True)
sys.stdin.read()
"""

Reads = Callable[..., int]


@pytest.fixture
def name() -> str:
    """A process's name that no other test has."""
    return f"ship{os.getpid()}"


@pytest.fixture
def reads(name: str) -> Iterator[Reads]:
    """Starts processes that have files open, at offsets."""
    with contextlib.ExitStack() as stack:

        def start(*places: tuple[Path, int], mode: int = os.O_RDONLY, name: str = name) -> int:
            arguments = [f"{mode}:{at}:{path}" for path, at in places]
            command = [sys.executable, "-c", READER, name, *arguments]
            reader = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert reader.stdin is not None
            assert reader.stdout is not None
            stack.callback(reader.stdin.close)
            assert reader.stdout.readline() == b"open\n"
            return reader.pid

        yield start


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log."""
    path = tmp_path / "app.log"
    path.write_bytes(b"0123456789" * 10)
    return path


def offset_of(path: Path, match: str) -> int | None:
    """Find a log's offset, by device and inode."""
    status = path.stat()
    found = [
        each for each in process.find_positions(match) if (each.device, each.inode) == (status.st_dev, status.st_ino)
    ]
    assert len(found) <= 1
    return found[0].offset if found else None


def test_offset(reads: Reads, log: Path, name: str) -> None:
    """A log's offset is that of the descriptor, by device and inode."""
    reads((log, 42))
    assert offset_of(log, name) == 42
    assert offset_of(log, f"{name[:-1]}?") == 42
    assert offset_of(log, f"{name[:4]}*") == 42


def test_furthest(reads: Reads, log: Path, name: str) -> None:
    """Of several processes and descriptors the one that has read furthest counts; other names do not."""
    reads((log, 42), (log, 7))
    reads((log, 55), (log, 3))
    reads((log, 99), name="another")
    assert offset_of(log, name) == 55


def test_deleted_and_renamed(reads: Reads, log: Path, name: str) -> None:
    """A log that was rotated or deleted has its offset while the shipper has it open."""
    other = log.with_name("b.log")
    other.write_bytes(b"other")
    reads((log, 42), (other, 5))
    rotated = log.rename(log.with_name("app.log.1"))
    status = other.stat()
    other.unlink()
    assert offset_of(rotated, name) == 42
    assert Position(5, inode=status.st_ino, device=status.st_dev) in process.find_positions(name)


@pytest.mark.parametrize("mode", [os.O_WRONLY, os.O_WRONLY | os.O_APPEND])
def test_writers_do_not_count(reads: Reads, log: Path, name: str, mode: int) -> None:
    """A descriptor that only writes says nothing about reading."""
    reads((log, 42), mode=mode)
    assert offset_of(log, name) is None


def test_path_descriptors_do_not_count(log: Path) -> None:
    """A descriptor that only names a file says nothing about reading."""
    fd = os.open(log, os.O_PATH)
    try:
        assert process.parse_fdinfo(Path(f"/proc/self/fdinfo/{fd}").read_bytes()) is None
    finally:
        os.close(fd)


def test_pipes_and_sockets_do_not_count(reads: Reads, log: Path, name: str) -> None:
    """Only files of mounted filesystems have positions: an inode number of a pipe may be a log's as well."""
    pid = reads((log, 42))
    with open("/proc/self/mountinfo", "rb") as mounts:
        devices = {each.device for each in process.parse_mountinfo(mounts.read())}
    numbers = {os.stat(f"/proc/{pid}/fd/{each}").st_ino for each in os.listdir(f"/proc/{pid}/fd")}
    found = process.find_positions(name)
    assert {each.device for each in found} <= devices
    assert len(found) < len(numbers)


def test_long_name(reads: Reads, log: Path, tmp_path: Path) -> None:
    """A name longer than the kernel keeps is found whole, in the command line."""
    program = tmp_path / f"otelcollector-of-{os.getpid()}"
    program.symlink_to("/bin/sh")
    command = [str(program), "-c", f"exec 5<{log}; read -r line <&0; true"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        try:
            wait_until(lambda: os.path.exists(f"/proc/{shell.pid}/fd/5"))
            assert offset_of(log, program.name) == 0
            assert offset_of(log, f"otelcollector*{os.getpid()}") == 0
        finally:
            shell.stdin.close()


def test_no_process(name: str) -> None:
    """No process of the name is an error of its own: it must not look as if the shipper had forgotten all logs."""
    with pytest.raises(ProcessLookupError, match="no process"):
        process.find_positions(f"{name}-none")


def test_process_has_ended(reads: Reads, log: Path, name: str) -> None:
    """A process that has ended is none, also before its parent has noticed."""
    pid = reads((log, 42))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z")
    with pytest.raises(ProcessLookupError):
        process.find_positions(name)


def test_other_mount_namespace(tmp_path: Path, name: str, log: Path) -> None:
    """A log on a filesystem that only the shipper has mounted has its device from the shipper's mounts."""
    place = tmp_path / "mnt"
    place.mkdir()
    script = (
        f"mount -t tmpfs none {place} && echo 12345 >{place}/log && stat -c '%d %i' {place}/log && "
        f'exec {sys.executable} -c "$0" {name} 0:3:{place}/log'
    )
    command = ["unshare", "-m", "sh", "-c", script, READER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        numbers = reader.stdout.readline().split()
        if not numbers:
            pytest.skip("mounting takes CAP_SYS_ADMIN")
        assert reader.stdout.readline() == b"open\n"
        device, inode = map(int, numbers)
        assert Position(3, inode=inode, device=device) in process.find_positions(name)
        reader.stdin.close()


def fake(root: Path, files: dict[str, str]) -> str:
    """Write a /proc."""
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return str(root)


def fdinfo(pos: object = 5, flags: str = "0100000", mount: int = 27, ino: int | None = 9) -> str:
    """A file of fdinfo."""
    return f"pos:\t{pos}\nflags:\t{flags}\nmnt_id:\t{mount}\n" + ("" if ino is None else f"ino:\t{ino}\n")


MOUNTS = "27 1 254:0 / / rw - ext4 /dev/vda rw\n28 1 0:40 / /b rw - btrfs /dev/b rw\n29 1 0:41 / /o rw - overlay o rw\n"


def test_device_that_the_mount_does_not_tell(tmp_path: Path) -> None:
    """Files of btrfs and overlayfs have devices of their own: the position has none."""
    infos = {f"7/fdinfo/{each}": fdinfo(each, mount=each) for each in (27, 28, 29, 30)}
    proc = fake(tmp_path, {"self/mountinfo": MOUNTS, "7/comm": "vector\n", **infos})
    assert set(process.find_positions("vector", proc=proc)) == {
        Position(27, inode=9, device=65024),
        Position(29, inode=9),
    }


def test_old_kernel(tmp_path: Path) -> None:
    """Before Linux 5.14 fdinfo has no inode numbers: one sentence says so."""
    proc = fake(tmp_path, {"self/mountinfo": MOUNTS, "7/comm": "vector\n", "7/fdinfo/3": fdinfo(ino=None)})
    with pytest.raises(StateFormatError, match=r"Linux 5\.14"):
        process.find_positions("vector", proc=proc)


@pytest.mark.parametrize("info", ["", "pos:\t5\n", fdinfo("x"), fdinfo(flags="9"), "pos:\t" + "9" * 10_000 + "\n"])
def test_damaged_fdinfo(info: str) -> None:
    """What is not fdinfo is refused."""
    with pytest.raises(StateFormatError, match="fdinfo"):
        process.parse_fdinfo(info.encode())


def test_impossible_offset() -> None:
    """A descriptor of a device may have a negative offset: it is no log's."""
    assert process.parse_fdinfo(fdinfo(-5).encode()) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="root starts a process of another user")
def test_no_permission(reads: Reads, log: Path, name: str) -> None:
    """A process whose descriptors may not be read is an error, and not a shipper that reads nothing."""
    reads((log, 42))
    code = (
        "import os, sys; from exporter.shippers import process\n"
        "os.setgid(65534); os.setuid(65534)\n"
        f"try: process.find_positions({name!r})\n"
        "except PermissionError as error: sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=REPOSITORY)
    assert "SYS_PTRACE" in done.stderr
    assert "Traceback" not in done.stderr
