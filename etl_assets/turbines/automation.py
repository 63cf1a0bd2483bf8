"""When the turbines system runs: every day for the one before, and when a day has got signals that came late."""

import hashlib
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.automation import earlier_runs, reason_to_wait
from etl_assets.failures import PermanentError, PlatformError
from etl_assets.io_managers.parquet_files import ParquetRoot, read_parquet
from etl_assets.settings import Settings, load_settings
from etl_assets.turbines.assets import DAYS, raw_turbine_signals, ten_minute_statistics
from etl_assets.turbines.contracts import RawTurbineSignals
from etl_assets.turbines.days import DAY, day_slice
from etl_assets.turbines.fetching import BETWEEN, fetched_days
from etl_assets.turbines.signals import DEFAULT_COLUMNS
from etl_assets.turbines.source import TurbinesApiResource

# So many days back signals may come late.
LATE_DAYS = 3
SIGNALS_TAG = "etl/signals"

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
    context: dg.SensorEvaluationContext, turbines_api: TurbinesApiResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests each of the last days of which the source now says something else than it did, or that were never loaded."""
    settings = load_settings()
    requests, reasons = [], []
    try:
        for day in last_days(settings, today=datetime.now(UTC).date()):
            digest = changed_signals(settings, turbines_api, day)
            if digest is None:
                continue
            tags = {SIGNALS_TAG: f"{day} {digest}"}
            earlier = earlier_runs(context.instance, turbines_job.name, tags)
            reason = reason_to_wait(context.instance, earlier, job=turbines_job.name, now=time.time())
            if reason:
                reasons.append(f"{day}: {reason}")
            else:
                run_key = f"{day} {digest} {len(earlier)}"
                requests.append(dg.RunRequest(partition_key=day.isoformat(), run_key=run_key, tags=tags))
    except PlatformError as error:
        return dg.SkipReason(str(error))
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SkipReason("; ".join(reasons) or "the source says of the last days what it said")


def last_days(settings: Settings, *, today: date) -> Sequence[date]:
    """The days of which signals may still come, the earliest first."""
    newest = min(today - DAY, settings.turbines_end_date or date.max)
    days = [newest - timedelta(days=back) for back in range(LATE_DAYS)]
    return [day for day in reversed(days) if day >= settings.turbines_start_date]


def changed_signals(settings: Settings, api: TurbinesApiResource, day: date) -> str | None:
    """What the source says of a day now, as a digest; none if that is what the raw layer has, or nothing at all."""
    piece = day_slice(RawTurbineSignals, day)
    try:
        there = read_parquet(ParquetRoot(settings.storage_url), [piece])
    except PermanentError:
        there = None
    asked = (
        there["columns_asked"][0].as_py().split(BETWEEN) if there is not None and there.num_rows else DEFAULT_COLUMNS
    )
    (fetched,) = fetched_days(api.connect(), [day], turbines=settings.turbines, columns=asked)
    now = signals_digest(fetched.rows.valid)
    if fetched.rows.valid.num_rows == 0 or (there is not None and signals_digest(there) == now):
        return None
    return now


def signals_digest(rows: pa.Table) -> str:
    """A digest of the signals, in whichever order they came."""
    # Of a minute that came more than once the order tells which value counts.
    ordered = rows.sort_by([("turbine", "ascending"), ("timestamp", "ascending"), ("position", "ascending")])
    digest = hashlib.sha256()
    for name in ordered.column_names:
        if name != "position":
            digest.update(repr(pc.cast(ordered[name], pa.string()).to_pylist()).encode())
    return digest.hexdigest()[:32]
