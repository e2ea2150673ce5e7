"""Which files are opened: what links on the way do, and what can be swapped meanwhile."""

import os
import socket
import stat
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.content.opening import UntrustedLinkError, find_trusted, open_for_reading
from fstat_cache.stats import read_stats
from tests.support import as_root

NOBODY = 65534


def found(path: Path | str, root: Path | str = "") -> Path:
    """Where a path leads."""
    fd = find_trusted(str(path), str(root))
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


def give(path: Path, uid: int) -> Path:
    """Have a path belong to a user, a link itself."""
    os.chown(path, uid, uid, follow_symlinks=False)
    return path


def link(path: Path, target: Path | str, uid: int = 0) -> Path:
    """Make a link of a user."""
    path.symlink_to(target)
    return give(path, uid) if uid else path


def test_where_a_path_leads(tmp_path: Path) -> None:
    """It leads where the kernel finds it: over links to directories, relative ones, `..` and links to links."""
    (tmp_path / "a/b").mkdir(parents=True)
    file = tmp_path / "a/b/file"
    file.touch()
    link(tmp_path / "absolute", tmp_path / "a")
    link(tmp_path / "a/up", "../a//./b/")
    link(tmp_path / "a/b/again", "../../absolute/up/file")
    for path in (file, tmp_path / "absolute/up/again", f"{tmp_path}/absolute/b/../up/../b/file"):
        assert found(path) == file
    assert found("/..//../proc/") == Path("/proc")
    link(tmp_path / "loop", "loop")
    for name, error in (("loop", OSError), ("nothing", FileNotFoundError), ("a/b/file/more", NotADirectoryError)):
        with pytest.raises(error):
            found(tmp_path / name)


def test_beneath_another_root(tmp_path: Path) -> None:
    """Absolute links start at the root that is given, and nothing leads above it."""
    root = tmp_path / "host"
    (root / "var").mkdir(parents=True)
    (root / "var/file").touch()
    (tmp_path / "file").touch()
    link(root / "absolute", "/var/file")
    link(root / "above", "../../../../file")
    assert found("/absolute", root) == root / "var/file"
    with pytest.raises(FileNotFoundError):
        found("/above", root)


@as_root
def test_whose_links_count(tmp_path: Path) -> None:
    """Each link belongs to root or to the file's owner, also one to a directory and one in the middle."""
    roots, nobodys = tmp_path / "roots", give_file(tmp_path / "nobodys", NOBODY)
    roots.touch()
    (tmp_path / "folder").mkdir()
    give_file(tmp_path / "folder/mine", NOBODY)
    (tmp_path / "folder/roots").touch()
    trusted = [
        link(tmp_path / "1", roots),
        link(tmp_path / "2", nobodys),
        link(tmp_path / "3", nobodys, NOBODY),
        link(tmp_path / "4", link(tmp_path / "5", "folder", NOBODY)) / "mine",
    ]
    refused = [
        link(tmp_path / "6", roots, NOBODY),
        link(tmp_path / "7", nobodys, NOBODY + 1),
        link(tmp_path / "8", link(tmp_path / "9", roots, NOBODY)),
        link(tmp_path / "10", link(tmp_path / "11", roots), NOBODY),
        tmp_path / "5/roots",
    ]
    for path in trusted:
        found(path)
    for path in refused:
        with pytest.raises(UntrustedLinkError):
            found(path)


def give_file(path: Path, uid: int) -> Path:
    """Make a file of a user."""
    path.touch()
    return give(path, uid)


@as_root
@pytest.mark.timeout(60)
def test_a_link_that_is_swapped(tmp_path: Path) -> None:
    """A user who swaps files and links all the time never gets another's file opened."""
    secret, mine, name = tmp_path / "secret", give_file(tmp_path / "mine", NOBODY), tmp_path / "log"
    secret.touch()
    is_over = threading.Event()

    def swap() -> None:
        new = tmp_path / "new"
        while not is_over.is_set():
            for make in (
                lambda: os.link(mine, new),
                lambda: link(new, secret, NOBODY),
                lambda: link(new, mine, NOBODY),
            ):
                make()
                new.replace(name)
                new.unlink(missing_ok=True)  # rename(2) of two names of one inode does nothing

    give_file(name, NOBODY)
    thread = threading.Thread(target=swap)
    thread.start()
    found_inodes: Counter[int] = Counter()
    refused = 0
    try:
        while refused < 1000 or found_inodes.total() < 1000:
            try:
                fd = find_trusted(str(name))
            except UntrustedLinkError:
                refused += 1
            else:
                found_inodes[os.fstat(fd).st_ino] += 1
                os.close(fd)
    finally:
        is_over.set()
        thread.join()
    assert secret.stat().st_ino not in found_inodes
    assert mine.stat().st_ino in found_inodes


def open_socket(path: str) -> None:
    """Make a socket in the file system."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, open_socket])
def test_what_is_no_regular_file(tmp_path: Path, make: Callable[[str], None]) -> None:
    """Anything else is not opened, and nobody waits for a writer."""
    path = tmp_path / "it"
    make(str(path))
    status = os.stat(path)
    assert not stat.S_ISREG(status.st_mode)
    fd = find_trusted(str(path))
    with pytest.raises(FileNotFoundError):
        open_for_reading(fd, (status.st_dev, status.st_ino, 0))
    os.close(fd)


def test_another_inode(tmp_path: Path) -> None:
    """A file that took the place of the known one is not opened; the access time of an opened one stays."""
    path = tmp_path / "a"
    path.write_text("1")
    os.utime(path, ns=(0, 0))
    stats = read_stats(path)
    assert stats is not None
    fd = find_trusted(str(path))
    opened = open_for_reading(fd, stats.identity)
    assert os.read(opened, 10) == b"1"
    assert os.fstat(opened).st_atime_ns == 0
    device, inode, birth_ns = stats.identity
    for other in ((device, inode + 1, birth_ns), (device + 1, inode, birth_ns), (device, inode, birth_ns + 1)):
        with pytest.raises(FileNotFoundError):
            open_for_reading(fd, other)
    for each in (fd, opened):
        os.close(each)
