"""Finds the state files of one shipper: by the path of a file, by a directory, or by a glob."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

from exporter.shippers.formats import Format
from fstat_cache.paths import Root


class Finder:
    """Finds state files.

    Args:
        state_format: of the state files.
        path: absolute; see `StateReader`.
        root: the directory where the path begins.
    """

    def __init__(self, state_format: Format, path: str, root: Root) -> None:
        self._format = state_format
        self._path = path
        self._root = root

    def find(self) -> dict[str, str | None]:
        """Find the state files; for Filebeat the registry directories.

        Returns:
            By path as the shipper sees it: the path for the kernel, or None if the caller has to resolve links first.
            Such a file may not exist.

        Raises:
            OSError: a directory cannot be listed.
        """
        found: dict[str, str | None] = {}
        for path in self._expand("", self._path):
            if self._is_directory(path):
                found |= self._find_below(path)
            elif not self._format.is_directory:
                found[path] = None
            elif self._format.is_state_file(os.path.basename(path)):
                found |= self._find_below(os.path.dirname(path))
        return found

    def _find_below(self, directory: str) -> dict[str, str | None]:
        for pattern in self._format.directories:
            found: dict[str, str | None] = {}
            for path in self._expand(directory, pattern):
                entries = [each for each in self._list(path) if self._format.is_state_file(each.name)]
                if self._format.is_directory:
                    found |= {path: None} if entries else {}
                else:
                    found |= {f"{path}/{each.name}": None if each.is_symlink() else each.path for each in entries}
            if found:
                return found
        return {}

    def _expand(self, directory: str, pattern: str) -> list[str]:
        """Expand a glob as a shell does; where a name is not one, the path may not exist."""
        paths = [directory]
        for part in filter(None, pattern.split("/")):
            if any(each in part for each in "*?["):
                is_hidden = part.startswith(".")
                paths = [
                    f"{path}/{each.name}"
                    for path in paths
                    for each in self._list(path)
                    if each.name.startswith(".") == is_hidden and fnmatchcase(each.name, part)
                ]
            else:
                paths = [f"{path}/{part}" for path in paths]
        return paths

    def _list(self, path: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._root.real(path or "/")) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _is_directory(self, path: str) -> bool:
        try:
            return os.path.isdir(self._root.real(path or "/"))
        except OSError:
            return False
