"""FStatCache against the real kernel: after sync(), a look-up gives what os.stat gives."""

import inspect
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

from fstat_cache import CacheClosedError, CacheInfo, FileStats, FStatCache, Surveyed
from tests.fstat_cache.driven import stats_taken, survey
from tests.fstat_cache.kernel import kernel_watches
from tests.support import wait_until


@pytest.fixture
def cache() -> Iterator[FStatCache]:
    with FStatCache() as cache:
        yield cache


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.log"
    path.write_bytes(b"12345")
    return path


def truth(path: Path | str) -> FileStats | None:
    return FStatCache.get_file_stats_using_stat(path)


def test_first_look_up_is_a_miss_and_later_ones_are_hits(cache: FStatCache, file: Path) -> None:
    """One os.stat, then the same object from memory."""
    first = cache.get_file_stats(str(file))
    assert first == truth(file)
    assert cache.get_file_stats(str(file)) is first
    assert cache.cache_info() == CacheInfo(hits=1, misses=1, evictions=0, files=1, max_files=None)
    assert cache.cache_info().hits == 1, "asking for the counts counts nothing"


def test_a_change_is_noticed_without_sync(cache: FStatCache, file: Path) -> None:
    """Within moments of an append the look-up gives the new size, without any call but look-ups."""
    cache.build([file])
    with file.open("ab") as log:
        log.write(b"678")
    wait_until(lambda: cache.get_file_stats(file)["size"] == 8)  # type: ignore[index]


def test_the_example_in_the_help(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is at its beginning, and runs: five lines, of which one is sync()."""
    heading, mark, example, explanation, *_ = inspect.cleandoc(FStatCache.__doc__ or "").split("\n\n")
    assert heading.count("\n") == 0
    assert mark == "::"
    assert "sync" in explanation
    assert len(example.splitlines()) == 5
    assert "cache.sync()" in example
    exec(textwrap.dedent(example).replace("/var/log/syslog", str(file)), {"FStatCache": FStatCache})
    assert capsys.readouterr().out == f"{file.stat().st_size}\n"


def append(path: Path) -> None:
    with path.open("ab") as log:
        log.write(b"more")


def truncate(path: Path) -> None:
    os.truncate(path, 1)


def set_times(path: Path) -> None:
    os.utime(path, (1, 2))


def delete(path: Path) -> None:
    path.unlink()


def delete_while_open(path: Path) -> None:
    with path.open("ab"):
        path.unlink()


def rename_away(path: Path) -> None:
    path.rename(path.with_name("other"))


def replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(b"a new file")
    os.replace(new, path)


def replace_while_open(path: Path) -> None:
    with path.open("ab"):
        replace(path)


def replace_while_linked(path: Path) -> None:
    os.link(path, path.with_name("keeps-the-inode"))
    replace(path)


def recreate(path: Path) -> None:
    path.unlink()
    path.write_bytes(b"12345")


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


def become_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES = [
    append,
    truncate,
    set_times,
    delete,
    delete_while_open,
    rename_away,
    replace,
    replace_while_open,
    replace_while_linked,
    recreate,
    become_a_directory,
    become_a_fifo,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_after_sync_a_look_up_is_exact(file: Path, change: Callable[[Path], None]) -> None:
    """Whatever happened to the file, after sync() the cache gives what os.stat gives, and goes on following it."""
    with FStatCache(gather_s=60) as cache:  # its own thread would forget a file that is just not there
        cache.build([file])
        change(file)
        cache.sync()
        assert cache.get_file_stats(file) == truth(file)
        if file.is_file():
            assert cache.cache_info().misses == 0, "the entry was kept true, not thrown away"
            append(file)
            cache.sync()
            assert cache.get_file_stats(file) == truth(file)
            assert cache.cache_info().misses == 0
        else:
            assert cache.list_files_in_cache() == []
            assert kernel_watches() == 0


def test_a_file_that_comes_back_is_seen_at_once(cache: FStatCache, file: Path) -> None:
    """A missing file is never remembered as missing."""
    file.unlink()
    assert cache.get_file_stats(file) is None
    file.write_bytes(b"back")
    assert cache.get_file_stats(file) == truth(file)


def test_what_is_no_regular_file_is_none_and_not_cached(cache: FStatCache, tmp_path: Path, file: Path) -> None:
    """Directories, fifos and paths below a file give None and leave no watch behind."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", file / "below", tmp_path / "missing", ""):
        assert cache.get_file_stats(path) is None
    assert cache.list_files_in_cache() == []
    assert kernel_watches() == 0


