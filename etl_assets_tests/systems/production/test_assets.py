"""The assets in a run: what is in the tables, what the materialisations say, what is tried again, and when they run."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.test_utils import create_run_for_test

from etl_assets.core.dagster.broker import BrokerResource
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.sources.streams.broker import Batch
from etl_assets.simulators.server import serve
from etl_assets.systems.production import automation, checks
from etl_assets.systems.production.contracts import CONTRACTS, METRICS, STREAMS
from etl_assets.systems.production.draining import drain
from etl_assets.systems.production.settings import ProductionSettings
from etl_assets.systems.production.simulator import PLANTED, ProductionSimulator
from etl_assets.systems.production.tables import committed_position
from etl_assets_tests.systems.outages.runs import attempts, failed_steps, failure, metadata
from etl_assets_tests.systems.outages.runs import checks as check_results
from etl_assets_tests.systems.production.world import (
    ASSETS,
    METRICS_IN_FILES,
    ORDERS,
    START,
    STORED,
    World,
    rows_of,
    supported,
)

ALIGNED = 2 * (ORDERS - 1) * 4
VERSIONS = "SELECT xmin::text || ctid::text FROM production.{} ORDER BY 1"
UNFINISHED = [dg.DagsterRunStatus[name] for name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]
TABLES = [contract.table_name() for contract in CONTRACTS]


def said(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    """What the materialisation of an asset says."""
    return metadata(result, asset, None)


# What is stored, and what is said of it


def test_a_run_takes_both_streams_to_the_report(world: World) -> None:
    result = world.run()
    assert result.success
    assert {event.asset_key for event in result.get_asset_materialization_events()} == {
        dg.AssetKey(["production", name]) for name in ASSETS
    }
    assert world.counts() == (METRICS_IN_FILES, 2 * ORDERS)
    assert (world.count("production.aligned_work_orders"), world.count("production.product_correlations")) == (
        ALIGNED,
        2 * 2 * 4,
    )
    world.assert_books_balance()
    report = world.report()
    assert [product["product"] for product in report["products"]] == ["0", "1"]
    assert supported(report, "per_work_order") == {("0", "1")}
    assert rows_of(report, 0, "per_work_order")[0]["r"] == pytest.approx(0.9905, abs=1e-4)
    assert {row["verdict"] for row in rows_of(report, 1, "as_recorded") if row["parameter"] == "2"} == {"shared trend"}
    assert report["run_id"] == result.run_id
    assert report["source"] == world.simulator.source
    streams, drained = said(result, "metrics_stream"), said(result, "metrics")
    position = {"position": METRICS_IN_FILES, "source": world.simulator.source}
    assert streams.items() >= {"published": METRICS_IN_FILES, "note": "complete", **position}.items()
    counts = {"received": METRICS_IN_FILES, "inserted": METRICS_IN_FILES, "superseded": 0, "rejected": 0}
    lags = {"lag_before_records": METRICS_IN_FILES, "lag_before_entries": 1, "lag_after_records": 0}
    assert drained.items() >= {**counts, **lags, **position, "dagster/row_count": METRICS_IN_FILES}.items()
    told = said(result, "correlation_report")
    assert "Product 0: " in told["answer"] and "parameter 1 is supported" in told["answer"]
    assert Path(told["report"]).read_text() == Path(told["this_run"]).read_text()
    assert told["dagster/row_count"] == 16
    heads = {row["asset"]: row["commit_id"] for row in world.rows("SELECT asset, commit_id FROM etl.heads")}
    assert drained["commit"] == heads["production.metrics"]
    assert told["derived_from"]["production.product_correlations"] == {"": heads["production.product_correlations"]}
    expected = {(table, "has_rows") for table in TABLES} | {("product_correlations", "ranks_are_complete")}
    expected |= {(table, "no_more_than_the_stream_gave") for table in ("metrics", "workorders")}
    expected |= {(table, "is_current") for table in ("aligned_work_orders", "product_correlations")}
    assert check_results(result) == dict.fromkeys(expected, True)
    world.assert_copied()


@pytest.mark.long
def test_a_second_run_writes_nothing_and_reports_the_same(world: World) -> None:
    first = world.run()
    before, report = [world.column(VERSIONS.format(table)) for table in TABLES], world.report()
    result = world.run()
    assert result.success
    assert [world.column(VERSIONS.format(table)) for table in TABLES] == before
    assert [said(result, asset)["published"] for asset in ASSETS[:2]] == [0, 0]
    assert [said(result, asset)["received"] for asset in ASSETS[2:4]] == [0, 0]
    assert said(result, "aligned_work_orders").items() >= {"inserted": 0, "updated": 0, "unchanged": ALIGNED}.items()
    again = world.report()
    assert (again["products"], again["left_out"]) == (report["products"], report["left_out"])
    assert again["run_id"] != report["run_id"]
    assert Path(said(first, "correlation_report")["this_run"]).exists()


@pytest.mark.long
def test_records_that_come_between_two_runs_are_all_that_the_next_one_stores(world: World) -> None:
    assert world.run(*STORED).success
    later = START + 10_000_000
    world.simulator.append("metrics", [{"id": 1, "val": 101.0, "time": later}, {"id": 9, "val": 1.0, "time": later}])
    world.simulator.append("workorders", [{"time": later, "product": 1, "production": 700.0}])
    result = world.run(*STORED)
    assert [said(result, asset)["published"] for asset in ASSETS[:2]] == [2, 1]
    assert [said(result, asset)["inserted"] for asset in ASSETS[2:4]] == [2, 1]
    assert [said(result, asset)["position"] for asset in ASSETS[2:4]] == [METRICS_IN_FILES + 2, 2 * ORDERS + 1]
    assert world.counts() == (METRICS_IN_FILES + 2, 2 * ORDERS + 1)


@pytest.mark.long
def test_records_that_cannot_be_rows_are_in_quarantine_and_the_run_succeeds(world: World) -> None:
    twice = {"id": 1, "val": 1e6, "time": START}
    world.simulator.append("metrics", ["not JSON", {"id": 1, "val": "abc", "time": START + 1}, twice])
    world.simulator.append("workorders", [{"time": START, "product": -1, "production": 1.0}, {"time": START}])
    result = world.run(*STORED)
    assert result.success
    assert said(result, "metrics").items() >= {"rejected": 2, "superseded": 1, "inserted": METRICS_IN_FILES}.items()
    assert said(result, "workorders").items() >= {"rejected": 2, "inserted": 2 * ORDERS}.items()
    noted = world.rows("SELECT * FROM etl.quarantine")
    assert sorted((row["asset"], row["outcome"]) for row in noted) == [
        *[("production.metrics", "rejected")] * 2,
        ("production.metrics", "superseded"),
        *[("production.workorders", "rejected")] * 2,
    ]
    assert {row["run_id"] for row in noted} == {result.run_id}
    world.assert_books_balance()


@pytest.mark.long
def test_what_is_planted_in_the_demo_data_is_supported_and_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(ProductionSimulator().app) as url:
        monkeypatch.setenv("PRODUCTION_API_URL", url)
        assert world.run().success
    report = world.report()
    planted = {(str(effect.product), str(effect.parameter)) for effect in PLANTED}
    assert planted == {("0", "4"), ("1", "9")}
    assert supported(report, "per_work_order") == planted
    for effect in PLANTED:
        [row] = [
            row
            for row in rows_of(report, effect.product, "per_work_order")
            if row["parameter"] == str(effect.parameter)
        ]
        assert row["rank"] == 1
        assert row["ci_low"] < effect.correlation < row["ci_high"]


# The settings of a run


@pytest.mark.long
def test_the_method_of_a_run_is_in_its_run_config(world: World) -> None:
    assert world.run(*STORED).success
    result = world.run(*ASSETS[4:], interpolation="linear", level=0.0001, correction="by", min_coverage=0.9)
    assert result.success
    method = world.report()["method"]
    assert method["alignment"]["interpolation"] == "linear"
    assert method["alignment"]["min_coverage"] == method["statistics"]["min_coverage"] == 0.9
    assert (method["statistics"]["level"], method["statistics"]["correction"]) == (0.0001, "by")
    # Held from work order to work order, parameter 1 is known for all of each; on straight lines it goes with two of them.
    assert abs(rows_of(world.report(), 0, "per_work_order")[0]["r"]) < 0.95


@pytest.mark.long
@pytest.mark.parametrize("method", [{"level": 2.0}, {"min_coverage": -0.1}, {"max_age_spacings": 0.0}])
def test_a_method_that_makes_no_sense_is_refused_before_anything_runs(world: World, method: dict[str, Any]) -> None:
    refused = world.run(*STORED, ASSETS[4], **method)
    assert not refused.success
    assert refused.get_asset_materialization_events() == []
    assert world.counts() == (0, 0)


def test_an_unknown_way_to_interpolate_is_refused_before_there_is_a_run(world: World) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="interpolation"):
        world.run(interpolation="cubic")


# What is tried again


@pytest.mark.long
def test_an_api_that_fails_for_a_while_is_tried_again(world: World, at_once: None) -> None:
    world.simulator.faults.script("metrics", ["503", "reset", "500", "none"])
    world.simulator.faults.script("workorders", ["reset-mid-body"])
    result = world.run(*STORED)
    assert result.success
    assert [attempts(result, step) for step in ASSETS[:2]] == [2, 1]
    assert world.counts() == (METRICS_IN_FILES, 2 * ORDERS)
    world.assert_books_balance()


@pytest.mark.long
def test_an_api_that_stays_down_fails_after_all_tries_and_the_report_is_not_touched(
    world: World, at_once: None
) -> None:
    world.simulator.faults.rates("metrics", {"503": 1.0})
    result = world.run()
    assert failed_steps(result) == ["metrics_stream"]
    assert attempts(result, "metrics_stream") == 3
    assert world.simulator.faults.count("metrics", "503") == 9
    assert "GET /metrics" in failure(result, "metrics_stream")
    assert world.counts() == (0, 2 * ORDERS)
    assert not ProductionSettings.load().reports_dir.exists()


@pytest.mark.long
def test_an_address_without_the_streams_fails_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCTION_API_URL", f"{ProductionSettings.load().production_api_url}/nowhere")
    result = world.run("metrics_stream")
    assert failed_steps(result) == ["metrics_stream"]
    assert attempts(result, "metrics_stream") == 1
    assert "404" in failure(result, "metrics_stream")


def test_without_an_address_the_streams_fail_at_once_and_the_setting_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PRODUCTION_API_URL")
    result = world.run("metrics_stream")
    assert attempts(result, "metrics_stream") == 1
    assert "PRODUCTION_API_URL is not set" in failure(result, "metrics_stream")


def test_a_broker_that_is_down_is_transient_and_nothing_is_written(
    world: World, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_BROKER_URL", "redis://:hidden-word@127.0.0.1:1/0")
    result = world.run("workorders_stream", "metrics")
    assert failed_steps(result) == ["metrics", "workorders_stream"]
    assert [attempts(result, step) for step in failed_steps(result)] == [3, 3]
    texts = [failure(result, step) for step in failed_steps(result)]
    assert [text for text in texts if "hidden-word" in text or "broker" not in text] == []
    assert world.counts() == (0, 0)


# Checks


def judged(check: Any, world: World) -> tuple[bool, dict[str, Any]]:
    """Whether a check passes, and its numbers."""
    result = check(postgres=PostgresResource(url=world.database.url))
    return result.passed, {name: value.value for name, value in result.metadata.items()}


@pytest.mark.long
def test_checks_of_a_stream_compare_its_table_with_the_position(world: World) -> None:
    of_metrics, check = (checks.no_more_than_the_stream_gave(stream) for stream in STREAMS)
    assert judged(check, world) == (False, {"rows_evaluated": 0, "position": 0, "highest_sequence": 0})
    assert world.run(*STORED).success
    good = {"rows_evaluated": 60, "position": 60, "highest_sequence": 60}
    assert judged(check, world) == (True, good)
    world.execute("UPDATE production.workorders SET sequence = 61 WHERE sequence = 60")
    assert judged(check, world) == (False, {**good, "highest_sequence": 61})
    world.execute("UPDATE production.workorders SET sequence = 1")
    world.execute("INSERT INTO production.workorders VALUES (5, now(), 1.0, 1)")
    assert judged(check, world) == (False, {"rows_evaluated": 61, "position": 60, "highest_sequence": 1})
    assert judged(of_metrics, world)[1]["rows_evaluated"] == METRICS_IN_FILES


def rank(world: World, *ranked: tuple[int, float | None]) -> None:
    """Puts ranks with their r into the table, of one product and reading."""
    world.execute("DELETE FROM production.product_correlations")
    for parameter, (place, r) in enumerate(ranked):
        world.execute(
            "INSERT INTO production.product_correlations (product_id, reading, parameter_id, rank, r, n, coverage, verdict)"
            " VALUES (0, 'as_recorded', %s, %s, %s, 20, 1, 'not significant')",
            parameter,
            place,
            r,
        )


@pytest.mark.long
def test_the_check_of_the_ranks_finds_holes_ties_and_wrong_order(world: World) -> None:
    assert judged(checks.ranks_are_complete, world) == (True, {"rows_evaluated": 0, "out_of_order": 0})
    for good in ([(1, -0.9), (2, 0.5), (3, None)], [(1, None), (2, None)], [(1, 0.5), (2, -0.5)]):
        rank(world, *good)
        assert judged(checks.ranks_are_complete, world) == (True, {"rows_evaluated": len(good), "out_of_order": 0})
    for bad in ([(1, 0.9), (3, 0.5)], [(1, 0.5), (1, 0.5)], [(1, 0.5), (2, -0.9)], [(1, None), (2, 0.1)], [(2, 0.5)]):
        rank(world, *bad)
        assert judged(checks.ranks_are_complete, world) == (False, {"rows_evaluated": len(bad), "out_of_order": 1})


# The sensor of the lag


def tick(world: World) -> dg.RunRequest | dg.SkipReason:
    """One evaluation of the sensor."""
    resources = {"postgres": PostgresResource(url=world.database.url), "broker": BrokerResource()}
    context = dg.build_sensor_context(instance=world.instance, resources=resources)
    result = automation.production_lag(context)
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result


def wait(world: World, records: int, *, source: str = "files:a", after: int = 0) -> None:
    """Lets so many records wait in the broker, in one entry."""
    lines = "".join(
        json.dumps({"sequence": at, "record": {"id": at, "val": 1, "time": START}}) + "\n"
        for at in range(after + 1, after + records + 1)
    )
    world.broker.publish("metrics", [Batch(after + 1, records, source, datetime.now(UTC), lines.encode())])


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many records are worth a run."""
    monkeypatch.setattr(automation, "ENOUGH_RECORDS", 50)
    return 50


