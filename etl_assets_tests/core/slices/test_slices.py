"""Which rows a slice has: in Arrow, in SQL, and for raw rows, the same."""

import datetime
import itertools
from typing import Any

import hypothesis.strategies as st
import pandas as pd
import pytest
from hypothesis import given, settings

from etl_assets.core.contracts import Contract, Date, Fault, Record, Timestamp, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.slice import Combinations, Slice, Span, assign, divide
from etl_assets.errors import ContractError
from etl_assets_tests.core.slices.tables import NOON, Readings, as_table, create, execute, readings, store

START = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


class Tracks(Contract):
    """Rows that are partitioned by time and vessel."""

    vessel: str = column("Vessel")
    at: Timestamp = column("When")

    class Config:
        table = "plant.tracks"
        partition_by = {"vessel": "vessel", "time": "at"}


class Days(Contract):
    """Rows that are partitioned by a date."""

    day: Date = column("Day")

    class Config:
        table = "plant.days"
        partition_by = "day"


def track(vessel: str, hour: int) -> Slice:
    return Slice(
        Tracks, f"{vessel}|{hour}", {"vessel": vessel, "at": Span(START + hour * HOUR, START + (hour + 1) * HOUR)}
    )


def tracks(rows: list[tuple[Any, Any]]) -> pd.DataFrame:
    at = pd.Series([t for _, t in rows], dtype="datetime64[us, UTC]")
    return pd.DataFrame({"vessel": pd.Series([v for v, _ in rows], dtype=object), "at": at})


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3 * 3600 - 1)), max_size=30),
    st.permutations([track(v, h) for v in "ab" for h in (0, 1, 2)]),
)
def test_every_row_goes_to_the_one_slice_that_has_it_in_the_order_given(
    rows: list[tuple[str, int]], slices: list[Slice]
) -> None:
    given_rows = [(vessel, START + datetime.timedelta(seconds=second)) for vessel, second in rows]
    parts = divide(as_table(Tracks, tracks(given_rows)), slices)
    for part, slice_ in zip(parts, slices, strict=True):
        span = slice_.bounds["at"]
        assert isinstance(span, Span)
        expected = [r for r in given_rows if r[0] == slice_.bounds["vessel"] and span.start <= r[1] < span.end]
        assert list(zip(*part.to_pydict().values(), strict=True)) == expected


@pytest.mark.parametrize(
    "outside", [("a", START - datetime.timedelta(microseconds=1)), ("a", START + 2 * HOUR), ("c", START)]
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_row_that_belongs_nowhere_is_an_error_with_an_example(outside: tuple[Any, Any], count: int) -> None:
    slices = [track("a", hour) for hour in range(count)]
    table = as_table(Tracks, tracks([("a", START), outside]))
    with pytest.raises(ContractError, match=r"plant.tracks: 1 rows lie outside partition a\|0.*nothing was written"):
        divide(table, slices)


def test_a_date_goes_to_the_interval_that_has_it() -> None:
    days = [datetime.date(2024, 1, day) for day in (1, 2, 3)]
    slices = [Slice(Days, str(a), {"day": Span(a, b)}) for a, b in itertools.pairwise(days)]
    assert [part.num_rows for part in divide(as_table(Days, pd.DataFrame({"day": days[:2]})), slices)] == [1, 1]
    with pytest.raises(ContractError, match="1 rows lie outside"):
        divide(as_table(Days, pd.DataFrame({"day": [days[0], days[2]]})), slices)


def test_a_raw_row_goes_to_the_slice_that_it_names_and_else_to_the_first() -> None:
    slices = [track("a", 0), track("a", 1), track("b", 0)]
    raws = [
        {"vessel": "b", "at": "2024-01-01T00:30:00Z"},
        {"vessel": "a", "at": "2024-01-01T01:59:59.999999Z"},
        {"vessel": "a", "at": "yesterday"},
        {"vessel": None, "at": START},
        {},
    ]
    records = [Record((Fault("at", "x", None),), raw) for raw in raws]
    assert [[r.raw for r in home] for home in assign(records, slices)] == [raws[2:], raws[1:2], raws[:1]]


@pytest.mark.long
@pytest.mark.parametrize("site", ["a", "'; DROP TABLE plant.readings; --", 'x"y', "back\\slash", "naïve 🜨", "%s"])
def test_a_slice_means_the_same_in_sql_as_in_arrow(database: Database, site: str) -> None:
    create(database, Readings)
    store(database, readings(("1", 1), site=site), "append")
    store(database, readings(("2", 1), site="another"), "append")
    slice_ = Slice(Readings, "x", {"site": site, "at": Span(NOON, NOON + HOUR)})
    found = execute(database, f"SELECT id FROM plant.readings AS t WHERE {slice_.predicate('t').as_string(None)}")
    assert found == [("1",)]
    beside = Slice(Readings, "x", {"at": Span(NOON - HOUR, NOON)})
    assert execute(database, f"SELECT id FROM plant.readings WHERE {beside.predicate().as_string(None)}") == []


def test_a_slice_of_several_columns_has_the_rows_of_these_combinations_alone() -> None:
    both = Combinations(("vessel", "at"), (("a", START), ("b", START + HOUR)))
    slice_ = Slice(Tracks, "some", {"vessel": both})
    inside = as_table(Tracks, tracks([("b", START + HOUR), ("a", START)]))
    assert divide(inside, [slice_]) == [inside]
    with pytest.raises(ContractError, match="1 rows lie outside partition some"):
        divide(as_table(Tracks, tracks([("a", START), ("a", START + HOUR)])), [slice_])
