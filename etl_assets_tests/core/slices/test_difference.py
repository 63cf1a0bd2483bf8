"""The difference of two sides against what dictionaries say."""

import hypothesis.strategies as st
import pyarrow as pa
from hypothesis import given, settings

from etl_assets.core.slices.difference import BATCH_ROWS, Rows, difference, in_key_order

SCHEMA = pa.schema([("id", pa.string()), ("n", pa.int64()), ("value", pa.float64()), ("note", pa.string())])
CELLS = st.tuples(
    st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5, 1e300])),
    st.one_of(st.none(), st.sampled_from(["", "x", "é"])),
)
SIDE = st.dictionaries(st.tuples(st.sampled_from(["", "a", "aa", "b", "ü"]), st.integers(-2, 2)), CELLS, max_size=25)


def table(side: dict[tuple[str, int], tuple[float | None, str | None]]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"id": k[0], "n": k[1], "value": v[0], "note": v[1]} for k, v in side.items()], schema=SCHEMA
    )


def keys(rows: pa.Table) -> list[tuple[str, int]]:
    return list(zip(rows["id"].to_pylist(), rows["n"].to_pylist(), strict=True))


def by_bytes(found: set[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(found, key=lambda key: (key[0].encode(), key[1]))


@settings(max_examples=40)
@given(SIDE, SIDE)
def test_a_difference_is_what_dictionaries_say_in_key_order(
    there: dict[tuple[str, int], tuple[float | None, str | None]],
    coming: dict[tuple[str, int], tuple[float | None, str | None]],
) -> None:
    found = difference(table(there), table(coming).select(["value", "note", "id", "n"]), ["id", "n"])
    common = there.keys() & coming.keys()
    assert keys(found.new) == by_bytes(coming.keys() - there.keys())
    assert keys(found.changed) == by_bytes({key for key in common if there[key] != coming[key]})
    assert keys(found.vanished) == by_bytes(there.keys() - coming.keys())
    assert found.unchanged == sum(there[key] == coming[key] for key in common)
    written = {
        key: (v, n)
        for key, v, n in zip(
            keys(found.changed), found.changed["value"].to_pylist(), found.changed["note"].to_pylist(), strict=True
        )
    }
    assert written == {key: coming[key] for key in written}


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=30))
def test_rows_keep_the_last_of_equal_keys_and_come_in_key_order(given_rows: list[tuple[str, int]]) -> None:
    given_table = pa.table({"k": [k for k, _ in given_rows], "v": pa.array([v for _, v in given_rows], pa.int64())})
    given_table = given_table.set_column(0, "k", given_table["k"].cast(pa.string()))
    rows = Rows(given_table, ["k"])
    ordered = rows.batches_in_key_order()
    ordered = ordered if isinstance(ordered, pa.Table) else ordered.read_all()
    assert ordered.equals(rows.in_key_order())
    assert list(zip(*ordered.to_pydict().values(), strict=True)) == sorted(dict(given_rows).items())
    assert rows.duplicates == len(given_rows) - len(dict(given_rows))


def test_more_rows_than_a_batch_come_in_key_order_whole() -> None:
    count = BATCH_ROWS * 2 + 5
    backwards = pa.table({"k": list(range(count - 1, -1, -1))})
    ordered = Rows(backwards, ["k"]).batches_in_key_order()
    assert ordered.read_all()["k"].to_pylist() == list(range(count))
    assert in_key_order(backwards, ["k"])["k"].to_pylist() == list(range(count))


def test_rows_without_a_key_stay_as_they_are() -> None:
    table = pa.table({"k": [2, 1, 2]})
    assert Rows(table, ()).batches_in_key_order() is table
