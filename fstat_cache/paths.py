"""The symlink resolver: gives every place on the way of a path."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

MOST_LINKS = 40
"""How many symbolic links the kernel follows in one path, path_resolution(7)."""


class Walk:
    """Resolves a path as the kernel does, one place at a time (path_resolution(7)).

    Iterating yields each place before anything reads it: a caller that stops there has not accessed it. To continue, a
    caller first calls :meth:`follow` at the place; otherwise the walk treats the place as a directory.

    Args:
        path: to resolve; if relative, from `start`.
        start: a resolved directory; by default the root.
        root: absolute paths and targets start there, and ``..`` does not lead above it.

    Attributes:
        here: the place that the walk has reached, without a slash at its end: "" is the machine's root. After the walk,
            what the path leads to. If that is a link, the kernel fails with ELOOP.
    """

    __slots__ = ("_ahead", "_links", "_root", "here")

    def __init__(self, path: str, *, start: str | None = None, root: str = "/") -> None:
        self._root = root.rstrip("/")
        self.here = self._root if start is None else start.rstrip("/")
        self._ahead: list[str] = []
        self._links = 0
        self._go_over(path)

    def __iter__(self) -> Iterator[str]:
        while self._ahead:
            name = self._ahead.pop()
            if name != "..":
                self.here = f"{self.here}/{name}"
                yield self.here
            elif self.here != self._root:
                self.here = self.here.rpartition("/")[0]

    @property
    def is_last(self) -> bool:
        """Whether no name follows this place; if it is a link, its target may add some."""
        return not self._ahead

    def follow(self, readlink: Callable[[str], str | None]) -> str | None:
        """Continue at the target of this place, if it is a symbolic link.

        Args:
            readlink: :func:`os.readlink`, or a function that returns None for no link. Any OSError but EINVAL (no link)
                ends the walk: nothing is there, or permission is missing.

        Returns:
            The target; None for no link. The first link beyond the kernel's limit is still returned, and ends the walk.
        """
        try:
            target = readlink(self.here)
        except OSError as error:
            if error.errno != errno.EINVAL:
                self._ahead.clear()
            return None
        if target is not None:
            self._links += 1
            if self._links > MOST_LINKS:
                self._ahead.clear()
            else:
                self.here = self.here.rpartition("/")[0]
                self._go_over(target)
        return target

    def _go_over(self, path: str) -> None:
        if path.startswith("/"):
            self.here = self._root
        self._ahead += [name for name in reversed(path.split("/")) if name not in ("", ".")]
