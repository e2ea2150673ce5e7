"""Symbolic links, and watches on every name on their way, because a change there changes where a link leads."""

from __future__ import annotations

import os
from collections.abc import Iterable

from exporter.discovery.folders import ByName, Folder, Folders, Place
from exporter.matching.automaton import Directory
from fstat_cache import AUTOFS, REMOTE
from fstat_cache.paths import MOST_LINKS, Root, Walk


class Links:
    """The symbolic links of interest.

    Args:
        folders: those over which they lead are watched.
        root: where paths begin.

    Attributes:
        leads: a link's directory and name -> the places on its way: the other links, and the end.
    """

    def __init__(self, folders: Folders, root: Root) -> None:
        self.leads: ByName[list[Place]] = ByName()
        self._folders = folders
        self._root = root

    def resolve(self, directory: str, name: str) -> bool:
        """Watch every name on the way of a path that is a symbolic link, and release those of its former way.

        Returns:
            Whether it is a symbolic link.
        """
        path = os.path.join(directory, name)
        before = set(self.leads.take(directory, name) or ())
        places = self._way(path)
        for _ in range(MOST_LINKS):
            if places is None or not self._watch(path, places):
                break
            before.update(places)
            places = self._way(path)  # again, because it may have changed before it was watched
        if places is not None:
            self.leads.put(directory, name, places)
        self._release(path, before.difference(places or ()))
        return places is not None

    def forget(self, directory: str, name: str) -> None:
        """Release all names that are watched for a path; one that is no link is no error."""
        self._release(os.path.join(directory, name), self.leads.take(directory, name) or ())

    def release(self, folder: Folder) -> None:
        """Forget a directory, or stop watching it, if only a name was of interest that no longer is."""
        self._folders.forget_if_unused(folder)
        if folder.state is not None and not folder.state.listed:
            self.unwatch_if_unneeded(folder, folder.state)

    def unwatch_if_unneeded(self, folder: Folder, state: Directory) -> None:
        """Stop watching a directory that is not listed, unless names in it may come or lead elsewhere."""
        leads = self.leads.get(folder.path, ())
        for name in state.names:
            if state.match(name) is not None:
                return
            if state.enter(name, is_symlink=True) is not None:
                # An existing local directory that is no symbolic link has a watch of its own, which reports its end.
                below = self._folders.get(os.path.join(folder.path, name))
                if name in leads or below is None or below.state is None or below.reason in (REMOTE, AUTOFS):
                    return
        self._folders.unwatch(folder)

    def _way(self, path: str) -> list[Place] | None:
        """Return the places on the way of a symbolic link: the other links, and the end, even if nothing is there.

        The way ends where a remote filesystem begins, without a system call on it. None: the path is no symbolic link.
        """
        if not self._root.is_link(path):
            return None
        places: list[Place] = []
        walk = Walk(path)
        for place in walk:
            is_itself = walk.is_last  # links before it only lead to its directory
            target = walk.follow(lambda place: os.readlink(f"{self._root.path}{place}"))
            if not (places or is_itself) or (target is None and not walk.is_last):
                continue
            places.append(Place(*os.path.split(place)))
            if target is not None:
                directory, name = os.path.split(os.path.join(os.path.dirname(place), target))
                if self._folders.is_remote(directory):
                    places.append(Place(directory, name))
                    break
        return places[1:] if places else None  # empty: a link above it was removed meanwhile, which is an event

    def _watch(self, link: str, places: Iterable[Place]) -> bool:
        """Watch the places on the way of a link; return whether some were not watched before."""
        is_new = False
        folders = self._folders
        for directory, name in places:
            links = folders.crossed.get(directory, {}).get(name)
            if links is None:
                is_new = True
                links = set()
                folders.crossed.put(directory, name, links)
                folders.watch_names(folders.make(directory))
            links.add(link)
        return is_new

    def _release(self, link: str, places: Iterable[Place]) -> None:
        folders = self._folders
        for directory, name in set(places):
            links = folders.crossed[directory][name]
            links.discard(link)
            if not links:
                folders.crossed.take(directory, name)
                self.release(folders[directory])
