"""Days: in stretches, as slices, and those that there can be statistics of."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from etl_assets.core.slices.slice import OneOf, Span
from etl_assets.errors import ConfigurationError
from etl_assets.systems.turbines.contracts import Data
from etl_assets.systems.turbines.transform import day_slice, midnight, require_days, stretches

LEAP_DAY = date(2024, 2, 29)
NOW = datetime(2024, 3, 1, tzinfo=UTC)


def test_a_day_is_half_open_and_has_24_hours_of_utc_on_a_leap_day_too() -> None:
    piece = day_slice(Data, LEAP_DAY, signal_id=OneOf((1, 2)))
    assert piece.name == "2024-02-29"
    assert piece.bounds == {
        "timestamp": Span(datetime(2024, 2, 29, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC)),
        "signal_id": OneOf((1, 2)),
    }
    assert midnight(date(2023, 12, 31)) == datetime(2023, 12, 31, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "longest", "expected"),
    [
        ([], 3, []),
        ([2], 3, [[2]]),
        ([1, 2, 3, 4], 3, [[1, 2, 3], [4]]),
        ([5, 1, 2, 2, 7], 3, [[1, 2], [5], [7]]),
        ([1, 2, 3], 1, [[1], [2], [3]]),
        ([27, 28, 29, 30, 31], 9, [[27, 28, 29, 30, 31]]),
    ],
)
def test_stretches_have_no_hole_and_no_day_twice(days: list[int], longest: int, expected: list[list[int]]) -> None:
    # Numbered from the turn of a year, so that one of them is across it.
    given = [date(2023, 12, 27) + timedelta(days=number) for number in days]
    found = [[(day - date(2023, 12, 27)).days for day in stretch] for stretch in stretches(given, longest=longest)]
    assert found == expected


def test_the_day_that_ended_this_moment_is_over_in_whatever_zone_it_is_said() -> None:
    for now in (NOW, NOW.astimezone(timezone(timedelta(hours=-9)))):
        require_days([LEAP_DAY], first=LEAP_DAY, last=LEAP_DAY, now=now)
    with pytest.raises(ConfigurationError, match="2024-02-29 is not over yet: it is 2024-02-29 23:59 in UTC"):
        require_days([LEAP_DAY], first=LEAP_DAY, last=None, now=NOW - timedelta(microseconds=1))


@pytest.mark.parametrize(
    ("day", "message"),
    [
        (date(2024, 2, 28), "2024-02-28 is before 2024-02-29, the first day: TURBINES_START_DATE says so"),
        (date(2024, 3, 2), "2024-03-02 is after 2024-03-01, the last day: TURBINES_END_DATE says so"),
        (date.min, "0001-01-01 is before"),
        (date.max, "9999-12-31 is after"),
    ],
)
def test_one_day_that_cannot_be_refuses_all(day: date, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        require_days([LEAP_DAY, day], first=LEAP_DAY, last=date(2024, 3, 1), now=NOW + timedelta(days=9))


def test_the_last_day_of_the_calendar_is_not_over_yet() -> None:
    with pytest.raises(ConfigurationError, match="9999-12-31 is not over yet"):
        require_days([date.max], first=LEAP_DAY, last=None, now=NOW)
