"""What the commands' flags have in common."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from exporter.config.errors import ConfigError, Mistake


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with 2."""
        self.exit(2, f"{self.prog}: error: {message}, see --help\n")


def directory_of(path: str, name: str) -> str:
    """Return the directory that a path is relative to; for an absolute path without asking for it.

    Args:
        path: absolute or relative.
        name: of the path in the error.

    Raises:
        ConfigError: the path is relative, and the working directory has no path.
    """
    if path.startswith("/"):
        return "/"
    try:
        return os.getcwd()
    except OSError as error:
        is_gone = isinstance(error, FileNotFoundError)
        reason = "is gone" if is_gone else f"cannot be determined: {error.strerror}"
        text = f"is relative, but the working directory {reason}; start in another one or make it absolute"
        raise ConfigError([Mistake(name, text)]) from None
