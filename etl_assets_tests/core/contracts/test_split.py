"""Dividing data into rows that keep their contract and records of the rest."""

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.core.contracts import Contract, Date, Fault, Record, Timestamp, column
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.split import Split, as_json
from etl_assets.core.contracts.validation import split, split_arrow, to_frame
from etl_assets.errors import ContractError

AT = datetime(2020, 1, 1, tzinfo=UTC)


class Reading(Contract):
    """Readings of a meter."""

    meter: str = column("Meter", pattern="m[0-9]+|spare", max_length=5)
    number: int = column("Number of the reading", ge=1)
    value: float | None = column("Reading", unit="kWh", gt=-1.5, lt=1000)
    good: bool | None = column("Whether the meter says that it is well")
    day: Date | None = column("Day of account", ge=date(2020, 1, 1))
    at: Timestamp = column("Instant", le=datetime(2030, 1, 1, tzinfo=UTC))

    class Config:
        table = "meters.reading"
        key = ("meter", "at")


GOOD: dict[str, Any] = {"meter": "m1", "number": 1, "value": 0.5, "good": True, "day": date(2020, 1, 2), "at": AT}


def frame_of(*rows: dict[str, Any], **options: Any) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(GOOD), dtype=object, **options)


def changed(**values: Any) -> dict[str, Any]:
    return {**GOOD, **values}


def test_all_faults_of_a_row_are_in_its_one_record_in_the_order_of_the_columns() -> None:
    bad = {"meter": "M-123456", "number": "x", "value": 1000.0, "good": "maybe", "day": None, "at": None}

    parts = split(Reading, frame_of(GOOD, bad), source="file.csv")

    assert list(parts.records) == [
        Record(
            faults=(
                Fault("meter", "matches m[0-9]+|spare", "M-123456"),
                Fault("meter", "at most 5 characters", "M-123456"),
                Fault("number", "not a whole number", "x"),
                Fault("value", "< 1000", 1000.0),
                Fault("good", "not true or false", "maybe"),
                Fault("at", "required", None),
            ),
            raw=bad,
            source="file.csv, row 1",
        )
    ]
    assert parts.valid.to_dict("records") == [GOOD]


@pytest.mark.parametrize("meter", ["m1", "spare"])
def test_a_pattern_with_alternatives_is_matched_by_the_whole_value(meter: str) -> None:
    bad = [meter + "\n", "x" + meter, meter + "x"]
    parts = split(Reading, frame_of(changed(meter=meter), *(changed(meter=value[:6]) for value in bad)))

    assert [row["meter"] for row in parts.valid.to_dict("records")] == [meter]
    assert {record.faults[0].rule for record in parts.records} == {"matches m[0-9]+|spare"}


def test_the_received_rows_are_kept_where_they_are_given() -> None:
    raw = [{"m": "m1"}, {"m": "?"}]

    parts = split(Reading, frame_of(GOOD, changed(meter="?")), raw=raw)

    assert [record.raw for record in parts.records] == [{"m": "?"}]
    with pytest.raises(ValueError, match="1 raw rows are given for 2 rows"):
        split(Reading, frame_of(GOOD, GOOD), raw=raw[:1])


def test_rows_of_a_batch_are_numbered_within_the_whole() -> None:
    parts = split_arrow(Reading, frame_of(GOOD, changed(number=0)), source="s", first_row=100)

    assert [record.source for record in parts.records] == ["s, row 101"]


@pytest.mark.parametrize("index", [[5, 3, 9], [1, 1, 1], ["a", None, "b"], pd.date_range("2020", periods=3)])
def test_the_index_of_the_frame_means_nothing(index: Any) -> None:
    rows = [changed(number=3), changed(number=0), changed(number=1)]

    parts = split(Reading, frame_of(*rows, index=index))

    assert parts.valid["number"].tolist() == [3, 1]
    assert parts.valid.index.tolist() == [0, 1]
    assert [(record.raw["number"], record.source) for record in parts.records] == [(0, "the data, row 1")]


def test_a_filtered_and_sorted_frame_gives_its_own_rows_in_its_own_order() -> None:
    frame = frame_of(*(changed(number=number, meter=f"m{number}") for number in range(10)))
    frame = frame[frame["number"] % 3 == 0].sort_values("number", ascending=False)

    parts = split(Reading, frame)

    assert parts.valid["meter"].tolist() == ["m9", "m6", "m3"]
    assert [(record.raw["meter"], record.source) for record in parts.records] == [("m0", "the data, row 3")]


