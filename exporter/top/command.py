"""The command ``fstat-exporter top``: its flags, its signals, and the plain text."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType

from exporter.config.errors import ConfigError, Mistake, shortened
from exporter.config.model import from_patterns
from exporter.flags import Parser, directory_of
from exporter.ops import log
from exporter.top.files import plain_lines
from exporter.top.sources import Agent, Patterns, Source, SourceError

DEFAULT_URL = "http://localhost:10943/"
INTERVAL_S = 2.0
"""The time between two reads."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(arguments: Sequence[str]) -> int:
    """Show what grows until the user quits; once, as plain text, if stdin or stdout is no terminal.

    Args:
        arguments: those after ``top``.

    Returns:
        The exit status: 0, or 1 after a mistake that was printed to stderr.
    """
    flags = vars(_parser().parse_args(arguments))
    streams = sys.stdin, sys.stdout  # None: it is closed
    is_live = all(each and each.isatty() for each in streams) and os.environ.get("TERM", "dumb") != "dumb"
    errors = io.StringIO()  # printed when the screen is the user's again
    log.set_up(logging.ERROR, "logfmt", errors)
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        if is_live:
            from exporter.top import screen  # urwid may be missing, and the plain text needs none
        source = _source(flags["targets"], flags["http.config.file"])
        try:
            if is_live:
                screen.Screen(source, INTERVAL_S).run()
            else:
                _print(source)
        finally:
            for line in (*errors.getvalue().splitlines(), *source.faults()):
                print(line, file=sys.stderr)
            source.close()
    except ModuleNotFoundError as error:
        if error.name != "urwid":
            raise
        text = "the terminal needs the package urwid; install fstat-exporter[top], or pipe the output for plain text"
        print(f"fstat-exporter top: {text}", file=sys.stderr)
        return 1
    except (ConfigError, SourceError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if is_live else 1
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="fstat-exporter top",
        description="Show what grows: rate, size and last write of files, live in a terminal, else once as plain text.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "targets",
        metavar="URL | PATTERN",
        nargs="*",
        help="the page of a running agent, or patterns of files to follow without an agent; quote patterns "
        f"(default: {DEFAULT_URL})",
    )
    parser.add_argument(
        "--http.config.file",
        metavar="FILE",
        help="credentials and certificates for the agent, in Prometheus' format: basic_auth, authorization, tls_config",
    )
    return parser


def _source(targets: Sequence[str], config_file: str | None) -> Source:
    """Return what to read.

    Raises:
        ConfigError: a target or the file is not valid.
    """
    urls = [target for target in targets if target.lower().startswith(("http://", "https://"))]
    if targets and not urls:
        if config_file is not None:
            raise ConfigError([Mistake("--http.config.file", "is for an agent, but patterns are given; leave it out")])
        relative = next((target for target in targets if target and not target.startswith("/")), "/")
        return Patterns(from_patterns(targets, directory_of(relative, f"pattern {shortened(relative)!r}")))
    if len(targets) > 1:
        raise ConfigError([Mistake(shortened(urls[0]), "expected one URL and nothing else, or patterns only")])
    return Agent(urls[0] if urls else DEFAULT_URL, config_file)


def _print(source: Source) -> None:
    source.read("rate", "")
    time.sleep(INTERVAL_S)
    files, _ = source.read("rate", "")
    text = "\n".join(plain_lines(files)) + "\n"
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` reads some lines only
    if sys.stdout is None:
        return
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        print(text, end="", flush=True)
    except OSError as error:
        sys.stdout = None  # otherwise the interpreter tries again at its end
        raise SourceError(f"the output cannot be written: {error.strerror}") from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:  # a second signal must not interrupt the end, which restores the terminal
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
