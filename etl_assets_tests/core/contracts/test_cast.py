"""Casting one column: what each kind takes, what it refuses, and how it says so."""

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import csv as pa_csv

from etl_assets.core.contracts import Column
from etl_assets.core.contracts.arrow import ARROW_TYPES
from etl_assets.core.contracts.cast import NOT_OF_KIND, YEARS, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.errors import ContractError

NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
LARGE = 2**63 - 1
NOTHING = [
    None,
    float("nan"),
    np.nan,
    pd.NA,
    pd.NaT,
    np.datetime64("NaT"),
    np.float32("nan"),
    Decimal("NaN"),
    Decimal("sNaN"),
]
WHOLE, SIXTY_FOUR, INEXACT = "not a whole number", "not an integer of 64 bits", "beyond what a float holds exactly"
NAIVE = "a time without a zone"


def of(kind: Kind, *, zone: str | None = None) -> Column:
    return Column("a column", name="c", kind=kind, nullable=True, zone=zone)


def cells(*values: Any) -> pd.Series:
    """A column without a declared type, with an index that means nothing."""
    return pd.Series(list(values), dtype=object, index=[7] * len(values))


def cast(values: Any, kind: Kind, *, zone: str | None = None) -> tuple[list[Any], dict[int, str]]:
    done = cast_column(values, of(kind, zone=zone))
    assert done.values.type == ARROW_TYPES[kind]
    done.values.validate(full=True)
    return done.values.to_pylist(), dict(done.faults)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5),
        ("+5", 5),
        ("-5", -5),
        (" 5\t", 5),
        ("007", 7),
        ("-0", 0),
        (str(LARGE), LARGE),
        (str(-LARGE - 1), -LARGE - 1),
    ],
)
def test_text_of_a_whole_number_becomes_an_integer(text: str, number: int) -> None:
    assert cast(cells(text), Kind.INT) == ([number], {})
    assert cast(cells(text, 1), Kind.INT) == ([number, 1], {})


@pytest.mark.parametrize(
    "text", ["", " ", "abc", "2.0", "1e3", "0x10", "1_000", "--5", "+-5", "5-", "١", "99999999999999999999"]
)
def test_text_of_anything_else_is_no_integer(text: str) -> None:
    assert cast(cells(text, "1"), Kind.INT) == ([None, 1], {0: WHOLE})


def test_text_of_nineteen_digits_beyond_64_bits_is_no_integer_and_spares_its_neighbours() -> None:
    values = pa.array([str(LARGE + 1), str(LARGE), None, str(-LARGE - 2), "x"])

    assert cast(values, Kind.INT) == ([None, LARGE, None, None, None], {0: SIXTY_FOUR, 3: SIXTY_FOUR, 4: WHOLE})


def test_unsigned_integers_beyond_64_bits_are_faults() -> None:
    assert cast(pd.Series([1, 2**64 - 1], dtype="uint64"), Kind.INT) == ([1, None], {1: SIXTY_FOUR})
    assert cast(cells(1, 2**64 - 1, 2**70), Kind.INT) == ([1, None, None], {1: SIXTY_FOUR, 2: SIXTY_FOUR})


def test_only_floats_that_are_whole_and_exact_become_integers() -> None:
    values = pd.Series([1.0, 2.5, np.nan, np.inf, -np.inf, 2.0**53 - 1, 2.0**53, 2.0**53 + 2, -(2.0**63)])

    assert cast(values, Kind.INT) == (
        [1, None, None, None, None, 2**53 - 1, None, None, None],
        {1: WHOLE, 3: WHOLE, 4: WHOLE, 6: INEXACT, 7: INEXACT, 8: INEXACT},
    )


ROUNDED = [
    pytest.param(cells(json.loads("9007199254740993.0")), id="JSON"),
    pytest.param(cells(json.loads("1e16")), id="JSON with an exponent"),
    pytest.param(cells(9007199254740993.0, 1), id="beside an integer"),
    pytest.param(cells(np.float64(2**53 + 1)), id="numpy"),
    pytest.param(cells(np.float32(2**24 + 1)), id="numpy of 32 bits"),
    pytest.param(pd.Series([2**53 + 1, None]), id="integers of a frame that has NULLs"),
    pytest.param(pd.Series([-(2**53) - 1, None]), id="negative"),
    pytest.param(pd.Series([2**24 + 1], dtype="float32"), id="32 bits"),
    pytest.param(pd.Series([2049], dtype="float16"), id="16 bits"),
    pytest.param(pa.array([2**53 + 1, None], pa.int64()).cast(pa.float64(), safe=False), id="Arrow"),
    pytest.param(pa_csv.read_csv(BytesIO(b"a\n9007199254740993.0\n"))["a"], id="CSV by Arrow"),
    pytest.param(pd.read_csv(BytesIO(b"a,b\n9007199254740993,x\n,y\n"))["a"], id="CSV by pandas"),
]


