"""Codes of keys against the order and the equality that Postgres has."""

from collections.abc import Sequence

import hypothesis.strategies as st
import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.core.slices.difference import key_codes, last_in_order

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
NEAR = st.builds(lambda prefix, tail: prefix + tail, st.sampled_from(["", "k", "key 00000", "ключ-"]), TEXT)
INTEGERS = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324]), st.floats(allow_nan=False, allow_infinity=False))
INSTANTS = st.integers(-(10**14), 10**15)
TIMESTAMP = pa.timestamp("us", tz="UTC")
KINDS = {
    "text": (NEAR, pa.string(), 'text COLLATE "C"'),
    "bigint": (INTEGERS, pa.int64(), "bigint"),
    "float8": (FLOATS, pa.float64(), "float8"),
    "boolean": (st.booleans(), pa.bool_(), "boolean"),
    "date": (st.integers(-700_000, 2_900_000), pa.date32(), "bigint"),
    "timestamptz": (INSTANTS, TIMESTAMP, "bigint"),
}


def codes_of(kinds: Sequence[str], rows: Sequence[tuple[object, ...]]) -> np.ndarray:
    arrays = [pa.array([row[i] for row in rows], type=KINDS[kind][1]) for i, kind in enumerate(kinds)]
    return key_codes(
        [pa.table(arrays, names=[f"c{i}" for i in range(len(kinds))])], [f"c{i}" for i in range(len(kinds))]
    )[0]


@st.composite
def keys(draw: st.DrawFn) -> tuple[list[str], list[tuple[object, ...]]]:
    kinds = draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3))
    return kinds, draw(st.lists(st.tuples(*[KINDS[kind][0] for kind in kinds]), min_size=1, max_size=30))


@pytest.fixture(scope="module")
def connection(postgres_server: EmbeddedPostgres) -> psycopg.Connection:  # type: ignore[misc]
    with psycopg.connect(postgres_server.create_database("postgres")) as opened:
        yield opened


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys())
def test_codes_are_equal_and_ordered_as_postgres_has_the_keys(
    connection: psycopg.Connection, given_keys: tuple[list[str], list[tuple[object, ...]]]
) -> None:
    kinds, rows = given_keys
    names = [f"c{i}" for i in range(len(kinds))]
    types = [KINDS[kind][2].split()[0] for kind in kinds]
    order = [name + (' COLLATE "C"' if kind == "text" else "") for name, kind in zip(names, kinds, strict=True)]
    arrays = ", ".join(f"%s::{kind}[]" for kind in types)
    query = (
        f"SELECT n, dense_rank() OVER (ORDER BY {', '.join(order)})"
        f" FROM unnest({arrays}) WITH ORDINALITY AS t({', '.join(names)}, n) ORDER BY n"
    )
    ranks = [rank for _, rank in connection.execute(query, [list(column) for column in zip(*rows, strict=True)])]  # type: ignore[call-overload]
    connection.rollback()
    _, ours = np.unique(codes_of(kinds, rows), return_inverse=True)
    assert (ours + 1).tolist() == ranks


@settings(max_examples=40)
@given(keys(), st.integers(0, 30))
def test_codes_are_comparable_across_two_sides(given_keys: tuple[list[str], list[tuple[object, ...]]], at: int) -> None:
    kinds, rows = given_keys
    names = [f"c{i}" for i in range(len(kinds))]
    whole = pa.table(
        [pa.array([row[i] for row in rows], type=KINDS[kind][1]) for i, kind in enumerate(kinds)], names=names
    )
    left, right = key_codes([whole.slice(0, at), whole.slice(at)], names)
    _, split = np.unique(np.concatenate([left, right]), return_inverse=True)
    _, together = np.unique(codes_of(kinds, rows), return_inverse=True)
    assert split.tolist() == together.tolist()


@given(st.lists(st.integers(0, 8), max_size=30))
def test_of_each_key_the_last_row_is_found_in_the_order_of_the_keys(codes: list[int]) -> None:
    kept = last_in_order(np.array(codes, dtype=np.uint64))
    last = {code: at for at, code in enumerate(codes)}
    assert kept.tolist() == [last[code] for code in sorted(last)]


def test_long_text_that_differs_at_its_end_only_has_different_codes() -> None:
    rows = [("x" * 100 + end,) for end in ("b", "a", "", "ab")]
    assert np.argsort(codes_of(["text"], rows)).tolist() == [2, 1, 3, 0]


def test_a_slice_of_an_array_is_read_from_its_own_start() -> None:
    table = pa.table({"k": pa.array(["zz", "b", "a", "ccc"]).slice(1)})
    assert np.argsort(key_codes([table], ["k"])[0]).tolist() == [1, 0, 2]
