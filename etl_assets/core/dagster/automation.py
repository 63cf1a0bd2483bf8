"""What sensors share: whether to ask for the same thing again, after a run for it has failed."""

from collections.abc import Mapping, Sequence

import dagster as dg

from etl_assets.core.dagster.contract_types import PERMANENT

UNFINISHED = [dg.DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
FIRST_WAIT_S, LONGEST_WAIT_S = 60, 3600


def partition_range(first: str, last: str) -> dict[str, str]:
    """The tags of one run for all partitions from the first to the last."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def earlier_runs(instance: dg.DagsterInstance, job: str, tags: Mapping[str, str]) -> Sequence[dg.RunRecord]:
    """The runs of a job that were asked for with these tags, the newest first."""
    return instance.get_run_records(dg.RunsFilter(job_name=job, tags=dict(tags)), limit=100)


def reason_to_wait(
    instance: dg.DagsterInstance, earlier: Sequence[dg.RunRecord], *, job: str, now: float
) -> str | None:
    """Why not to ask for a run now: one is on its way, the last one was refused, or has failed a moment ago.

    Args:
        earlier: the runs that were asked for the same, the newest first.
        job: whose unfinished runs will take it along.
        now: Unix time, in s.
    """
    if instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=UNFINISHED)):
        return f"a run of {job} is queued or running"
    if not earlier or earlier[0].dagster_run.status is not dg.DagsterRunStatus.FAILURE:
        return None
    last = earlier[0]
    refusal = permanent_failure(instance, last.dagster_run.run_id)
    if refusal:
        return f"run {last.dagster_run.run_id[:8]} was refused, and will be again unless something changes: {refusal}"
    wait_s = min(FIRST_WAIT_S * 2 ** (len(earlier) - 1), LONGEST_WAIT_S)
    if now < (last.end_time or now) + wait_s:
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
