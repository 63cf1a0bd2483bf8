"""When the experiments system runs: every day, and when a file says something else than it did."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from etl_assets.contracts.dagster import PERMANENT
from etl_assets.experiments.assets import FILES, TABLES
from etl_assets.experiments.contracts import UserFeatures, Users
from etl_assets.experiments.folder import Content, ExperimentFolder
from etl_assets.experiments.source import ExperimentFilesResource
from etl_assets.failures import PlatformError

UNFINISHED = [dg.DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
FILES_TAG = "etl/files"
# So long after its last change a file is taken for complete: whoever copies it writes all the time.
REST_S = 5.0
FIRST_WAIT_S, LONGEST_WAIT_S = 60, 3600

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
    What a run has refused is not asked for again before it changes; after another failure it is, with growing waits.
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
    earlier = context.instance.get_run_records(
        dg.RunsFilter(job_name=experiments_job.name, tags={FILES_TAG: digest}), limit=100
    )
    reason = reason_to_wait(context.instance, earlier, now=time.time())
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


def reason_to_wait(instance: dg.DagsterInstance, earlier: Sequence[dg.RunRecord], *, now: float) -> str | None:
    """Why not to ask for a run now.

    Args:
        earlier: the runs for the same content, the newest first.
        now: Unix time, in s.
    """
    if instance.get_runs_count(dg.RunsFilter(job_name=experiments_job.name, statuses=UNFINISHED)):
        return f"a run of {experiments_job.name} is queued or running"
    if not earlier or earlier[0].dagster_run.status is not dg.DagsterRunStatus.FAILURE:
        return None
    last = earlier[0]
    refusal = permanent_failure(instance, last.dagster_run.run_id)
    if refusal:
        return f"run {last.dagster_run.run_id[:8]} refused these files, correct them: {refusal}"
    wait_s = min(FIRST_WAIT_S * 2 ** (len(earlier) - 1), LONGEST_WAIT_S)
    ended = last.end_time or now
    if now < ended + wait_s:
        return f"run {last.dagster_run.run_id[:8]} failed, the next is asked for after {wait_s} s"
    return None


def permanent_failure(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """What a failed run said that no further attempt can mend; none if a further one may succeed."""
    failures = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    for record in failures:
        event = record.event_log_entry.dagster_event
        data = event.step_failure_data.user_failure_data if event else None
        if data and PERMANENT in data.metadata:
            return data.description
    return None