def skipped(world: World) -> str:
    """Why the sensor asks for nothing."""
    result = tick(world)
    assert isinstance(result, dg.SkipReason), result
    return str(result.skip_message)


def test_a_drain_is_not_asked_for_while_nothing_waits(world: World) -> None:
    assert skipped(world) == (
        "not enough waits (metrics: 0 records, the oldest for 0 s, workorders: 0 records, the oldest for 0 s)"
    )


def test_a_drain_is_not_asked_for_while_little_waits(world: World, few_are_enough: int) -> None:
    wait(world, few_are_enough - 1)
    assert "not enough waits (metrics: 49 records" in skipped(world)


def test_a_drain_is_asked_for_when_enough_waits(world: World, few_are_enough: int) -> None:
    wait(world, few_are_enough)
    request = tick(world)
    assert isinstance(request, dg.RunRequest)
    assert request.run_key is None
    drain(world.database, world.broker, METRICS)
    assert "not enough waits" in skipped(world)


@pytest.mark.long
def test_a_drain_is_asked_for_when_a_record_has_waited_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automation, "LONGEST_WAIT_S", 0.0)
    assert "not enough waits" in skipped(world)
    wait(world, 1)
    assert isinstance(tick(world), dg.RunRequest)


@pytest.mark.long
def test_a_drain_is_asked_for_when_another_source_has_begun_below_the_position(
    world: World, few_are_enough: int
) -> None:
    wait(world, few_are_enough + 1)
    drain(world.database, world.broker, METRICS)
    world.broker.delete("metrics")
    wait(world, few_are_enough, source="files:b")
    assert isinstance(tick(world), dg.RunRequest)
    drain(world.database, world.broker, METRICS)
    assert committed_position(world.database, METRICS).source == "files:b"
    assert "not enough waits" in skipped(world)