@pytest.mark.parametrize("values", ROUNDED)
def test_a_float_that_may_have_been_another_integer_is_a_fault(values: Any) -> None:
    found, faults = cast(values, Kind.INT)
    assert (found[0], faults) == (None, {0: INEXACT})


EXACT = [
    pytest.param(lambda n: cells(n), id="alone"),
    pytest.param(lambda n: cells(n, 1.0), id="beside a float"),
    pytest.param(lambda n: cells(n, None, float("nan")), id="beside nothing"),
    pytest.param(lambda n: cells(str(n), 1.0), id="text"),
    pytest.param(lambda n: cells(json.loads(str(n)), json.loads("1.0")), id="JSON"),
    pytest.param(lambda n: cells(np.int64(n), 1.0), id="numpy"),
    pytest.param(lambda n: cells(Decimal(f"{n}.0")), id="decimal"),
    pytest.param(lambda n: pa.array([Decimal(n), Decimal("1.0")]), id="decimals in Arrow"),
    pytest.param(lambda n: pd.Series([n, None], dtype="Int64"), id="nullable"),
    pytest.param(lambda n: pa.array([n, None]), id="Arrow"),
    pytest.param(lambda n: pa_csv.read_csv(BytesIO(b"a\n%d\n" % n))["a"], id="CSV"),
]


@pytest.mark.parametrize("form", EXACT)
@pytest.mark.parametrize("number", [2**53, 2**53 + 1, -(2**53) - 1, LARGE, -LARGE - 1])
def test_an_integer_and_its_text_stay_exact_to_64_bits(form: Any, number: int) -> None:
    found, faults = cast(form(number), Kind.INT)
    assert (found[0], faults) == (number, {})


def test_whole_decimals_become_integers() -> None:
    values = [Decimal("2.0"), Decimal("2.5"), None, Decimal(10) ** 20]

    assert cast(pa.array(values), Kind.INT) == ([2, None, None, None], {1: WHOLE, 3: SIXTY_FOUR})
    assert cast(cells(*values), Kind.INT) == ([2, None, None, None], {1: WHOLE, 3: SIXTY_FOUR})


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1.0), ("-1.5", -1.5), (" 1.5 ", 1.5), (".5", 0.5), ("5.", 5.0), ("1E5", 1e5), ("+2e-3", 0.002),
        ("99999999999999999999", 1e20), ("0.1", 0.1), ("1e400", float("inf")), ("-Infinity", float("-inf")), ("NaN", None),
    ],
)  # fmt: skip
def test_text_of_a_number_becomes_the_nearest_float(text: str, number: float | None) -> None:
    assert cast(cells(text), Kind.FLOAT) == ([number], {})


@pytest.mark.parametrize("text", ["", "abc", "0x1p3", "1_000", "1,5", "1d5", "١", "- 1", ".", "e5"])
def test_text_of_anything_else_is_no_float(text: str) -> None:
    assert cast(cells(text, "1"), Kind.FLOAT) == ([None, 1.0], {0: "not a number"})


def test_text_of_every_float_becomes_that_very_float() -> None:
    numbers = np.random.default_rng(7).integers(0, 2**62, 10_000).view(np.float64).tolist()

    assert cast(pa.array([repr(number) for number in numbers]), Kind.FLOAT) == (numbers, {})


def test_numbers_of_any_width_become_floats() -> None:
    assert cast(pd.Series([1, 2**64 - 1], dtype="uint64"), Kind.FLOAT) == ([1.0, float(2**64)], {})
    assert cast(pd.Series([0.5], dtype="float16"), Kind.FLOAT) == ([0.5], {})
    assert cast(cells(1, 2.5, np.int8(3), 10**30, Decimal("1.5"), 10**400), Kind.FLOAT) == (
        [1.0, 2.5, 3.0, 1e30, 1.5, None],
        {5: "not a number"},
    )


