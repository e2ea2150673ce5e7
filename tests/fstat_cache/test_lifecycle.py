"""Threads, forks, exits and descriptors: nothing starts before it is needed, and nothing stays behind."""

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fstat_cache import FStatCache
from tests.fstat_cache.driven import survey
from tests.fstat_cache.kernel import kernel_watches, times_woken_when_idle
from tests.support import wait_until

THREAD = "fstat-cache"


def followers() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


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
        assert (followers(), descriptors()) == (0, before)
        cache.sync()
        assert (followers(), descriptors()) == (0, before)
        assert cache.get_file_stats(file.with_name("missing")) is None
        assert followers() == 0
        assert cache.alive
        cache.get_file_stats(file)
        assert followers() == 1
    assert (followers(), descriptors()) == (0, before)


def test_opening_and_closing_leaks_nothing(file: Path) -> None:
    """Opening, using, invalidating and closing caches leaves no thread and no descriptor."""
    before = descriptors()
    for number in range(300):
        with FStatCache() as cache:
            cache.get_file_stats(file)
            if number % 2:
                cache.invalidate()
                cache.get_file_stats(file)
    assert (followers(), descriptors()) == (0, before)


def test_a_cache_dropped_unclosed_ends_its_thread(file: Path) -> None:
    """When the last reference goes, the thread and the descriptors go, even though close() was never called."""
    before = descriptors()
    cache = FStatCache()
    cache.get_file_stats(file)
    del cache
    gc.collect()
    wait_until(lambda: (followers(), descriptors()) == (0, before))


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
        with cache._life.lock:
            pid = os.fork()
            if pid == 0:
                os._exit(0 if cache.get_file_stats(file) is not None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_failing_thread_is_told_and_the_cache_stays_right(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When the thread dies the log says so, alive is False, and look-ups go to os.stat instead of growing stale."""
    with FStatCache() as cache, open(os.devnull) as no_inotify:
        cache.build([file])
        inotify = cache._life.session.inotify
        assert inotify is not None
        os.dup2(no_inotify.fileno(), inotify.fd)
        file.write_bytes(b"wakes the thread, which finds that the descriptor is no inotify instance")
        wait_until(lambda: "has failed" in caplog.text)
        assert not cache.alive
        for text in (b"1", b"22"):
            file.write_bytes(text)
            assert cache.get_file_stats(str(file)) == cache.get_file_stats_using_stat(file)


def test_without_a_thread_to_be_had(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system gives no more threads every look-up is an os.stat, and closing works."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = descriptors()
    with FStatCache() as cache:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            cache.build([file])
        for text in (b"1", b"22"):
            file.write_bytes(text)
            assert cache.get_file_stats(str(file)) == cache.get_file_stats_using_stat(file)
        assert not cache.alive
        assert cache.status().polled == {"thread_failed": 1}
        cache.invalidate()
        assert cache.get_file_stats(str(file)) == cache.get_file_stats_using_stat(file)
        assert cache.alive
    assert (followers(), descriptors()) == (0, before)


@pytest.mark.alone
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
        (follower,) = (thread for thread in threading.enumerate() if thread.name == THREAD)
        assert times_woken_when_idle(follower) == 0


def test_a_hit_takes_no_lock(file: Path) -> None:
    """A file in the cache is answered while another thread is busy in the cache, whatever that takes."""
    with FStatCache() as cache:
        stats = cache.get_file_stats(str(file))
        with cache._life.lock:
            assert cache.get_file_stats(str(file)) is stats


@pytest.mark.parametrize("cpu_budget", [0, -1, 1.5])
def test_a_budget_that_makes_no_sense_is_refused(cpu_budget: float) -> None:
    """A CPU budget is a share of one core."""
    with pytest.raises(ValueError, match="cpu_budget must be above 0 and at most 1"):
        FStatCache(cpu_budget=cpu_budget)


LATE = """
import atexit, os, sys
def late():
    reader, writer = os.pipe()  # has the number of the descriptor that the cache had
    with open(sys.argv[1], "a") as log:
        log.write("x")
    os.write(writer, b"not for the cache")
    cache.sync()
    assert cache.get_file_stats(sys.argv[1]) == cache.get_file_stats_using_stat(sys.argv[1])
    assert os.read(reader, 100) == b"not for the cache"
    print("right")
atexit.register(late)
from fstat_cache import FStatCache
cache = FStatCache()
cache.build([sys.argv[1]])
"""


def test_who_asks_while_the_interpreter_ends_gets_the_truth(file: Path) -> None:
    """An exit handler that runs after the cache's own is answered by os.stat, and nobody's descriptor is read."""
    done = run(LATE, str(file))
    assert (done.returncode, done.stdout) == (0, "right\n"), done.stderr


class Interruption(Exception):
    pass


# One that comes in a finalizer can not be raised, says Python.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_leaves_nothing_half_done(tmp_path: Path) -> None:
    """What a signal's handler raises at random moments costs what was remembered, never the truth."""
    paths = [str(tmp_path / str(number)) for number in range(20)]
    for path in paths:
        Path(path).touch()
    rng = random.Random(1)
    armed = False

    def interrupt(*_: object) -> None:
        if armed:
            raise Interruption

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with FStatCache(max_files=15) as cache:
            for _ in range(1500):
                path = rng.choice(paths)
                with open(path, "ab") as log:
                    log.write(b"x")
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, rng.random() * 3e-4)
                    for _ in range(5):
                        cache.get_file_stats(rng.choice(paths))
                        cache.sync()
                    armed = False
                except Interruption:
                    pass
                signal.setitimer(signal.ITIMER_REAL, 0)
                cache.sync()
                assert cache.get_file_stats(path) == cache.get_file_stats_using_stat(path)
            assert survey(cache, set(paths)) == {}
            for path in cache.list_files_in_cache():
                assert cache._served[path].stats == cache.get_file_stats_using_stat(path)
            assert cache.status().watches == cache.cache_info().files == 15
            wait_until(lambda: kernel_watches() == 15)  # what was thrown away last is closed by a thread of its own
    finally:
        signal.signal(signal.SIGALRM, before)
    wait_until(lambda: all(thread.name != "fstat-cache-end" for thread in threading.enumerate()))


def test_evicting_while_others_hit(tmp_path: Path) -> None:
    """Threads that stamp every entry while room is being made do not leave the cache without a victim."""
    paths = [str(tmp_path / str(number)) for number in range(3)]
    for path in paths:
        Path(path).touch()
    errors: list[BaseException] = []
    stop = threading.Event()

    def look_up(path: str, cache: FStatCache) -> None:
        try:
            while not stop.is_set():
                cache.get_file_stats(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the main thread reports it
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with FStatCache(max_files=1) as cache:
            threads = [threading.Thread(target=look_up, args=(path, cache)) for path in paths]
            for thread in threads:
                thread.start()
            wait_until(lambda: errors or cache.cache_info().evictions > 300)
            stop.set()
            for thread in threads:
                thread.join()
            assert errors == []
            assert cache.cache_info().files == kernel_watches() == 1
    finally:
        sys.setswitchinterval(interval)
