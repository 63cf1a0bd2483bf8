"""When the experiments system runs: every day, and when a file says something else than it did."""

import time
from datetime import UTC, datetime

import dagster as dg

from etl_assets.core.dagster.automation import earlier_runs, reason_to_wait
from etl_assets.errors import PlatformError
from etl_assets.systems.experiments.assets import FILES, TABLES, ExperimentFilesResource
from etl_assets.systems.experiments.contracts import UserFeatures, Users
from etl_assets.systems.experiments.source import Content, ExperimentFolder

FILES_TAG = "etl/files"
# So long after its last change a file is taken for complete: whoever copies it writes all the time.
REST_S = 5.0

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
) -> dg.RunRequest | dg.SkipReason:
    """Requests a run when the content of the files is another than that of the tables, whatever their times are.

    Files that were written to a moment ago are looked at again: one that is being copied would load with its last row cut off.
    What a run has rejected is not requested again before it changes; after another failure it is, after growing waits.
    """
    try:
        folder = experiment_files.connect()
        content = folder.content()
        digest = content.digest
        if digest == loaded_digest(context.instance):
            return dg.SkipReason("the files are those of the tables")
        if is_being_written(folder, content, now=time.time()):
            return dg.SkipReason("the files are being written")
    except PlatformError as error:
        return dg.SkipReason(str(error))
    earlier = earlier_runs(context.instance, experiments_job.name, {FILES_TAG: digest})
    reason = reason_to_wait(context.instance, earlier, job=experiments_job.name, now=time.time())
    if reason:
        return dg.SkipReason(reason)
    return dg.RunRequest(
        # Named for the run before: after each the next has a key that no run had, however many there were or are still kept.
        run_key=f"{digest} {earlier[0].dagster_run.run_id if earlier else 'first'}",
        partition_key=f"{datetime.now(UTC):%Y-%m-%d}",
        tags={FILES_TAG: digest},
    )


def is_being_written(folder: ExperimentFolder, content: Content, *, now: float) -> bool:
    """Whether the files are about to have another content: they do not rest, and are another a moment later.

    Args:
        now: Unix time, in s.
    """
    if now - content.changed_at >= REST_S:
        return False
    time.sleep(REST_S)
    return folder.content().digest != content.digest


def loaded_digest(instance: dg.DagsterInstance) -> str | None:
    """The digest of the files that all tables are from and the features were derived after; none if a run did not get so far."""
    events = [instance.get_latest_materialization_event(dg.AssetKey(contract.table_name())) for contract in TABLES]
    features = instance.get_latest_materialization_event(dg.AssetKey(UserFeatures.table_name()))
    digests = set()
    for event in events:
        if (
            event is None
            or event.asset_materialization is None
            or features is None
            or features.timestamp < event.timestamp
        ):
            return None
        value = event.asset_materialization.metadata.get(FILES)
        digests.add(str(value.value) if value else None)
    return digests.pop() if len(digests) == 1 else None
