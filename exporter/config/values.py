"""What single values of the configuration mean: durations, percentages, addresses, paths.

Each has a function that parses its text, for flags as well, and its kind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from exporter.config.errors import shortened
from exporter.config.kinds import Text

_DURATION_UNITS_S = {"w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 0.001}

# These are used here and in the JSON Schema, so they say only what a regular expression of JavaScript can say as well.
_DURATION = "(?:([0-9]+)w)?(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?(?:([0-9]+)ms)?"
_PERCENTAGE = r"(?![0.]+%)(?:100(?:\.0{1,6})?|0?[0-9]{1,2}(?:\.[0-9]{1,6})?)%"
_PORT = "(?:[0-9]{1,4}|[0-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_ADDRESS = rf"(?:\[([^\s/\[\]\0]*)\]|([^\s/:\[\]\0]*)):({_PORT})"
_TELEMETRY_PATH = "/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]"
_UNNORMALISED = r"/(?:/|\.\.?(?:/|$))"
_STATE_PATH = r"/(?:[^\0]*/)?(?!\.\.?$)[^/\0]+"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. `host` is "" for all addresses; `port` 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen_address(text: str) -> ListenAddress:
    """Parse ``host:port``, ``[IPv6 address]:port``, or ``:port`` for all addresses.

    Raises:
        ValueError: it is none of these; the message says what was expected.
    """
    found = re.fullmatch(_ADDRESS, text)
    if found is None:
        raise ValueError(f"{shortened(text)!r} is no address, expected host:port, [IPv6 address]:port or :port")
    return ListenAddress(found[1] or found[2] or "", int(found[3]))


def parse_telemetry_path(text: str) -> str:
    """Check the path of the metrics.

    Raises:
        ValueError: it can not be used; the message says what was expected.
    """
    if not re.fullmatch(_TELEMETRY_PATH, text) or text.startswith("/-/"):
        raise ValueError(f"{shortened(text)!r} can not be used, expected a path such as /metrics, not below /-/")
    if re.search(_UNNORMALISED, text):
        what = "has '//', '/./' or '/../' in it, which clients leave out; write the path that is meant"
        raise ValueError(f"{shortened(text)!r} {what}")
    return text


def parse_state_path(text: str) -> str:
    """Check the path of the state file.

    Raises:
        ValueError: it can not be used; the message says what was expected.
    """
    if not re.fullmatch(_STATE_PATH, text):
        raise ValueError(
            f"{shortened(text)!r} can not be used, "
            "expected the absolute path of a file such as /var/lib/fstat-exporter/state.db"
        )
    return text


def parse_duration(text: str) -> float:
    """Parse a duration as Prometheus writes it, ``1h30m`` or ``250ms``, to seconds.

    Raises:
        ValueError: it is not one; the message says what was expected.
    """
    found = re.fullmatch(_DURATION, text)
    if not text or found is None or len(text) > 30:
        raise ValueError(f"{shortened(text)!r} is no duration, expected one such as 30s, 5m or 1h30m")
    return sum(int(count) * unit_s for count, unit_s in zip(found.groups("0"), _DURATION_UNITS_S.values(), strict=True))


def parse_percentage(text: str) -> float:
    """Parse a percentage above 0 and at most 100, ``1%`` or ``0.5%``, to a share.

    Raises:
        ValueError: it is not one; the message says what was expected.
    """
    if not re.fullmatch(_PERCENTAGE, text):
        what = "is no percentage, expected one above 0% and at most 100%, such as 1%"
        raise ValueError(f"{shortened(text)!r} {what}")
    return float(text[:-1]) / 100


def parse_nonempty(text: str) -> str:
    """Check that there is a text.

    Raises:
        ValueError: it is empty.
    """
    if not text:
        raise ValueError("is empty, expected some text")
    return text


def _written_duration(duration_s: float) -> str:
    parts = []
    for unit, unit_s in _DURATION_UNITS_S.items():
        count, duration_s = divmod(duration_s, unit_s)
        if count:
            parts.append(f"{count:.0f}{unit}")
    return "".join(parts) or "0s"


def interval(*, or_zero: bool = False) -> Text[float]:
    """A duration of 1 s to a year, in seconds."""
    expected = "0s, or 1s to 365d" if or_zero else "1s to 365d"

    def parse_interval(text: str) -> float:
        interval_s = parse_duration(text)
        if not (1 <= interval_s <= 365 * 86400 or (or_zero and interval_s == 0)):
            raise ValueError(f"{text} is out of range, expected {expected}")
        return interval_s

    nothing = "" if or_zero else "(?=.*[1-9])"
    schema = {"pattern": f"^(?=.){nothing}(?!0*[1-9][0-9]{{0,2}}ms$){_DURATION}$", "maxLength": 30}
    return Text("a duration such as 30s, 5m or 1h30m", parse_interval, schema, _written_duration)


def percentage() -> Text[float]:
    """A percentage, as a share."""
    what = "a percentage such as 1%"
    return Text(what, parse_percentage, {"pattern": f"^{_PERCENTAGE}$"}, lambda share: f"{share * 100:g}%")


def listen_address() -> Text[ListenAddress]:
    """Where to listen."""
    what = "host:port, [IPv6 address]:port or :port in quotes"
    return Text(what, parse_listen_address, {"pattern": f"^{_ADDRESS}$"})


def telemetry_path() -> Text[str]:
    """The path of the metrics."""
    schema = {"pattern": f"^(?!/-/)(?!.*{_UNNORMALISED}){_TELEMETRY_PATH}$"}
    return Text("a path such as /metrics", parse_telemetry_path, schema)


def state_path() -> Text[str]:
    """The path of the state file."""
    return Text("the absolute path of a file", parse_state_path, {"pattern": f"^{_STATE_PATH}$"})


def nonempty() -> Text[str]:
    """Some text."""
    return Text("a string", parse_nonempty, {"minLength": 1})
