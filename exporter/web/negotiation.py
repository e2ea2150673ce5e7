"""The negotiation by a client's headers: format, compression, timeout. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_ESCAPING = re.compile(r";\s*escaping\s*=\s*(dots|values)\b")
_MAX_ELEMENTS = 64  # of a header; more are ignored
_ON_THE_WAY_S = 0.5
_VERSION = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}")


@lru_cache(maxsize=16)  # more than there are kinds of clients
def metrics_encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    """Return prometheus_client's encoder and Content-Type for an Accept header; the encoder is the same each time.

    prometheus_client ignores weights, accepts any version and is case-sensitive. So this function first removes media
    ranges that are refused (``q=0``) or have no valid version, and makes the others lower case. It also removes the
    escapings dots and values, which would change even names that need no escaping.
    """
    media_ranges = accept.lower().split(",")[:_MAX_ELEMENTS]
    kept = [_ESCAPING.sub("", media_range) for media_range in media_ranges if _acceptable(media_range)]
    return choose_encoder(",".join(kept))


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header allows gzip: by its name, else by ``*``; ``q=0`` refuses."""
    allowed = {}
    for element in accept_encoding.split(",")[:_MAX_ELEMENTS]:
        allowed[element.partition(";")[0].strip().lower()] = _weight(element) > 0
    return allowed.get("gzip", allowed.get("x-gzip", allowed.get("*", False)))


def scrape_timeout_s(timeout: str | None) -> float | None:
    """Return the seconds for an answer, by X-Prometheus-Scrape-Timeout-Seconds; None: no limit.

    A tenth of the time, at most half a second, is reserved for the transmission.
    """
    if timeout is None or not re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", timeout):
        return None
    given_s = float(timeout)
    return max(given_s - _ON_THE_WAY_S, 0.9 * given_s) or None


def _acceptable(media_range: str) -> bool:
    version = _parameters(media_range).get("version")
    return _weight(media_range) > 0 and (version is None or _VERSION.fullmatch(version) is not None)


def _weight(element: str) -> float:
    weight = _parameters(element).get("q", "1")
    # RFC 9110, 12.4.2, but with any number of decimals. An invalid weight is ignored.
    return float(weight) if re.fullmatch(r"[01](\.[0-9]*)?", weight) else 1


def _parameters(element: str) -> dict[str, str]:
    pairs = (parameter.partition("=") for parameter in reversed(element.split(";")[1:]))  # the first of a name wins
    return {name.strip().lower(): value.strip() for name, equals, value in pairs if equals}
