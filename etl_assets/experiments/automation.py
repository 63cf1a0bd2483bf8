"""When the experiments system runs: every day, and when a file says something else than it did."""

import time
from datetime import UTC, datetime

import dagster as dg

from etl_assets.automation import earlier_runs, reason_to_wait
from etl_assets.experiments.assets import FILES
from etl_assets.experiments.contracts import Users
from etl_assets.experiments.source import ExperimentFilesResource
from etl_assets.failures import PlatformError

FILES_TAG = "etl/files"

experiments_job = dg.define_asset_job(
    "experiments_job",
    selection=dg.AssetSelection.groups(Users.schema_name()),
    description="Read the three files, store them, derive the features of each user as of the partition's day.",
)


@dg.schedule(
    job=experiments_job,
    cron_schedule="10 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def experiments_every_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """The features as of the day that begins."""
    return dg.RunRequest(partition_key=f"{context.scheduled_execution_time.astimezone(UTC):%Y-%m-%d}")


@dg.sensor(job=experiments_job, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.STOPPED)
def experiment_files(
    context: dg.SensorEvaluationContext, experiment_files: ExperimentFilesResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests a run when the content of the files is another than that of the tables, whatever their times are.

    New content has to be the same at two looks: a file that is being copied would load with its last row cut off. What a run has
    refused is not asked for again before it changes; after another failure it is, with growing waits.
    """
    try:
        digest = experiment_files.connect().content().digest
    except PlatformError as error:
        return dg.SkipReason(str(error))
    if digest == loaded_digest(context.instance):
        return dg.SkipReason("the files are those of the tables")
    if digest != context.cursor:
        return dg.SensorResult(skip_reason="the files are new or changed: are they complete?", cursor=digest)
    earlier = earlier_runs(context.instance, experiments_job.name, {FILES_TAG: digest})
    reason = reason_to_wait(context.instance, earlier, job=experiments_job.name, now=time.time())
    if reason:
        return dg.SensorResult(skip_reason=reason, cursor=digest)
    request = dg.RunRequest(
        # Of the number of runs there were: after a failed one the next has another key, which Dagster remembers for ever.
        run_key=f"{digest} {len(earlier)}",
        partition_key=f"{datetime.now(UTC):%Y-%m-%d}",
        tags={FILES_TAG: digest},
    )
    return dg.SensorResult(run_requests=[request], cursor=digest)


def loaded_digest(instance: dg.DagsterInstance) -> str | None:
    """The digest of the files that the tables are from; none before the first load."""
    event = instance.get_latest_materialization_event(dg.AssetKey(Users.table_name()))
    materialization = event.asset_materialization if event else None
    value = materialization.metadata.get(FILES) if materialization else None
    return str(value.value) if value else None
