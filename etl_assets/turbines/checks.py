"""Checks of the turbines system beyond those that the contracts give."""

from collections.abc import Sequence
from datetime import UTC, date, datetime

import dagster as dg

from etl_assets.contracts.dagster import classified
from etl_assets.io_managers.checks import evaluated, has_rows
from etl_assets.settings import load_settings
from etl_assets.turbines.assets import ten_minute_statistics
from etl_assets.turbines.contracts import RawTurbineSignals
from etl_assets.turbines.days import DAY
from etl_assets.turbines.source import TurbinesTargetResource
from etl_assets.turbines.target import days_there

NAMED_AT_MOST = 31


@dg.asset_check(asset=ten_minute_statistics)
@classified
def no_gaps(turbines_target: TurbinesTargetResource) -> dg.AssetCheckResult:
    """Every day from the first to the last that is over has statistics."""
    settings = load_settings()
    first = settings.turbines_start_date
    last = min(datetime.now(UTC).date() - DAY, settings.turbines_end_date or date.max)
    there = days_there(turbines_target.database, first=first, last=last)
    missing = missing_days(first, last, list(there))
    named = ", ".join(map(str, missing[:NAMED_AT_MOST])) + (", …" if len(missing) > NAMED_AT_MOST else "")
    return evaluated(not missing, sum(there.values()), missing_days=len(missing), missing=named or "none")


def missing_days(first: date, last: date, there: Sequence[date]) -> list[date]:
    """The days from the first to the last that are not there."""
    known = set(there)
    days = [first + number * DAY for number in range((last - first).days + 1)]
    return [day for day in days if day not in known]


@dg.asset_check(asset=ten_minute_statistics)
@classified
def statistics_are_in_order(turbines_target: TurbinesTargetResource) -> dg.AssetCheckResult:
    """On the newest day each mean lies between the least and the greatest value; of directions there is no such order."""
    with turbines_target.database.connect() as connection:
        row = connection.execute(
            "WITH newest AS (SELECT date_trunc('day', max(timestamp), 'UTC') AS day FROM public.bin)"
            " SELECT count(*), count(*) FILTER (WHERE NOT (min <= mean AND mean <= max))"
            " FROM public.ten_minute, newest WHERE timestamp >= day AND source_signal <> 'wind_direction'"
        ).fetchone()
    rows, disordered = row or (0, 0)
    return evaluated(disordered == 0, rows, disordered=disordered)


CHECKS = [has_rows(RawTurbineSignals), no_gaps, statistics_are_in_order]