def test_truth_is_told_by_truth_values_and_their_names_only() -> None:
    assert cast(cells("true", "FALSE", None, "1", "", "yes", True), Kind.BOOL) == (
        [True, False, None, None, None, None, True],
        {3: "not true or false", 4: "not true or false", 5: "not true or false"},
    )
    assert cast(cells(1, 0, True), Kind.BOOL) == ([None, None, True], {0: "not true or false", 1: "not true or false"})
    assert cast(pa.array([None, "true", "x"]), Kind.BOOL) == ([None, True, None], {2: "not true or false"})


def test_truth_values_are_no_numbers() -> None:
    assert cast(cells(True, 1, np.bool_(True)), Kind.INT) == ([None, 1, None], {0: WHOLE, 2: WHOLE})
    assert cast(cells(0.5, True), Kind.FLOAT) == ([0.5, None], {1: "not a number"})


def test_text_is_taken_as_it_is_and_nothing_else_is_text() -> None:
    values = cells("a", "", " 007", 7, 1.5, True, b"x", NOON, ["a"], None, "a\x00b")

    kept = ["a", "", " 007", *[None] * 7, "a\x00b"]  # the NUL is for a rule to find
    assert cast(values, Kind.TEXT) == (kept, dict.fromkeys(range(3, 9), "not text"))


@pytest.mark.parametrize(
    "form", [cells, lambda *values: pa.array([str(value) for value in values])], ids=["cells", "text"]
)
def test_text_is_an_id_as_it_is(form: Any) -> None:
    assert cast(form("spindle-1", "017", " a ", "1.0", "17"), Kind.ID) == (["spindle-1", "017", " a ", "1.0", "17"], {})


@pytest.mark.parametrize(
    "values",
    [
        cells(17, 2**62, -1),
        pd.Series([17, 2**62, -1]),
        pa.array([17, 2**62, -1]),
        pa.chunked_array([[17, 2**62], [-1]]),
    ],
    ids=["cells", "series", "array", "chunks"],
)
def test_a_whole_number_is_the_id_that_its_digits_are(values: Any) -> None:
    assert cast(values, Kind.ID) == (["17", str(2**62), "-1"], {})


def test_numbers_are_the_same_ids_however_they_are_written_and_a_fraction_or_a_truth_value_is_none() -> None:
    values = cells(17, 17.0, Decimal("17.0"), "17", 2**70, 1.5, 1e300, float(2**53), True, ["a"], None, float("nan"))
    beyond, none = "beyond what a float holds exactly", NOT_OF_KIND[Kind.ID]
    assert cast(values, Kind.ID) == (
        ["17", "17", "17", "17", str(2**70), *[None] * 7],
        {5: WHOLE, 6: beyond, 7: beyond, 8: none, 9: none},
    )
    assert cast(pd.Series([17.0, 1.5, None]), Kind.ID) == (["17", None, None], {1: WHOLE})
    assert cast(pd.Series([2**63], dtype="uint64"), Kind.ID) == ([str(2**63)], {})


def test_text_with_a_lone_surrogate_is_not_text_and_spares_its_neighbours() -> None:
    assert cast(cells("a", "\ud800", "b"), Kind.TEXT) == (["a", None, "b"], {1: "not text"})
    assert cast(cells("1", "\ud800"), Kind.INT) == ([1, None], {1: WHOLE})


@pytest.mark.parametrize("kind", Kind)
def test_whatever_says_that_there_is_nothing_becomes_null(kind: Kind) -> None:
    assert cast(cells(*NOTHING), kind) == ([None] * len(NOTHING), {})
    assert cast(cells(*NOTHING, "\ud800")[:-1], kind) == ([None] * len(NOTHING), {})
    assert cast(pa.nulls(2), kind) == ([None, None], {})


@pytest.mark.parametrize("kind", Kind)
def test_a_frames_column_without_any_value_is_null_of_any_kind(kind: Kind) -> None:
    assert cast(pd.Series([np.nan, np.nan]), kind) == ([None, None], {})
    assert cast(pd.Series([], dtype="float64"), kind) == ([], {})
    assert cast(cells(), kind) == ([], {})


@pytest.mark.parametrize("text", ["2020-01-01", " 2020-01-01 "])
def test_text_of_a_date_becomes_that_date(text: str) -> None:
    assert cast(cells(text), Kind.DATE) == ([date(2020, 1, 1)], {})


