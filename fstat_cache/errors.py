"""The package's own exceptions; besides, it raises plain :class:`OSError`, :class:`KeyError` and others."""

from __future__ import annotations


class FStatCacheError(Exception):
    """Base of the package's own exceptions."""


class CacheClosedError(FStatCacheError):
    """The cache was used after :meth:`FStatCache.close`."""