@pytest.mark.parametrize("rows", [[], [changed(number=0)]])
def test_where_no_row_is_valid_an_empty_frame_has_the_contracts_types(rows: list[dict[str, Any]]) -> None:
    parts = split(Reading, frame_of(*rows))

    assert len(parts.valid) == 0
    assert parts.valid.dtypes.astype(str).tolist() == [
        "object",
        "int64",
        "float64",
        "bool",
        "object",
        "datetime64[us, UTC]",
    ]
    assert len(parts.records) == len(rows)
    assert split_arrow(Reading, frame_of(*rows)).valid.schema == arrow_schema(Reading)


def test_columns_may_come_in_any_order_and_leave_in_that_of_the_contract() -> None:
    parts = split(Reading, frame_of(GOOD)[list(reversed(GOOD))])

    assert list(parts.valid.columns) == list(GOOD)


def test_what_is_not_row_shaped_raises_and_names_all_columns_that_are_wrong() -> None:
    frame = frame_of(GOOD).drop(columns=["at"]).assign(extra=1)
    frame = pd.concat([frame, frame[["meter"]]], axis=1)

    with pytest.raises(ContractError) as raised:
        split(Reading, frame)

    assert str(raised.value) == (
        "meters.reading: in the data column at is missing, column extra is not in the contract, column meter occurs twice"
    )


def test_a_column_of_another_type_raises_with_the_table_and_the_column() -> None:
    with pytest.raises(ContractError, match=r"^meters.reading: column meter is int64 and the contract says text"):
        split(Reading, frame_of(GOOD).assign(meter=1))


def test_bounds_are_judged_on_what_is_stored() -> None:
    late = datetime(2030, 1, 1, tzinfo=UTC)
    rows = [
        changed(at=late),
        changed(at=late + timedelta(microseconds=1)),
        changed(day=date(2019, 12, 31)),
        changed(value=-1.5),
    ]

    parts = split(Reading, frame_of(*rows))

    assert parts.valid["at"].tolist() == [late]
    assert [record.faults[0].rule for record in parts.records] == [
        "<= 2030-01-01 00:00:00+00:00",
        ">= 2020-01-01",
        "> -1.5",
    ]


def test_frame_and_arrow_table_however_chunked_give_the_same_result() -> None:
    numbers = [1, 0, 2, None, 3, 2**40]
    values = [0.5, None, float("nan"), float("inf"), 2000.0, 1.0]
    table = pa.table(
        {
            "meter": pa.array(["m1", "m2", None, "spare", "??", "m1"]).dictionary_encode(),
            "number": pa.array(numbers),
            "value": pa.array(values),
            "good": pa.array([True, None, False, True, None, True]),
            "day": pa.array([date(2020, 1, 1), None, date(2019, 1, 1), None, None, None]),
            "at": pa.array([AT, None, AT, AT, AT, AT], pa.timestamp("ns", "Europe/London")),
        }
    )
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 0), table.slice(1, 3), table.slice(4)])
    sliced = pa.concat_tables([table.slice(3), table]).slice(3)
    frame = pd.DataFrame({name: pd.Series(table[name].to_pylist(), dtype=object) for name in table.column_names})

    expected = split_arrow(Reading, table)
    assert expected.valid["number"].to_pylist() == [1, 2**40]
    assert [record.source for record in expected.records] == [f"the data, row {row}" for row in (1, 2, 3, 4)]
    for data in (chunked, sliced, frame, table.to_pandas(types_mapper=pd.ArrowDtype)):
        parts = split_arrow(Reading, data)
        assert parts.valid.equals(expected.valid)
        assert [(r.faults, r.source) for r in parts.records] == [(r.faults, r.source) for r in expected.records]


def test_arrow_times_that_python_cannot_hold_are_recorded_as_their_number() -> None:
    table = pa.table(
        {
            **{name: pa.array([value]) for name, value in GOOD.items()},
            "at": pa.array([2**62], pa.timestamp("us", "UTC")),
        }
    )

    (record,) = split_arrow(Reading, table).records

    assert record.faults == (Fault("at", "outside of the years 1 to 9999", 2**62),)


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.decimals(), st.dates(), st.datetimes(),
    st.datetimes(timezones=st.timezones()), st.times(), st.timedeltas(), st.complex_numbers(), st.lists(st.integers(), max_size=2),
    st.sampled_from([pd.NA, pd.NaT, np.nan, np.int8(3), np.float32(0.5), np.bool_(True), np.datetime64("2020-01-01", "ns"), "\ud800"]),
    st.integers().map(str), st.floats().map(repr), st.datetimes(timezones=st.timezones()).map(datetime.isoformat),
)  # fmt: skip
COLUMNS = {
    "meter": st.sampled_from(["m1", "spare", "?"]) | CELLS,
    "number": st.integers(0, 5) | CELLS,
    "value": st.floats(-2, 1001) | CELLS,
    "good": st.booleans() | CELLS,
    "day": st.dates() | CELLS,
    "at": st.datetimes(timezones=st.just(UTC)) | CELLS,
}


