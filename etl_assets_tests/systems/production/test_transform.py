"""Records of a stream as rows: what is taken, what is rejected, and that it is the same however the lines are read."""

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.core.contracts import Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.errors import PermanentError
from etl_assets.systems.production import transform
from etl_assets.systems.production.contracts import METRICS, WORKORDERS, Metrics, Workorders
from etl_assets.systems.production.transform import parsed

T0 = datetime(2021, 6, 22, 15, 57, 58, tzinfo=UTC)
GOOD = '{"id": 19, "val": 797.38, "time": 1624377478}'


def line(sequence: int, record: str) -> bytes:
    """A line of the API, of the record's text."""
    return f'{{"sequence":{sequence},"record":{record}}}\n'.encode()


def lines(*records: str) -> bytes:
    return b"".join(line(at, record) for at, record in enumerate(records, start=1))


def metric(**fields: Any) -> str:
    return json.dumps({"id": 19, "val": 797.38, "time": 1624377478} | fields)


def spelled(*, id: str = "1", val: str = "1", time: str = "1624377478") -> str:
    """A metric of values as they stand in the text."""
    return f'{{"id": {id}, "val": {val}, "time": {time}}}'


def rows(split: Split[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in split.valid.to_pylist()]


def only(record: str) -> tuple[Any, ...]:
    """The row that a single record makes."""
    split = parsed(METRICS, lines(record), first=1)
    assert split.records == [] or split.records == ()
    (row,) = rows(split)
    return row


def refused(record: str) -> Record:
    """What becomes of a record that makes no row."""
    split = parsed(METRICS, lines(record), first=1)
    assert split.valid.num_rows == 0
    (rejected,) = split.records
    return rejected


def faults(record: Record) -> list[tuple[str, str]]:
    return [(fault.column, fault.rule) for fault in record.faults]


def test_a_metric_becomes_a_row_of_its_table() -> None:
    split = parsed(METRICS, lines(GOOD), first=1)
    assert rows(split) == [("19", T0, 797.38, 1)]
    assert split.valid.schema.equals(arrow_schema(Metrics))


def test_a_work_order_becomes_a_row_of_its_table() -> None:
    split = parsed(WORKORDERS, lines('{"time": 1624378574, "product": 0, "production": 0}'), first=1)
    assert split.valid.schema.equals(arrow_schema(Workorders))
    assert rows(split) == [("0", datetime(2021, 6, 22, 16, 16, 14, tzinfo=UTC), 0.0, 1)]


def test_no_lines_make_no_rows() -> None:
    split = parsed(METRICS, b"", first=1)
    assert split.valid.schema.equals(arrow_schema(Metrics))
    assert (split.valid.num_rows, list(split.records)) == (0, [])


@pytest.mark.parametrize(
    ("time", "micros"),
    [
        (1624377478, 0),
        (1624377478000, 0),
        ("1624377478", 0),
        (" 1624377478000 ", 0),
        (1624377478.0, 0),
        (1624377478.123456, 123456),
        ("1624377478.5", 500000),
        (1624377478123, 123000),
        (1624377478123.456, 123456),
        (1624377478123456, 123456),
        ("1624377478123456", 123456),
        (1624377478123456000, 123456),
        ("1624377478123456000", 123456),
        ("2021-06-22T15:57:58Z", 0),
        ("2021-06-22T17:57:58.25+02:00", 250000),
        ("2021-06-22 15:57:58+00:00", 0),
    ],
)
def test_a_time_is_unix_time_in_any_unit_or_iso_8601(time: Any, micros: int) -> None:
    assert only(metric(time=time))[1] == T0.replace(microsecond=micros)


@pytest.mark.parametrize(
    ("time", "instant"),
    [
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1.5, datetime(1969, 12, 31, 23, 59, 58, 500000, tzinfo=UTC)),
        (99_999_999_999, datetime(5138, 11, 16, 9, 46, 39, tzinfo=UTC)),
        (100_000_000_000, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (-100_000_000_000, datetime(1966, 10, 31, 14, 13, 20, tzinfo=UTC)),
        (99_999_999_999_999, datetime(5138, 11, 16, 9, 46, 39, 999000, tzinfo=UTC)),
        (100_000_000_000_000, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (99_999_999_999_999_984, datetime(5138, 11, 16, 9, 46, 39, 999984, tzinfo=UTC)),
        (100_000_000_000_000_000, datetime(1973, 3, 3, 9, 46, 40, tzinfo=UTC)),
        (-100_000_000_000_000_000, datetime(1966, 10, 31, 14, 13, 20, tzinfo=UTC)),
    ],
)
def test_the_magnitude_of_a_time_tells_its_unit(time: float, instant: datetime) -> None:
    assert only(metric(time=time))[1] == instant


@pytest.mark.parametrize(
    "time", [1e21, 1e300, "1e300", 10**400, True, "tomorrow", "2021-06-22", "", [], {"s": 1}, "NaN", "inf"]
)
def test_what_is_no_time_rejects_the_record(time: Any) -> None:
    assert [column for column, _ in faults(refused(metric(time=time)))] == ["measured_at"]


def test_a_time_without_zone_rejects_the_record_and_says_so() -> None:
    assert faults(refused(metric(time="2021-06-22T15:57:58"))) == [("measured_at", "a time without a zone")]


@pytest.mark.parametrize("value", ["null", "NaN", '"NaN"', '"nan"'])
def test_a_value_that_is_null_or_nan_is_stored_as_nothing(value: str) -> None:
    assert only(spelled(val=value)) == ("1", T0, None, 1)


@pytest.mark.parametrize(
    ("value", "number"),
    [("-12.5", -12.5), ('"12.5"', 12.5), ('" 1e3 "', 1000.0), ("-0.0", 0.0), ("9007199254740993", 2.0**53), ("7", 7.0)],
)
def test_a_value_is_a_number_or_the_text_of_one(value: str, number: float) -> None:
    assert only(spelled(val=value))[2] == number


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "1e400", '"inf"', '"-Infinity"'])
def test_an_infinite_value_rejects_the_record(value: str) -> None:
    record = refused(spelled(val=value))
    assert faults(record) == [("value", "finite")]


