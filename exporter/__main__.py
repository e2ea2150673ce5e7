"""The start of the process, both as `fstat-exporter` and as `python -m exporter`."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run :func:`exporter.cli.main`, and end with 0 when told to stop before it can see to that."""
    # Before the imports, which take longest of all that happens at the start. A signal that comes earlier still, while
    # the interpreter itself starts, kills the process as it does by default.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload of what is not loaded yet
    from exporter import cli

    return cli.main()


def _leave(number: int, frame: FrameType | None) -> None:
    # There is nothing to clean up yet. An exception might be caught by whoever is being imported.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
