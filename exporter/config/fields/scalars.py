"""Kinds of single values: text, names, numbers, durations, percentages, addresses and paths.

The flags of the command line use the parsers too.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import yaml

from exporter.config.errors import Report, shortened
from exporter.config.fields.nodes import BOOLEAN, INTEGER, NULL, STRING, found, hint

T = TypeVar("T")
JsonSchema = dict[str, Any]

_MAX_INTEGER_DIGITS = 12
_SIZE_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_DURATION_UNITS_S = {"w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}

# The JSON Schema has these too, so they use only the syntax that Python and JavaScript share.
_DURATION = "(?:([0-9]+)w)?(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?(?:([0-9]+)ms)?"
_SIZE = f"([1-9][0-9]{{0,8}})({'|'.join(_SIZE_UNITS)})"
_PERCENTAGE = r"(?![0.]+%)(?:100(?:\.0{1,6})?|0?[0-9]{1,2}(?:\.[0-9]{1,6})?)%"
_MAX_PORT = 65535
_PORT = "(?:[0-9]{1,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_ADDRESS = rf"(?:\[([^\s/\[\]\0]*)\]|([^\s/:\[\]\0]*)):({_PORT})"
_TELEMETRY_PATH = "/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]"
_UNNORMALISED = r"/(?:/|\.\.?(?:/|$))"
_STATE_PATH = r"/(?:[^\0]*/)?(?!\.\.?$)[^/\0]+"


class Kind(ABC, Generic[T]):
    """The kind of a value: what it may be.

    Attributes:
        expected: what a value may be in words, for errors.
        is_secret: whether errors must not quote the value.
    """

    expected: str
    is_secret: bool = False

    @abstractmethod
    def read(self, node: yaml.Node, key_path: str, report: Report) -> T | None:
        """Return the value, or report the mistakes in it and return None."""

    @abstractmethod
    def schema(self) -> JsonSchema:
        """Return a JSON Schema (draft 7) that allows all that `read` accepts, and little else."""

    def _refuse(self, node: yaml.Node, key_path: str, report: Report, advice: str = "") -> None:
        report.wrong(node, key_path, f"expected {self.expected}, found {found(node, is_secret=self.is_secret)}{advice}")


@dataclass(frozen=True, slots=True)
class Scalar(Kind[T]):
    """A single value.

    Attributes:
        parse: returns the value of a text; None if the text is not `expected`. Raises a ValueError with the fault and
            the expectation.
        json_schema: its JSON Schema.
        tag: the YAML tag of the node.
        has_advice: whether an error about another tag recommends quotes.
    """

    expected: str
    parse: Callable[[str], T | None]
    json_schema: JsonSchema
    tag: str = STRING
    is_secret: bool = False
    has_advice: bool = False

    def read(self, node: yaml.Node, key_path: str, report: Report) -> T | None:
        if not isinstance(node, yaml.ScalarNode) or node.tag != self.tag:
            advice = ""
            if self.has_advice and isinstance(node, yaml.ScalarNode) and node.tag != NULL:
                advice = "; put it in quotes" + ("" if self.is_secret else f": '{shortened(node.value, 40)}'")
            self._refuse(node, key_path, report, advice)
            return None
        try:
            if re.search("[\ud800-\udfff]", node.value):
                raise ValueError("it contains a surrogate, which is not a character; expected text")
            value = self.parse(node.value)
        except ValueError as error:
            report.wrong(node, key_path, str(error))
            return None
        if value is None:
            self._refuse(node, key_path, report)
        return value

    def schema(self) -> JsonSchema:
        return dict(self.json_schema)


def text(
    expected: str, parse: Callable[[str], T], schema: JsonSchema | None = None, *, is_secret: bool = False
) -> Scalar[T]:
    """A string that `parse` accepts; `schema` adds to the JSON Schema of a string."""
    json_schema = {"type": "string", **(schema or {})}
    has_advice = is_secret or expected == "a string"
    return Scalar(expected, parse, json_schema, is_secret=is_secret, has_advice=has_advice)


def one_of(
    what: str, names: Iterable[str], parse: Callable[[str], str] | None = None, *, is_secret: bool = False
) -> Scalar[str]:
    """One of several names, by default by `known_name`."""
    known = tuple(names)
    parse = parse or (lambda name: known_name(what, known, name))
    return Scalar(f"the name of a {what}", parse, {"enum": list(known)}, is_secret=is_secret)


def known_name(what: str, names: Iterable[str], name: str) -> str:
    """Return the name.

    Raises:
        ValueError: it is not one of the names. The message quotes it, so that a misspelt name is found.
    """
    known = tuple(names)
    if name not in known:
        raise ValueError(f"unknown {what} '{shortened(name)}', {hint(name, known)}")
    return name


def whole_number(what: str) -> Scalar[int]:
    """A count, 1 or more, of what `what` names."""

    def parse_number(number: str) -> int | None:
        if not re.fullmatch(r"[1-9][0-9]*(_[0-9]+)*", number):
            return None
        if len(number.replace("_", "")) > _MAX_INTEGER_DIGITS:
            limit = f"expected a number of {_MAX_INTEGER_DIGITS} digits at most"
            raise ValueError(f"{shortened(number, 40)} is too large, {limit}")
        return int(number)

    schema = {"type": "integer", "minimum": 1, "maximum": 10**_MAX_INTEGER_DIGITS - 1}
    return Scalar(f"a whole number of {what}, 1 or more", parse_number, schema, INTEGER)


def boolean(*, is_secret: bool = False) -> Scalar[bool]:
    """True or false."""

    def parse_boolean(word: str) -> bool | None:
        return yaml.SafeLoader.bool_values.get(word.lower())

    return Scalar("true or false", parse_boolean, {"type": "boolean"}, BOOLEAN, is_secret)


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. `host` is "" for all addresses; `port` 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _match(expression: str, text: str, complaint: str) -> re.Match[str]:
    found = re.fullmatch(expression, text)
    if found is None:
        raise ValueError(f"{shortened(text)!r} {complaint}")
    return found


def parse_listen_address(text: str) -> ListenAddress:
    """Parse ``host:port``, ``[IPv6 address]:port``, or ``:port`` for all addresses.

    Raises:
        ValueError: it has another form; the message says what was expected.
    """
    port = re.search(":([0-9]+)$", text)
    if port is not None and (len(port[1]) > 5 or int(port[1]) > _MAX_PORT):
        raise ValueError(f"{shortened(text)!r} has a port out of range, expected 0 to {_MAX_PORT}")
    found = _match(_ADDRESS, text, "is not an address, expected host:port, [IPv6 address]:port or :port")
    return ListenAddress(found[1] or found[2] or "", int(found[3]))


def parse_telemetry_path(text: str) -> str:
    """Check the path of the metrics.

    Raises:
        ValueError: it cannot be used; the message says what was expected.
    """
    if not re.fullmatch(_TELEMETRY_PATH, text) or text.startswith("/-/"):
        raise ValueError(f"{shortened(text)!r} cannot be used, expected a path such as /metrics, not below /-/")
    if re.search(_UNNORMALISED, text):
        what = "contains '//', '/./' or '/../', which clients remove; write the path without them"
        raise ValueError(f"{shortened(text)!r} {what}")
    return text


def parse_state_path(text: str) -> str:
    """Check the path of the state file.

    Raises:
        ValueError: it cannot be used; the message says what was expected.
    """
    expected = "the absolute path of a file such as /var/lib/fstat-exporter/state.db"
    if text.startswith("~"):
        expected += "; write the home directory out instead of '~'"
    return _match(_STATE_PATH, text, f"cannot be used, expected {expected}")[0]


def parse_duration(text: str) -> float:
    """Parse a duration as Prometheus writes it, ``1h30m`` or ``250ms``, to seconds.

    Raises:
        ValueError: it has another form; the message says what was expected.
    """
    found = re.fullmatch(_DURATION, text)
    if not text or found is None or len(text) > 30:
        raise ValueError(f"{shortened(text)!r} is not a duration, expected one such as 30s, 5m or 1h30m")
    return sum(int(count) * unit_s for count, unit_s in zip(found.groups("0"), _DURATION_UNITS_S.values(), strict=True))


def parse_percentage(text: str) -> float:
    """Parse a percentage above 0 and at most 100, ``1%`` or ``0.5%``, to a share.

    Raises:
        ValueError: it has another form; the message says what was expected.
    """
    _match(_PERCENTAGE, text, "is not a percentage, expected one above 0% and at most 100%, such as 1%")
    return float(text[:-1]) / 100


def parse_size(text: str) -> int:
    """Parse a size with a binary unit, ``1MiB`` or ``512KiB``, to bytes.

    Raises:
        ValueError: it has another form; the message says what was expected.
    """
    found = _match(_SIZE, text, f"is not a size, expected one such as 1MiB, in {', '.join(_SIZE_UNITS)}")
    return int(found[1]) * _SIZE_UNITS[found[2]]


def parse_nonempty(text: str) -> str:
    """Check that a text is not empty.

    Raises:
        ValueError: it is empty.
    """
    if not text:
        raise ValueError("is empty, expected some text")
    return text


def interval(*, or_zero: bool = False) -> Scalar[float]:
    """A duration of 1 s to a year, in seconds."""
    expected = "0s, or 1s to 365d" if or_zero else "1s to 365d"

    def parse_interval(text: str) -> float:
        interval_s = parse_duration(text)
        if not (1 <= interval_s <= 365 * 86400 or (or_zero and interval_s == 0)):
            raise ValueError(f"{text} is out of range, expected {expected}")
        return interval_s

    nothing = "" if or_zero else "(?=.*[1-9])"
    schema = {"pattern": f"^(?=.){nothing}(?!0*[1-9][0-9]{{0,2}}ms$){_DURATION}$", "maxLength": 30}
    return text("a duration such as 30s, 5m or 1h30m", parse_interval, schema)


PERCENTAGE = text("a percentage such as 1%", parse_percentage, {"pattern": f"^{_PERCENTAGE}$"})
SIZE = text("a size such as 1MiB", parse_size, {"pattern": f"^{_SIZE}$"})
LISTEN_ADDRESS = text(
    "host:port, [IPv6 address]:port or :port in quotes", parse_listen_address, {"pattern": f"^{_ADDRESS}$"}
)
TELEMETRY_PATH = text(
    "a path such as /metrics",
    parse_telemetry_path,
    {"pattern": f"^(?!/-/)(?!.*{_UNNORMALISED}){_TELEMETRY_PATH}$"},
)
STATE_PATH = text("the absolute path of a file", parse_state_path, {"pattern": f"^{_STATE_PATH}$"})
NONEMPTY = text("a string", parse_nonempty, {"minLength": 1})