def run_of(world: World, job: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    """A run of a job that has come so far."""
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("etl_assets"), "__repository__"), job)
    return create_run_for_test(world.instance, job_name=job, status=status, remote_job_origin=origin)


@pytest.mark.long
@pytest.mark.parametrize("job", ["production_job", "drain_production_job"])
def test_a_run_that_is_to_come_or_under_way_takes_it_along(
    world: World, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    monkeypatch.setattr(automation, "LONGEST_WAIT_S", 0.0)
    wait(world, 1)
    for status in UNFINISHED:
        run = run_of(world, job, status)
        assert f"a run of {job} will take it along (metrics: 1 records" in skipped(world)
        world.instance.delete_run(run.run_id)
    run_of(world, job, dg.DagsterRunStatus.FAILURE)
    run_of(world, "outages_job", dg.DagsterRunStatus.STARTED)
    assert isinstance(tick(world), dg.RunRequest)


@pytest.mark.long
def test_the_job_of_the_sensor_stores_what_waits_without_asking_the_api(world: World) -> None:
    wait(world, 3)
    world.simulator.faults.rates("metrics", {"503": 1.0})
    result = world.run(job="drain_production_job")
    assert result.success
    assert world.counts() == (3, 0)
    assert said(result, "metrics")["inserted"] == 3
    assert world.simulator.faults.counts() == {}
    assert check_results(result)["metrics", "no_more_than_the_stream_gave"] is True


# The schedule


def test_the_whole_way_is_asked_for_every_hour(world: World) -> None:
    schedule = automation.production_every_hour
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("5 * * * *", "UTC")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.job_name == "production_job"
    assert automation.production_lag.default_status is dg.DefaultSensorStatus.STOPPED
    assert isinstance(schedule(dg.build_schedule_context()), dg.RunRequest)


def test_the_job_of_the_schedule_has_all_assets(world: World) -> None:
    job = world.definitions.resolve_job_def("production_job")
    assert {key.path[-1] for key in job.asset_layer.executable_asset_keys} == set(ASSETS)