@pytest.mark.parametrize("value", ['"N/A"', '""', "true", "[1]", '{"x": 1}', '"1_000"', '"0x10"', '"1,5"'])
def test_a_value_that_is_no_number_rejects_the_record(value: str) -> None:
    record = refused(spelled(val=value))
    assert faults(record) == [("value", "not a number")]


@pytest.mark.parametrize(
    ("given_id", "stored"),
    [
        ("19", "19"), ('"19"', "19"), ("19.0", "19"), ("1.9e1", "19"), ('"019"', "019"), ('"19.0"', "19.0"), ("-0.0", "0"),
        (str(2**63 - 1), str(2**63 - 1)), (str(2**70), str(2**70)), ("-1", "-1"), ('"spindle-1"', "spindle-1"),
        ('" A\\u00dc "', " A\u00dc "), (f'"{"x" * 200}"', "x" * 200),
    ],
)  # fmt: skip
def test_an_id_is_its_text_and_of_a_whole_number_the_digits(given_id: str, stored: str) -> None:
    assert only(spelled(id=given_id))[0] == stored


def test_an_id_is_the_same_however_those_beside_it_are_written() -> None:
    written = ["17", "17.0", '"17"', '"017"', "true", '"spindle-1"']
    split = parsed(METRICS, lines(*(spelled(id=one) for one in written * 20)), first=1)
    assert [row[0] for row in rows(split)] == ["17", "17", "17", "017", "spindle-1"] * 20
    assert len(split.records) == 20


@pytest.mark.parametrize(
    "given_id",
    [
        "1.5", "null", "true", "NaN", "9007199254740993.0", "1e16", '""', '"  "', '"a\\nb"', '"a\\u0000"', '"\\u200b"',
        "[1, 2]", '{"x": 1}', f'"{"x" * 201}"',
    ],
)  # fmt: skip
def test_an_id_that_is_none_rejects_the_record(given_id: str) -> None:
    record = refused(spelled(id=given_id))
    assert record.raw["record"] == spelled(id=given_id)


