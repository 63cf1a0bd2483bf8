"""Files that a person gives are taken as a whole or not at all."""

from pathlib import Path
from typing import Any

import pytest

from etl_assets.systems.production.settings import ProductionSettings
from etl_assets_tests.systems.production.world import (
    START,
    Command,
    as_lines,
    readings,
    rows_of,
    small_records,
    work_orders,
)

IN_WORDS = "Tuesday, 14 November 2023, 22:13 o'clock"
COLUMNS = {"id": [1, 2], "val": [1.5, 2.5], "time": [START, START + 1]}


def state(command: Command) -> tuple[Any, ...]:
    """All that a report changes."""
    folder = ProductionSettings.load().reports_dir
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return (
        command.tables(),
        command.rows("SELECT * FROM etl.quarantine"),
        command.rows("SELECT * FROM etl.ledger"),
        files,
    )


def timed(records: list[dict[str, Any]], time: Any) -> list[dict[str, Any]]:
    return [{**record, "time": time} for record in records]


def refused(command: Command, metrics: Any, workorders: Any) -> str:
    """What is said of files that are not taken, beside others that were."""
    command.report(*small_records())
    before = state(command)
    assert command.try_report(metrics, workorders) == 2
    assert state(command) == before
    return command.err


def test_a_file_without_a_record_that_can_be_loaded_changes_nothing(command: Command) -> None:
    metrics, workorders = small_records()
    said = refused(command, timed(metrics, IN_WORDS), workorders)
    assert said.startswith("error: ")
    assert f"metrics.json: none of its {len(metrics):,} records can be loaded; the first: time" in said
    assert f"{IN_WORDS!r}: not a time; nothing was changed" in said.replace(chr(92), "")


def test_both_files_are_judged_before_either_is_taken(command: Command) -> None:
    metrics, _ = small_records()
    said = refused(command, [*metrics, *readings(9, [1.0])], work_orders(0, ["x"]))
    assert "workorders.json: its only record cannot be loaded: production 'x': not a number" in said


def test_a_file_of_columns_is_said_to_be_one(command: Command) -> None:
    said = refused(command, as_lines([COLUMNS]), small_records()[1])
    assert "metrics.json: has columns where records are expected" in said
    assert '{"id": …, "val": …, "time": …}' in said


@pytest.mark.parametrize(
    "text", ['{"id": 1}{"id": 2}', '{"id": 1} {"id": 2}\n', '{\n "id": 1\n}\n{\n "id": 2\n}\n', '{\n "id": [1]\n}']
)
def test_objects_that_are_not_each_on_a_line_are_said_to_be_so(command: Command, text: str) -> None:
    assert command.try_report(text, small_records()[1]) == 2
    assert "metrics.json: has objects that are not each on one line: put each on a line of its own" in command.err


def test_one_record_that_can_be_loaded_is_enough(command: Command, tmp_path: Path) -> None:
    metrics, workorders = small_records()
    command.report([*timed(metrics, IN_WORDS)[:2_500], *metrics], workorders)
    assert command.count("production.metrics") == len(metrics)
    assert command.count("etl.quarantine") == min(len(metrics), 2_500)


@pytest.mark.parametrize("factor", [10**3, 10**6, 10**9])
def test_times_in_smaller_units_are_read_as_what_they_are(command: Command, factor: int) -> None:
    metrics, workorders = small_records()
    command.report(
        *([{**record, "time": record["time"] * factor} for record in given] for given in (metrics, workorders))
    )
    assert command.column("SELECT min(measured_at) FROM production.metrics")[0].timestamp() == START


def test_names_are_ids_and_come_in_natural_order(command: Command) -> None:
    metrics, workorders = small_records()
    named = [{**record, "id": f"spindle-{record['id'] * 5}"} for record in metrics]
    orders = [{**record, "product": f"P-{10 - 8 * record['product']}"} for record in workorders]
    report = command.report(named, orders)
    assert [product["product"] for product in report["products"]] == ["P-2", "P-10"]
    assert rows_of(report, "P-10", "per_work_order")[0]["parameter"] == "spindle-5"
    assert command.out.index("product P-2: ") < command.out.index("product P-10: ")
    assert command.count("etl.quarantine") == 0
