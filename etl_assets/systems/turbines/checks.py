"""Checks of the turbines system beyond those that the contracts give.

Those of the statistics are made by the asset itself: Dagster skips what follows an asset of which a day is not materialised,
which is when `no_gaps` has something to report.
"""

from datetime import UTC, date, datetime

import dagster as dg

from etl_assets.core.dagster.checks import evaluated, has_rows
from etl_assets.core.database.connections import Database
from etl_assets.systems.turbines.contracts import RawTurbineSignals
from etl_assets.systems.turbines.databases import days_with_bins
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.transform import DAY, midnight

NAMED_AT_MOST = 31


def no_gaps(target: Database) -> dg.AssetCheckResult:
    """Every day from the first to the last that is over has statistics."""
    settings = TurbinesSettings.load()
    first = settings.turbines_start_date
    last = min(datetime.now(UTC).date() - DAY, settings.turbines_end_date or date.max)
    bins = days_with_bins(target, first=first, last=last)
    days = (first + number * DAY for number in range((last - first).days + 1))
    missing = [day for day in days if day not in bins]
    named = ", ".join(map(str, missing[:NAMED_AT_MOST])) + (", …" if len(missing) > NAMED_AT_MOST else "")
    return evaluated(not missing, sum(bins.values()), missing_days=len(missing), missing=named or "none")


def statistics_are_in_order(target: Database) -> dg.AssetCheckResult:
    """On the newest day each mean lies between the least and the greatest value; of directions there is no such order."""
    with target.connect() as connection:
        (newest,) = connection.execute("SELECT max(timestamp) FROM public.bin").fetchone() or (None,)
        day = newest.astimezone(UTC).date() if newest else date.min
        # The bounds as values: one that a query of its own finds does not reach the tables below the view.
        row = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE NOT (min <= mean AND mean <= max)) FROM public.ten_minute"
            " WHERE timestamp >= %s AND timestamp < %s AND source_signal <> 'wind_direction'",
            (midnight(day), midnight(day + DAY)),
        ).fetchone()
    rows, disordered = row or (0, 0)
    return evaluated(disordered == 0, rows, disordered=disordered)


OF_STATISTICS = {check.__name__: check for check in (no_gaps, statistics_are_in_order)}


CHECKS = [has_rows(RawTurbineSignals)]
