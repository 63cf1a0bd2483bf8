"""Checks of the events system beyond those that the contracts give."""

from datetime import UTC, datetime, timedelta

import dagster as dg

from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.checks import evaluated, has_rows, is_current
from etl_assets.core.dagster.contract_types import asset_key
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.events.contracts import RawEvents, UsEventData
from etl_assets.systems.events.manifest import LOST
from etl_assets.systems.events.settings import EventsSettings

NAMED_AT_MOST = 12
# What is missing is looked for every hour, and derived by the same run.
LOOKED_FOR = timedelta(hours=2)


@dg.asset_check(
    asset=asset_key(RawEvents),
    description="No interval is refused, absent or damaged, has a newer version that could not be had, or waits for longer than it may, unless somebody has accepted that: else the newest are named.",
)
@classified
def no_interval_is_lost(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Of all intervals in the manifest; one that may still come is not lost."""
    overdue = datetime.now(UTC) - timedelta(hours=EventsSettings.load().events_late_hours) - LOOKED_FOR
    with postgres.database.connect() as connection:
        rows, accepted = connection.execute("SELECT count(*), count(accepted) FROM events.intervals").fetchone() or (
            0,
            0,
        )
        lost = connection.execute(
            b"SELECT interval, state, count(*) OVER () FROM events.intervals"
            b" WHERE accepted IS NULL AND state <> 'missing' AND %b"
            b" OR (accepted IS NULL OR state = 'fetched') AND state IN ('missing', 'fetched')"
            b" AND greatest(first_asked_at, interval) < %%(overdue)s"
            b" ORDER BY interval DESC LIMIT %%(limit)s" % LOST,
            {"overdue": overdue, "limit": NAMED_AT_MOST},
        ).fetchall()
    named = ", ".join(f"{interval.astimezone(UTC):%Y-%m-%dT%H:%MZ} {state}" for interval, state, _ in lost)
    count = lost[0][2] if lost else 0
    return evaluated(not lost, rows, lost=count, newest=named or "none", accepted=accepted)


@dg.asset_check(
    asset=asset_key(UsEventData),
    description="Each interval of the newest day that is loaded has as many US events as the manifest says.",
)
@classified
def the_book_is_right(postgres: PostgresResource) -> dg.AssetCheckResult:
    """Of the newest day that is loaded."""
    with postgres.database.connect() as connection:
        found = connection.execute(
            "WITH newest AS (SELECT date_trunc('day', max(interval), 'UTC') AS day FROM events.intervals WHERE state = 'loaded'),"
            " counted AS (SELECT file_interval, count(*) AS rows FROM events.us_event_data, newest"
            " WHERE file_interval >= day GROUP BY 1)"
            " SELECT count(*), count(*) FILTER (WHERE rows_us <> coalesce(rows, 0))"
            " FROM newest JOIN events.intervals ON interval >= day AND state = 'loaded'"
            " LEFT JOIN counted ON file_interval = interval"
        ).fetchone()
    intervals, wrong = found or (0, 0)
    return evaluated(wrong == 0, intervals, wrong=wrong)


CHECKS = [
    has_rows(RawEvents),
    has_rows(UsEventData),
    is_current(asset_key(UsEventData), UsEventData),
    no_interval_is_lost,
    the_book_is_right,
]
