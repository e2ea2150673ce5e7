"""The configuration: YAML text to frozen values, or all mistakes in it at once.

The fields of the dataclasses are the only list of the keys: they read the file, and config/exporter.schema.json is
generated from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from exporter.config import globs, yaml_file
from exporter.config.errors import ConfigError, Mistake, Report, shortened
from exporter.config.fields import scalars
from exporter.config.fields.nodes import hint
from exporter.config.fields.scalars import ListenAddress
from exporter.config.fields.sections import ListOf, Section, key, optional
from exporter.config.groups import ACTUAL, FIRST_SAMPLE, ZERO, GroupSection, LogGroup
from exporter.config.shippers import ShipperConfig, ShipperSection

AUTHORIZATIONS = ("kubernetes",)
"""The values of `web.authorization`."""


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
        "The share of one core that following changes may take between scrapes.",
        written="1%",
    )
    audit_interval_s: float = optional(
        scalars.interval(),
        300,
        "How often cached files are compared with os.stat while nothing scrapes; each scrape compares some.",
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
    telemetry_path: str = optional(scalars.TELEMETRY_PATH, "/metrics", "The path of the metrics.")
    authorization: str | None = optional(
        scalars.one_of("kind of authorization", AUTHORIZATIONS),
        None,
        "Who decides about requests. The API server of Kubernetes does it by their bearer tokens, which need TLS.",
    )


@dataclass(frozen=True, slots=True)
class StateConfig:
    """The section ``state``."""

    path: str | None = optional(
        scalars.STATE_PATH,
        None,
        "A file of the agent's own that keeps the counters across restarts; bytes appended meanwhile count too. "
        "Without it the counters start at 0.",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    logs: tuple[LogGroup, ...] = field(
        metadata=key(ListOf("groups", GroupSection(), "at least one group"), "The groups of log files.")
    )
    cache: CacheConfig = optional(Section(CacheConfig), CacheConfig(), "The cache of file stats.")
    state: StateConfig = optional(Section(StateConfig), StateConfig(), "What is kept across restarts.")
    web: WebConfig = optional(Section(WebConfig), WebConfig(), "The HTTP server.")
    rescan_interval_s: float = optional(
        scalars.interval(), 300, "How often a full rescan finds files that were missed.", "rescan_interval", "5m"
    )
    stale_grace_s: float = optional(
        scalars.interval(or_zero=True),
        60,
        "How long the series of a deleted file stay, so that its last bytes are scraped; at least two scrapes.",
        "stale_grace",
        written="1m",
    )
    first_sample: str = optional(
        FIRST_SAMPLE,
        ACTUAL,
        "What the counters of a new file or aggregate show at first: their actual value, or zero for the time "
        "'zero_for', so that their growth is between two samples.",
    )
    zero_for_s: float | None = optional(
        scalars.interval(),
        None,
        "How long 'first_sample: zero' shows zero, after the first scrape of a counter: the longest scrape interval.",
        "zero_for",
    )
    content_budget: int = optional(
        scalars.SIZE,
        10 << 20,
        "How many bytes of the content of files are read a second at most, for the metrics lines and crc32.",
        written="10MiB",
    )
    content_max_size: int = optional(
        scalars.SIZE, 1 << 20, "The size of the largest file that has a checksum, the metric crc32.", written="1MiB"
    )
    shippers: tuple[ShipperConfig, ...] = optional(
        ListOf("shippers", ShipperSection()), (), "The log shippers, whose positions show which bytes are unread."
    )

    @property
    def zeros(self) -> dict[int, float]:
        """The position of each group with ``first_sample: zero``, and for how many seconds it shows zeros."""
        return {
            at: group.zero_for_s or self.zero_for_s or 0
            for at, group in enumerate(self.logs)
            if (group.first_sample or self.first_sample) == ZERO
        }

    @property
    def published(self) -> tuple[object, ...]:
        """Everything that a publication depends on."""
        return self.logs, self.stale_grace_s, self.zeros

    def at(self, now_s: float) -> Config:
        """Return the configuration with the dates in its patterns as of a moment, unix time."""
        return replace(
            self,
            logs=tuple([_dated(group, now_s) for group in self.logs]),
            shippers=tuple([_dated(shipper, now_s) for shipper in self.shippers]),
        )


T = TypeVar("T", LogGroup, ShipperConfig)


def _dated(section: T, now_s: float) -> T:
    paths, exclude = (
        tuple([kind(text).at(now_s) for text in texts])
        for kind, texts in ((globs.Include, section.paths), (globs.Exclude, section.exclude))
    )
    return replace(section, paths=paths, exclude=exclude)


class _Root(Section[Config]):
    """The whole file."""

    def check(
        self, made: Mapping[str, Any], nodes: Mapping[str, yaml.Node], key_path: str, report: Report, *, is_whole: bool
    ) -> None:
        known = report.first_lines["group"]
        # A group without a valid name, or with that of another one, may be the one that a shipper names.
        if known and len(known) == len(nodes["logs"].value):
            for name, node, path in report.group_references:
                if name not in known:
                    report.wrong(node, path, f"unknown group '{shortened(name)}', {hint(name, tuple(known))}")
        if any(name in nodes and name not in made for name in ("logs", "first_sample")):
            return
        groups = made.get("logs", ())
        zeros = [group for group in groups if (group.first_sample or made.get("first_sample")) == ZERO]
        if "zero_for" not in nodes and any(group.zero_for_s is None for group in zeros):
            what = "the key is missing, expected the scrape interval, such as 15s, because of 'first_sample: zero'"
            report.wrong(nodes["first_sample" if "first_sample" in nodes else "logs"], "zero_for", what)
        without = "has no effect without 'first_sample: zero', expected both keys or none"
        if "zero_for" in nodes and not zeros:
            report.wrong(nodes["zero_for"], "zero_for", without)
        for group in groups:
            if group.zero_for_s is not None and group not in zeros:
                report.wrong(nodes["logs"], "logs", f"'zero_for' of group '{group.group}' {without}")


def load(path: str | Path) -> Config:
    """Read and check a configuration file.

    Args:
        path: the file, at most 1 MiB of YAML in UTF-8.

    Raises:
        ConfigError: it cannot be read or is not valid.
    """
    return parse(yaml_file.read_text(path), str(path))


def parse(text: str, file: str) -> Config:
    """Check a configuration.

    Args:
        text: YAML.
        file: the name of the file, for the messages.

    Raises:
        ConfigError: it is not valid; has every mistake.
    """
    root = yaml_file.compose(text, file)
    if root is None:
        raise ConfigError([Mistake(file, "is empty, expected at least the key 'logs'")])
    report = Report(file)
    config = _Root(Config).read(root, "", report)
    if config is None or report:
        raise report.error()
    return config


def from_patterns(texts: Sequence[str], directory: str) -> Config:
    """Return the configuration for patterns on the command line: one group named ``default``.

    Args:
        texts: the patterns; a relative one is relative to `directory`. "~" and "~user" are expanded as by a shell,
            which expands none in quotes.
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
    home, slash, rest = text.partition("/")
    if home.startswith("~") and (home_directory := os.path.expanduser(home)) != home:
        return globs.escape(home_directory) + slash + rest
    if not text or text.startswith("/"):
        return text
    while (step := text.partition("/")) and step[1] and step[0] in (".", ".."):
        directory = os.path.dirname(directory) if step[0] == ".." else directory
        text = step[2].lstrip("/")
    return globs.escape(directory.rstrip("/")) + "/" + text
