"""When the turbines system runs: every day for the one before, and when a day has got signals that came late."""

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from etl_assets.core.dagster.automation import earlier_runs, reason_to_wait
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.corrections import with_corrections
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet
from etl_assets.core.slices.writing import hash_of
from etl_assets.errors import PermanentError, PlatformError
from etl_assets.systems.turbines.assets import DAYS, TurbinesApiResource, raw_turbine_signals, ten_minute_statistics
from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS, RawTurbineSignals
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.source import TurbinesApi, fetched_days
from etl_assets.systems.turbines.transform import DAY, SEPARATOR, day_slice

# So many days back signals may come late.
LATE_DAYS = 3
SIGNALS_TAG = "etl/signals"
DIGEST_LENGTH = 32

turbines_job = dg.define_asset_job(
    "turbines_job",
    selection=dg.AssetSelection.assets(raw_turbine_signals, ten_minute_statistics),
    description="Fetch days from the source and replace their statistics in the target database.",
)


@dg.schedule(
    job=turbines_job,
    cron_schedule="20 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def turbines_every_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """The day that is over."""
    day = f"{context.scheduled_execution_time.astimezone(UTC) - DAY:%Y-%m-%d}"
    if not DAYS.has_partition_key(day):
        return dg.SkipReason(f"{day} is not between TURBINES_START_DATE and TURBINES_END_DATE")
    return dg.RunRequest(partition_key=day)


@dg.sensor(job=turbines_job, minimum_interval_seconds=900, default_status=dg.DefaultSensorStatus.STOPPED)
def late_turbine_signals(
    context: dg.SensorEvaluationContext, turbines_api: TurbinesApiResource, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests each of the last days of which the source has something that there are no statistics of yet."""
    settings, instance = TurbinesSettings.load(), context.instance
    requests: list[dg.RunRequest] = []
    reasons: list[str] = []
    try:
        for day in last_days(settings, today=datetime.now(UTC).date()):
            changed = changed_signals(settings, turbines_api.connect(), postgres.database, instance, day)
            if changed is None:
                continue
            columns, digest = changed
            tags = {SIGNALS_TAG: f"{day} {digest}"}
            earlier = earlier_runs(instance, turbines_job.name, tags)
            reason = reason_to_wait(instance, earlier, job=turbines_job.name, now=time.time())
            if reason:
                reasons.append(f"{day}: {reason}")
                continue
            request = dg.RunRequest(
                partition_key=day.isoformat(),
                run_key=f"{day} {digest} {len(earlier)}",
                tags=tags,
                run_config={"ops": {raw_turbine_signals.op.name: {"config": {"columns": list(columns)}}}},
            )
            requests.append(request)
    except PlatformError as error:
        return dg.SkipReason(str(error))
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SkipReason("; ".join(reasons) or "the source has nothing new of the last days")


def last_days(settings: TurbinesSettings, *, today: date) -> Sequence[date]:
    """The days of which signals may still come, the earliest first."""
    newest = min(today - DAY, settings.turbines_end_date or date.max)
    days = [newest - timedelta(days=back) for back in range(LATE_DAYS)]
    return [day for day in reversed(days) if day >= settings.turbines_start_date]


def changed_signals(
    settings: TurbinesSettings, api: TurbinesApi, database: Database, instance: dg.DagsterInstance, day: date
) -> tuple[Sequence[str], str] | None:
    """The columns of a day and the digest of its rows in the source now; None if they are empty, or the statistics are made of them."""
    try:
        stored = read_parquet(ParquetRoot(settings.storage_url), database, [day_slice(RawTurbineSignals, day)])
    except PermanentError:
        stored = None
    columns: Sequence[str] = DEFAULT_COLUMNS
    if stored is not None and stored.num_rows:
        columns = stored["columns_asked"][0].as_py().split(SEPARATOR)
    (fetched,) = fetched_days(api, [day], turbines=settings.turbines, columns=columns)
    rows = fetched.rows.valid
    if fetched.rows.records:
        rows = with_corrections(database, day_slice(RawTurbineSignals, day), fetched.rows)
    if all(rows[name].null_count == rows.num_rows for name in columns):
        return None
    digest = hash_of(rows)
    if stored is not None and hash_of(stored) == digest and statistics_follow(instance, day):
        return None
    return columns, digest[:DIGEST_LENGTH]


def statistics_follow(instance: dg.DagsterInstance, day: date) -> bool:
    """Whether the statistics of a day are not older than its raw signals, as far as runs have stored them.

    A run that failed between the two has left the source's newest answer in the raw layer only.
    """
    key = day.isoformat()
    raw, computed = (
        instance.get_latest_storage_id_by_partition(asset.key, dg.DagsterEventType.ASSET_MATERIALIZATION, {key})
        for asset in (raw_turbine_signals, ten_minute_statistics)
    )
    return raw.get(key, 0) <= computed.get(key, 0)