def test_what_os_stat_refuses_is_raised(cache: FStatCache, tmp_path: Path) -> None:
    """What is neither a file nor absent is the caller's to know: a loop of links, a NUL in the name."""
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(OSError, match="symbolic links"):
        cache.get_file_stats(tmp_path / "loop")
    with pytest.raises(ValueError, match="null"):
        cache.get_file_stats("/tmp/a\0b")
    assert cache.list_files_in_cache() == []


def test_two_names_of_one_inode_both_stay_right(cache: FStatCache, tmp_path: Path, file: Path) -> None:
    """Hard and symbolic links share a watch; taking one name away leaves the others followed."""
    hard, soft = tmp_path / "hard", tmp_path / "soft"
    os.link(file, hard)
    os.symlink(file, soft)
    cache.build([file, hard, soft])
    assert kernel_watches() == 1
    append(hard)
    cache.sync()
    assert cache.get_file_stats(file) == cache.get_file_stats(hard) == cache.get_file_stats(soft) == truth(file)
    cache.remove_from_watch(file)
    file.unlink()
    append(hard)
    cache.sync()
    assert cache.get_file_stats(hard) == truth(hard)
    assert cache.get_file_stats(soft) is None
    assert cache.cache_info().files == 1


def test_a_name_moved_onto_another_watched_name(cache: FStatCache, tmp_path: Path, file: Path) -> None:
    """Renaming one cached file over another leaves one entry, bound to the file that is there now."""
    other = tmp_path / "other"
    other.write_bytes(b"the other one")
    cache.build([file, other])
    os.rename(other, file)
    cache.sync()
    assert cache.list_files_in_cache() == [str(file)]
    assert cache.get_file_stats(file) == truth(file)
    append(file)
    cache.sync()
    assert cache.get_file_stats(file) == truth(file)
    assert kernel_watches() == 1


def test_two_files_that_swap_their_names(cache: FStatCache, tmp_path: Path, file: Path) -> None:
    """After a swap both names are followed at the inodes they have now."""
    other = tmp_path / "other"
    other.write_bytes(b"the other one")
    cache.build([file, other])
    os.rename(file, tmp_path / "aside")
    os.rename(other, file)
    os.rename(tmp_path / "aside", other)
    cache.sync()
    append(other)
    append(file)
    cache.sync()
    for path in (file, other):
        assert cache.get_file_stats(path) == truth(path)


