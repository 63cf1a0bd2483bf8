"""Files that are not like the sample, from the command to the report: what is stored, what is said, what is refused."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etl_assets.systems.production.settings import ProductionSettings
from etl_assets.systems.production.simulator import write_files
from etl_assets_tests.systems.production.world import (
    METRICS_IN_FILES,
    ORDER_S,
    ORDERS,
    START,
    Command,
    Record,
    as_lines,
    left_out,
    readings,
    rows_of,
    small_records,
    supported,
    verdicts,
    work_orders,
)

Rng = np.random.Generator


@pytest.fixture
def rng() -> Rng:
    return np.random.default_rng(11)


def noise(rng: Rng, number: int = 5 * ORDERS, *, level: float = 100.0) -> list[float]:
    return (level + rng.normal(0, 1, number)).tolist()


def counter(rng: Rng, number: int = ORDERS) -> list[float]:
    return np.cumsum(20 + rng.normal(0, 3, number)).tolist()


def ids(report: dict[str, Any]) -> dict[str, list[str]]:
    """The parameters of each product."""
    return {
        product["product"]: sorted(row["parameter"] for row in product["readings"]["as_recorded"])
        for product in report["products"]
    }


def only_verdict(report: dict[str, Any]) -> str:
    """The verdict that all rows have."""
    [verdict] = {
        row["verdict"] for product in report["products"] for rows in product["readings"].values() for row in rows
    }
    return str(verdict)


# Little


@pytest.mark.long
def test_one_product_and_one_parameter(command: Command, rng: Rng) -> None:
    report = command.report(readings(7, noise(rng)), work_orders(3, counter(rng)))
    assert command.counts() == (5 * ORDERS, ORDERS)
    assert ids(report) == {"3": ["7"]}
    [row] = rows_of(report, 3, "per_work_order")
    assert (row["rank"], row["n"], row["stability"], row["verdict"]) == (1, ORDERS - 1, 1.0, "not significant")
    assert left_out(report, "work orders", "first of each product") == 1
    assert "product 3: " in command.out


@pytest.mark.long
def test_two_work_orders_are_no_correlation(command: Command, rng: Rng) -> None:
    report = command.report(readings(0, noise(rng, 10)) + readings(1, [1.0] * 10), work_orders(0, [0, 15.7]))
    assert command.counts() == (20, 2)
    assert only_verdict(report) == "insufficient data"
    for reading in ("as_recorded", "per_work_order"):
        assert [(row["rank"], row["parameter"], row["r"], row["n"]) for row in rows_of(report, 0, reading)] == [
            (1, "0", None, 1),
            (2, "1", None, 1),
        ]
    assert "nothing can be said: only 1 work order can be used" in command.out.lower()


@pytest.mark.long
def test_two_work_orders_of_two_products_are_no_interval(command: Command, rng: Rng) -> None:
    orders = work_orders(4, [1.0]) + work_orders(9, [2.0], start=START + 60)
    report = command.report(readings(0, noise(rng, 10)), orders)
    assert command.count("production.aligned_work_orders") == 0
    assert ids(report) == {"4": ["0"], "9": ["0"]}
    assert only_verdict(report) == "insufficient data"
    assert {row["n"] for product in (4, 9) for row in rows_of(report, product, "as_recorded")} == {0}
    assert left_out(report, "work orders", "first of each product") == 2


@pytest.mark.long
def test_a_single_reading_and_a_single_work_order(command: Command) -> None:
    report = command.report(readings(0, [1.5]), work_orders(0, [1.5]))
    assert command.counts() == (1, 1)
    assert only_verdict(report) == "insufficient data"


# Nothing in it


@pytest.mark.long
def test_what_never_changes_is_constant(command: Command) -> None:
    report = command.report(readings(0, [5.5] * 150) + readings(1, [0] * 150), work_orders(0, [100.0] * ORDERS))
    assert only_verdict(report) == "constant"
    assert {row["r"] for row in rows_of(report, 0, "as_recorded")} == {None}
    assert [row["parameter"] for row in rows_of(report, 0, "as_recorded")] == ["0", "1"]
    assert "nothing can be said: the output, or every parameter, never changes" in command.out.lower()


@pytest.mark.parametrize(
    "nothing", [float("nan"), pytest.param(None, marks=pytest.mark.long), pytest.param("NaN", marks=pytest.mark.long)]
)
def test_readings_without_any_value_are_stored_and_say_nothing(command: Command, rng: Rng, nothing: Any) -> None:
    report = command.report(readings(0, [nothing] * 20) + readings(1, [nothing] * 20), work_orders(0, counter(rng)))
    assert command.counts() == (40, ORDERS)
    assert command.column("SELECT DISTINCT value FROM production.metrics") == [None]
    assert only_verdict(report) == "insufficient data"
    assert left_out(report, "readings", "they are no number") == 40
    assert left_out(report, "values of a parameter for a work order", "cover too little") == 2 * (ORDERS - 1)
    assert command.count("etl.quarantine") == 0


@pytest.mark.long
def test_a_parameter_without_any_value_comes_last(command: Command, rng: Rng) -> None:
    report = command.report(readings(0, [float("nan")] * 150) + readings(1, noise(rng)), work_orders(0, counter(rng)))
    assert [row["parameter"] for row in rows_of(report, 0, "per_work_order")] == ["1", "0"]
    assert verdicts(report, 0, "per_work_order") == {"1": "not significant", "0": "insufficient data"}


@pytest.mark.long
def test_production_without_any_value(command: Command, rng: Rng) -> None:
    report = command.report(readings(0, noise(rng)), work_orders(0, [float("nan")] * ORDERS))
    assert command.counts() == (5 * ORDERS, ORDERS)
    assert command.column("SELECT DISTINCT production FROM production.workorders") == [None]
    assert only_verdict(report) == "insufficient data"
    assert left_out(report, "work orders", "no production") == ORDERS


@pytest.mark.long
def test_readings_and_work_orders_that_do_not_overlap_in_time(command: Command, rng: Rng) -> None:
    late = START + 100 * 86_400
    report = command.report(readings(0, noise(rng)) + readings(1, noise(rng)), work_orders(0, counter(rng), start=late))
    assert command.counts() == (300, ORDERS)
    assert only_verdict(report) == "insufficient data"
    assert {(row["coverage"], row["n"]) for row in rows_of(report, 0, "as_recorded")} == {(0.0, 0)}
    assert left_out(report, "values of a parameter for a work order", "cover too little") == 2 * (ORDERS - 1)


# Production of all kinds


def planted(rng: Rng, *, orders: int = 60) -> tuple[list[Record], np.ndarray[Any, Any]]:
    """Readings of three parameters, and what goes with parameter 5: one number per work order, the first of no meaning."""
    effect = rng.normal(0, 1, orders)
    made = 20 + 5 * effect + rng.normal(0, 2, orders)
    # Parameter 5 is read as a work order begins, and holds until the next.
    metrics = readings(5, (300 + effect[1:]).tolist(), every=ORDER_S)
    return metrics + readings(6, noise(rng, 5 * orders)) + readings(8, noise(rng, 5 * orders)), made


@pytest.mark.long
def test_an_effect_on_the_increments_of_a_counter_is_supported_per_work_order(command: Command, rng: Rng) -> None:
    metrics, made = planted(rng)
    report = command.report(metrics, work_orders(2, np.cumsum(made).tolist()))
    assert [product["is_counter"] for product in report["products"]] == [True]
    assert supported(report, "per_work_order") == {("2", "5")}
    [first, *_] = rows_of(report, 2, "per_work_order")
    assert (first["rank"], first["parameter"]) == (1, "5")
    assert first["r"] > 0.85
    assert "parameter 5 is supported" in command.out


@pytest.mark.long
def test_an_effect_on_production_that_is_no_counter_is_supported_in_both_readings(command: Command, rng: Rng) -> None:
    metrics, made = planted(rng)
    report = command.report(metrics, work_orders(2, made.tolist()))
    assert [product["is_counter"] for product in report["products"]] == [False]
    for reading in ("as_recorded", "per_work_order"):
        assert supported(report, reading) == {("2", "5")}
        assert rows_of(report, 2, reading)[0]["r"] > 0.85
    recorded, per_order = (rows_of(report, 2, reading) for reading in ("as_recorded", "per_work_order"))
    assert [(row["parameter"], row["r"]) for row in recorded] == [(row["parameter"], row["r"]) for row in per_order]


@pytest.mark.long
def test_a_counter_that_begins_anew_keeps_its_effect(command: Command, rng: Rng) -> None:
    metrics, made = planted(rng)
    counted = np.concatenate([np.cumsum(part) for part in np.split(made, [20, 40])])
    report = command.report(metrics, work_orders(2, counted.tolist()))
    [product] = report["products"]
    assert (product["is_counter"], product["resets"], product["work_orders"]) == (True, 2, 60)
    assert {row["n"] for row in rows_of(report, 2, "per_work_order")} == {57}
    assert {row["n"] for row in rows_of(report, 2, "as_recorded")} == {59}
    assert supported(report, "per_work_order") == {("2", "5")}
    assert left_out(report, "work orders", "counter began anew") == 2


@pytest.mark.long
def test_work_orders_of_two_products_overlap_and_repeat_themselves(command: Command, rng: Rng) -> None:
    metrics, made = planted(rng)
    first = work_orders(0, np.cumsum(made).tolist())
    second = work_orders(1, counter(rng, 60), start=START)
    same, other = dict(first[10]), {**first[20], "production": first[20]["production"] + 1_000}
    report = command.report(metrics, [other, *first, same, *second])
    assert command.count("production.workorders") == 120
    assert supported(report, "per_work_order") == {("0", "5")}
    assert left_out(report, "work orders", "later one of the same product") == 1
    [product] = [product for product in report["products"] if product["product"] == "0"]
    assert (product["work_orders"], product["resets"], product["decreases"]) == (60, 0, 0)
    [stored] = command.column(
        "SELECT production FROM production.workorders WHERE product_id = '0' AND completed_at = %s",
        datetime.fromtimestamp(first[20]["time"], UTC),
    )
    assert stored == first[20]["production"]


# Forms


def as_text(records: list[Record]) -> list[Record]:
    """The same with text in place of every number."""
    return [{name: str(cell) for name, cell in record.items()} for record in records]


def in_milliseconds(records: list[Record]) -> list[Record]:
    return [{**record, "time": record["time"] * 1_000} for record in records]


def with_zone(records: list[Record]) -> list[Record]:
    return [{**record, "time": datetime.fromtimestamp(record["time"], UTC).isoformat()} for record in records]


FORMS: dict[str, Callable[[list[Record]], str | bytes]] = {
    "lines": as_lines,
    "on one line": lambda records: json.dumps(records, separators=(",", ":")),
    "pretty-printed": lambda records: json.dumps(records, indent=4),
    "a byte-order mark": lambda records: b"\xef\xbb\xbf" + json.dumps(records).encode(),
    "CRLF": lambda records: as_lines(records).replace("\n", "\r\n"),
    "text for numbers": lambda records: json.dumps(as_text(records)),
    "milliseconds": lambda records: as_lines(in_milliseconds(records)),
    "text, milliseconds, CRLF and a byte-order mark": lambda records: b"\xef\xbb\xbf"
    + json.dumps(as_text(in_milliseconds(records)), indent=1).replace("\n", "\r\n").encode(),
    "times with a zone": lambda records: as_lines(with_zone(records)),
    "white space and other fields": lambda records: "\n \t" + json.dumps([{"unit": "°C", **r} for r in records]) + "\n\n",
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "form",
    [form for form in FORMS if form != "lines"],
)
def test_the_form_of_the_files_changes_nothing(command: Command, form: str) -> None:
    records = small_records()
    expected = command.report(as_lines(records[0]), as_lines(records[1]))
    tables = command.tables()
    report = command.report(FORMS[form](records[0]), FORMS[form](records[1]))
    assert f"metrics: {METRICS_IN_FILES} new records ({METRICS_IN_FILES} inserted)" in command.out
    assert command.tables() == tables
    assert (report["products"], report["left_out"]) == (expected["products"], expected["left_out"])


# Files that are refused


def refused(command: Command, metrics: Any, workorders: Any) -> str:
    """What the command says as it refuses; nothing is written or published."""
    assert command.try_report(metrics, workorders) == 2
    assert command.counts() == (0, 0)
    assert [command.broker.entries(stream) for stream in ("metrics", "workorders")] == [0, 0]
    assert not ProductionSettings.load().reports_dir.exists()
    assert command.out == ""
    [line] = command.err.splitlines()
    return line


GOOD, ORDERS_OF_ONE = readings(0, [1.0, 2.0]), work_orders(0, [1.0, 2.0])


@pytest.mark.long
@pytest.mark.parametrize("content", ["", " \n", "[]", "[ ]\n"])
def test_a_file_without_records_is_refused(command: Command, content: str) -> None:
    said = refused(command, content, ORDERS_OF_ONE)
    assert str(command.folder / "metrics.json") in said
    assert "empty" in said or "no record" in said
    assert str(command.folder / "workorders.json") in refused(command, GOOD, content)


@pytest.mark.parametrize("form", ["on one line", "pretty-printed", "lines"])
def test_a_file_that_is_cut_in_the_middle_is_refused(command: Command, form: str) -> None:
    text = str(FORMS[form](readings(0, [1.0] * 50)))
    said = refused(command, text[: text.rindex('"val"')], ORDERS_OF_ONE)
    assert str(command.folder / "metrics.json") in said
    assert "cut" in said
    assert "49" in said or "50" in said, "the record is named"


@pytest.mark.long
@pytest.mark.parametrize(
    "content", ["<html><body>Sign in</body></html>", "id,val,time\n1,2,3\n", b"\x89PNG\r\n\x1a\n\x00"]
)
def test_a_file_that_is_not_json_is_refused(command: Command, content: Any) -> None:
    assert f"{command.folder / 'metrics.json'}" in refused(command, content, ORDERS_OF_ONE)
    assert f"{command.folder / 'workorders.json'}" in refused(command, GOOD, content)


def test_files_in_each_others_place_are_refused(command: Command) -> None:
    assert "looks like work orders" in refused(command, ORDERS_OF_ONE, GOOD)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(command: Command) -> None:
    missing, folder = command.folder / "none.json", command.folder / "folder"
    folder.mkdir()
    assert str(missing) in refused(command, missing, ORDERS_OF_ONE)
    assert str(missing) in refused(command, GOOD, missing)
    assert str(folder) in refused(command, folder, ORDERS_OF_ONE)
    assert "folder" in command.err


# Size


@pytest.mark.long
def test_a_million_readings(command: Command, tmp_path: Path) -> None:
    files = write_files(tmp_path / "large", metrics=1_000_000, parameters=20, work_orders=2_000)
    report = command.report(*files)
    assert command.counts() == (1_000_000, 2_000)
    assert "metrics: 1,000,000 new records (1,000,000 inserted)" in command.out
    assert command.count("production.aligned_work_orders") == 20 * 1_998
    assert ids(report) == dict.fromkeys(("0", "1"), sorted(map(str, range(20))))
    assert supported(report, "per_work_order") == set()
