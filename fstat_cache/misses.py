"""What memory does not answer: a stat with the cache's lock, or without it by a worker that may hang."""

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
    """Stats for look-ups, and what becomes of them.

    Args:
        life: whose lock and engine.
        places: for files that are new.
    """

    def __init__(self, life: Life, places: Places) -> None:
        self._life = life
        self._places = places

    def look_up(self, path: str, stamp: int) -> FileStats | None:
        """Stat a file that was not found in memory; it takes a place.

        Args:
            path: the path.
            stamp: the clock at this use.

        Raises:
            OSError: as :meth:`ask`.
        """
        life, places = self._life, self._places
        places.stamps_without_hit += 1
        with life.lock, life as engine:
            engine.open()
            entry = engine.files.find(path)
            if entry is not None:
                entry.used = stamp
                if entry.state in BELIEVED:  # under a relative name, or admitted by another thread meanwhile
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
        """Have a worker stat one file.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence; :class:`TimeoutError` without an answer in time.
        """
        found = self.stat({mount: [path]}, stamp, makes_room=makes_room)[path]
        if isinstance(found, OSError):
            raise found
        return found

    def stat(self, paths: Mapping[Mount, Sequence[str]], stamp: int, *, makes_room: bool) -> dict[str, Found]:
        """Have workers stat files, and take in the answers.

        Args:
            paths: mount -> paths.
            stamp: the clock at this use.
            makes_room: whether a file that has no entry takes the place of another; else it only gets a free one, and
                what was found is a change in any case.
        """
        with self._life.asking:
            answers = self._life.workers.look(paths)
            with self._life.lock, self._life as engine:
                for path, found in answers.items():
                    if not isinstance(found, OSError):
                        self._take_in(engine.files, path, found, stamp, makes_room=makes_room)
        return answers

    def _take_in(self, files: Files, path: str, stats: FileStats | None, stamp: int, *, makes_room: bool) -> None:
        entry = files.find(path)
        if entry is not None and entry.state is not REMOTE:  # its path has led to a local file so far
            files.untrack(entry)
            entry = None
        if entry is not None:
            entry.used = stamp
            files.take_over(entry, stats)
        elif stats is not None and (makes_room or not self._places.are_full(files)):
            self._places.admit(files, path, stamp, remote=stats)
        if not makes_room:
            files.tell(path, stats)

    def sync(self) -> None:
        """Stat all files that are tracked; who does not answer in time is late."""
        life = self._life
        paths: dict[Mount, list[str]] = {}
        with life.asking:
            with life.lock, life as engine:
                life.schedule.take_in(life.session.news())  # the mount may have gone
                for entry in tuple(engine.files.remote.values()):
                    mount = engine.mounts.remote_of(entry.path)
                    if mount is not None:
                        paths.setdefault(mount, []).append(entry.path)
                    else:  # its link was pointed elsewhere
                        engine.files.on(entry, MOUNTED)
            answers = life.workers.look(paths)
            with life.lock, life as engine:
                engine.late = {path: answer for path, answer in answers.items() if isinstance(answer, OSError)}
                for path in answers.keys() & engine.files.remote.keys():
                    engine.files.take_over(engine.files.remote[path], answers[path])
