"""The configuration: YAML text to frozen values, or every mistake in it at once.

The fields of the dataclasses are the only list of the keys: by them the file is read, and of them
config/exporter.schema.json is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exporter.config import globs, yaml_file
from exporter.config.errors import ConfigError, Mistake, Report, shortened
from exporter.config.fields import scalars
from exporter.config.fields.scalars import ListenAddress
from exporter.config.fields.sections import ListOf, Section, key, optional
from exporter.config.groups import GroupSection, LogGroup


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The section ``cache``. The budget is a share of one core."""

    max_files: int = optional(
        scalars.whole_number("files"),
        100_000,
        "How many files are cached (and watched) at most. Files beyond it are published too, "
        "but each of them costs an os.stat at each scrape.",
    )
    cpu_budget: float = optional(
        scalars.PERCENTAGE,
        0.01,
        "How much of one core following the changes may take between scrapes.",
        written="1%",
    )
    audit_interval_s: float = optional(
        scalars.interval(),
        300,
        "How often cached files are compared with the truth when nobody scrapes; each scrape compares some.",
        "audit_interval",
        written="5m",
    )


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The section ``web``."""

    listen_address: ListenAddress = optional(
        scalars.LISTEN_ADDRESS,
        ListenAddress("", 10943),
        "An address as host:port, or :port for every address of this machine, IPv4 and IPv6.",
        written=":10943",
    )
    telemetry_path: str = optional(scalars.TELEMETRY_PATH, "/metrics", "Where the metrics are.")


@dataclass(frozen=True, slots=True)
class StateConfig:
    """The section ``state``."""

    path: str | None = optional(
        scalars.STATE_PATH,
        None,
        "A file of the agent's own in which the counters survive restarts; what is appended meanwhile counts too. "
        "Without it they begin anew.",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the agent is told."""

    logs: tuple[LogGroup, ...] = field(
        metadata=key(ListOf("groups", GroupSection(), "at least one group"), "The groups of log files.")
    )
    cache: CacheConfig = optional(Section(CacheConfig), CacheConfig(), "The cache of what is known of the files.")
    state: StateConfig = optional(Section(StateConfig), StateConfig(), "What outlives the agent.")
    web: WebConfig = optional(Section(WebConfig), WebConfig(), "The HTTP side.")
    rescan_interval_s: float = optional(
        scalars.interval(), 300, "How often a full look for files heals what was missed.", "rescan_interval", "5m"
    )
    stale_grace_s: float = optional(
        scalars.interval(or_zero=True),
        60,
        "How long the series of a file that is gone stay, so that its last bytes are scraped; "
        "two scrapes if that is later.",
        "stale_grace",
        written="1m",
    )


def load(path: str | Path) -> Config:
    """Read and check a configuration file.

    Args:
        path: the file, at most 1 MiB of YAML in UTF-8.

    Raises:
        ConfigError: it can not be read or is not valid.
    """
    return parse(yaml_file.read_text(path), str(path))


def parse(text: str, file: str) -> Config:
    """Check a configuration.

    Args:
        text: YAML.
        file: its name, for the messages.

    Raises:
        ConfigError: it is not valid; carries every mistake.
    """
    root = yaml_file.compose(text, file)
    if root is None:
        raise ConfigError([Mistake(file, "is empty, expected at least the key 'logs'")])
    report = Report(file)
    config = Section(Config).read(root, "", report)
    if config is None or report:
        raise report.error()
    return config


def from_patterns(texts: Sequence[str], directory: str) -> Config:
    """Return the configuration that patterns on the command line mean: one group named ``default``.

    Args:
        texts: the patterns; a relative one is taken from `directory`.
        directory: an absolute path without symbolic links, as `os.getcwd` gives it.

    Raises:
        ConfigError: a pattern is not valid.
    """
    absolute: list[str] = []
    mistakes = []
    for text in texts:
        try:
            absolute.append(globs.Include(_rooted(text, directory)))
        except globs.PatternError as error:
            mistakes.append(Mistake(f"pattern {shortened(text)!r}", str(error)))
    if mistakes:
        raise ConfigError(mistakes)
    return Config(logs=(LogGroup("default", tuple(absolute)),))


def _rooted(text: str, directory: str) -> str:
    if re.match("~[^/]*/|~$", text):
        what = "the shell expands no '~' in quotes: write the home directory out"
        raise globs.PatternError(f"{what}, or './' before a name that begins with '~'")
    if not text or text.startswith("/"):
        return text
    while (step := text.partition("/")) and step[1] and step[0] in (".", ".."):
        directory = os.path.dirname(directory) if step[0] == ".." else directory
        text = step[2].lstrip("/")
    return globs.escape(directory.rstrip("/")) + "/" + text
