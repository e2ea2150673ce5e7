"""What has to hold after any changes: random workloads against the real kernel."""

import contextlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fstat_cache import FStatCache, directories, watches
from tests.fstat_cache.driven import events_taken, survey
from tests.fstat_cache.kernel import kernel_watches, resident_bytes

ROUNDS = 2500  # of 1 to 20 changes each, five on average
NAMES = 10
FOLDERS = 3


class Changer:
    """Another process that makes random changes and reports them after its system calls have returned."""

    def __init__(self, root: Path, seed: int, kind: str = "told") -> None:
        self.paths = [str(root / f"folder-{f}" / str(n)) for f in range(FOLDERS) for n in range(NAMES)]
        for number in range(FOLDERS):
            (root / f"folder-{number}").mkdir()
        script = Path(__file__).with_name("changer.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(seed), kind, *self.paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def change(self) -> None:
        """Have some changes made, and wait for the report."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        assert self._process.stdout.readline() == "\n"

    def __enter__(self) -> "Changer":
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with self._process:
            pass


@pytest.mark.parametrize("max_files", [None, 7])
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_after_sync_every_entry_is_what_os_stat_says(tmp_path: Path, max_files: int | None, seed: int) -> None:
    """Another process changes files at random; after each of its reports and a sync() the cache equals os.stat.

    Appends, truncations, times, modes, unlinks, renames, replacements, recreations with the same inode number and
    hard links.
    """
    rng = random.Random(seed)
    checked = 0
    with Changer(tmp_path, seed) as changer, FStatCache(max_files) as cache:
        for _ in range(ROUNDS):
            for path in rng.sample(changer.paths, 5):
                cache.get_file_stats(path)
            changer.change()
            cache.sync()
            for path in cache.list_files_in_cache():
                checked += 1
                assert cache._served[path].stats == cache.get_file_stats_using_stat(path), path
            assert max_files is None or cache.cache_info().files <= max_files
    assert checked > 5 * ROUNDS


@pytest.mark.parametrize("max_watches", [3, 8])
@pytest.mark.parametrize("seed", [1, 2])
def test_files_without_a_watch_of_their_own_are_what_os_stat_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_watches: int, seed: int
) -> None:
    """With watches for the directories and few files, the cache equals os.stat after each sync() as well."""
    for module, name in ((watches, "COVERLESS_S"), (directories, "GREATEST_COVERLESS_S")):
        monkeypatch.setattr(module, name, 0.05)  # so that directories stand in for files over and over
    rng = random.Random(seed)
    guarded = 0
    with (
        Changer(tmp_path, seed, "one-name") as changer,
        FStatCache(max_watches=max_watches, keep_changes=True) as cache,
    ):
        for folder in {os.path.dirname(path) for path in changer.paths}:
            cache.watch_directory(folder)
        for _ in range(ROUNDS // 2):
            for path in rng.sample(changer.paths, 5):
                cache.get_file_stats(path)
            changer.change()
            cache.sync()
            for entry in list(cache._life.engine.files):
                assert entry.stats == cache.get_file_stats_using_stat(entry.path), entry.path
            for event in events_taken(cache):
                if event.name is None:
                    cache.watch_directory(event.directory)
            guarded += cache.status().guarded
            assert cache.status().watches <= max_watches
    assert guarded > 100


@pytest.mark.parametrize("max_files", [None, 7])
def test_after_an_audit_what_makes_no_event_is_true_as_well(tmp_path: Path, max_files: int | None) -> None:
    """With links pointed elsewhere and directories swapped, the cache equals os.stat after an audit of all entries."""
    rng = random.Random(1)
    with Changer(tmp_path, 1, "silent") as changer, FStatCache(max_files) as cache:
        for number in range(ROUNDS // 5):
            for path in rng.sample(changer.paths, 5):
                with contextlib.suppress(OSError):  # a loop of links
                    cache.get_file_stats(path)
            changer.change()
            cache.sync()
            cache.audit()
            for entry in list(cache._life.engine.files):
                assert entry.stats == cache.get_file_stats_using_stat(entry.path), (number, entry.path)
            if number % 50 == 49:
                cache.invalidate()  # or in the end all of them were polled
        assert cache.status().audit_mismatches > 10


@pytest.mark.timeout(180)
@pytest.mark.parametrize("evictions", [50_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_evictions_leave_nothing_behind(tmp_path: Path, evictions: int) -> None:
    """However many files pass through a bounded cache, the kernel holds one watch a file kept, and memory is flat."""
    paths = [str(tmp_path / str(number)) for number in range(1000)]
    for path in paths:
        Path(path).touch()
    with FStatCache(max_files=100) as cache:
        for number in range(evictions // len(paths)):
            for path in paths:
                cache.get_file_stats(path)
            if number == 20:
                before = resident_bytes()
        cache.sync()
        assert resident_bytes() - before < 4 << 20
        assert cache.cache_info().evictions >= evictions - 100
        assert cache.status().watches == kernel_watches() == 100


def test_the_cache_is_an_exact_lru(tmp_path: Path) -> None:
    """After any look-ups, additions and removals the files kept are those that the simplest LRU would keep."""
    rng = random.Random(1)
    paths = [str(tmp_path / str(number)) for number in range(12)]
    for path in paths:
        Path(path).touch()
        os.utime(path, (1, 1))  # long ago: a survey gives a file that has just changed a place
    hits = misses = evictions = 0
    model: list[str] = []  # least recently used first
    with FStatCache(max_files=5) as cache:
        for _ in range(3000):
            path = rng.choice(paths)
            step = rng.choice(("get", "get", "get", "add", "remove", "survey"))
            known = path in model
            if step == "remove":
                if known:
                    cache.remove_from_watch(path)
                    model.remove(path)
                continue
            if step == "survey":
                survey(cache, {path})
                hits, misses = hits + known, misses + (not known)
                if known or len(model) == 5:
                    continue
            elif step == "get":
                cache.get_file_stats(path)
                hits, misses = hits + known, misses + (not known)
            else:
                cache.add_file_to_watch(path)
            if known:
                model.remove(path)
            elif len(model) == 5:
                model.pop(0)
                evictions += 1
            model.append(path)
            assert sorted(cache.list_files_in_cache()) == sorted(model)
            assert cache.cache_info() == (hits, misses, evictions, len(model), 5)


def test_threads_hammer_the_cache_while_files_change(tmp_path: Path) -> None:
    """Eight threads read while files grow and are replaced: no error, sizes never go back, and the counts add up."""
    paths = [str(tmp_path / str(number)) for number in range(20)]
    for path in paths:
        Path(path).touch()
    errors: list[BaseException] = []
    stop = threading.Event()
    looked_up = [0] * 8

    def read(number: int, cache: FStatCache) -> None:
        rng = random.Random(number)
        seen = dict.fromkeys(paths, 0)
        try:
            while not stop.is_set():
                path = rng.choice(paths)
                stats = cache.get_file_stats(path)
                looked_up[number] += 1
                assert stats is not None
                assert stats.size >= seen[path], "an old stat overwrote a newer one"
                seen[path] = stats.size
        except BaseException as error:  # noqa: BLE001 - whatever it is, the main thread reports it
            errors.append(error)

    with FStatCache(max_files=15) as cache:
        threads = [threading.Thread(target=read, args=(number, cache)) for number in range(8)]
        for thread in threads:
            thread.start()
        rng = random.Random(0)
        for _ in range(1500):
            path = rng.choice(paths)
            if rng.random() < 0.2:
                Path(path + ".new").write_bytes(b"x" * (os.stat(path).st_size + 1))
                os.replace(path + ".new", path)
            else:
                with open(path, "ab") as log:
                    log.write(b"x")
            cache.sync()
            assert cache.get_file_stats(path) == cache.get_file_stats_using_stat(path)
            looked_up.append(1)
        stop.set()
        for thread in threads:
            thread.join()
        assert errors == []
        info = cache.cache_info()
        assert info.hits + info.misses == sum(looked_up)
        assert info.files <= 15
