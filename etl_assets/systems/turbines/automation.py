"""When the turbines system runs: every day for the one before, and when a day has got signals that came late."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from etl_assets.core.dagster.automation import earlier_runs, reason_to_wait
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet
from etl_assets.core.slices.writing import hash_of
from etl_assets.errors import PermanentError, PlatformError
from etl_assets.settings import Settings, load_settings
from etl_assets.systems.turbines.assets import DAYS, raw_turbine_signals, ten_minute_statistics
from etl_assets.systems.turbines.contracts import RawTurbineSignals
from etl_assets.systems.turbines.days import DAY, day_slice
from etl_assets.systems.turbines.fetching import BETWEEN, fetched_days
from etl_assets.systems.turbines.signals import DEFAULT_COLUMNS
from etl_assets.systems.turbines.source import TurbinesApiResource

# So many days back signals may come late.
LATE_DAYS = 3
SIGNALS_TAG = "etl/signals"
DIGEST_LENGTH = 32

turbines_job = dg.define_asset_job(
    "turbines_job",
    selection=dg.AssetSelection.assets(raw_turbine_signals, ten_minute_statistics),
    description="Fetch days from the source and replace their statistics in the target database.",
)


@dataclass(frozen=True)
class Said:
    """What the source says of a day.

    Attributes:
        columns: the signals that it was asked for.
        digest: of all its rows.
    """

    columns: Sequence[str]
    digest: str

    def run_config(self) -> dict[str, Any]:
        """The configuration of a run that asks for the same signals."""
        return {"ops": {raw_turbine_signals.op.name: {"config": {"columns": list(self.columns)}}}}


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
    """Requests each of the last days of which the source says something that there are no statistics of yet."""
    settings = load_settings()
    requests, reasons = [], []
    try:
        for day in last_days(settings, today=datetime.now(UTC).date()):
            said = changed_signals(settings, turbines_api, context.instance, day)
            if said is None:
                continue
            tags = {SIGNALS_TAG: f"{day} {said.digest}"}
            earlier = earlier_runs(context.instance, turbines_job.name, tags)
            reason = reason_to_wait(context.instance, earlier, job=turbines_job.name, now=time.time())
            if reason:
                reasons.append(f"{day}: {reason}")
            else:
                run_key = f"{day} {said.digest} {len(earlier)}"
                requests.append(
                    dg.RunRequest(
                        partition_key=day.isoformat(), run_key=run_key, tags=tags, run_config=said.run_config()
                    )
                )
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


def changed_signals(
    settings: Settings, api: TurbinesApiResource, instance: dg.DagsterInstance, day: date
) -> Said | None:
    """What the source says of a day now; none if the statistics are made of that, or if it is nothing at all."""
    try:
        there = read_parquet(ParquetRoot(settings.storage_url), [day_slice(RawTurbineSignals, day)])
    except PermanentError:
        there = None
    columns = tuple(DEFAULT_COLUMNS)
    if there is not None and there.num_rows:
        columns = tuple(there["columns_asked"][0].as_py().split(BETWEEN))
    (fetched,) = fetched_days(api.connect(), [day], turbines=settings.turbines, columns=columns)
    if all(fetched.rows.valid[name].null_count == fetched.rows.valid.num_rows for name in columns):
        return None
    now = hash_of(fetched.rows.valid)
    if there is not None and hash_of(there) == now and statistics_follow(instance, day):
        return None
    return Said(columns, now[:DIGEST_LENGTH])


def statistics_follow(instance: dg.DagsterInstance, day: date) -> bool:
    """Whether the statistics of a day are not older than its raw signals, as far as runs have stored them.

    A run that failed between the two has the source's newest word in the raw layer only.
    """
    key = day.isoformat()
    raw, computed = (
        instance.get_latest_storage_id_by_partition(asset.key, dg.DagsterEventType.ASSET_MATERIALIZATION, {key})
        for asset in (raw_turbine_signals, ten_minute_statistics)
    )
    return raw.get(key, 0) <= computed.get(key, 0)
