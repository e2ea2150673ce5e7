"""The symlink resolver: gives every place on the way of a path, and resolves paths beneath another root."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Concatenate, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

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


class Root:
    """A directory that is taken for the root of the machine, as after chroot(2): a container's mount of its host.

    Paths are those of the host. They are translated where they go to the kernel, and nowhere else; that takes a
    readlink(2) for each component of the path and of the links in it. With "/" everything is left to the kernel.

    Args:
        path: the directory; absolute, without symbolic links.

    Attributes:
        path: without a slash at its end.
        real: gives where a path leads, free of symbolic links. Raises OSError as ``os.stat`` does.
        is_link: :func:`os.path.islink`.
    """

    def __init__(self, path: str = "/") -> None:
        self.path = path.rstrip("/")
        self.real: Callable[[str], str] = self._real if self.path else os.fspath
        self.is_link: Callable[[str], bool] = self._is_link if self.path else os.path.islink

    def beneath(self, function: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
        """Have a function take its first argument for a path beneath this root."""
        if not self.path:
            return function

        def call(path: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
            return function(self.real(path), *args, **kwargs)

        return call

    def real_name(self, path: str) -> str:
        """Give where a name is, even that of a symbolic link. Raises OSError as ``os.lstat`` does."""
        directory, name = os.path.split(path)
        return os.path.join(self.real(directory), name)

    def _real(self, path: str) -> str:
        walk = Walk(path, root=self.path)
        for place in walk:
            try:
                target = os.readlink(place)
            except OSError as error:
                # Nothing is there. A call by this path would follow a link that is made meanwhile past the root.
                if error.errno != errno.EINVAL:
                    raise OSError(error.errno, error.strerror, path) from None
            else:
                walk.follow({place: target}.get)
                if walk.here == place:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        return walk.here

    def _is_link(self, path: str) -> bool:
        try:
            return os.path.islink(self.real_name(path))
        except OSError:
            return False