@settings(max_examples=50)
@given(st.lists(st.fixed_dictionaries(COLUMNS), max_size=6))
def test_every_row_is_valid_or_rejected_and_valid_rows_stay_valid(rows: list[dict[str, Any]]) -> None:
    parts = split_arrow(Reading, frame_of(*rows))

    assert len(rows) == parts.valid.num_rows + len(parts.rejected)
    assert parts.valid.schema == arrow_schema(Reading)
    again = split_arrow(Reading, parts.valid)
    assert again.valid.equals(parts.valid)
    assert again.records == ()
    framed = split(Reading, to_frame(parts.valid))
    assert framed.records == ()
    assert split_arrow(Reading, framed.valid).valid.equals(parts.valid)
    assert all(json.dumps(as_json(record)) for record in parts.records)


@settings(max_examples=30)
@given(st.lists(st.fixed_dictionaries(COLUMNS), min_size=1, max_size=4))
def test_a_row_is_judged_the_same_alone_and_among_others(rows: list[dict[str, Any]]) -> None:
    together = {
        record.source: [(f.column, f.rule) for f in record.faults] for record in split(Reading, frame_of(*rows)).records
    }

    alone = {}
    for number, row in enumerate(rows):
        for record in split_arrow(Reading, frame_of(row), first_row=number).records:
            alone[record.source] = [(f.column, f.rule) for f in record.faults]
    assert alone == together


def test_a_frame_keeps_exact_integers_and_truth_values_beside_nulls_and_plain_types_elsewhere() -> None:
    table = pa.table(
        {
            "a": pa.array([2**60 + 1, None]),
            "b": pa.array([1, 2]),
            "c": pa.array([True, None]),
            "d": pa.array([True, False]),
            "e": pa.array(["x", None]),
            "f": pa.array([AT, None], pa.timestamp("us", "UTC")),
            "g": pa.array([date(2020, 1, 1), None]),
        }
    )

    frame = to_frame(table)

    assert list(frame.columns) == list("abcdefg")
    assert [str(frame[name].dtype) for name in "abcdf"] == ["Int64", "int64", "boolean", "bool", "datetime64[us, UTC]"]
    assert frame["a"].tolist() == [2**60 + 1, pd.NA]
    assert frame["e"].tolist() == ["x", None]
    assert frame["g"].tolist() == [date(2020, 1, 1), None]
    assert to_frame(table.select(["a", "c"])).shape == (2, 2)


def test_flagged_rows_are_not_among_the_rejected() -> None:
    records = [Record((), {}, outcome=outcome) for outcome in ("rejected", "flagged", "superseded")]

    assert [record.outcome for record in Split(None, records).rejected] == ["rejected", "superseded"]


def test_a_record_as_json_holds_every_value_it_can_and_the_text_of_others() -> None:
    raw = {
        "missing": [None, float("nan"), pd.NA, pd.NaT],
        "numbers": [1, 1.5, np.int64(2), np.float32(0.5), np.bool_(True), Decimal("1.50"), 2**70, float("inf")],
        "times": [AT, date(2020, 1, 1), pd.Timestamp(AT), np.datetime64("2020-01-01T00:00:00.000000001")],
        "nested": {"a": (1, {"b": np.array([1, 2])}), 7: np.array(["x", 1.5], dtype=object)},
        "odd": [b"x", "a\x00b", 1j, np.longdouble(0.5)],
    }

    faults, plain = as_json(Record((Fault("c", "rule", pd.NA),), raw))

    assert faults == [{"column": "c", "rule": "rule", "raw": None}]
    assert json.loads(json.dumps(plain)) == {
        "missing": [None, None, None, None],
        "numbers": [1, 1.5, 2, 0.5, True, "1.50", 2**70, "inf"],
        "times": [
            "2020-01-01 00:00:00+00:00",
            "2020-01-01",
            "2020-01-01 00:00:00+00:00",
            "2020-01-01T00:00:00.000000001",
        ],
        "nested": {"a": [1, {"b": [1, 2]}], "7": ["x", 1.5]},
        "odd": ["b'x'", "a\x00b", "1j", "0.5"],
    }


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_contracts_imports_no_heavy_library() -> None:
    code = "import sys, etl_assets.core.contracts; print([m for m in ('sqlalchemy', 'scipy', 'pandas') if m in sys.modules])"

    assert in_a_fresh_process(code) == "[]"


def test_a_pattern_that_the_engine_does_not_know_is_an_error_of_the_contract() -> None:
    class LookAhead(Contract):
        """A pattern with look-ahead."""

        code: str = column("Code", pattern="(?=a)a")

        class Config:
            table = "x.look_ahead"

    with pytest.raises(ContractError, match=r"x\.look_ahead: column code cannot be judged"):
        split(LookAhead, pd.DataFrame({"code": ["a"]}))
