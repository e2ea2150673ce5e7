"""Which format and which encoding a client gets."""

import pytest

from exporter.web.negotiation import accepts_gzip, metrics_encoder, scrape_timeout_s
from tests.support import PROMETHEUS_ACCEPT

CLASSIC = "text/plain; version=0.0.4; charset=utf-8"
CLASSIC_1 = "text/plain; version=1.0.0; charset=utf-8; escaping="
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping="


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", CLASSIC),
        ("*/*", CLASSIC),
        ("text/html,*/*;q=0.1", CLASSIC),
        (PROMETHEUS_ACCEPT, OPENMETRICS + "underscores"),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5", OPENMETRICS + "allow-utf-8"),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", CLASSIC_1 + "allow-utf-8"),
        ("application/openmetrics-text;version=1.0.0;q=0, text/plain;version=0.0.4", CLASSIC),
        ("application/openmetrics-text;version=1.0.0; Q=0.000", CLASSIC),
        ("application/openmetrics-text;version=1.0.0;q=0.0000", CLASSIC),
        ("Application/OpenMetrics-Text; Version=1.0.0", OPENMETRICS + "underscores"),
        ("application/openmetrics-text;version=1.0.0;q=0,text/plain;version=1.0.0", CLASSIC_1 + "underscores"),
        ("application/openmetrics-text;version=1.0.0;q=0.001", OPENMETRICS + "underscores"),
        ("application/openmetrics-text;version=1.0.0;q=abc", OPENMETRICS + "underscores"),
        ("application/openmetrics-text;version=abc", CLASSIC),
        ("application/openmetrics-text;version=1.0.0\x01", CLASSIC),
        ("application/openmetrics-text;version=", CLASSIC),
        ("text/plain;version=" + "9" * 5000, CLASSIC),
        (",;,=;q", CLASSIC),
    ],
)
def test_format(accept: str, content_type: str) -> None:
    """prometheus_client chooses, but what is refused or is no version is out of the question."""
    assert metrics_encoder(accept)[1] == content_type


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; Q=0.0", False),
        ("gzip;q=0." + "0" * 5000, False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip, *;q=0", True),
        ("identity", False),
        ("x-gzip", True),
        ("br", False),
        ("gzipped", False),
        (";;,q=1", False),
    ],
)
def test_gzip(accept_encoding: str, expected: bool) -> None:
    """By its name or by the asterisk, unless the weight is nought."""
    assert accepts_gzip(accept_encoding) is expected


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        ("10", 9.5),
        ("10.000000", 9.5),
        ("5", 4.5),
        ("1", 0.9),
        ("0", None),
        (None, None),
        ("", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("9" * 400, None),
        ("\u0663", None),
    ],
)
def test_patience(timeout: str | None, expected: float | None) -> None:
    """Something is left for the way; what is no time sets no limit."""
    assert scrape_timeout_s(timeout) == expected
