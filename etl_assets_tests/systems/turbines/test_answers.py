"""What is made of a body: JSON the quick and the exact way, and Arrow; which rows are kept, left out and rejected."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from struct import pack
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from etl_assets.core.contracts import Fault, Record
from etl_assets.core.sources.http.outcomes import MalformedAnswer, OtherForm
from etl_assets.errors import ContractError, PermanentError
from etl_assets.systems.turbines.answers import (
    ARROW_STREAM,
    END_OF_STREAM,
    UnknownColumns,
    arrow_page,
    exact_page,
    minutes_of,
    quick_page,
    read_page,
)
from etl_assets.systems.turbines.cells import Question
from etl_assets.systems.turbines.transform import Minutes

DAY = datetime(2024, 5, 20, tzinfo=UTC)
JSON = "application/json"
ASKED = "GET /data?columns=power"


def question(
    *columns: str, start: datetime = DAY, end: datetime = DAY + timedelta(days=1), zone: str = "UTC"
) -> Question:
    return Question(columns or ("power",), start, end, zone, ASKED)


def at(hour: int, minute: int = 0) -> datetime:
    return DAY + timedelta(hours=hour, minutes=minute)


def as_json(*rows: Any) -> bytes:
    return json.dumps(rows).encode()


def as_arrow(table: pa.Table, *, rows_per_batch: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_per_batch)
    return bytes(sink.getvalue())


def arrow_rows(times: Sequence[Any], power: Sequence[Any]) -> pa.Table:
    return pa.table({"timestamp": pa.array(times, pa.timestamp("us")), "power": power})


def rows_of(minutes: Minutes) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in minutes.table.to_pylist()]


def read(body: bytes, asked: Question | None = None, *, content_type: str = JSON) -> Minutes:
    asked = asked or question()
    return minutes_of([read_page(content_type, body, asked)], asked)


def exact_minutes(body: bytes, asked: Question) -> Minutes:
    return minutes_of([exact_page(body, asked)], asked)


def quick_minutes(body: bytes, asked: Question) -> Minutes | None:
    page = quick_page(body, asked)
    return None if page is None else minutes_of([page], asked)


def faults_of(minutes: Minutes) -> list[tuple[str, str, Any]]:
    return [(fault.column, fault.rule, fault.raw) for record in minutes.records for fault in record.faults]


TWO = (
    {"timestamp": "2024-05-20T00:01:00", "power": 2, "wind_speed": 8.25},
    {"timestamp": "2024-05-20T00:00:00", "power": 1.5, "wind_speed": None},
)


# Rows that are as they should be


def test_rows_keep_their_order_of_arrival_and_their_place() -> None:
    minutes = read(as_json(*TWO), question("power", "wind_speed"))
    assert minutes.table.schema == pa.schema(
        [
            ("timestamp", pa.timestamp("us", "UTC")),
            ("power", pa.float64()),
            ("wind_speed", pa.float64()),
            ("position", pa.int64()),
        ]
    )
    assert rows_of(minutes) == [(at(0, 1), 2.0, 8.25, 0), (at(0, 0), 1.5, None, 1)]
    assert (minutes.outside, minutes.rejected) == (0, [])


def test_the_rows_of_an_arrow_stream_are_those_of_the_json() -> None:
    table = arrow_rows([datetime(2024, 5, 20, 0, 1), datetime(2024, 5, 20)], [2.0, 1.5])
    assert read(as_arrow(table), content_type=ARROW_STREAM).table == read(as_json(*TWO)).table


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (",\n ", ":"), ("\n , \n", " : ")])
def test_arrays_as_they_are_usually_written_are_read_quickly(separators: tuple[str, str]) -> None:
    body = json.dumps(TWO, separators=separators).encode()
    minutes = quick_minutes(b" " + body + b"\n", question())
    assert minutes is not None
    assert rows_of(minutes) == [(at(0, 1), 2.0, 0), (at(0, 0), 1.5, 1)]


@pytest.mark.parametrize(
    "layout",
    [
        '{"timestamp":"%s","power":%d},',
        pytest.param('{\n "timestamp":"%s",\n "power":%d\n},\n', marks=pytest.mark.long),
    ],
)
def test_a_body_of_several_megabytes_is_read_whole(layout: str) -> None:
    asked = question(end=DAY + timedelta(days=20))
    count = 20 * 1440
    rows = "".join(layout % ((DAY + timedelta(minutes=m)).replace(tzinfo=None), m) for m in range(count))
    minutes = read(f"[{rows.rstrip()[:-1]}]".encode(), asked)
    assert minutes.table["timestamp"].to_pylist() == [DAY + timedelta(minutes=m) for m in range(count)]
    assert minutes.table["power"].to_pylist() == minutes.table["position"].to_pylist() == list(range(count))


def test_objects_with_more_and_less_space_between_them_are_read_exactly() -> None:
    first, second = (json.dumps(row) for row in TWO)
    minutes = read(f"[{first},          {second},{{}}]".encode())
    assert [row[-1] for row in rows_of(minutes)] == [0, 1]
    assert faults_of(minutes) == [("timestamp", "required", None)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-be"])
def test_json_in_another_unicode_encoding_is_read(encoding: str) -> None:
    assert read(as_json(*TWO).decode().encode(encoding)).table == read(as_json(*TWO)).table


@pytest.mark.parametrize(
    ("content_type", "body"), [(JSON, b"[]"), (JSON, b" [ ] "), (ARROW_STREAM, as_arrow(arrow_rows([], [])))]
)
def test_no_rows_are_an_empty_table_of_the_same_columns(content_type: str, body: bytes) -> None:
    minutes = read(body, question("power", "wind_speed"), content_type=content_type)
    assert minutes.table.column_names == ["timestamp", "power", "wind_speed", "position"]
    assert (minutes.table.num_rows, minutes.outside, minutes.rejected) == (0, 0, [])


def test_a_server_that_includes_the_end_has_that_row_left_out_and_counted() -> None:
    times = ["2024-05-19T23:59:00", "2024-05-20T00:00:00", "2024-05-20T23:59:59.999999", "2024-05-21T00:00:00"]
    body = as_json(*({"timestamp": time, "power": 1} for time in times))
    for minutes in (quick_minutes(body, question()), exact_minutes(body, question())):
        assert minutes is not None
        assert [row[-1] for row in rows_of(minutes)] == [1, 2]
        assert minutes.outside == 2


def test_a_bad_row_outside_of_the_time_asked_for_is_left_out_not_rejected() -> None:
    minutes = read(as_json(*TWO, {"timestamp": "2024-05-21T00:00:00", "power": "broken"}))
    assert (minutes.table.num_rows, minutes.outside, minutes.rejected) == (2, 1, [])


def test_the_same_minute_twice_is_kept_twice_in_order() -> None:
    minutes = read(as_json(*({"timestamp": "2024-05-20T00:00:00", "power": power} for power in (1, 2, 1))))
    assert rows_of(minutes) == [(at(0), 1.0, 0), (at(0), 2.0, 1), (at(0), 1.0, 2)]


# Fields that are new, missing, renamed, retyped


def test_new_fields_are_ignored() -> None:
    body = as_json(*({**row, "note": "[new]", "more": {"power": 9}} for row in TWO))
    assert read(body).table == read(as_json(*TWO)).table


def test_rows_may_lack_a_column_that_others_have() -> None:
    minutes = read(as_json(TWO[0], {"timestamp": "2024-05-20T00:00:00"}))
    assert rows_of(minutes) == [(at(0, 1), 2.0, 0), (at(0), None, 1)]


def test_a_column_that_is_null_in_every_row_is_known_to_the_source() -> None:
    assert rows_of(read(as_json({"timestamp": "2024-05-20T00:00:00", "power": None}))) == [(at(0), None, 0)]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [(JSON, as_json(*TWO)), (ARROW_STREAM, as_arrow(arrow_rows([datetime(2024, 5, 20)], [1.0])))],
)
def test_a_column_that_no_row_has_is_an_error_that_names_it_and_those_that_came(content_type: str, body: bytes) -> None:
    with pytest.raises(UnknownColumns, match="no row has rotor_speed or pitch, there is timestamp, power") as caught:
        read(body, question("power", "rotor_speed", "pitch"), content_type=content_type)
    assert caught.value.columns == ("rotor_speed", "pitch")
    assert str(caught.value).startswith(f"turbines API, {ASKED}: ")


def test_a_renamed_time_is_an_error_that_names_it() -> None:
    with pytest.raises(ContractError, match="no row has a timestamp, there is time, power: "):
        read(as_json({"time": "2024-05-20T00:00:00", "power": 1}))


def test_elements_without_anything_are_rejected_one_by_one() -> None:
    minutes = read(as_json(None, None, *TWO))
    assert [record.raw for record in minutes.rejected] == [{"element": None}] * 2
    assert (minutes.table.num_rows, minutes.records_at) == (2, [None, None])


def test_the_time_of_a_row_with_a_fault_is_known_where_it_can_be_told() -> None:
    at = "2024-05-20T00:05:00"
    minutes = read(as_json({"timestamp": at, "power": "n/a"}, {"timestamp": "soon", "power": 1}, *TWO))
    assert minutes.records_at == [datetime(2024, 5, 20, 0, 5, tzinfo=UTC), None]
    assert [record.outcome for record in minutes.records] == ["flagged", "rejected"]


def test_a_column_of_an_arrow_stream_that_changed_its_type_is_an_error_that_names_both() -> None:
    body = as_arrow(arrow_rows([datetime(2024, 5, 20)], [True]))
    with pytest.raises(ContractError, match=r"GET /data\?columns=power: column power is bool and .* says float64"):
        read(body, content_type=ARROW_STREAM)


@pytest.mark.parametrize("factor", [1, 1_000, 1_000_000, 1_000_000_000], ids=["s", "ms", "µs", "ns"])
@pytest.mark.parametrize("as_text", [False, True])
def test_times_may_be_numbers_since_1970_in_any_unit(factor: int, as_text: bool) -> None:
    times = [(1716163200 + 60 * minute) * factor for minute in (1, 0)]
    body = as_json(*({"timestamp": str(t) if as_text else t, "power": 1} for t in times))
    assert quick_page(body, question()) is not None
    in_arrow = pa.table({"timestamp": [str(t) if as_text else t for t in times], "power": [1.0, 1.0]})
    for minutes in (
        read(body),
        exact_minutes(body, question()),
        read(as_arrow(in_arrow), question(zone="Europe/Berlin"), content_type=ARROW_STREAM),
    ):
        assert rows_of(minutes) == [(at(0, 1), 1.0, 0), (at(0), 1.0, 1)]


def test_times_may_be_numbers_and_text_side_by_side() -> None:
    minutes = read(as_json({"timestamp": 1716163200.5, "power": 1}, *TWO, {"timestamp": 1e300, "power": 1}))
    assert minutes.table["timestamp"].to_pylist() == [at(0) + timedelta(seconds=0.5), at(0, 1), at(0)]
    assert faults_of(minutes) == [("timestamp", "not a time", 1e300)]


def test_a_minute_that_is_labelled_by_its_end_is_the_one_before() -> None:
    times = ["2024-05-20T00:00:00", "2024-05-20T00:01:00", "2024-05-21T00:00:00", 1716163260]
    asked = question()
    asked = replace(asked, late=timedelta(minutes=1))
    minutes = read(as_json(*({"timestamp": time, "power": 1} for time in times)), asked)
    assert minutes.table["timestamp"].to_pylist() == [at(0), at(23, 59), at(0)]
    assert minutes.outside == 1


# Values


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ("null", None),
        ("NaN", None),
        ('"NaN"', None),
        ("0", 0.0),
        ("-1.5e-3", -0.0015),
        ("12345678901234567890", 1.2345678901234567e19),
        ('"8.1"', 8.1),
        ('" 8.1 "', 8.1),
        ('"1e3"', 1000.0),
    ],
)
def test_a_number_is_read_and_what_says_that_there_is_none_is_null(value: str, read_as: float | None) -> None:
    body = b'[{"timestamp": "2024-05-20T00:00:00", "power": %s}]' % value.encode()
    assert rows_of(read(body)) == [(at(0), read_as, 0)]


@pytest.mark.parametrize(
    ("value", "rule", "raw"),
    [
        ('"N/A"', "not a number", "N/A"),
        ('""', "not a number", ""),
        ('"8,1"', "not a number", "8,1"),
        ("true", "not a number", True),
        ("[8.1]", "not a number", [8.1]),
        ('{"value": 8.1}', "not a number", {"value": 8.1}),
        ("Infinity", "finite", float("inf")),
        ("-Infinity", "finite", float("-inf")),
        ("1e999", "finite", float("inf")),
        ('"-inf"', "finite", "-inf"),
        (f"1{'0' * 400}", "not a number", 10**400),
        ('"\\ud800"', "not a number", "\ud800"),
    ],
)
def test_what_is_no_number_or_infinite_is_recorded_and_its_row_stays_without_it(
    value: str, rule: str, raw: Any
) -> None:
    good = b'{"timestamp": "2024-05-20T00:01:00", "power": 1}'
    body = b'[{"timestamp": "2024-05-20T00:00:00", "wind_speed": 8, "power": %s}, %s]' % (value.encode(), good)
    minutes = read(body, question("power", "wind_speed"))
    assert rows_of(minutes) == [(at(0), None, 8.0, 0), (at(0, 1), 1.0, None, 1)]
    assert list(minutes.records) == [
        Record(
            (Fault("power", rule, raw),),
            {"timestamp": "2024-05-20T00:00:00", "wind_speed": 8, "power": raw},
            source=f"{ASKED}, element 0",
            outcome="flagged",
        )
    ]
    assert minutes.rejected == []


def test_what_is_infinite_in_an_arrow_stream_is_recorded_and_not_a_number_is_null() -> None:
    times = [datetime(2024, 5, 20, 0, minute) for minute in range(4)]
    body = as_arrow(arrow_rows(times, [float("inf"), float("nan"), None, 1.0]), rows_per_batch=1)
    minutes = read(body, content_type=ARROW_STREAM)
    assert rows_of(minutes) == [(at(0), None, 0), (at(0, 1), None, 1), (at(0, 2), None, 2), (at(0, 3), 1.0, 3)]
    assert faults_of(minutes) == [("power", "finite", float("inf"))]


def test_an_arrow_stream_may_have_other_number_types_and_numbers_as_text() -> None:
    table = pa.table({"timestamp": ["2024-05-20T00:00:00Z"], "power": pa.array([7], pa.int32()), "wind_speed": ["8.1"]})
    minutes = read(as_arrow(table), question("power", "wind_speed"), content_type=ARROW_STREAM)
    assert rows_of(minutes) == [(at(0), 7.0, 8.1, 0)]


def test_a_row_is_rejected_once_with_all_its_faults() -> None:
    bad = {"timestamp": "soon", "power": "much", "wind_speed": 1}
    minutes = read(as_json(bad, *TWO), question("power", "wind_speed"))
    assert [len(record.faults) for record in minutes.rejected] == [2]
    assert faults_of(minutes) == [("timestamp", "not a time", "soon"), ("power", "not a number", "much")]


@pytest.mark.parametrize("time", [{}, {"timestamp": None}, {"timestamp": float("nan")}])
def test_a_row_without_a_time_is_rejected(time: dict[str, Any]) -> None:
    minutes = read(as_json({"power": 1, **time}, *TWO))
    assert [(fault[0], fault[1]) for fault in faults_of(minutes)] == [("timestamp", "required")]
    assert minutes.table.num_rows == 2


def test_an_element_that_is_no_object_is_rejected_as_that() -> None:
    minutes = read(as_json(*TWO, [1, 2], None, "x"))
    assert faults_of(minutes) == [("element", "not an object", element) for element in ([1, 2], None, "x")]
    assert [dict(record.raw) for record in minutes.rejected] == [
        {"element": element} for element in ([1, 2], None, "x")
    ]
    assert minutes.table.num_rows == 2


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_null_among_the_objects_is_rejected_as_no_object(place: int) -> None:
    rows: list[Any] = [*TWO, TWO[0]]
    rows.insert(place, None)
    body = json.dumps(rows, separators=(",", ":")).encode()
    assert quick_minutes(body, question()) is None
    minutes = read(body)
    assert faults_of(minutes) == [("element", "not an object", None)]
    assert [row[-1] for row in rows_of(minutes)] == [other for other in range(4) if other != place]


# Times


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-20T03:04:05",
        "2024-05-20 03:04:05",
        "2024-05-20T03:04:05.000",
        "2024-05-20T03:04:05.000000000",
        " 2024-05-20T03:04:05",
        "2024-05-20T03:04:05Z",
        "2024-05-20T06:34:05+03:30",
        "2024-05-19T22:04:05.000-05",
        "20240520T030405",
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_time_is_iso_8601_with_or_without_a_fraction_and_an_offset(text: str, alone: bool) -> None:
    rows = [{"timestamp": text, "power": 1}]
    rows += [] if alone else [{"timestamp": "2024-05-20T00:00:00", "power": 1}]
    assert rows_of(read(as_json(*rows)))[0] == (DAY + timedelta(hours=3, minutes=4, seconds=5), 1.0, 0)


@pytest.mark.parametrize("text", ["", "now", "2024-05-20T24:00:00", "2023-02-29T00:00:00", "20.05.2024 00:00", "12:00"])
def test_what_is_no_time_rejects_its_row(text: str) -> None:
    assert faults_of(read(as_json({"timestamp": text, "power": 1}, *TWO))) == [("timestamp", "not a time", text)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"timestamp": "20. May, 08:29 o'clock", "power": 1}] * 1440,
            'none of the 1,440 rows could be read, the first for its timestamp "20. May, 08:29 o\'clock", not a time: ',
        ),
        (
            [{"timestamp": None, "power": 1}],
            "none of the 1 rows could be read, the first for its timestamp 'None', required: ",
        ),
        ([[1]], "the first for its element '[1]', not an object: "),
        (
            [{"timestamp": "2024-05-20T00:00:00", "power": "x" * 99}],
            f"the first for its power '{'x' * 60}…', not a number: ",
        ),
    ],
)
def test_an_answer_of_which_nothing_can_be_read_is_refused_with_its_first_fault(rows: list[Any], said: str) -> None:
    with pytest.raises(PermanentError) as caught:
        read(as_json(*rows))
    assert str(caught.value).startswith(f"turbines API, {ASKED}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"timestamp": "2024-05-20T00:00:00", "power": None}],
        [{"timestamp": "soon", "power": 1}, {"timestamp": "2024-05-20T00:00:00", "power": None}],
        [{"timestamp": "2024-05-21T00:00:00", "power": 1}],
    ],
)
def test_an_answer_that_can_be_read_may_have_nothing(rows: list[Any]) -> None:
    assert read(as_json(*rows)).table["power"].drop_null().to_pylist() == []


# Rows of others


def of_turbines(*names: Any, field: str = "turbine") -> bytes:
    return as_json(
        *({"timestamp": f"2024-05-20T00:0{place}:00", field: name, "power": place} for place, name in enumerate(names))
    )


def places(body: bytes, asked: Question) -> tuple[list[int], int]:
    page = quick_page(body, asked)
    found = [exact_page(body, asked)] if page is None else [page, exact_page(body, asked)]
    (minutes, *others) = [minutes_of([one], asked) for one in found]
    assert others in ([], [minutes])
    return minutes.table["position"].to_pylist(), minutes.others


def asked_for(turbine: str, **more: Any) -> Question:
    return replace(question(), turbine=turbine, **more)


def test_rows_that_name_another_turbine_are_left_out_and_counted() -> None:
    assert places(of_turbines("T01", "T02", "T03", "T02"), asked_for("T02")) == ([1, 3], 2)


def test_a_row_that_names_no_turbine_is_of_the_one_that_was_asked_for() -> None:
    assert places(of_turbines(None, "T02", "", "T01"), asked_for("T01")) == ([0, 2, 3], 1)
    assert places(as_json(*TWO), asked_for("T01")) == ([0, 1], 0)


def test_a_turbine_may_be_named_by_a_number() -> None:
    assert places(of_turbines(7, 7.0, "7", 8, "07"), asked_for("7")) == ([0, 1, 2], 2)


def test_the_field_that_names_a_turbine_may_have_another_name() -> None:
    body = of_turbines("T01", "T02", field="asset")
    assert places(body, asked_for("T02", turbine_field="asset")) == ([1], 1)
    assert places(body, asked_for("T02")) == ([0, 1], 0)


def test_rows_of_other_turbines_in_an_arrow_stream_are_left_out_too() -> None:
    names = pa.array(["T01", "T02", None]).dictionary_encode()
    table = arrow_rows([datetime(2024, 5, 20, 0, minute) for minute in range(3)], [0.0, 1.0, 2.0])
    body = as_arrow(table.append_column("turbine", names))
    minutes = read(body, asked_for("T02"), content_type=ARROW_STREAM)
    assert (minutes.table["position"].to_pylist(), minutes.others) == ([1, 2], 1)


def test_bad_rows_of_another_turbine_are_nobodys() -> None:
    bad = {"timestamp": "soon", "turbine": "T02", "power": 1}
    minutes = read(as_json(bad, {**bad, "timestamp": "2024-05-20", "power": "n/a"}, *TWO), asked_for("T01"))
    assert (minutes.records, minutes.others, minutes.table.num_rows) == ([], 2, 2)


def test_rows_of_other_turbines_alone_are_refused_and_named() -> None:
    with pytest.raises(PermanentError, match=r"only rows of other turbines came \(T01, T03\), none of T02: .*TURBINES"):
        read(of_turbines("T01", "T03", "T01"), asked_for("T02"))


def test_rows_of_several_turbines_are_not_taken_for_those_of_one_that_has_no_name() -> None:
    with pytest.raises(PermanentError, match=r"rows of several turbines came \(T01, T02\): set TURBINES"):
        read(of_turbines("T01", "T02"))
    assert places(of_turbines("T01", "T01"), question()) == ([0, 1], 0)


# Pages


def test_pages_are_one_answer() -> None:
    asked = question("power", "wind_speed")
    bad = {"timestamp": "soon", "power": 1}
    bodies = [
        as_json({"timestamp": "2024-05-20T00:00:00", "power": 1}, bad),
        as_json(),
        as_json(bad, {"timestamp": "2024-05-20T00:00:00", "wind_speed": 8}),
    ]
    minutes = minutes_of([read_page(JSON, body, asked) for body in bodies], asked)
    assert rows_of(minutes) == [(at(0), 1.0, None, 0), (at(0), None, 8.0, 3)]
    assert [record.source for record in minutes.records] == [f"{ASKED}, element 1", f"{ASKED}, page 3, element 0"]


def test_a_column_that_no_page_has_is_unknown() -> None:
    asked = question("power", "pitch")
    pages = [read_page(JSON, body, asked) for body in (as_json(*TWO), b"[]")]
    with pytest.raises(UnknownColumns, match="no row has pitch, there is timestamp, power, wind_speed: "):
        minutes_of(pages, asked)


# Spelling


@pytest.mark.parametrize("content_type", [JSON, ARROW_STREAM])
def test_a_signal_that_the_source_spells_otherwise_is_read_under_our_name(content_type: str) -> None:
    asked = replace(question("ambient_temperature"), spelling={"ambient_temperature": "ambient_temprature"})
    table = pa.table({"timestamp": ["2024-05-20T00:00:00"], "ambient_temprature": [8.5]})
    body = as_json(*table.to_pylist()) if content_type == JSON else as_arrow(table)
    minutes = read(body, asked, content_type=content_type)
    assert minutes.table.column_names == ["timestamp", "ambient_temperature", "position"]
    assert rows_of(minutes) == [(at(0), 8.5, 0)]


def test_a_leap_day_is_a_day() -> None:
    leap = datetime(2024, 2, 29, tzinfo=UTC)
    asked = question(start=leap, end=leap + timedelta(days=1))
    minutes = read(as_json({"timestamp": "2024-02-29T23:59:00", "power": 1}), asked)
    assert rows_of(minutes) == [(leap + timedelta(hours=23, minutes=59), 1.0, 0)]


def test_a_time_in_arrow_that_python_cannot_hold_rejects_its_row() -> None:
    table = arrow_rows([2**61, 1716163200_000_000], [1.0, 2.0])
    minutes = read(as_arrow(table), content_type=ARROW_STREAM)
    assert faults_of(minutes) == [("timestamp", "outside of the years 1 to 9999", 2**61)]
    assert rows_of(minutes) == [(at(0), 2.0, 1)]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.string()])
def test_times_in_arrow_come_in_any_unit_with_or_without_a_zone(kind: pa.DataType) -> None:
    naive = pa.array([datetime(2024, 5, 20, 5)], pa.timestamp("us"))
    table = pa.table({"timestamp": naive.cast(kind), "power": [1.0]})
    # In a zone with summer time, where a time without a zone is two hours earlier in UTC.
    expected = at(5) if getattr(kind, "tz", None) else at(3)
    minutes = read(as_arrow(table), question(zone="Europe/Berlin"), content_type=ARROW_STREAM)
    assert rows_of(minutes) == [(expected, 1.0, 0)]


def test_an_offset_in_the_text_wins_over_the_zone_of_the_source() -> None:
    times = ["2024-05-20T05:00:00", "2024-05-20T05:00:00Z", "2024-05-20T05:00:00+01:00"]
    minutes = read(as_json(*({"timestamp": time, "power": 1} for time in times)), question(zone="Europe/Berlin"))
    assert minutes.table["timestamp"].to_pylist() == [at(3), at(5), at(4)]


def day_of(local: datetime, *, zone: str, start: datetime) -> tuple[Minutes, Minutes]:
    """Every minute of 26 local hours from `local`, as a clock without rules writes them, the quick and the exact way."""
    rows = [{"timestamp": (local + timedelta(minutes=m)).isoformat(), "power": m} for m in range(26 * 60)]
    asked = question(start=start, end=start + timedelta(days=1), zone=zone)
    exact = exact_minutes(as_json(*rows), asked)
    return read(as_json(*rows), asked), exact


def test_the_hour_that_spring_leaves_out_is_rejected_with_that_reason() -> None:
    # On 31 March 2024 clocks in Berlin go from 02:00 to 03:00, which is 01:00 UTC.
    start = datetime(2024, 3, 31, tzinfo=UTC)
    for minutes in day_of(datetime(2024, 3, 31, 1), zone="Europe/Berlin", start=start):
        rules = {(column, rule) for column, rule, _ in faults_of(minutes)}
        assert rules == {("timestamp", "ambiguous or missing local time in Europe/Berlin")}
        assert [record.raw["timestamp"] for record in minutes.rejected] == [
            f"2024-03-31T02:{minute:02}:00" for minute in range(60)
        ]
        # What was written from 03:00 on is an hour later than the count of minutes says, and the day is whole.
        assert minutes.table["timestamp"].to_pylist() == [start + timedelta(minutes=m) for m in range(1440)]
        assert minutes.outside == 26 * 60 - 60 - 1440


def test_the_hour_that_autumn_has_twice_is_rejected_with_that_reason() -> None:
    # On 27 October 2024 the hour from 02:00 occurs twice in Berlin: from 00:00 and from 01:00 UTC.
    start = datetime(2024, 10, 27, tzinfo=UTC)
    for minutes in day_of(datetime(2024, 10, 27, 2), zone="Europe/Berlin", start=start):
        rules = {(column, rule) for column, rule, _ in faults_of(minutes)}
        assert rules == {("timestamp", "ambiguous or missing local time in Europe/Berlin")}
        assert len(minutes.rejected) == 60
        assert minutes.table["timestamp"].to_pylist() == [start + timedelta(minutes=m) for m in range(120, 1440)]


def test_with_offsets_in_the_text_both_hours_of_autumn_are_there() -> None:
    start = datetime(2024, 10, 27, tzinfo=UTC)
    times = ["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00"]
    asked = question(start=start, end=start + timedelta(days=1), zone="Europe/Berlin")
    minutes = read(as_json(*({"timestamp": time, "power": 1} for time in times)), asked)
    assert minutes.table["timestamp"].to_pylist() == [start + timedelta(minutes=m) for m in (30, 90)]
    assert minutes.rejected == []


@pytest.mark.parametrize("day", [datetime(2024, 3, 31), datetime(2024, 10, 27)])
def test_a_source_of_fixed_offset_has_whole_days_when_others_change_their_clocks(day: datetime) -> None:
    start = day.replace(tzinfo=UTC)
    for minutes in day_of(day - timedelta(hours=3), zone="Etc/GMT+3", start=start):
        assert minutes.table["timestamp"].to_pylist() == [start + timedelta(minutes=m) for m in range(1440)]
        assert (minutes.outside, minutes.rejected) == (120, [])


# Bodies that are none


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "an empty body"),
        (b"<!doctype html><p>login", "a page"),
        (as_json(*TWO)[:-1], "it is cut off"),
        (as_json(*TWO)[:-20], "it is cut off"),
        (as_json(*TWO)[:60] + b"}]", "invalid JSON"),
        (as_json(*TWO) + b"]", "invalid JSON"),
        (as_json(*TWO)[:-1] + b"}", "invalid JSON"),
        (as_json(*TWO).replace(b"}, {", b"} {"), "invalid JSON"),
        (as_json(*TWO, *TWO).replace(b"}, {", b"},{", 1).replace(b"}, {", b"}, ,{"), "invalid JSON"),
        (as_json(*TWO, *TWO)[::-1].replace(b",}", b";}", 1)[::-1], "invalid JSON"),
        (as_json(*TWO)[:1] + b"1 " + as_json(*TWO)[1:], "invalid JSON"),
        (as_json(*TWO).replace(b"8.25", b"08.25"), "invalid JSON"),
        (as_json(*TWO).replace(b"8.25", b"Inf"), "invalid JSON"),
        (as_json(*TWO).replace(b"8.25", b"-NaN"), "invalid JSON"),
        (as_json(*TWO).replace(b"8.25", b'"\xff"'), "text that is not utf-8"),
        (as_json(*TWO).replace(b"8.25", b"[" * 100_000 + b"]" * 100_000), "JSON nested too deeply"),
        (as_json(*TWO).replace(b"}]", b"},]"), "invalid JSON"),
        (as_arrow(arrow_rows([datetime(2024, 5, 20)], [1.0])), "text that is not utf-8"),
    ],
)
def test_a_body_that_is_no_json_is_malformed(body: bytes, what: str) -> None:
    with pytest.raises(MalformedAnswer, match=what):
        read(body)


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b'{"rows": []}', "an object (rows)"), (b'"text"', "text"), (b"null", "null"), (b"12", "12"), (b"NaN", "NaN")],
)
def test_another_shape_than_an_array_is_an_error_that_names_it(body: bytes, kind: str) -> None:
    with pytest.raises(OtherForm) as caught:
        read(body)
    assert str(caught.value) == f"{kind}, not with an array"


def broken_streams() -> dict[str, tuple[bytes, str]]:
    times = [datetime(2024, 5, 20, 0, minute) for minute in range(4)]
    whole = as_arrow(arrow_rows(times, [1.0, 2.0, 3.0, 4.0]), rows_per_batch=2)
    middle = whole.index(END_OF_STREAM[:4], len(whole) // 2)
    in_text = as_arrow(pa.table({"timestamp": ["2024-05-20T00:00:00Z"] * 2, "power": [1.0, 2.0]}))
    double = pa.Table.from_arrays([pa.array([1.0])] * 2, names=["power", "power"])
    return {
        "empty": (b"", "an empty body"),
        "a page": (b"<html></html>", "a page"),
        "json": (as_json(*TWO), "without its end mark"),
        "ended between two batches": (whole[:-8], "without its end mark"),
        "cut in a batch": (whole[: middle + 20], "without its end mark"),
        "a part is missing": (whole[: middle - 20] + whole[middle + 20 :], "a broken Arrow stream"),
        "only the end mark": (END_OF_STREAM, "a broken Arrow stream"),
        "a text without end": (in_text.replace(pack("<i", 40), pack("<i", 2**31 - 1)), "a broken Arrow stream"),
        "two streams": (whole + whole, "something behind the end"),
        "a name twice": (as_arrow(double), "two columns of one name"),
    }


@pytest.mark.parametrize("name", broken_streams())
def test_a_body_that_is_no_whole_arrow_stream_is_malformed(name: str) -> None:
    body, what = broken_streams()[name]
    with pytest.raises(MalformedAnswer, match=what):
        read(body, content_type=ARROW_STREAM)


@pytest.mark.parametrize("declared", ["", "text/html", "text/plain; charset=latin-1", "application/x-json"])
def test_json_is_read_under_any_declared_type(declared: str) -> None:
    assert read(as_json(*TWO), content_type=declared).table.num_rows == 2


def test_the_declared_type_of_an_arrow_stream_may_have_parameters_and_capitals() -> None:
    body = as_arrow(arrow_rows([datetime(2024, 5, 20)], [1.0]))
    assert read(body, content_type="Application/VND.apache.arrow.stream ; charset=x").table.num_rows == 1


# The quick way gives what the exact one does

NUMBERS = st.one_of(
    st.none(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**70), 2**70),
)
TIMES = st.datetimes(datetime(2024, 5, 19, 23), datetime(2024, 5, 21, 1)).map(str)
ODD_TEXT = ["8.1", " 1e3 ", "N/A", "NaN", "Infinity", "", "},{", "}\n, {", "é", "[", "\\", '"', "\ud800", "\0"]
ODD = st.one_of(
    NUMBERS, st.floats(), st.booleans(), st.sampled_from(ODD_TEXT), st.lists(NUMBERS, max_size=2), st.just({"a": {}})
)
ODD_TIMES = st.one_of(
    TIMES,
    TIMES.map(lambda text: text + "Z"),
    TIMES.map(lambda text: text + "+03:00"),
    st.sampled_from(["", "soon", "2024-05-20", "2024-03-31T02:30:00", "2024-10-27 02:30", "},{"]),
    st.none(),
    st.integers(0, 2**40),
)


def objects(times: st.SearchStrategy[Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    row = st.fixed_dictionaries({"timestamp": times, "power": values}, optional={"note": values, "wind_speed": values})
    return st.lists(row, min_size=1, max_size=5)


ROWS = st.one_of(
    objects(TIMES, NUMBERS),
    objects(ODD_TIMES, NUMBERS),
    objects(TIMES, ODD),
    st.lists(st.one_of(st.dictionaries(st.sampled_from(["timestamp", "power", "}"]), ODD), ODD), max_size=4),
)
SPACING = st.sampled_from([(",", ":"), (", ", ": "), (" ,", ":"), (",\n", ":")])
ASKED_IN = question(zone="Europe/Berlin", start=datetime(2024, 5, 19, 22, tzinfo=UTC))


def outcome(body: bytes) -> tuple[Any, ...]:
    try:
        minutes = exact_minutes(body, ASKED_IN)
    except (MalformedAnswer, PermanentError) as error:
        return (str(error),)
    return minutes.table, minutes.outside, list(minutes.records)


def assert_quick_is_exact(body: bytes) -> None:
    page = quick_page(body, ASKED_IN)
    if page is not None:
        quick = minutes_of([page], ASKED_IN)
        assert (quick.table, quick.outside, list(quick.records)) == outcome(body)


@given(rows=ROWS, separators=SPACING, ascii_only=st.booleans())
@example(rows=[{"timestamp": "2024-05-20 00:00:00", "power": 1, "note": "},{"}], separators=(",", ":"), ascii_only=True)
def test_the_quick_way_gives_what_the_exact_one_gives(
    rows: list[Any], separators: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(rows, separators=separators, ensure_ascii=ascii_only)
    assert_quick_is_exact(text.encode("utf-8", "surrogatepass"))


@pytest.mark.long
@given(
    rows=objects(TIMES, NUMBERS),
    separators=SPACING,
    place=st.integers(0, 400),
    length=st.integers(0, 3),
    put=st.sampled_from([b"", b"{", b"}", b"},{", b",", b'"', b"0", b"-", b"e", b".", b"I", b" ", b"\n", b"[", b"\\"]),
)
def test_the_quick_way_takes_no_damaged_body_that_the_exact_one_refuses(
    rows: list[Any], separators: tuple[str, str], place: int, length: int, put: bytes
) -> None:
    body = json.dumps(rows, separators=separators).encode()
    place %= len(body)
    assert_quick_is_exact(body[:place] + put + body[place + length :])


@settings(max_examples=30)
@given(rows=objects(TIMES, st.floats(allow_nan=False, allow_infinity=False)))
def test_ordinary_answers_go_the_quick_way_and_are_what_was_written(rows: list[Any]) -> None:
    asked = question(start=DAY - timedelta(days=9), end=DAY + timedelta(days=9))
    minutes = quick_minutes(as_json(*rows), asked)
    assert minutes is not None
    assert rows_of(minutes) == [
        (datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC), row["power"], place)
        for place, row in enumerate(rows)
    ]


@settings(max_examples=30)
@given(rows=objects(TIMES, NUMBERS))
def test_arrow_gives_what_json_gives(rows: list[Any]) -> None:
    table = pa.table(
        {
            "timestamp": pa.array([datetime.fromisoformat(row["timestamp"]) for row in rows], pa.timestamp("us")),
            "power": pa.array([None if row["power"] is None else float(row["power"]) for row in rows], pa.float64()),
        }
    )
    in_arrow, in_json = arrow_page(as_arrow(table), ASKED_IN).minutes, exact_page(as_json(*rows), ASKED_IN).minutes
    assert (in_arrow.table, in_arrow.outside, in_arrow.records) == (in_json.table, in_json.outside, in_json.records)
