"""Symbolic links, and the names over which they lead: these are watched, for a link may come to lead elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable

from exporter.discovery.folders import ByName, Folder, Folders, Place
from exporter.matching.automaton import Directory
from fstat_cache import AUTOFS, REMOTE
from fstat_cache.paths import MOST_LINKS, Walk


class Links:
    """The symbolic links that matter.

    Attributes:
        leads: a link's directory and name -> each link on its way but itself, and the end.
    """

    def __init__(self, folders: Folders) -> None:
        self.leads: ByName[list[Place]] = ByName()
        self._folders = folders

    def resolve(self, directory: str, name: str) -> bool:
        """Watch every name over which a path leads, if it is a symbolic link, and none that it leads over no longer.

        Returns:
            Whether it is a symbolic link.
        """
        path = os.path.join(directory, name)
        before = set(self.leads.take(directory, name) or ())
        places = self._way(path)
        for _ in range(MOST_LINKS):
            if places is None or not self._hang_on(path, places):
                break
            before.update(places)
            places = self._way(path)  # watch first, then look
        if places is not None:
            self.leads.put(directory, name, places)
        self._let_go(path, before.difference(places or ()))
        return places is not None

    def forget(self, directory: str, name: str) -> None:
        """Watch no names for a path any longer, be it a link or not."""
        self._let_go(os.path.join(directory, name), self.leads.take(directory, name) or ())

    def unwatch_if_unneeded(self, folder: Folder, state: Directory) -> None:
        """Watch a directory that is not listed no longer, unless for names that may come, or lead elsewhere."""
        leads = self.leads.get(folder.path, ())
        for name in state.names:
            if state.match(name) is not None:
                return
            if state.enter(name, is_symlink=True) is not None:
                # A directory that is there, local, and no symbolic link reports by itself that it goes.
                below = self._folders.get(os.path.join(folder.path, name))
                if name in leads or below is None or below.state is None or below.reason in (REMOTE, AUTOFS):
                    return
        self._folders.unwatch(folder)

    def _way(self, path: str) -> list[Place] | None:
        """Each symbolic link that one leads over but for itself, and the end, be something there or not.

        Where a remote filesystem begins the way ends, before it is asked. None: it is no symbolic link.
        """
        if not os.path.islink(path):
            return None
        places: list[Place] = []
        walk = Walk(path)
        for place in walk:
            is_itself = walk.is_last  # the first time; the links before it lead to its directory
            target = walk.follow(os.readlink)
            if not (places or is_itself) or (target is None and not walk.is_last):
                continue
            places.append(Place(*os.path.split(place)))
            if target is not None:
                directory, name = os.path.split(os.path.join(os.path.dirname(place), target))
                if self._folders.is_remote(directory):
                    places.append(Place(directory, name))
                    break
        return places[1:] if places else None  # none: a link before it has gone between two looks, which is an event

    def _hang_on(self, link: str, places: Iterable[Place]) -> bool:
        """Watch the names over which a link leads; return whether there are any that were not watched already."""
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

    def _let_go(self, link: str, places: Iterable[Place]) -> None:
        folders = self._folders
        for directory, name in set(places):
            links = folders.crossed[directory][name]
            links.discard(link)
            if not links:
                folders.crossed.take(directory, name)
                folders.forget_if_unused(folders[directory])