@pytest.mark.parametrize(
    "text",
    ["now", "today", "2020-1-1", "2020-02-30", "2021-02-29", "2020-13-01", "20200101", "2020-01-01T00:00:00", ""],
)
def test_text_of_anything_else_is_no_date(text: str) -> None:
    assert cast(cells(text, "2020-02-29"), Kind.DATE) == ([None, date(2020, 2, 29)], {0: "not a date (YYYY-MM-DD)"})


def test_times_become_dates_only_at_midnight_and_never_by_dropping_the_time_of_day() -> None:
    assert cast(cells(date(2020, 1, 1), datetime(2020, 1, 1, 5), datetime(2020, 1, 2), 5), Kind.DATE) == (
        [date(2020, 1, 1), None, date(2020, 1, 2), None],
        {1: "not a date: has a time of day", 3: "not a date (YYYY-MM-DD)"},
    )
    assert cast(pd.Series([datetime(1969, 12, 31), None]), Kind.DATE) == ([date(1969, 12, 31), None], {})
    assert cast(pa.array([date(1, 1, 1), date(9999, 12, 31)]), Kind.DATE) == ([date(1, 1, 1), date(9999, 12, 31)], {})
    assert cast(pa.array([2**30, 0], pa.date32()), Kind.DATE) == ([None, date(1970, 1, 1)], {0: YEARS})


