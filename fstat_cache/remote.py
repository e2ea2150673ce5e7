"""The cache's files on filesystems that may hang: asked without its lock, answers taken in with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fstat_cache.engine import Engine
from fstat_cache.hanging import Found
from fstat_cache.life import Life
from fstat_cache.lru import Places
from fstat_cache.mounts import Mount
from fstat_cache.states import MOUNTED, REMOTE
from fstat_cache.stats import FileStats


class RemoteFiles:
    """Asks the workers for stats.

    Args:
        life: whose lock and engine.
        places: for files that are new.
    """

    __slots__ = ("_life", "_places")

    def __init__(self, life: Life, places: Places) -> None:
        self._life = life
        self._places = places

    def ask(self, mount: Mount, path: str, *, makes_room: bool = True) -> FileStats | None:
        """Stat one file.

        Raises:
            OSError: what ``os.stat`` raises for anything but absence; :class:`TimeoutError` without an answer in time.
        """
        found = self.stat({mount: [path]}, makes_room=makes_room)[path]
        if isinstance(found, OSError):
            raise found
        return found

    def stat(self, paths: Mapping[Mount, Sequence[str]], *, makes_room: bool) -> dict[str, Found]:
        """Stat files, and take in the answers.

        Args:
            paths: mount -> paths.
            makes_room: whether a file that has no entry takes the place of another; else it only gets a free one, and
                what was found is a change in any case.
        """
        life = self._life
        with life.asking:
            answers = life.workers.look(paths)
            with life.lock, life as engine:
                life.check_open()
                for path, found in answers.items():
                    if isinstance(found, OSError):
                        continue
                    if makes_room or engine.find(path) is not None or not self._places.are_full(engine):
                        self._take_in(engine, path, found)
                    if not makes_room:
                        engine.tell(path, found)
        return answers

    def _take_in(self, engine: Engine, path: str, stats: FileStats | None) -> None:
        entry = engine.find(path)
        if entry is not None and entry.state is not REMOTE:  # its path has led to a local file so far
            engine.untrack(entry)
            entry = None
        if entry is not None:
            self._places.use(entry)
            engine.stat_remote(entry, stats)
        elif stats is not None:
            self._places.use(engine.track_remote(path, stats))
            if self._places.max_files is not None:
                self._places.make_room(engine, self._places.max_files)

    def sync(self) -> None:
        """Stat all files that are tracked; who does not answer in time is late."""
        life = self._life
        with life.asking:
            answers = life.workers.look(self._paths())
            with life.lock, life as engine:
                life.check_open()
                engine.late = {path: answer for path, answer in answers.items() if isinstance(answer, OSError)}
                for path, answer in answers.items():
                    entry = engine.remote.get(path)
                    if entry is not None:
                        engine.stat_remote(entry, answer)

    def _paths(self) -> dict[Mount, list[str]]:
        paths: dict[Mount, list[str]] = {}
        life = self._life
        with life.lock, life as engine:
            life.check_open()
            life.schedule.take_in(life.session.news())  # the mount may have gone
            for entry in tuple(engine.remote.values()):
                mount = engine.mounts.remote_of(entry.path)
                if mount is not None:
                    paths.setdefault(mount, []).append(entry.path)
                else:  # its link was pointed elsewhere
                    engine.on(entry, MOUNTED)
        return paths
