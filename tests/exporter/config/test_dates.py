"""The dates in patterns: what they become, when they change, and which formats are refused."""

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.config.dates import last_midnight_s, next_midnight_s
from exporter.config.globs import Exclude, Include, PatternError
from exporter.config.groups import LogGroup
from exporter.config.model import Config

ZONES = ("UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Pacific/Kiritimati", "Asia/Kathmandu")
HOUR_S = 3600

Zone = Callable[[str], None]


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zone]:
    """Sets the time zone of this process."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


def at(text: str, zone: str = "UTC") -> float:
    """Return the unix time of a time in a zone."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def test_dates_in_a_pattern(zone: Zone) -> None:
    """Each is a date of the day, of local time or of UTC, wherever it is in the pattern, and more than once."""
    zone("Europe/Berlin")
    now_s = at("2026-03-01 00:30", "Europe/Berlin")  # in UTC it is still February
    for text, expected in {
        "/log/a-{today:%Y%m%d}.log": "/log/a-20260301.log",
        "/log/a-{yesterday:%Y-%m-%d}.log": "/log/a-2026-02-28.log",
        "/log/a-{today_utc:%Y%m%d}.log": "/log/a-20260228.log",
        "/log/a-{yesterday_utc:%j}.log": "/log/a-058.log",
        "/log/{today:%Y}/{today:%m}/*-{today:%d}.log": "/log/2026/03/*-01.log",
        "/log/{a,b-{today:%d}}.log": "/log/{a,b-01}.log",
        "/log/{today:%d,%m}.log": r"/log/01\,03.log",
        "/log/{today:[%d]*}.log": r"/log/\[01\]\*.log",
    }.items():
        pattern = Include(text, now_s)
        assert pattern == expected
        assert pattern.written == text


def test_what_is_no_date_stays() -> None:
    """Other names in braces, escaped braces and words are what they are without dates."""
    for text in ("/{tomorrow:%Y}", "/{Today:%Y}", r"/\{today:%Y\}", "/{today}", "/today:%Y", "/{a,today}", "/{1..3}"):
        assert Include(text, 0) == text


def test_formats_that_are_refused(zone: Zone) -> None:
    """A message names the date, the fault and what is expected."""
    zone("UTC")
    for text, message in {
        "/{today:%Y/%m}.log": "the date '{today:%Y/%m}' gives '1970/01', which contains a '/', "
        "expected one date for each component of the path",
        "/{yesterday_utc:%D}.log": "the date '{yesterday_utc:%D}' gives '12/31/69', which contains a '/', "
        "expected one date for each component of the path",
        "/{today:%H}.log": "the date '{today:%H}' changes during the day, expected a format without hours and minutes",
        "/{today:}.log": "the date '{today:}' gives '', expected a format as in '{today:%Y%m%d}'",
        "/{today:%Z}/a.log": "the date '{today:%Z}' gives '', expected a format as in '{today:%Y%m%d}'",
        "/{today:.}/a.log": "the date '{today:.}' gives '.', expected a format as in '{today:%Y%m%d}'",
        "/a/{yesterday:..}": "the date '{yesterday:..}' gives '..', expected a format as in '{today:%Y%m%d}'",
    }.items():
        for kind in (Include, Exclude):
            with pytest.raises(PatternError, match=f"^{re.escape(message)}$"):
                kind(text, 0)


@pytest.mark.parametrize(
    ("name", "now", "hours"),
    [
        ("Europe/Berlin", "2024-03-31 00:00", 23),
        ("Europe/Berlin", "2024-10-27 00:00", 25),
        ("America/Sao_Paulo", "2018-11-03 12:00", 12),  # the next day begins at 01:00
        ("America/Sao_Paulo", "2018-02-17 12:00", 13),  # the hour before midnight comes twice
        ("America/Havana", "2024-11-03 00:30", 24.5),  # the hour after midnight comes twice
    ],
)
def test_days_of_another_length(zone: Zone, name: str, now: str, hours: float) -> None:
    """A date lasts until the next day begins, however the clock is set on that day. Past days: laws change."""
    zone(name)
    now_s = at(now, name)
    end_s = now_s + hours * HOUR_S
    pattern = Include("/{today:%d}", now_s)
    assert pattern.at(end_s - 1) == pattern
    assert pattern.at(end_s) != pattern
    midnights = []
    while not midnights or midnights[-1] < end_s:
        midnights.append(next_midnight_s(midnights[-1] if midnights else now_s))
    assert end_s in midnights
    assert len(midnights) <= 3


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(ZONES), now_s=st.integers(1_000_000_000, 2_000_000_000))
def test_nothing_changes_between_two_midnights(zone: Zone, name: str, now_s: int) -> None:
    """Whatever the zone, a date changes at a midnight, and lasts from the latest to the next one."""
    zone(name)
    first_s, next_s = last_midnight_s(now_s), next_midnight_s(now_s)
    assert first_s <= now_s < next_s <= now_s + 25 * HOUR_S
    texts = ("/{today:%Y%m%d}", "/{yesterday:%Y%m%d}", "/{today_utc:%Y%m%d}", "/{yesterday_utc:%Y%m%d}")
    for text in texts:
        assert Include(text, first_s) == Include(text, now_s) == Include(text, next_s - 1)
    assert [Include(text, next_s) for text in texts] != [Include(text, now_s) for text in texts]
    assert Include("/{today_utc:%Y%m%d}", now_s) == f"/{datetime.fromtimestamp(now_s, UTC):%Y%m%d}"


def test_a_configuration_at_another_day() -> None:
    """Patterns with dates become others, and nothing else: at the same day it is equal."""
    day_s = at("2026-03-01 12:00")
    groups = (LogGroup("a", ("/a", "/{today_utc:%d}"), exclude=("{yesterday_utc:%d}",)), LogGroup("b", ("/b",)))
    config = Config(logs=groups).at(day_s)
    assert config.logs[0].paths == ("/a", "/01")
    assert config.logs[0].exclude == ("28",)
    assert config.at(day_s + 1) == config
    later = config.at(day_s + 24 * HOUR_S)
    assert later != config
    assert later.logs[0].paths == ("/a", "/02")
    assert later.logs[1] == config.logs[1]
    assert later.at(day_s) == config
