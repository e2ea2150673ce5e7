"""The start of the process, both as `fstat-exporter` and as `python -m exporter`."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run :func:`exporter.cli.main`; a signal to stop before it handles signals ends the process with 0."""
    # Before the imports, which take most of the start. A signal that comes even earlier, while the interpreter starts,
    # kills the process as by default.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing to reload yet
    from exporter import cli

    return cli.main()


def _leave(number: int, frame: FrameType | None) -> None:
    # There is nothing to clean up yet. A module that is being imported might catch an exception.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
