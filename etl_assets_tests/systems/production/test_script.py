"""The system without an orchestrator: as a function, and as the commands `etl-assets production …` and `etl-assets relay`."""

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest

from etl_assets.errors import ConfigurationError, PermanentError, TransientError
from etl_assets.simulators.server import serve
from etl_assets.systems import production
from etl_assets.systems.production import script
from etl_assets.systems.production.contracts import METRICS, STREAMS
from etl_assets.systems.production.relaying import relay
from etl_assets.systems.production.report import described
from etl_assets.systems.production.settings import ProductionSettings
from etl_assets.systems.production.simulator import ProductionSimulator
from etl_assets.systems.production.source import ProductionApi
from etl_assets.systems.production.statistics.alignment import AlignmentRules
from etl_assets.systems.production.statistics.correlation import Method
from etl_assets.systems.production.tables import committed_position
from etl_assets_tests.systems.production.world import (
    METRICS_IN_FILES,
    ORDERS,
    QUICK,
    START,
    Command,
    World,
    left_out,
    read_report,
    readings,
    rows_of,
    small_records,
    supported,
    verdicts,
    work_orders,
)

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "production"
DOUBLE = [{"id": 0, "val": 1.5, "time": START}, {"id": 0, "val": 2.5, "time": START}]
BAD_METRICS = [*DOUBLE, *DOUBLE, {"id": 0, "val": "abc", "time": START + 1}]
BAD_ORDERS = [*work_orders(0, [1.0, 2.0]), {"time": START, "product": 0, "production": 9.0}, {"time": START}]


@pytest.fixture
def api(world: World) -> ProductionApi:
    """The simulated API, with short pauses."""
    return ProductionApi.from_settings(ProductionSettings.load(), limits=QUICK)


def reported(what: Any) -> tuple[Any, Any]:
    """What a report says, without when it was made."""
    return what["products"], what["left_out"]


# The same files, and others


@pytest.mark.long
def test_the_same_files_twice_bring_nothing_new_and_the_same_numbers(command: Command) -> None:
    records = small_records()
    first = command.report(*records)
    tables, ledger = command.tables(), command.count("etl.ledger")
    again = command.report(*records)
    assert "metrics: 0 new records\nworkorders: 0 new records\n" in command.out
    assert command.err == ""
    assert command.tables() == tables
    # Neither stream was written; the two results were, with nothing to change.
    assert command.count("etl.ledger") == ledger + 2
    assert reported(again) == reported(first)
    assert again["run_id"] != first["run_id"]


@pytest.mark.long
def test_a_report_over_other_files_is_about_those_only(command: Command) -> None:
    command.report(BAD_METRICS, BAD_ORDERS)
    metrics, orders = readings(3, [1.0, 2.0, 4.0]), work_orders(8, [5.0, 7.0, 9.0])
    report = command.report(metrics, orders)
    assert command.counts() == (3, 3)
    assert command.column("SELECT DISTINCT parameter_id FROM production.metrics") == ["3"]
    assert [product["product"] for product in report["products"]] == ["8"]
    assert verdicts(report, 8, "as_recorded") == {"3": "insufficient data"}
    assert command.count("production.aligned_work_orders") == 2
    assert left_out(report, "work orders", "first of each product") == 1
    about = {(left["what"], left["count"]) for left in report["left_out"] if "quarantine" in left["why"]}
    assert about == set(), "what the earlier files had in quarantine is not left out of these"
    assert "in quarantine" not in command.err


@pytest.mark.long
def test_what_is_left_out_is_counted_once_however_often_a_source_comes_back(command: Command) -> None:
    expected = {("readings", "later one"): 3, ("readings", "cannot be read"): 1}
    expected |= {("work orders", "later one"): 1, ("work orders", "cannot be read"): 1}
    for metrics, orders in ((BAD_METRICS, BAD_ORDERS), (DOUBLE, work_orders(0, [1.0])), (BAD_METRICS, BAD_ORDERS)):
        report = command.report(metrics, orders)
        counted = {(what, why): left_out(report, what, why) for what, why in expected}
        assert counted == (
            expected if metrics == BAD_METRICS else {**dict.fromkeys(expected, 0), ("readings", "later one"): 1}
        )
    assert command.err == "6 records in quarantine: see `etl-assets quarantine list`\n"