def test_a_time_behind_a_date_keeps_its_time_of_day_and_is_a_fault() -> None:
    column = cells(date(2020, 1, 1), datetime(2020, 1, 1, 5), None)
    assert cast(column, Kind.DATE) == ([date(2020, 1, 1), None, None], {1: "not a date: has a time of day"})


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2020-01-01T12:00:00Z", NOON), ("2020-01-01t12:00:00z", NOON), ("2020-01-01 12:00Z", NOON), ("2020-01-01T12Z", NOON),
        ("20200101T120000Z", NOON), ("2020-01-01T13:30:00+01:30", NOON), ("2020-01-01T12:00:00 Z", NOON), ("2020-01-01T07:00:00-05", NOON),
        ("2020-01-01T13:30:00+0130", NOON), ("2020-01-01T12:00:00.123456789Z", NOON.replace(microsecond=123456)),
        ("2020-01-01T12:00:00,5Z", NOON.replace(microsecond=500000)),
        ("1969-12-31T23:59:59.9999999Z", datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2020-02-29T00:00:00Z", datetime(2020, 2, 29, tzinfo=UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_text_of_a_time_with_a_zone_becomes_that_instant(text: str, time: datetime) -> None:
    assert cast(cells(text), Kind.TIMESTAMP) == ([time], {})
    # Beside text that needs the slower way.
    assert cast(cells(text, "x"), Kind.TIMESTAMP) == ([time, None], {1: "not a time"})


@pytest.mark.parametrize("text", ["2020-01-01", "2020-01-01T12:00:00", "2020-01-01 12:00", "20200101T120000"])
def test_text_of_a_time_without_a_zone_is_a_fault_of_its_own(text: str) -> None:
    assert cast(cells(text, "2020-01-01T12:00:00Z"), Kind.TIMESTAMP) == ([None, NOON], {0: NAIVE})


@pytest.mark.parametrize(
    "text",
    ["", "now", "2020-01", "2020-02-30T00:00:00Z", "2020-01-01T24:00:00Z", "2020-01-01T12:00:60Z", "2020-01-01T12:00:00+24:00",
     "12:00Z", "2020-W01-1", "2020-01-01Z", "1577880000"],
)  # fmt: skip
def test_text_of_anything_else_is_no_time(text: str) -> None:
    assert cast(cells(text, "2020-01-01T12:00:00Z"), Kind.TIMESTAMP)[1] == {0: "not a time"}


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-05:00", "0000-12-31T23:59:59Z", "0001-01-01T00:00:00+01:00"])
def test_a_time_whose_instant_lies_beyond_the_years_is_a_fault(text: str) -> None:
    assert cast(cells(text), Kind.TIMESTAMP) == ([None], {0: YEARS})
    assert cast(cells(text, "x"), Kind.TIMESTAMP) == ([None, None], {0: YEARS, 1: "not a time"})


def test_a_date_of_the_year_nought_is_a_fault() -> None:
    assert cast(cells("0000-01-01", "0001-01-01"), Kind.DATE) == ([None, date(1, 1, 1)], {0: YEARS})


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_arrow_times_beyond_the_years_are_faults_and_do_not_wrap(unit: str) -> None:
    values = pa.array([2**62, -(2**62), 0, None], pa.timestamp(unit, "UTC"))

    assert cast(values, Kind.TIMESTAMP) == ([None, None, datetime(1970, 1, 1, tzinfo=UTC), None], {0: YEARS, 1: YEARS})


def test_nanoseconds_are_dropped_as_from_text_also_before_1970() -> None:
    texts = ["1969-12-31T23:59:59.999999999Z", "2020-01-01T12:00:00.000000999Z"]
    frame = pd.Series(pd.to_datetime(texts, format="ISO8601"))

    assert cast(frame, Kind.TIMESTAMP) == cast(cells(*texts), Kind.TIMESTAMP)
    assert cast(frame.astype(object), Kind.TIMESTAMP) == cast(frame, Kind.TIMESTAMP)


def test_aware_times_of_any_offset_keep_their_instant() -> None:
    east = NOON.astimezone(timezone(timedelta(hours=5)))

    assert cast(cells(NOON, east, pd.Timestamp(east), datetime.max.replace(tzinfo=UTC)), Kind.TIMESTAMP) == (
        [NOON, NOON, NOON, datetime.max.replace(tzinfo=UTC)],
        {},
    )
    local = pd.Series(pd.to_datetime(["2020-01-01T12:00:00Z"]).tz_convert("America/New_York"))
    assert cast(local, Kind.TIMESTAMP) == ([NOON], {})


def test_naive_times_among_aware_ones_are_faults() -> None:
    naive = NOON.replace(tzinfo=None)

    assert cast(cells(NOON, naive, date(2020, 1, 1), 5), Kind.TIMESTAMP) == (
        [NOON, None, None, None],
        {1: NAIVE, 2: "not a time", 3: "not a time"},
    )


LONDON = "Europe/London"
CHANGES = f"ambiguous or missing local time in {LONDON}"


def test_where_the_contract_states_the_zone_naive_times_are_local_and_zoned_ones_are_as_they_say() -> None:
    texts = [
        "2020-07-01T13:00:00",
        "2020-07-01T12:00:00Z",
        "2020-03-29T01:30:00",
        "2020-10-25T01:30:00",
        "2020-07-01",
        "x",
        None,
        "now",
    ]
    summer, midnight = datetime(2020, 7, 1, 12, tzinfo=UTC), datetime(2020, 6, 30, 23, tzinfo=UTC)

    assert cast(cells(*texts), Kind.TIMESTAMP, zone=LONDON) == (
        [summer, summer, None, None, midnight, None, None, None],
        {2: CHANGES, 3: CHANGES, 5: "not a time", 7: "not a time"},
    )
    times = [datetime(2020, 7, 1, 13), summer, datetime(2020, 3, 29, 1, 30), datetime(2020, 10, 25, 1, 30), None]
    assert cast(cells(*times), Kind.TIMESTAMP, zone=LONDON) == (
        [summer, summer, None, None, None],
        {2: CHANGES, 3: CHANGES},
    )
    declared = pd.Series([datetime(2020, 7, 1, 13), datetime(2020, 3, 29, 1, 30), None])
    assert cast(declared, Kind.TIMESTAMP, zone=LONDON) == ([summer, None, None], {1: CHANGES})


FORMS = [
    pytest.param(lambda v: pd.Series(v, dtype=object), id="object"),
    pytest.param(lambda v: pd.Series(v, dtype="string"), id="string"),
    pytest.param(lambda v: pd.Series(v, dtype="category"), id="category"),
    pytest.param(lambda v: pd.Series(v, dtype=pd.ArrowDtype(pa.large_string())), id="large string"),
    pytest.param(lambda v: pa.array(v), id="array"),
    pytest.param(lambda v: pa.array(v, pa.string_view()), id="view"),
    pytest.param(lambda v: pa.array(v).dictionary_encode(), id="dictionary"),
    pytest.param(lambda v: pa.compute.run_end_encode(pa.array(v)), id="runs"),
    pytest.param(lambda v: pa.array(["x", *v, "y"]).slice(1, len(v)), id="sliced"),
    pytest.param(lambda v: pa.chunked_array([pa.array(v[:2]), pa.array([], pa.string()), pa.array(v[2:])]), id="chunked"),
    pytest.param(lambda v: pa.chunked_array([pa.array(v[:2]).dictionary_encode(), pa.array(v[2:]).dictionary_encode()]), id="dictionaries"),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_form_in_which_text_arrives_does_not_matter(form: Any) -> None:
    values = ["1", "x", None, "2020-01-01T12:00:00Z", "true", "2020-01-01"]

    for kind in Kind:
        assert cast(form(values), kind) == cast(pa.array(values), kind)
    assert cast(form(values), Kind.INT) == ([1, *[None] * 5], {1: WHOLE, 3: WHOLE, 4: WHOLE, 5: WHOLE})


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (pd.Series([1, None], dtype="Int64"), Kind.INT, [1, None]),
        (pd.Series([1, 2], dtype="int8"), Kind.INT, [1, 2]),
        (pd.Series([1, None], dtype="Int32"), Kind.FLOAT, [1.0, None]),
        (pd.Series([1.5, None], dtype="Float64"), Kind.FLOAT, [1.5, None]),
        (pd.Series([True, None], dtype="boolean"), Kind.BOOL, [True, None]),
        (pd.Series([1, 2, None], dtype="category"), Kind.INT, [1, 2, None]),
        (pd.Series([1.0, np.nan]).astype(pd.SparseDtype("float")), Kind.FLOAT, [1.0, None]),
        (pd.Series([5], dtype=pd.ArrowDtype(pa.int32())), Kind.INT, [5]),
        (pa.chunked_array([], type=pa.int32()), Kind.INT, []),
        (pa.DictionaryArray.from_arrays([0, 1], pa.array(["1", None])), Kind.INT, [1, None]),
    ],
)
def test_declared_types_of_the_same_kind_are_taken(values: Any, kind: Kind, expected: list[Any]) -> None:
    assert cast(values, kind) == (expected, {})


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (pd.Series([1, 2]), Kind.TEXT, "int64"),
        (pd.Series([1.5]), Kind.TEXT, "double"),
        (pd.Series([True]), Kind.INT, "bool"),
        (pd.Series([True], dtype="boolean"), Kind.FLOAT, "bool"),
        (pd.Series([1]), Kind.BOOL, "int64"),
        (pd.Series([1]), Kind.TIMESTAMP, "int64"),
        (pd.Series([1j]), Kind.FLOAT, "complex128"),
        (pd.Series([pd.Timedelta(1)]), Kind.INT, "duration"),
        (pa.array([b"x"]), Kind.TEXT, "binary"),
        (pa.array([date(2020, 1, 1)]), Kind.TIMESTAMP, "date32"),
        (pa.array([[1]]), Kind.INT, "list"),
        (pd.Series([NOON]), Kind.DATE, "timestamp"),
    ],
)  # fmt: skip
def test_a_declared_type_of_another_kind_is_drift_and_names_the_column_and_both_types(
    values: Any, kind: Kind, message: str
) -> None:
    with pytest.raises(ContractError, match=rf"column c is {message}.* and the contract says {kind.value}: "):
        cast_column(values, of(kind))