def test_a_missing_field_is_not_the_same_as_null() -> None:
    assert faults(refused('{"id": 1, "time": 1624377478}')) == [("value", "field val is missing")]
    assert faults(refused('{"id": 1, "time": 1624377478, "more": {"val": null}}')) == [
        ("value", "field val is missing")
    ]


def test_a_field_that_is_there_twice_rejects_the_record() -> None:
    record = refused('{"id": 1, "val": 1, "val": 2, "time": 1624377478}')
    assert faults(record) == [("value", "field val is there twice")]


def test_other_fields_are_ignored_whatever_they_hold() -> None:
    record = '{"id": 1, "x": 1, "x": [NaN, {"id": 3}], "val": 1.5, "time": 1624377478, "note": "a \\" NaN, ü"}'
    assert only(record) == ("1", T0, 1.5, 1)


def test_a_rejected_record_has_all_its_faults() -> None:
    record = refused('{"id": 1.5, "time": true}')
    assert faults(record) == [
        ("value", "field val is missing"),
        ("parameter_id", "not a whole number"),
        ("measured_at", "not a time"),
    ]


@pytest.mark.parametrize("text", ["5", "null", "[1, 2]", '"text"', "[]"])
def test_a_record_that_is_no_object_is_rejected(text: str) -> None:
    assert faults(refused(text)) == [("record", "not an object")]


@pytest.mark.parametrize(
    "text",
    [
        b"not json\n",
        b"\n",
        b'{"sequence":8,"record":{"id":1\n',
        b'{"sequence":8,"record":{"id":1,"val":1,"time":1,}}\n',
        b'{"sequence":8,"record":{"id":1,"val":1,"time":1,"s":"\xff"}}\n',
        b'{"sequence":8,"record":{"id":1,"val":-NaN,"time":1}}\n',
        b'{"sequence":8,"record":{"id":1,"val":1,"time":1}}{"sequence":9}\n',
        b'{"sequence":8,"record":{"id":1,"val":1,"time":1},"record":{}}\n',
        b'{"sequence":8,"record":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        b'{"sequence":8,"record":{"id":' + b"9" * 5000 + b',"val":1,"time":1}}\n',
        b"[1]\n",
        b'{"record":{"id":1,"val":1,"time":1}}\n',
    ],
)
def test_a_line_that_is_not_json_is_rejected_with_its_text_and_its_place(text: bytes) -> None:
    split = parsed(METRICS, line(7, GOOD) + text + line(9, GOOD), first=7)
    assert [row[3] for row in rows(split)] == [7, 9]
    (record,) = split.records
    assert record.source == "stream metrics, sequence 8"
    assert record.raw["sequence"] == 8
    assert record.raw["record"] == text.decode(errors="backslashreplace").rstrip("\n")


def test_two_records_on_one_line_are_none_even_if_the_next_line_is_empty() -> None:
    split = parsed(METRICS, line(1, GOOD).rstrip(b"\n") + line(2, GOOD) + b"\n", first=1)
    assert rows(split) == []
    assert [record.raw["sequence"] for record in split.records] == [1, 2]


def test_a_record_that_the_api_could_not_read_is_rejected_with_its_text() -> None:
    split = parsed(METRICS, b'{"sequence":1,"text":"{\\"id\\": 19,"}\n', first=1)
    (record,) = split.records
    assert faults(record) == [("record", "not JSON")]
    assert record.raw["record"] == '{"id": 19,'


def test_the_raw_row_of_a_rejected_record_has_the_contracts_columns_as_received() -> None:
    record = refused('{"id": 19, "val": "broken", "time": 1624377478000}')
    assert record.raw == {
        "parameter_id": 19,
        "measured_at": "2021-06-22T15:57:58+00:00",
        "value": "broken",
        "sequence": 1,
        "record": '{"id": 19, "val": "broken", "time": 1624377478000}',
    }


def test_rows_stay_in_the_order_of_their_sequence_around_doubtful_ones() -> None:
    text = lines(metric(id=1), metric(id=2, val=None), metric(id=3, val="x"), metric(id=4), metric(id=5, val=None))
    split = parsed(METRICS, text, first=1)
    assert [(row[0], row[3]) for row in rows(split)] == [("1", 1), ("2", 2), ("4", 4), ("5", 5)]
    assert [record.raw["sequence"] for record in split.records] == [3]
    split = parsed(METRICS, lines(metric(id=1), metric(id=2, val=None), metric(id=3)), first=1)
    assert [(row[0], row[3]) for row in rows(split)] == [("1", 1), ("2", 2), ("3", 3)]