@pytest.mark.long
def test_one_file_that_is_the_same_is_taken_with_the_other_all_the_same(command: Command) -> None:
    metrics, orders = small_records()
    command.report(metrics, orders)
    report = command.report(metrics, orders[:ORDERS])
    assert command.counts() == (METRICS_IN_FILES, ORDERS)
    assert [product["product"] for product in report["products"]] == ["0"]


@pytest.mark.long
def test_files_do_not_take_the_place_of_a_real_source(world: World, command: Command, api: ProductionApi) -> None:
    metrics, orders = small_records()
    with serve(
        ProductionSimulator(*(command.file(*file) for file in (("m", metrics), ("o", orders))), source="plant 7").app
    ) as url:
        script.report(database=world.database, broker=world.broker, api=ProductionApi(url, limits=QUICK))
    assert command.try_report(readings(0, [1.0]), work_orders(0, [1.0])) == 2
    assert "'plant 7'" in command.err
    assert "etl-assets production reset" in command.err
    assert world.counts() == (METRICS_IN_FILES, 2 * ORDERS)
    assert command("production", "reset", "--yes") == 0
    assert command.try_report(readings(0, [1.0]), work_orders(0, [1.0])) == 0
    assert world.counts() == (1, 1)


# The shared files


@pytest.fixture
def shared() -> tuple[Path, Path]:
    files = SHARED / "metrics.json", SHARED / "workorder.json"
    if not all(file.is_file() for file in files):
        pytest.skip("the shared data are not beside this checkout")
    return files


@pytest.mark.long
def test_the_shared_files_share_a_trend_and_nothing_else(command: Command, shared: tuple[Path, Path]) -> None:
    report = command.report(*shared)
    assert command.counts() == (6_895, 576)
    assert "metrics: 6,896 new records (6,895 inserted, 1 superseded)" in command.out
    assert "workorders: 576 new records (576 inserted)" in command.out
    assert command.column("SELECT outcome FROM etl.quarantine") == ["superseded"]
    assert command.err == "1 record in quarantine: see `etl-assets quarantine list`\n"
    assert left_out(report, "readings", "later one of the same parameter") == 1
    assert [product["product"] for product in report["products"]] == ["0", "1"]
    for product in report["products"]:
        assert (product["work_orders"], product["is_counter"]) == (288, True)
        recorded = product["readings"]["as_recorded"]
        assert [row["verdict"] for row in recorded[:3]] == ["shared trend"] * 3
        assert {row["tie_group"] for row in recorded[:3]} == {1}
        assert all(0.96 < abs(row["r"]) < 0.975 for row in recorded[:3])
        assert [len(rows) for rows in product["readings"].values()] == [20, 20]
    assert supported(report, "as_recorded") == supported(report, "per_work_order") == set()
    assert rows_of(report, 0, "per_work_order")[0]["parameter"] == "9"
    assert command.out.count("only share its trend, which says nothing about cause") == 2
    assert_equals_the_files(command, shared)


def assert_equals_the_files(command: Command, files: tuple[Path, Path]) -> None:
    """Every record is in its table, the later one where two have the same key."""
    metrics, orders = (json.loads(file.read_text()) for file in files)
    tables = command.tables()
    expected = {(str(record["id"]), record["time"]): float(record["val"]) for record in metrics}
    assert {(row["parameter_id"], int(row["measured_at"].timestamp())): row["value"] for row in tables[0]} == expected
    assert Counter(
        (row["product_id"], int(row["completed_at"].timestamp()), row["production"]) for row in tables[1]
    ) == Counter((str(record["product"]), record["time"], float(record["production"])) for record in orders)


