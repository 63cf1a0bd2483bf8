"""Housekeeping: which of Dagster's own records go, and which stay."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.compute_log_manager import ComputeIOType

from etl_assets.core.dagster.housekeeping import Purged, housekeeping_definitions, purge_old_runs, purge_runs

pytestmark = pytest.mark.long

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
SITES = dg.DynamicPartitionsDefinition(name="sites")


@dg.asset
def totals() -> int:
    return 1


@dg.asset(partitions_def=SITES)
def readings() -> None: ...


@dg.op
def break_() -> None:
    raise RuntimeError("broken")


@dg.job
def broken() -> None:
    break_()


@pytest.fixture(params=["in memory", "SQLite"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    made = (
        dg.DagsterInstance.ephemeral() if request.param == "in memory" else dg.DagsterInstance.local_temp(str(tmp_path))
    )
    with made as opened:
        opened.add_dynamic_partitions("sites", ["north", "south"])
        yield opened


def materialised(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None) -> str:
    result = dg.materialize([asset], instance=instance, partition_key=partition, run_config=QUIET)
    return result.run_id


def failed(instance: dg.DagsterInstance) -> str:
    return broken.execute_in_process(instance=instance, raise_on_error=False, run_config=QUIET).run_id


def remaining(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def test_only_the_run_of_an_assets_latest_materialisation_stays(instance: dg.DagsterInstance) -> None:
    materialised(instance, totals)
    latest = materialised(instance, totals)
    assert purge_runs(instance, ended_before=tomorrow()) == Purged(deleted=1, kept=1)
    assert remaining(instance) == {latest}
    event = instance.get_latest_materialization_event(dg.AssetKey("totals"))
    assert event is not None
    assert event.run_id == latest


def test_each_partition_keeps_its_latest_materialisation(instance: dg.DagsterInstance) -> None:
    materialised(instance, readings, "north")
    kept = {materialised(instance, readings, "north"), materialised(instance, readings, "south")}
    assert purge_runs(instance, ended_before=tomorrow()) == Purged(deleted=1, kept=2)
    assert remaining(instance) == kept
    assert instance.get_materialized_partitions(dg.AssetKey("readings")) == {"north", "south"}


def test_failed_runs_go_with_their_events_and_their_output(instance: dg.DagsterInstance) -> None:
    run_id = failed(instance)
    with instance.compute_log_manager.open_log_stream([run_id, "compute_logs", "x"], ComputeIOType.STDERR) as stream:
        if stream:
            stream.write("output")
    assert purge_runs(instance, ended_before=tomorrow()) == Purged(deleted=1, kept=0)
    assert remaining(instance) == set()
    assert instance.all_logs(run_id) == []
    data = instance.compute_log_manager.get_log_data([run_id, "compute_logs", "x"])
    assert not data.stderr


def test_runs_that_have_not_ended_stay(instance: dg.DagsterInstance) -> None:
    open_states = [
        dg.DagsterRunStatus.NOT_STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
    runs = {instance.create_run_for_job(broken, status=status).run_id for status in open_states}
    assert purge_runs(instance, ended_before=tomorrow()) == Purged(deleted=0, kept=0)
    assert remaining(instance) == runs


def test_runs_that_ended_later_stay(instance: dg.DagsterInstance) -> None:
    failed(instance)
    limit = datetime.now(UTC)
    newer = failed(instance)
    assert purge_runs(instance, ended_before=limit) == Purged(deleted=1, kept=0)
    assert remaining(instance) == {newer}


def test_more_runs_than_fit_on_a_page_all_go(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl_assets.core.dagster.housekeeping.PAGE", 2)
    kept = {materialised(instance, readings, site) for site in ("north", "south")} | {materialised(instance, totals)}
    for _ in range(5):
        failed(instance)
    assert purge_runs(instance, ended_before=tomorrow()) == Purged(deleted=5, kept=3)
    assert remaining(instance) == kept


def test_the_job_keeps_thirty_days_by_default_and_takes_another_number() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        young = failed(instance)
        assert purge_old_runs.execute_in_process(instance=instance, run_config=QUIET).success
        assert young in remaining(instance)
        bad = {**QUIET, "ops": {"delete_old_runs": {"config": {"older_than_days": 0}}}}
        result = purge_old_runs.execute_in_process(instance=instance, run_config=bad, raise_on_error=False)
        assert not result.success
        assert young in remaining(instance)


def test_the_schedules_are_daily_and_off_until_somebody_turns_them_on() -> None:
    made = housekeeping_definitions().schedules or ()
    schedules = {
        (one.name, one.job_name, one.cron_schedule, one.default_status)
        for one in made
        if isinstance(one, dg.ScheduleDefinition)
    }
    off = dg.DefaultScheduleStatus.STOPPED
    assert schedules == {
        ("purge_old_runs_daily", "purge_old_runs", "30 3 * * *", off),
        ("sweep_files_daily", "sweep_files", "45 3 * * *", off),
    }