@pytest.mark.parametrize("numbers", [[1, 3], [2, 1], [1, 1], [2, 3]])
def test_a_line_with_another_sequence_than_its_place_is_an_error_that_names_both(numbers: list[int]) -> None:
    with pytest.raises(PermanentError, match="record in place . says that it is ."):
        parsed(METRICS, b"".join(line(number, GOOD) for number in numbers), first=1)


def test_line_ends_of_windows_and_a_missing_last_one_change_nothing() -> None:
    text = lines(GOOD, metric(val=None), metric(val="x"))
    plain = parsed(METRICS, text, first=1)
    for other in (text.replace(b"\n", b"\r\n"), text.rstrip(b"\n")):
        split = parsed(METRICS, other, first=1)
        assert split.valid.equals(plain.valid)
        assert split.records == plain.records


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sequences of lines that were read one by one."""
    found: list[int] = []
    original = transform._line
    monkeypatch.setattr(transform, "_line", lambda *args: (found.append(args[2]), original(*args))[1])
    return found


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "record",
    [
        GOOD,
        spelled(val="NaN"),
        spelled(id='"1"', val='"1"', time='"1"'),
        metric(time="2021-06-22T15:57:58Z"),
        spelled(id='"spindle-1"'),
    ],
)
def test_records_of_one_form_are_read_the_fast_way(slow: list[int], record: str, end: str) -> None:
    text = lines(*[record] * 50).replace(b"\n", end.encode())
    assert parsed(METRICS, text, first=1).valid.num_rows == 50
    assert slow == []


def test_one_bad_record_among_many_leaves_the_others_to_the_fast_way(slow: list[int]) -> None:
    text = lines(*[metric(id=at) if at != 4321 else metric(id=at, val=[]) for at in range(10_000)])
    split = parsed(METRICS, text, first=1)
    assert split.valid.num_rows == 9_999
    assert [record.raw["sequence"] for record in split.records] == [4322]
    assert 1 <= len(slow) <= transform.FEW_LINES


def test_a_line_longer_than_a_block_is_read_all_the_same() -> None:
    text = lines(GOOD, metric(note="x" * (2 * transform.BLOCK_BYTES)), GOOD)
    assert [row[3] for row in rows(parsed(METRICS, text, first=1))] == [1, 2, 3]


numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(0, 20),
    st.floats(),
    st.floats(0, 2e12),
    st.sampled_from(["1", " 2", "+3", "1e3", "NaN", "nan", "inf", "x", "", "1624377478", "2021-06-22T15:57:58Z"]),
    st.none(),
    st.booleans(),
    st.lists(st.integers(), max_size=1),
)
records = st.one_of(
    st.fixed_dictionaries({"id": numbers, "val": numbers, "time": numbers}, optional={"note": st.text(max_size=3)}),
    st.fixed_dictionaries({}, optional={"id": numbers, "val": numbers, "time": numbers}),
    numbers,
)


@pytest.mark.long
@settings(max_examples=40)
@given(st.lists(records, min_size=1, max_size=40))
def test_what_becomes_of_a_record_does_not_depend_on_its_neighbours(found: list[Any]) -> None:
    text = [line(at, json.dumps(record)) for at, record in enumerate(found, start=1)]
    together = parsed(METRICS, b"".join(text), first=1)
    each = [transform._read_each(METRICS, [one.rstrip(b"\n")], [at]) for at, one in enumerate(text, start=1)]
    assert rows(together) == [row for split in each for row in rows(split)]
    assert [record.raw["sequence"] for record in together.records] == [
        record.raw["sequence"] for split in each for record in split.records
    ]
    assert [faults(record) for record in together.records] == [faults(r) for split in each for r in split.records]
    assert together.valid.num_rows + len(together.records) == len(found)
    assert all(value is None or math.isfinite(value) for _, _, value, _ in rows(together))
