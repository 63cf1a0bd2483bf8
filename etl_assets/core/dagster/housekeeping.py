"""Housekeeping: jobs that delete what nobody needs any more.

Dagster never prunes its event log (8 rows, some 9 kB a step): `purge_old_runs`. Files of versions that are not kept, and those that killed writers left,
are in the way of nobody, and stay: `sweep_files`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from pydantic import Field

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.registry import PLATFORM, contract_of, contracts
from etl_assets.core.slices.copies import mend
from etl_assets.core.slices.entries import Filter, forget, list_entries
from etl_assets.core.slices.files import ParquetRoot
from etl_assets.core.slices.sweeping import sweep
from etl_assets.settings import load_settings

FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
PAGE = 500


class PurgeOptions(dg.Config):
    """Options of one run of `purge_old_runs`."""

    older_than_days: int = Field(30, ge=1, description="Runs that ended so many days ago or earlier are deleted.")


@dataclass(frozen=True)
class Purged:
    """What a purge did: runs deleted, and old runs kept because an asset's latest materialisation is theirs."""

    deleted: int
    kept: int


def purge_runs(instance: dg.DagsterInstance, *, ended_before: datetime) -> Purged:
    """Delete runs with their events and captured output.

    Kept are runs that have not ended, and those of the latest materialisation of each asset and partition: without it the
    asset would count as never materialised.

    Args:
        ended_before: runs that ended before this instant are old.
    """
    old = list(_run_ids(instance, ended_before))
    # Read after the list: a run that makes one of the old ones superfluous in between is only kept for another day.
    latest = runs_of_latest_materializations(instance) if old else set()
    doomed = [run_id for run_id in old if run_id not in latest]
    for run_id in doomed:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
    return Purged(deleted=len(doomed), kept=len(old) - len(doomed))


def runs_of_latest_materializations(instance: dg.DagsterInstance) -> set[str]:
    """The runs that hold the latest materialisation of an asset, or of one of its partitions."""
    kept: set[str] = set()
    for asset in instance.all_asset_keys():
        kept |= {record.run_id for record in instance.fetch_materializations(asset, limit=1).records}
        by_partition = instance.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
        for ids in _pages(sorted(by_partition.values())):
            wanted = dg.AssetRecordsFilter(asset_key=asset, storage_ids=ids)
            kept |= {record.run_id for record in instance.fetch_materializations(wanted, limit=PAGE).records}
    return kept


def _pages(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    yield from (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))


def _run_ids(instance: dg.DagsterInstance, ended_before: datetime) -> Iterator[str]:
    # `updated_before` finds candidates (a run's record is last touched when it ends); the end itself decides.
    wanted = dg.RunsFilter(statuses=FINISHED, updated_before=ended_before)
    cursor = None
    while True:
        records = instance.get_run_records(wanted, limit=PAGE, cursor=cursor)
        for record in records:
            if record.end_time is None or record.end_time < ended_before.timestamp():
                yield record.dagster_run.run_id
        if len(records) < PAGE:
            return
        cursor = records[-1].dagster_run.run_id


@dg.op(description="Deletes runs with their events and captured output; keeps each asset's latest materialisation.")
def delete_old_runs(context: dg.OpExecutionContext, config: PurgeOptions) -> None:
    before = datetime.now(UTC) - timedelta(days=config.older_than_days)
    purged = purge_runs(context.instance, ended_before=before)
    context.log.info(
        f"deleted {purged.deleted} runs that ended before {before:%Y-%m-%d %H:%M} UTC; kept {purged.kept} as old with the"
        " latest materialisation of an asset"
    )
    context.add_output_metadata({"deleted": purged.deleted, "kept": purged.kept})


@dg.job(
    executor_def=dg.in_process_executor,
    description="Deletes Dagster's records of old runs; `older_than_days` is 30 unless the run config says otherwise.",
)
def purge_old_runs() -> None:
    delete_old_runs()


class SweepOptions(dg.Config):
    """Options of one run of `sweep_files`."""

    forget_after_days: int | None = Field(
        None, ge=1, description="Entries of the quarantine that were met last so many days ago are deleted for good."
    )


@dg.op(description="Deletes files that nobody needs any more, and puts the copies for readers from outside right.")
def sweep_layers(context: dg.OpExecutionContext, config: SweepOptions, postgres: PostgresResource) -> None:
    root, database = ParquetRoot(load_settings().storage_url), postgres.database
    tables = [contract for contract in contracts(PLATFORM) if contract.config.store == "parquet"]
    done = sweep(database, root, tables)
    mended = sum(mend(root, database, contract) for contract in tables)
    forgotten = 0
    if config.forget_after_days is not None:
        old = Filter(status="all", older_than=timedelta(days=config.forget_after_days))
        entries, _ = list_entries(database, old, limit=None)
        reason = f"not met for {config.forget_after_days} days"
        forgotten = forget(database, entries, contract_of, who="sweep_files", reason=reason)
    context.add_output_metadata(
        {"files": done.files, "slices": done.slices, "copies": mended, "quarantine_forgotten": forgotten}
    )


@dg.job(
    executor_def=dg.in_process_executor,
    description="Deletes files of versions that are not kept, and those that killed writers left; forgets old quarantine if told to.",
)
def sweep_files() -> None:
    sweep_layers()


def housekeeping_definitions() -> dg.Definitions:
    """The jobs and their daily schedules, which are off by default."""
    daily = dg.ScheduleDefinition(
        name="purge_old_runs_daily",
        job=purge_old_runs,
        cron_schedule="30 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    sweeping = dg.ScheduleDefinition(
        name="sweep_files_daily",
        job=sweep_files,
        cron_schedule="45 3 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    return dg.Definitions(jobs=[purge_old_runs, sweep_files], schedules=[daily, sweeping])