def test_relative_paths_are_taken_from_the_current_directory(
    cache: FStatCache, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path, with or without ./, is one entry under its absolute name; it means another file elsewhere."""
    monkeypatch.chdir(file.parent)
    assert cache.get_file_stats(file.name) == cache.get_file_stats(f"./{file.name}") == truth(file)
    assert cache.list_files_in_cache() == [str(file)]
    assert cache.cache_info()[:2] == (1, 1)
    monkeypatch.chdir("/")
    assert cache.get_file_stats(file.name) is None
    cache.remove_from_watch(os.path.relpath(file, "/"))


def test_names_of_any_bytes(cache: FStatCache, tmp_path: Path) -> None:
    """bytes, PathLike and undecodable names work, and are listed as os.fsdecode gives them."""
    name = os.fsencode(tmp_path) + b"/\xff\n\"name'"
    with open(name, "wb") as log:
        log.write(b"x")
    assert cache.get_file_stats(name) == truth(os.fsdecode(name))  # type: ignore[arg-type]
    assert cache.list_files_in_cache() == [os.fsdecode(name)]


def test_build_reports_what_it_skipped(cache: FStatCache, file: Path, tmp_path: Path) -> None:
    """Paths without a regular file are returned; the rest is cached; a second call adds."""
    assert cache.build([file, tmp_path / "missing", tmp_path, "/a\0b"]) == [
        str(tmp_path / "missing"),
        str(tmp_path),
        "/a\0b",
    ]
    other = tmp_path / "other"
    other.touch()
    assert cache.build(iter([other, file])) == []
    assert sorted(cache.list_files_in_cache()) == sorted([str(file), str(other)])
    assert cache.cache_info()[:2] == (0, 0), "building is no look-up"


def test_build_refuses_a_single_path(cache: FStatCache, file: Path) -> None:
    """A string is not taken for a list of one-letter paths."""
    for path in (str(file), file, b"/tmp"):
        with pytest.raises(TypeError, match="iterable of paths"):
            cache.build(path)  # type: ignore[arg-type]


def test_adding_and_removing(cache: FStatCache, file: Path) -> None:
    """add_file_to_watch needs a file, remove_from_watch an entry; adding twice is one entry."""
    cache.add_file_to_watch(file)
    cache.add_file_to_watch(file)
    assert cache.cache_info() == CacheInfo(0, 0, 0, 1, None)
    assert kernel_watches() == 1
    cache.remove_from_watch(file)
    assert kernel_watches() == 0
    with pytest.raises(KeyError, match=re.escape(str(file))):
        cache.remove_from_watch(file)
    file.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        cache.add_file_to_watch(file)
    assert caught.value.filename == str(file)


def test_the_least_recently_used_file_is_unwatched(tmp_path: Path) -> None:
    """With max_files, using a file saves it, and the one evicted loses its kernel watch."""
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.touch()
    with FStatCache(max_files=3) as cache:
        cache.build(paths[:3])
        cache.get_file_stats(str(paths[0]))
        cache.get_file_stats(paths[3])
        assert sorted(cache.list_files_in_cache()) == [str(paths[0]), str(paths[2]), str(paths[3])]
        assert cache.cache_info() == CacheInfo(hits=1, misses=1, evictions=1, files=3, max_files=3)
        assert kernel_watches() == 3


def test_evicting_one_name_keeps_the_other_of_the_same_inode(tmp_path: Path) -> None:
    """The watch that an evicted hard link shares with the file admitted in its place stays."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    os.link(first, second)
    with FStatCache(max_files=1) as cache:
        cache.build([first, second])
        append(second)
        cache.sync()
        assert survey(cache, {str(second)}) == {}
        assert cache._served[str(second)].stats == truth(second)
        assert cache.cache_info() == CacheInfo(hits=1, misses=0, evictions=1, files=1, max_files=1)


def test_a_survey_neither_uses_nor_admits(tmp_path: Path) -> None:
    """A survey is counted, but leaves the order of eviction alone, and a full cache admits nothing idle for it."""
    paths = [tmp_path / str(number) for number in range(3)]
    for path in paths:
        path.touch()
    with FStatCache(max_files=2, keep_changes=True) as cache:
        survey(cache, {str(paths[0])})
        assert stats_taken(cache) == [(str(paths[0]), truth(paths[0]))], "there is room: admitted"
        cache.build([paths[1]])
        survey(cache, {str(paths[0])})
        os.utime(paths[2], (1, 1))
        for _ in range(2):
            cache.take()
            survey(cache, {str(paths[0]), str(paths[2])})
            assert stats_taken(cache) == [(str(paths[2]), truth(paths[2]))], "and nothing of what is in memory"
        assert sorted(cache.list_files_in_cache()) == [str(paths[0]), str(paths[1])]
        assert cache.cache_info() == CacheInfo(hits=3, misses=3, evictions=0, files=2, max_files=2)
        cache.get_file_stats(paths[2])
        assert sorted(cache.list_files_in_cache()) == [str(paths[1]), str(paths[2])]


def test_a_survey_tells_files_from_faults(tmp_path: Path, file: Path) -> None:
    """What is not there is told as None; what can not be looked at comes with its error and stops nothing else."""
    loop, missing = tmp_path / "loop", tmp_path / "missing"
    loop.symlink_to(loop)
    with FStatCache(keep_changes=True) as cache:
        assert list(survey(cache, {str(loop), str(file), str(missing), str(tmp_path)})) == [str(loop)]
        assert dict(stats_taken(cache)) == {str(file): truth(file), str(missing): None, str(tmp_path): None}
        assert cache.cache_info()[:2] == (0, 4)


def test_with_more_files_than_fit_the_active_ones_are_watched(tmp_path: Path) -> None:
    """Surveyed over and over, half of 400 files fit: hits stay near one half, and who is written is watched.

    Plain LRU would have no hit at all. One file in a hundred is active, others from time to time.
    """
    paths = [tmp_path / str(number) for number in range(400)]
    for path in paths:
        path.touch()
        os.utime(path, (1, 1))
    names = {str(path) for path in paths}
    told: dict[str, FileStats | None] = {}
    with FStatCache(max_files=200, keep_changes=True) as cache:
        cache.build(paths[:200])
        active = paths[::100]
        for number in range(30):
            for path in active:
                append(path)
            survey(cache, names)
            told.update(stats_taken(cache))
            if number < 3:
                before = cache.cache_info()
            for path in (*active, paths[number]):
                assert told[str(path)] == truth(path)
        after = cache.cache_info()
        share = (after.hits - before.hits) / (after.hits - before.hits + after.misses - before.misses)
        assert 0.475 <= share <= 0.525
        assert {str(path) for path in active} <= set(cache.list_files_in_cache())
        assert after.files == 200
        assert after.evictions == 2, "the two active files that did not fit, and no others"


def test_when_all_files_are_active_none_is_displaced(tmp_path: Path) -> None:
    """Where no file is idle, taking one's watch for another's would be work for nothing."""
    paths = [tmp_path / str(number) for number in range(20)]
    told: dict[str, FileStats | None] = {}
    with FStatCache(max_files=10, keep_changes=True) as cache:
        for _ in range(5):
            for path in paths:
                append(path)
            survey(cache, {str(path) for path in paths})
            told.update(stats_taken(cache))
            assert told == {str(path): truth(path) for path in paths}
        assert cache.cache_info().evictions == 0


def test_a_survey_goes_through_its_paths_only_when_some_have_left_memory(tmp_path: Path) -> None:
    """What has changed in place needs no search; a file that has gone, or was thrown out or doubted, is found."""

    class Paths(set[str]):
        searches = 0

        def __le__(self, other: AbstractSet[object]) -> bool:
            self.searches += 1
            return other >= set(self)

    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.touch()
    names = Paths(map(str, paths))
    told: dict[str, FileStats | None] = {}
    with FStatCache(keep_changes=True) as cache:
        surveyed = Surveyed()

        def searches() -> int:
            names.searches = 0
            hits = sum(cache.cache_info()[:2])
            assert survey(cache, names, surveyed) == {}
            told.update(stats_taken(cache))
            assert sum(cache.cache_info()[:2]) == hits + len(names)
            assert told == {str(path): truth(path) for path in paths}
            return names.searches

        assert (searches(), searches()) == (1, 0)
        append(paths[0])
        assert searches() == 0
        paths[1].unlink()
        assert (searches(), searches()) == (1, 0)
        paths[1].touch()
        assert (searches(), searches()) == (0, 0)
        cache.remove_from_watch(str(paths[2]))
        append(paths[2])
        assert (searches(), searches()) == (1, 0)
        cache.invalidate()
        append(paths[3])
        assert (searches(), searches()) == (1, 0)


def test_a_bound_below_one_is_refused() -> None:
    """A cache of no files is a mistake, said at once."""
    with pytest.raises(ValueError, match="max_files must be at least 1"):
        FStatCache(max_files=0)


def test_other_limits(tmp_path: Path) -> None:
    """Files beyond a lower bound are evicted, the least recently used first; a bound may be lifted."""
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.touch()
    for is_open in (False, True):
        with FStatCache() as cache:
            if is_open:
                cache.build(paths)
            cache.limit(max_files=2, cpu_budget=0.01)
            cache.build(paths)
            assert sorted(cache.list_files_in_cache()) == [str(path) for path in paths[2:]]
            assert cache.cache_info().max_files == 2
            paths[3].write_text("x")
            cache.sync()
            stats = cache.get_file_stats(paths[3])
            assert stats is not None
            assert stats.size == 1
            paths[3].write_text("")
            cache.limit(max_files=None, cpu_budget=None)
            cache.build(paths)
            assert cache.cache_info()[3:] == (4, None)
            with pytest.raises(ValueError, match="max_files"):
                cache.limit(max_files=0, cpu_budget=None)
    with pytest.raises(CacheClosedError):
        cache.limit(max_files=1, cpu_budget=None)


def test_responds(file: Path) -> None:
    """While the thread does its work, before there is any too; not while somebody holds it up, nor after the end."""
    with FStatCache() as cache:
        assert cache.responds(0)
        cache.get_file_stats(file)
        assert cache.responds(10)
        with cache._life.lock:
            assert not cache.responds(0.1)
        assert cache.responds(10)
    assert not cache.responds(0)


def test_invalidate_forgets_everything_and_may_be_used_again(cache: FStatCache, file: Path) -> None:
    """All watches go, the counts stay, and the next look-up starts anew."""
    cache.build([file])
    cache.get_file_stats(file)
    cache.invalidate()
    cache.invalidate()
    assert cache.list_files_in_cache() == []
    assert kernel_watches() == 0
    assert cache.cache_info().hits == 1
    append(file)
    assert cache.get_file_stats(file) == truth(file)
    append(file)
    cache.sync()
    assert cache.get_file_stats(file) == truth(file)


def test_a_closed_cache_says_so(file: Path) -> None:
    """close() may be called twice; look-ups raise CacheClosedError then, hits included, and so do changes of what is
    watched."""
    cache = FStatCache()
    cache.build([file])
    cache.close()
    cache.close()
    assert not cache.alive
    for use in (
        lambda: cache.get_file_stats(str(file)),
        lambda: cache.survey({str(file)}),
        lambda: cache.look(str(file)),
        lambda: cache.watch_directory(str(file.parent)),
        lambda: cache.unwatch_directory(str(file.parent)),
        cache.audit,
        lambda: cache.build([file]),
        lambda: cache.add_file_to_watch(file),
        lambda: cache.remove_from_watch(file),
        cache.sync,
        cache.invalidate,
    ):
        with pytest.raises(CacheClosedError, match="closed"):
            use()
    assert cache.cache_info().files == 0


def test_changes_are_taken_in_order(file: Path) -> None:
    """take() gives the first value, every new one and the end, once each."""
    with FStatCache(keep_changes=True) as cache:
        cache.build([file])
        for _ in range(2):
            append(file)
            cache.sync()
        cache.sync()
        file.unlink()
        cache.sync()
        taken = [(path, stats.size if stats else None) for path, stats in stats_taken(cache)]
        assert taken == [(str(file), 5), (str(file), 9), (str(file), 13), (str(file), None)]
        assert cache.take() == []


def test_changes_that_nobody_takes_are_not_kept(file: Path) -> None:
    """Without ``keep_changes`` there are none, however much changes."""
    with FStatCache() as cache:
        cache.watch_directory(str(file.parent))
        cache.build([file])
        append(file)
        file.with_name("other").touch()
        cache.sync()
        assert cache.take() == []


def test_a_look_is_told_whatever_it_finds(tmp_path: Path, file: Path) -> None:
    """look() tells what is there now, known or not, changed or not, with room for it or without; errors it raises."""
    with FStatCache(1, keep_changes=True) as cache:
        assert cache.look(str(file))
        assert cache.list_files_in_cache() == [str(file)]
        append(file)
        assert cache.look(str(file))
        assert stats_taken(cache)[-1] == (str(file), truth(file)), "without sync() as well"
        assert cache.look(str(file))
        other = tmp_path / "other"
        assert not cache.look(str(other))
        other.touch()
        assert cache.look(str(other))
        assert stats_taken(cache) == [(str(file), truth(file)), (str(other), None), (str(other), truth(other))]
        assert cache.list_files_in_cache() == [str(file)], "for which nothing was evicted"
        file.unlink()
        assert not cache.look(str(file))
        assert set(stats_taken(cache)) == {(str(file), None)}
        assert cache.look(str(other))
        other.unlink()
        other.symlink_to(other)
        for _ in range(2):
            with pytest.raises(OSError, match="symbolic links"):
                cache.look(str(other))
        assert cache.cache_info()[:2] == (0, 0), "it is no look-up"


def test_caches_share_nothing(file: Path) -> None:
    """Two caches over one file count, watch and close for themselves."""
    with FStatCache() as first, FStatCache() as second:
        first.build([file])
        second.build([file])
        first.close()
        append(file)
        second.sync()
        assert second.get_file_stats(file) == truth(file)
        assert kernel_watches() == 1


def test_how_followed(tmp_path: Path, cache: FStatCache) -> None:
    """Of each file: watched, hot while it is written all the time, polled for which reason; None when not cached."""
    quiet, busy = tmp_path / "quiet.log", tmp_path / "busy.log"
    quiet.touch()
    paths = [str(quiet), str(busy), "/proc/version", str(tmp_path / "unknown.log")]
    busy.touch()
    cache.build(paths[:3])
    assert cache.how_followed(paths) == ["watched", "watched", "filesystem", None]

    def is_hot() -> bool:
        busy.write_text("x")
        cache.sync()
        return cache.how_followed(paths) == ["watched", "hot", "filesystem", None]

    wait_until(is_hot)