# The function


def test_the_function_copies_both_streams_and_gives_the_files(world: World, api: ProductionApi) -> None:
    done = production.correlation_report(database=world.database, broker=world.broker, api=api)
    inserted = {name: sum(drained.inserted for drained in drains) for name, drains in done.copied.items()}
    assert inserted == {"metrics": METRICS_IN_FILES, "workorders": 2 * ORDERS}
    assert done.quarantined == 0
    folder = ProductionSettings.load().reports_dir / "production"
    assert read_report(folder) == json.loads(done.files.json.read_text()) == done.files.document
    assert done.files.latest_html.parent == folder
    assert done.files.html.parent.parent == folder
    assert supported(read_report(folder), "per_work_order") == {("0", "1")}
    world.assert_copied()
    world.assert_books_balance()


@pytest.mark.long
def test_the_function_and_the_assets_report_the_same(world: World, api: ProductionApi) -> None:
    assert world.run().success
    of_run = world.report()
    method = Method(correction="by", level=0.01)
    rules = AlignmentRules(interpolation="linear")
    assert reported(script.report(api=api).files.document) == reported(of_run)
    assert world.run(
        "aligned_work_orders",
        "product_correlations",
        "correlation_report",
        correction="by",
        level=0.01,
        interpolation="linear",
    ).success
    of_run = world.report()
    of_script = script.report(api=api, rules=rules, method=method).files.document
    assert reported(of_script) == reported(of_run)
    assert {**of_script["method"], "statistics": None} == {**of_run["method"], "statistics": None}


def test_a_backlog_that_is_full_is_emptied_until_everything_is_there(
    world: World, api: ProductionApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.simulator.append("metrics", readings(4, range(5_000), every=1))
    monkeypatch.setattr(script, "relay", lambda *args, **options: relay(*args, **options, backlog=2_000))
    drains = script.copy(METRICS, api, world.broker, world.database)
    assert len(drains) > 3
    assert sum(drained.inserted for drained in drains) == METRICS_IN_FILES + 5_000
    assert world.count("production.metrics") == METRICS_IN_FILES + 5_000


def test_an_api_that_fails_leaves_what_was_stored_and_the_next_call_goes_on(world: World, api: ProductionApi) -> None:
    world.simulator.faults.rates("workorders", {"503": 1.0})
    with pytest.raises(TransientError, match="GET /workorders"):
        script.report(api=api)
    assert world.counts() == (METRICS_IN_FILES, 0)
    world.simulator.faults.clear()
    copied = [script.copy(stream, api, world.broker, world.database) for stream in STREAMS]
    assert [sum(drained.received for drained in drains) for drains in copied] == [0, 2 * ORDERS]


def test_a_hole_in_the_stream_is_an_error_that_names_its_ends(world: World, api: ProductionApi) -> None:
    world.simulator.skip("metrics", 101, 103)
    with pytest.raises(PermanentError, match="101.*103"):
        script.report(api=api)
    assert committed_position(world.database, METRICS).sequence <= 100


@pytest.mark.parametrize(("correction", "needed"), [("bh", "0.001"), ("by", "0.0002")])
def test_the_method_says_what_p_a_single_effect_needs(correction: Literal["bh", "by"], needed: str) -> None:
    ranked = pd.DataFrame({"parameter_id": range(20)})
    [note] = described(AlignmentRules(), Method(correction=correction), ranked)["notes"]
    assert f"a single effect among 40 (all parameters in both readings) needs {needed} to pass" in note
    assert "notes" not in described(AlignmentRules(), Method(), ranked[:0])


# The commands


@pytest.mark.long
def test_the_command_takes_generated_data_when_asked_to(command: Command) -> None:
    assert command("production", "report", "--simulate") == 0
    assert "product 0: " in command.out and "parameter 4 is supported" in command.out
    assert "product 1: " in command.out and "parameter 9 is supported" in command.out
    assert f"report: {ProductionSettings.load().reports_dir / 'production' / 'latest.html'}\n" in command.out


@pytest.mark.long
def test_the_options_of_the_report_are_in_its_method(command: Command) -> None:
    report = command.report(
        readings(0, [1.0, 2.0]), work_orders(0, [1.0]), "--interpolation", "linear", "--correction", "by"
    )
    assert report["method"]["alignment"]["interpolation"] == "linear"
    assert report["method"]["statistics"]["correction"] == "by"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metrics", "m.json"], "--workorders"),
        (["--workorders", "w.json"], "--metrics"),
        (["--metrics", "m.json", "--workorders", "w.json", "--simulate"], "not both"),
        (["--interpolation", "cubic"], "cubic"),
        ([], "PRODUCTION_API_URL is not set"),
    ],
)
def test_wrong_usage_is_told_with_exit_code_2(command: Command, arguments: list[str], said: str) -> None:
    assert command("production", "report", *arguments) == 2
    assert said in command.err
    assert "Traceback" not in command.err
    assert command.counts() == (0, 0)