def test_a_column_of_naive_times_is_drift_unless_the_contract_states_their_zone() -> None:
    naive = pd.Series(pd.to_datetime(["2020-07-01T13:00:00"]))

    with pytest.raises(ContractError, match="give the times a zone"):
        cast_column(naive, of(Kind.TIMESTAMP))
    assert cast(naive, Kind.TIMESTAMP, zone=LONDON) == ([datetime(2020, 7, 1, 12, tzinfo=UTC)], {})


@pytest.mark.parametrize("kind", Kind)
def test_no_cell_whatever_it_is_makes_a_column_without_a_type_raise(kind: Kind) -> None:
    odd = [object(), 1j, (), {}, [1, "a"], np.array([1, 2]), pd.Interval(0, 1), pd.Period("2020"), b"\xff", Ellipsis, int, 2**900,
           Decimal("Infinity"), Decimal("1e999"), timedelta.max, np.timedelta64(1), np.void(b"x"), memoryview(b"x"), {1}]  # fmt: skip

    for values in (cells(*odd), cells(*reversed(odd)), *(cells(value) for value in odd)):
        done = cast_column(values, of(kind))
        assert len(done.values) == len(values)
        assert set(done.faults) <= set(range(len(values)))
        assert all(done.values[row].is_valid for row in range(len(values)) if row not in done.faults)
