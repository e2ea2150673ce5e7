"""Threads, forks, exits and descriptors: nothing starts before it is needed, and nothing stays behind."""

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fstat_cache import FStatCache
from tests.fstat_cache.kernel import times_asleep
from tests.support import wait_until

PUMP = "fstat-cache-pump"


def pumps() -> int:
    return sum(thread.name == PUMP for thread in threading.enumerate())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.log"
    path.write_bytes(b"12345")
    return path


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_nothing_runs_before_the_first_watch(file: Path) -> None:
    """Making a cache and sync() start no thread and open no descriptor; a look-up of a missing file starts none."""
    before = descriptors()
    with FStatCache() as cache:
        assert (pumps(), descriptors()) == (0, before)
        cache.sync()
        assert (pumps(), descriptors()) == (0, before)
        assert cache.get_file_stats(file.with_name("missing")) is None
        assert pumps() == 0
        assert cache.alive
        cache.get_file_stats(file)
        assert pumps() == 1
    assert (pumps(), descriptors()) == (0, before)


def test_opening_and_closing_leaks_nothing(file: Path) -> None:
    """Opening, using, invalidating and closing caches leaves no thread and no descriptor."""
    before = descriptors()
    for number in range(300):
        with FStatCache() as cache:
            cache.get_file_stats(file)
            if number % 2:
                cache.invalidate()
                cache.get_file_stats(file)
    assert (pumps(), descriptors()) == (0, before)


def test_a_cache_dropped_unclosed_ends_its_thread(file: Path) -> None:
    """When the last reference goes, the thread and the descriptors go, even though close() was never called."""
    before = descriptors()
    cache = FStatCache()
    cache.get_file_stats(file)
    del cache
    gc.collect()
    wait_until(lambda: (pumps(), descriptors()) == (0, before))


EXIT = """
import sys
from fstat_cache import FStatCache
cache = FStatCache()
cache.build([sys.argv[1]])
with open(sys.argv[1], "a") as log:
    log.write("x")
{end}
print("bye")
"""


@pytest.mark.parametrize("end", ["", "cache.close()", "del cache", "cache.invalidate()"])
def test_a_process_exits_at_once_and_silently(file: Path, end: str) -> None:
    """With a live cache, a closed one or a dropped one, exiting takes no time and prints nothing."""
    done = run(EXIT.format(end=end), str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")


def test_importing_configures_nothing() -> None:
    """No handler, no thread, no signal, no descriptor comes with the import."""
    done = run(
        "import os, logging, threading\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "import fstat_cache\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
        "assert not logging.getLogger().handlers and threading.active_count() == 1\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def follow_in_child(cache: FStatCache, path: str, connection: "multiprocessing.connection.Connection") -> None:
    empty = cache.list_files_in_cache() == []
    before = cache.get_file_stats(path)
    with open(path, "a") as log:
        log.write("child")
    cache.sync()
    after = cache.get_file_stats(path)
    assert before is not None
    assert after is not None
    connection.send((empty, after.size - before.size, cache.alive))
    cache.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_empty_and_watches_anew(file: Path) -> None:
    """The child neither sees the parent's entries nor takes its events; both follow the file exactly."""
    with FStatCache() as cache:
        cache.build([file])
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context("fork").Process(target=follow_in_child, args=(cache, str(file), theirs))
        child.start()
        assert ours.poll(20)
        assert ours.recv() == (True, len("child"), True)
        child.join(20)
        assert child.exitcode == 0
        cache.sync()
        stats = cache.get_file_stats(str(file))
        assert stats is not None
        assert stats.size == os.stat(file).st_size
        assert cache.cache_info().misses == 0
        ours.close()
        theirs.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_while_the_lock_is_held(file: Path) -> None:
    """A child born while another thread works in the cache is not locked out."""
    with FStatCache() as cache:
        cache.build([file])
        with cache._lock:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if cache.get_file_stats(file) is not None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_failing_thread_is_told_and_the_cache_stays_right(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the pump dies the log says so, alive is False, and look-ups go to os.stat instead of growing stale."""
    with FStatCache() as cache, open(os.devnull) as no_inotify:
        cache.build([file])
        inotify = cache._session.inotify
        assert inotify is not None
        os.dup2(no_inotify.fileno(), inotify.fd)
        file.write_bytes(b"wakes the thread, which finds that the descriptor is no inotify instance")
        wait_until(lambda: "has failed" in caplog.text)
        assert not cache.alive
        for text in (b"1", b"22"):
            file.write_bytes(text)
            assert cache.get_file_stats(str(file)) == cache.get_file_stats_using_stat(file)


def test_a_failing_listener_stops_nothing(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What on_change raises is logged; the look-up that came upon the change is answered."""

    def fail(path: str, stats: object) -> None:
        raise ZeroDivisionError

    with FStatCache(on_change=fail) as cache:
        cache.build([file])
        file.write_bytes(b"changed")
        cache.sync()
        assert cache.get_file_stats(file) == cache.get_file_stats_using_stat(file)
        assert cache.alive
        assert "on_change has failed" in caplog.text


def test_idle_means_asleep(tmp_path: Path) -> None:
    """When nothing happens the thread does not wake up, not even after files were hot and have become quiet."""
    paths = [tmp_path / str(number) for number in range(100)]
    for path in paths:
        path.touch()
    with FStatCache() as cache:
        cache.build(paths)

        def write_until_hot() -> bool:
            paths[0].write_bytes(b"x")
            return cache.status().hot == 1

        wait_until(write_until_hot)
        wait_until(lambda: cache.status().hot == 0)
        (pump,) = (thread for thread in threading.enumerate() if thread.name == PUMP)
        asleep = wait_until(lambda: _asleep_for(pump, 0.3))
        time.sleep(1.5)  # three ticks of a thread that forgot to stop
        assert times_asleep(pump) == asleep


def _asleep_for(thread: threading.Thread, seconds: float) -> int:
    """How often a thread has gone to sleep so far, 0 while it has not slept through the last moments."""
    before = times_asleep(thread)
    time.sleep(seconds)
    return before if times_asleep(thread) == before else 0


def test_a_hit_takes_no_lock(file: Path) -> None:
    """A file in the cache is answered while another thread is busy in the cache, whatever that takes."""
    with FStatCache() as cache:
        stats = cache.get_file_stats(str(file))
        with cache._lock:
            assert cache.get_file_stats(str(file)) is stats


@pytest.mark.parametrize("cpu_budget", [0, -1, 1.5])
def test_a_budget_that_makes_no_sense_is_refused(cpu_budget: float) -> None:
    """A CPU budget is a share of one core."""
    with pytest.raises(ValueError, match="cpu_budget must be above 0 and at most 1"):
        FStatCache(cpu_budget=cpu_budget)
