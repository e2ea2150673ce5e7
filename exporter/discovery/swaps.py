"""Finds directories with files that were replaced by symbolic links: ``**`` does not follow these by default."""

from __future__ import annotations

import logging

from exporter.discovery.folders import Folder, Folders
from exporter.ops.log import fields

_log = logging.getLogger(__name__)

MOST_DIRECTORIES = 1_000
"""How many directories that have lost files are remembered."""


class Swaps:
    """Remembers the directories that have lost files last: they, or directories in them, held files.

    Args:
        folders: the known directories.

    Attributes:
        emptied: these directories, the latest last.
    """

    def __init__(self, folders: Folders) -> None:
        self._folders = folders
        self.emptied: dict[str, None] = {}

    def note_loss(self, directory: str) -> None:
        """Remember a directory that has lost a file, or a directory that held files."""
        self.emptied.pop(directory, None)
        self.emptied[directory] = None
        if len(self.emptied) > MOST_DIRECTORIES:
            del self.emptied[next(iter(self.emptied))]

    def warn(self, folder: Folder) -> None:
        """Log that a symbolic link is where a directory was, if that held files."""
        path = folder.path
        if path in self.emptied or self._holds_files(folder):
            self.emptied.pop(path, None)
            what = "a directory was replaced by a symbolic link, which ** does not follow, so its files are not found: "
            remedy = "set follow_symlinks: true in the group, or add a pattern that names the link"
            _log.warning(what + remedy, extra=fields(path=path))

    def _holds_files(self, folder: Folder) -> bool:
        below = (self._folders.get(path) for path in folder.folders)
        return bool(folder.files) or any(self._holds_files(each) for each in below if each is not None)
