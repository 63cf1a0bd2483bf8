"""When the production system runs: a drain when records wait, and the whole way every hour."""

import dagster as dg

from etl_assets.core.dagster.automation import UNFINISHED
from etl_assets.core.dagster.broker import BrokerResource
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.sources.streams.broker import Lag
from etl_assets.systems.production.assets import metrics, workorders
from etl_assets.systems.production.contracts import STREAMS, Metrics
from etl_assets.systems.production.draining import standing

# Few runs for many small arrivals: a run is worth its while for so many records, or when one has waited for so long.
ENOUGH_RECORDS = 50_000
LONGEST_WAIT_S = 60.0

production_job = dg.define_asset_job(
    "production_job",
    selection=dg.AssetSelection.groups(Metrics.schema_name()),
    description="Relay and drain both streams, align, correlate, report.",
)
drain_production_job = dg.define_asset_job(
    "drain_production_job",
    selection=dg.AssetSelection.assets(metrics, workorders),
    description="Store what waits in the broker, without asking the API.",
)


@dg.schedule(
    job=production_job,
    cron_schedule="5 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def production_every_hour() -> dg.RunRequest:
    """The whole way, from the streams to the report."""
    return dg.RunRequest()


@dg.sensor(job=drain_production_job, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.STOPPED)
def production_lag(
    context: dg.SensorEvaluationContext, broker: BrokerResource, postgres: PostgresResource
) -> dg.RunRequest | dg.SkipReason:
    """Requests a drain when enough waits in the broker, or has waited for long, unless one is already to come."""
    lags = {}
    for stream in STREAMS:
        _, after = standing(postgres.database, broker.broker, stream)
        lags[stream.name] = broker.broker.lag(stream.name, committed=after)
    listing = ", ".join(
        f"{name}: {lag.records} records, the oldest for {lag.seconds:.0f} s" for name, lag in lags.items()
    )
    if not any(is_due(lag) for lag in lags.values()):
        return dg.SkipReason(f"not enough waits ({listing})")
    for job in (drain_production_job, production_job):
        unfinished = dg.RunsFilter(job_name=job.name, statuses=UNFINISHED)
        if context.instance.get_runs_count(unfinished):
            return dg.SkipReason(f"a run of {job.name} will take it along ({listing})")
    return dg.RunRequest()


def is_due(lag: Lag) -> bool:
    """Whether a stream is to be drained now."""
    return lag.records >= ENOUGH_RECORDS or (lag.batches > 0 and lag.seconds >= LONGEST_WAIT_S)