def test_a_broker_that_is_down_is_a_failure_without_a_traceback_or_its_password(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_BROKER_URL", "redis://:hidden-word@127.0.0.1:1/0")
    # Commands wait for a server that restarts; this one does not come.
    monkeypatch.setattr(ProductionApi.__init__, "__kwdefaults__", {"limits": QUICK})
    assert command.try_report(readings(0, [1.0]), work_orders(0, [1.0])) == 1
    assert "broker" in command.err
    assert "hidden-word" not in command.err + command.out
    assert "Traceback" not in command.err


@pytest.mark.long
def test_relay_and_drain_as_two_commands_do_what_the_report_does_first(
    world: World, command: Command, handlers: None
) -> None:
    world.simulator.append("metrics", [{"id": 1, "val": 1e6, "time": START}])
    assert command("relay") == 0
    assert sorted(command.out.splitlines()) == [
        "metrics: 480 records published, position 480",
        "workorders: 60 records published, position 60",
    ]
    assert world.counts() == (0, 0)
    assert command("production", "drain") == 0
    assert command.out == (
        "metrics: 480 new records (479 inserted, 1 superseded), position 480\n"
        "workorders: 60 new records (60 inserted), position 60\n"
    )
    assert command.err == "1 record in quarantine: see `etl-assets quarantine list`\n"
    assert command("production", "drain") == 0
    assert (command.out, command.err) == (
        "metrics: 0 new records, position 480\nworkorders: 0 new records, position 60\n",
        "",
    )


def test_a_relay_that_cannot_go_on_fails_with_a_line_and_no_traceback(
    world: World, command: Command, handlers: None
) -> None:
    world.simulator.skip("metrics", 101, 103)
    assert command("relay") == 1
    assert command.err.startswith("error: ")
    assert "101" in command.err and "103" in command.err
    assert "Traceback" not in command.err
    assert "Exception in thread" not in command.err


@pytest.mark.long
def test_a_reset_wants_to_be_meant(command: Command) -> None:
    command.report(readings(0, [1.0]), work_orders(0, [1.0]))
    assert command("production", "reset") == 2
    assert "--yes" in command.err
    assert command.counts() == (1, 1)
    assert command("production", "reset", "--yes") == 0
    assert command.out == "metrics: empty\nworkorders: empty\n"
    assert command.counts() == (0, 0)
    assert [committed_position(command.database, stream).sequence for stream in STREAMS] == [0, 0]


@pytest.fixture
def handlers() -> Iterator[None]:
    """The relay takes over signals; they are given back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_a_missing_setting_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRODUCTION_API_URL")
    with pytest.raises(ConfigurationError, match="PRODUCTION_API_URL"):
        script.report()
