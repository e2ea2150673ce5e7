"""The command `fstat-exporter`: flags, log, signals, exit status."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import platform
import resource
import signal
import stat
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from exporter import __version__
from exporter.advice import pattern_hint
from exporter.agent import Agent
from exporter.config import model
from exporter.config.errors import ConfigError, Mistake, one_line, shortened
from exporter.config.fields import scalars
from exporter.config.model import AUTHORIZATIONS, Config, WebConfig
from exporter.flags import Parser, directory_of
from exporter.ops import log
from exporter.ops.log import fields
from exporter.ops.systemd import Notifier, passed_descriptors
from exporter.shippers.inspection import inspect
from exporter.shippers.report import write
from exporter.state.state_file import StateError, check_path
from exporter.top import command as top
from exporter.web.security.kubernetes import ApiServer, ReviewError, TokenAuthorizer
from exporter.web.security.web_config_file import WebConfigFile
from exporter.web.server import ListenError, adopt, listen
from fstat_cache.paths import Root

DEFAULT_CONFIG_PATH = "/etc/fstat-exporter/exporter.yml"
REPORT = "shippers"
"""The command that prints a report, in the place of patterns."""
TOP = "top"
"""The command that shows what grows, with flags of its own; it comes first."""

_MAX_DESCRIPTORS = 65536

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: of the command line, without the name of the program; by default those of the process.

    Returns:
        The exit status: 0, or 1 after a mistake that was printed to stderr. After serving it does not return but ends
        the process with 0.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    if arguments[:1] == [TOP]:
        return top.run(arguments[1:])
    parsed = vars(_parser().parse_args(arguments))
    # The names of flags have dots, those of attributes cannot.
    flags = argparse.Namespace(**{name.replace(".", "_"): value for name, value in parsed.items()})
    try:
        is_report = _takes_report(flags)
        config_path = _config_path(flags)
        settings = _with_flags(_read_config(flags), flags)
        has_tokens = settings.web.authorization is not None and not is_report
        web_config = WebConfigFile(flags.web_config_file, has_tokens=has_tokens)
        rootfs = _rootfs(flags.path_rootfs)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if is_report:
        return _report(flags, settings, rootfs)
    if flags.config_check:
        return _check(flags, settings, web_config, rootfs)
    log.set_up(log.LEVELS[flags.log_level], flags.log_format, sys.stderr)
    web_config.tell_warnings()
    _raise_descriptor_limit()
    is_passed = flags.web_systemd_socket
    try:
        tokens = TokenAuthorizer(ApiServer.of_pod(os.environ)) if has_tokens else None
        agent = Agent(
            settings,
            adopt(passed_descriptors(os.environ)) if is_passed else listen(settings.web.listen_address),
            web_config,
            tokens=tokens,
            rootfs=rootfs,
            read_config=None if config_path is None else lambda: _with_flags(model.load(config_path), flags),
            config_path=config_path,
            has_lifecycle=flags.web_enable_lifecycle,
            notifier=Notifier(os.environ),
        )
    except ListenError as error:
        remedy = "" if is_passed else f"; {_address_remedy(flags)}"
        print(one_line(f"fstat-exporter: {error}{remedy}"), file=sys.stderr)
        return 1
    except ReviewError as error:
        print(f"fstat-exporter: web.authorization is kubernetes, but {error}", file=sys.stderr)
        return 1
    except StateError as error:
        print(f"fstat-exporter: {error}", file=sys.stderr)
        return 1
    if is_passed:
        _log.info("listening on the sockets from systemd; web.listen_address is not used")
    asyncio.run(_serve(agent))
    _log.info("stopped")
    logging.shutdown()
    # Everything is closed. The interpreter would now free 100,000 files one by one, which takes half a second.
    os._exit(0)


def _check(flags: argparse.Namespace, settings: Config, web_config: WebConfigFile, rootfs: str) -> int:
    """Print what a start would find on this machine; return the exit status."""
    source = _source(flags)
    hints = [Mistake(flags.web_config_file, warning) for warning in web_config.current().warnings]
    for group_number, group in enumerate(settings.logs):
        for number, pattern in enumerate(group.paths):
            name, key_path = source, f"logs[{group_number}].paths[{number}]"
            if flags.patterns:
                name, key_path = f"pattern {shortened(flags.patterns[number])!r}", ""
            if text := pattern_hint(pattern, Root(rootfs)):
                hints.append(Mistake(name, f"hint: {text}", key_path))
    try:
        if settings.state.path is not None and (text := check_path(settings.state.path)):
            hints.append(Mistake(source, f"hint: {text}", "state.path"))
    except StateError as error:
        print(Mistake(source, str(error), "state.path"), file=sys.stderr)
        return 1
    if settings.web.authorization is not None:
        try:
            ApiServer.of_pod(os.environ)
        except ReviewError as error:
            hints.append(Mistake(source, f"hint: {error}", "web.authorization"))
    for each in hints:
        print(each, file=sys.stderr)
    patterns = sum(len(group.paths) for group in settings.logs)
    print(one_line(f"{source}: valid, groups: {len(settings.logs)}, patterns: {patterns}"))
    if flags.web_config_file is not None:
        print(one_line(f"{flags.web_config_file}: valid"))
    return 0


def _takes_report(flags: argparse.Namespace) -> bool:
    """Return whether the command is ``shippers``, and take it out of the patterns.

    Raises:
        ConfigError: patterns follow, or the command is ``top``.
    """
    if flags.patterns[:1] == [TOP]:
        text = f"comes before all flags: fstat-exporter {TOP} --help lists its own; a file is ./{TOP}"
        raise ConfigError([Mistake(TOP, text)])
    if flags.patterns[:1] != [REPORT]:
        return False
    if len(flags.patterns) > 1:
        text = f"takes no patterns: name a configuration that has shippers with --config.file; a file is ./{REPORT}"
        raise ConfigError([Mistake(REPORT, text)])
    flags.patterns = []
    return True


def _report(flags: argparse.Namespace, settings: Config, rootfs: str) -> int:
    """Print what the shippers have read; return the exit status."""
    if not settings.shippers:
        print(Mistake(_source(flags), "is missing: add the log shippers", "shippers"), file=sys.stderr)
        return 1
    log.set_up(logging.ERROR, flags.log_format, sys.stderr)
    reports, hints = inspect(settings, rootfs)
    print(write(reports, hints), end="")
    return int(not all(report.is_readable for report in reports))


async def _serve(agent: Agent) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _ask_to_stop, stop, number)
    loop.add_signal_handler(signal.SIGHUP, agent.ask_to_reload, "SIGHUP")
    await agent.run(stop)


def _ask_to_stop(stop: asyncio.Event, number: int) -> None:
    if not stop.is_set():
        _log.info("stopping", extra=fields(signal=signal.Signals(number).name))
    stop.set()


def _parser() -> Parser:
    parser = Parser(
        prog="fstat-exporter",
        description="Publish size, age and changes of log files as Prometheus metrics.",
        allow_abbrev=False,
        epilog=f"fstat-exporter {REPORT} --config.file=FILE prints what each log shipper of the configuration has not "
        f"read, and why logs have no position; it needs no running agent. fstat-exporter {TOP} shows what grows in the "
        f"terminal, see fstat-exporter {TOP} --help.",
    )
    add = parser.add_argument
    add(
        "patterns",
        metavar="PATTERN",
        nargs="*",
        help="patterns of files, instead of a configuration file; quote them, so that the agent also finds new files",
    )
    add("--config.file", metavar="FILE", help=f"the configuration (default: {DEFAULT_CONFIG_PATH})")
    add("--config.check", action="store_true", help="check the configuration on this machine and exit")
    add(
        "--web.listen-address",
        metavar="ADDRESS",
        help="host:port, [IPv6 address]:port, or :port for all addresses (default: :10943)",
    )
    add(
        "--web.systemd-socket",
        action="store_true",
        help="listen on the sockets of a systemd .socket unit, instead of --web.listen-address",
    )
    add("--web.telemetry-path", metavar="PATH", help="the path of the metrics (default: /metrics)")
    add(
        "--web.authorization",
        choices=AUTHORIZATIONS,
        help="kubernetes: the API server of Kubernetes decides by bearer tokens; needs TLS (default: no tokens)",
    )
    add(
        "--web.config.file",
        metavar="FILE",
        help="TLS and basic authentication, in the format of Prometheus' exporter-toolkit",
    )
    add(
        "--path.rootfs",
        metavar="DIR",
        default="/",
        help="directory where the host's root is mounted in a container; patterns and published paths are then "
        "the host's (default: /)",
    )
    add("--web.enable-lifecycle", action="store_true", help="reload the configuration on POST /-/reload too")
    add("--log.level", choices=tuple(log.LEVELS), default="info", help="(default: info)")
    add("--log.format", choices=("logfmt", "json"), default="logfmt", help="(default: logfmt)")
    add("--version", action="version", version=f"fstat-exporter {__version__} (Python {platform.python_version()})")
    return parser


def _source(flags: argparse.Namespace) -> str:
    if flags.patterns:
        return "command line"
    return flags.config_file or DEFAULT_CONFIG_PATH


def _config_path(flags: argparse.Namespace) -> str | None:
    """Return the absolute path of the configuration, or None; a reload works after the working directory is gone."""
    if flags.patterns:
        return None
    source = _source(flags)
    return os.path.join(directory_of(source, source), source)


def _rootfs(path: str) -> str:
    """Return the absolute path of the directory that is to be the root.

    Raises:
        ConfigError: it cannot be used.
    """
    try:
        real = os.path.realpath(path)
        if not stat.S_ISDIR(os.stat(path).st_mode):
            reason = "is not a directory"
        elif not os.path.samefile(path, real):  # as /proc/PID/root
            reason = "leads into another mount namespace"
        else:
            return real
    except OSError as error:
        reason = f"cannot be used: {error.strerror}"
    text = f"{shortened(path)!r} {reason}; expected the directory where the host's root is mounted"
    raise ConfigError([Mistake("--path.rootfs", text)])


def _read_config(flags: argparse.Namespace) -> Config:
    if flags.patterns and flags.config_file is not None:
        text = "cannot be combined with patterns on the command line; use one or the other"
        raise ConfigError([Mistake("--config.file", text)])
    if flags.patterns:
        relative = next((text for text in flags.patterns if text and not text.startswith("/")), "/")
        if relative != "/" and flags.path_rootfs != "/":
            text = "is relative; with --path.rootfs write it as the host sees it, from its root on"
            raise ConfigError([Mistake(f"pattern {shortened(relative)!r}", text)])
        return model.from_patterns(flags.patterns, directory_of(relative, f"pattern {shortened(relative)!r}"))
    if flags.config_file is None and _is_missing(DEFAULT_CONFIG_PATH):
        text = (
            "does not exist; name a configuration with --config.file FILE, "
            "or give patterns: fstat-exporter '/var/log/**/*.log'"
        )
        raise ConfigError([Mistake(DEFAULT_CONFIG_PATH, text)])
    return model.load(_source(flags))


def _address_remedy(flags: argparse.Namespace) -> str:
    """Return where to set another address; the flag overrides the configuration."""
    remedy = "choose another with --web.listen-address"
    if flags.patterns or flags.web_listen_address is not None:
        return remedy
    return f"{remedy}, or web.listen_address in {_source(flags)}"


def _is_missing(path: str) -> bool:
    try:
        os.stat(path)
    except OSError as error:
        return isinstance(error, FileNotFoundError)  # reading the file reports any other error
    return False


def _with_flags(settings: Config, flags: argparse.Namespace) -> Config:
    mistakes = []
    given: dict[str, Any] = {}
    for flag, key, text, parse in (
        ("--web.listen-address", "listen_address", flags.web_listen_address, scalars.parse_listen_address),
        ("--web.telemetry-path", "telemetry_path", flags.web_telemetry_path, scalars.parse_telemetry_path),
    ):
        try:
            if text is not None:
                given[key] = parse(text)
        except ValueError as error:
            mistakes.append(Mistake(flag, str(error)))
    if mistakes:
        raise ConfigError(mistakes)
    if flags.web_authorization is not None:
        given["authorization"] = flags.web_authorization
    if flags.web_systemd_socket:
        given["listen_address"] = WebConfig().listen_address  # not used, so a reload finds no change of it
    return replace(settings, web=replace(settings.web, **given))


def _raise_descriptor_limit() -> None:
    """Allow many connections: with the usual 1024 descriptors idle clients could lock a scraper out."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
