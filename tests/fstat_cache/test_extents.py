"""Who is asked for the data of a file, and how its file is opened."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fstat_cache import Data, FileStats, FStatCache
from tests.support import Mount, Stopwatch, as_root

NOBODY = 65534


def known(cache: FStatCache, path: Path) -> FileStats:
    """A file's stats by the cache."""
    stats = cache.get_file_stats(path)
    assert stats is not None
    return stats


@contextmanager
def unprivileged() -> Iterator[None]:
    """Another user, who has no capabilities."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user may search."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def sparse(path: Path) -> None:
    """Write 100 bytes, then a hole up to 1,000,000."""
    path.write_bytes(b"x" * 100)
    os.truncate(path, 1_000_000)


def test_the_time_of_access_stays(tmp_path: Path) -> None:
    """Reading beside a hole leaves it as it was."""
    path = tmp_path / "a.log"
    sparse(path)
    os.utime(path, (1, 2))
    with FStatCache() as cache:
        assert cache.extents.find(str(path), known(cache, path), 0, is_resumed=True) == Data(100, 100)
    assert path.stat().st_atime == 1


@as_root
def test_files_of_other_users(public: Path) -> None:
    """Can be searched by any user who may read them, and by no one else."""
    path = public / "a.log"
    sparse(path)
    with FStatCache() as cache:
        stats = known(cache, path)
        with unprivileged():
            assert cache.extents.find(str(path), stats, 0, is_resumed=False) == Data(100, 100)
            assert cache.extents.find(str(path.with_name("gone")), stats, 0, is_resumed=False) is None
        path.chmod(0o200)
        with unprivileged():
            assert cache.extents.find(str(path), stats, 0, is_resumed=False) is None


@as_root
def test_a_remote_file(fuse: Mount) -> None:
    """A worker asks, and only if a hole is likely; when the filesystem hangs, the data is soon unknown."""
    remote = fuse("remote")
    (remote.source / "a.log").write_bytes(bytes(100) + b"x" * 50)
    path = remote.path / "a.log"
    timeout_s = 0.5
    with FStatCache(remote_timeout_s=timeout_s) as cache:
        stats = known(cache, path)
        assert cache.extents.find(str(path), stats, 0, is_resumed=False) is None
        assert cache.extents.find(str(path), stats, 0, is_resumed=True) == Data(50, 150)
        remote.hang()
        watch = Stopwatch()
        assert cache.extents.find(str(path), stats, 0, is_resumed=False) is None
        assert cache.extents.find(str(path), stats, 0, is_resumed=True) is None
        assert watch.seconds() < 10 * timeout_s
        remote.answer()


def test_a_filesystem_that_writes_before_it_answers(tmp_path: Path) -> None:
    """It is not asked about usual growth."""
    path = tmp_path / "a.log"
    sparse(path)
    with FStatCache() as cache:
        stats = known(cache, path)
        cache._life.engine.mounts.syncing_devices = frozenset({stats.device})
        assert cache.extents.find(str(path), stats, 0, is_resumed=False) is None
        assert cache.extents.find(str(path), stats, 0, is_resumed=True) == Data(100, 100)
