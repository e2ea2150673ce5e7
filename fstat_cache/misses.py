"""Look-ups that memory cannot answer: stats of local files under the cache's lock, of remote files by workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fstat_cache.files import Files
from fstat_cache.hanging import Found
from fstat_cache.life import Life
from fstat_cache.lru import Places
from fstat_cache.mounts import Mount
from fstat_cache.states import ASKED, BELIEVED, GONE, MOUNTED, REMOTE
from fstat_cache.stats import FileStats


class Misses:
    """Stats files for look-ups, and gives new files a place in the cache.

    Args:
        life: has the lock and the engine.
        places: for new files.
    """

    def __init__(self, life: Life, places: Places) -> None:
        self._life = life
        self._places = places

    def look_up(self, path: str, stamp: int) -> FileStats | None:
        """Stat a file that was not in memory, and give it a place.

        Args:
            path: the path.
            stamp: the clock at this use.

        Raises:
            OSError: see :meth:`ask`.
        """
        life, places = self._life, self._places
        places.stamps_without_hit += 1
        with life.lock, life as engine:
            engine.open()
            entry = engine.files.find(path)
            if entry is not None:
                entry.used = stamp
                if entry.state in BELIEVED:  # asked for by a relative path, or admitted by another thread meanwhile
                    places.stamps_without_hit -= 1
                    return entry.stats
            places.misses += 1
            mount = engine.mounts.remote_of(path)
            if mount is None:
                if entry is not None:
                    engine.files.on(entry, ASKED)
                    if entry.state is not GONE:
                        return entry.stats
                return places.admit(engine.files, path, stamp)
        return self.ask(mount, path, stamp)

    def ask(self, mount: Mount, path: str, stamp: int, *, makes_room: bool = True) -> FileStats | None:
        """Stat one remote file.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence; :class:`TimeoutError` after the timeout.
        """
        found = self.stat({mount: [path]}, stamp, makes_room=makes_room)[path]
        if isinstance(found, OSError):
            raise found
        return found

    def stat(self, paths: Mapping[Mount, Sequence[str]], stamp: int, *, makes_room: bool) -> dict[str, Found]:
        """Stat remote files, and update their entries.

        Args:
            paths: mount -> paths.
            stamp: the clock at this use.
            makes_room: whether a new file may evict another; else it only gets a free place, and every result is
                reported, changed or not.
        """
        with self._life.asking:
            answers = self._life.workers.stat(paths)
            with self._life.lock, self._life as engine:
                for path, found in answers.items():
                    if not isinstance(found, OSError):
                        self._take_in(engine.files, path, found, stamp, makes_room=makes_room)
        return answers

    def _take_in(self, files: Files, path: str, stats: FileStats | None, stamp: int, *, makes_room: bool) -> None:
        entry = files.find(path)
        if entry is not None and entry.state is not REMOTE:  # its path led to a local file before
            files.untrack(entry)
            entry = None
        if entry is not None:
            entry.used = stamp
            files.take_over(entry, stats)
        elif stats is not None and (makes_room or not self._places.are_full(files)):
            self._places.admit(files, path, stamp, remote=stats)
        if not makes_room:
            files.report(path, stats)

    def sync(self) -> None:
        """Stat all tracked remote files; those that fail are late."""
        life = self._life
        paths: dict[Mount, list[str]] = {}
        with life.asking:
            with life.lock, life as engine:
                life.schedule.take_in(life.session.news())  # a filesystem may have been unmounted
                for entry in tuple(engine.files.remote.values()):
                    mount = engine.mounts.remote_of(entry.path)
                    if mount is not None:
                        paths.setdefault(mount, []).append(entry.path)
                    else:  # its symbolic link was changed, and leads to a local file
                        engine.files.on(entry, MOUNTED)
            answers = life.workers.stat(paths)
            with life.lock, life as engine:
                engine.late = {path: answer for path, answer in answers.items() if isinstance(answer, OSError)}
                for path in answers.keys() & engine.files.remote.keys():
                    engine.files.take_over(engine.files.remote[path], answers[path])
