"""The configuration: YAML text to frozen values, or every mistake in it at once.

The annotations of the dataclasses are the only list of the keys: by them the file is read, and of them
config/exporter.schema.json is made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from exporter.config import values, yaml_file
from exporter.config.errors import ConfigError, Mistake, Report, shortened
from exporter.config.groups import GroupSection, LogGroup
from exporter.config.kinds import Key, ListOf, Section, WholeNumber
from exporter.config.values import ListenAddress
from exporter.matching import globs

_DEFAULT_ADDRESS = ListenAddress("", 10943)


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The section ``cache``. The budget is a share of one core."""

    max_files: Annotated[
        int,
        Key(
            WholeNumber("files"),
            "How many files are cached (and watched) at most. Files beyond it are published too, "
            "but each of them costs an os.stat at each scrape.",
        ),
    ] = 100_000
    cpu_budget: Annotated[
        float, Key(values.percentage(), "How much of one core following the changes may take between scrapes.")
    ] = 0.01
    audit_interval_s: Annotated[
        float,
        Key(
            values.interval(),
            "How often cached files are compared with the truth when nobody scrapes; each scrape compares some.",
            "audit_interval",
        ),
    ] = 300


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The section ``web``."""

    listen_address: Annotated[
        ListenAddress,
        Key(
            values.listen_address(),
            "An address as host:port, or :port for every address of this machine, IPv4 and IPv6.",
        ),
    ] = _DEFAULT_ADDRESS
    telemetry_path: Annotated[str, Key(values.telemetry_path(), "Where the metrics are.")] = "/metrics"


@dataclass(frozen=True, slots=True)
class StateConfig:
    """The section ``state``."""

    path: Annotated[
        str | None,
        Key(
            values.state_path(),
            "A file of the agent's own in which the counters survive restarts; what is appended meanwhile counts too. "
            "Without it they begin anew.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the agent is told."""

    logs: Annotated[
        tuple[LogGroup, ...], Key(ListOf("groups", GroupSection(), "at least one group"), "The groups of log files.")
    ]
    cache: Annotated[CacheConfig, Key(Section(CacheConfig), "The cache of what is known of the files.")] = CacheConfig()
    state: Annotated[StateConfig, Key(Section(StateConfig), "What outlives the agent.")] = StateConfig()
    web: Annotated[WebConfig, Key(Section(WebConfig), "The HTTP side.")] = WebConfig()
    rescan_interval_s: Annotated[
        float, Key(values.interval(), "How often a full look for files heals what was missed.", "rescan_interval")
    ] = 300
    stale_grace_s: Annotated[
        float,
        Key(
            values.interval(or_zero=True),
            "How long the series of a file that is gone stay, so that its last bytes are scraped; "
            "two scrapes if that is later.",
            "stale_grace",
        ),
    ] = 60


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
    absolute = []
    mistakes = []
    for text in texts:
        rooted = _rooted(text, directory)
        absolute.append(rooted)
        try:
            globs.compile_include(rooted)
        except globs.PatternError as error:
            mistakes.append(Mistake(f"pattern {shortened(text)!r}", str(error)))
    if mistakes:
        raise ConfigError(mistakes)
    return Config(logs=(LogGroup("default", tuple(absolute)),))


def _rooted(text: str, directory: str) -> str:
    if not text or text.startswith("/"):
        return text
    while (step := text.partition("/")) and step[1] and step[0] in (".", ".."):
        directory = os.path.dirname(directory) if step[0] == ".." else directory
        text = step[2].lstrip("/")
    return globs.escape(directory.rstrip("/")) + "/" + text
