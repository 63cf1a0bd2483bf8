"""Rows of which the later of each key stays: what is written, what gave way, and that nothing is counted twice."""

import datetime
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql

from etl_assets.core.contracts import Contract, Timestamp, column
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.core.slices import superseding
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.superseding import SUPERSEDED_BY, KeysThere, Superseding, resolve, store_latest
from etl_assets.errors import PermanentError, TransientError
from etl_assets_tests.core.slices.tables import NOON, create, execute, stored

Row = tuple[str, int, float | None, int]


class Levels(Contract):
    """Water levels, of several for one gauge and minute the one that came last."""

    gauge: str = column("Gauge")
    at: Timestamp = column("When")
    level: float | None = column("Level", unit="m", le=1000)
    number: int = column("Place in the stream", ge=0)

    class Config:
        table = "plant.levels"
        key = ("gauge", "at")


def table(rows: Sequence[Row]) -> pa.Table:
    """Rows by gauge, minute, level and number."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    at = [NOON + datetime.timedelta(minutes=minute) for minute in columns[1]]
    return pa.table([list(columns[0]), at, list(columns[2]), list(columns[3])], schema=arrow_schema(Levels))


def plain(found: pa.Table) -> list[Any]:
    """Rows as they are given here; of what gave way also the number of the later row."""
    minutes = [(at - NOON) // datetime.timedelta(minutes=1) for at in found["at"].to_pylist()]
    others = [name for name in ("level", "number", SUPERSEDED_BY) if name in found.column_names]
    return list(zip(found["gauge"].to_pylist(), minutes, *(found[name].to_pylist() for name in others), strict=True))


def put(database: Database, *rows: Row, look_first: bool = False) -> Superseding:
    with Session(database) as session, session.transaction() as transaction:
        done = store_latest(transaction, Slice(Levels), table(rows), sequence="number", look_first=look_first)
        session._opening.result().commit()  # type: ignore[union-attr]
    return done


def levels(database: Database) -> list[Any]:
    rows = stored(database, Levels)
    return sorted((gauge, (at - NOON) // datetime.timedelta(minutes=1), level, n) for gauge, at, level, n in rows)


def counts(done: Superseding) -> dict[str, int]:
    return {name: count for name, count in vars(done.change).items() if count}


@pytest.fixture(scope="module")
def platform(postgres_server: EmbeddedPostgres) -> Database:
    """One database for all tests of the module: emptying it takes less than making another."""
    database = Database(postgres_server.create_database("superseding"))
    create(database, Levels)
    return database


@pytest.fixture
def plant(platform: Database) -> Database:
    execute(platform, "TRUNCATE plant.levels")
    return platform


@pytest.mark.parametrize("look_first", [False, True])
def test_new_rows_are_inserted(plant: Database, look_first: bool) -> None:
    done = put(plant, ("b", 1, 2.0, 1), ("a", 2, None, 2), ("a", 1, 1.0, 3), look_first=look_first)
    assert counts(done) == {"inserted": 3}
    assert levels(plant) == [("a", 1, 1.0, 3), ("a", 2, None, 2), ("b", 1, 2.0, 1)]
    assert not done.met


@pytest.mark.parametrize("look_first", [False, True])
def test_of_equal_keys_the_later_row_stays_and_the_earlier_is_given_back(plant: Database, look_first: bool) -> None:
    done = put(plant, ("a", 1, 1.0, 1), ("b", 1, 5.0, 2), ("a", 1, 2.0, 3), ("a", 1, 3.0, 4), look_first=look_first)
    assert counts(done) == {"inserted": 2}
    assert levels(plant) == [("a", 1, 3.0, 4), ("b", 1, 5.0, 2)]
    assert plain(done.gave_way) == [("a", 1, 1.0, 1, 3), ("a", 1, 2.0, 3, 4)]
    assert done.taken_out.num_rows == 0


def test_a_row_of_the_table_gives_way_to_a_later_one(plant: Database) -> None:
    put(plant, ("a", 1, 1.0, 1), ("b", 1, 1.0, 2))
    done = put(plant, ("c", 1, 1.0, 3), ("a", 1, 2.0, 4), look_first=True)
    assert counts(done) == {"inserted": 1, "updated": 1}
    assert plain(done.taken_out) == [("a", 1, 1.0, 1, 4)]
    assert done.gave_way.num_rows == 0 and done.met
    assert levels(plant) == [("a", 1, 2.0, 4), ("b", 1, 1.0, 2), ("c", 1, 1.0, 3)]


def test_the_same_values_again_change_nothing(plant: Database) -> None:
    put(plant, ("a", 1, 1.0, 1), ("b", 1, None, 2))
    done = put(plant, ("a", 1, 1.0, 3), ("b", 1, None, 4), ("c", 1, 1.0, 5), ("c", 1, 1.0, 6), look_first=True)
    assert counts(done) == {"inserted": 1, "unchanged": 2, "deduplicated": 1}
    assert levels(plant) == [("a", 1, 1.0, 1), ("b", 1, None, 2), ("c", 1, 1.0, 5)]
    assert done.gave_way.num_rows == done.taken_out.num_rows == 0


def test_a_value_that_comes_back_is_a_later_row_of_its_own(plant: Database) -> None:
    put(plant, ("a", 1, 1.0, 1))
    done = put(plant, ("a", 1, 2.0, 2), ("a", 1, 1.0, 3), look_first=True)
    assert counts(done) == {"updated": 1}
    assert plain(done.taken_out) == [("a", 1, 1.0, 1, 2)]
    assert plain(done.gave_way) == [("a", 1, 2.0, 2, 3)]
    assert levels(plant) == [("a", 1, 1.0, 3)]


def test_a_row_that_comes_after_a_later_one_gives_way_to_it(plant: Database) -> None:
    put(plant, ("a", 1, 9.0, 9))
    done = put(plant, ("a", 1, 1.0, 1), ("a", 1, 9.0, 2), ("a", 1, 5.0, 12), look_first=True)
    assert counts(done) == {"updated": 1, "unchanged": 1}
    assert plain(done.gave_way) == [("a", 1, 1.0, 1, 9)]
    assert plain(done.taken_out) == [("a", 1, 9.0, 9, 12)]
    assert levels(plant) == [("a", 1, 5.0, 12)]


def test_a_direct_load_that_meets_a_key_says_so_and_leaves_nothing(plant: Database) -> None:
    put(plant, ("b", 1, 1.0, 1))
    with pytest.raises(KeysThere):
        put(plant, ("a", 1, 1.0, 2), ("b", 1, 2.0, 3))
    assert levels(plant) == [("b", 1, 1.0, 1)]


def test_what_the_table_refuses_for_another_reason_is_not_taken_for_a_key(plant: Database) -> None:
    with pytest.raises(PermanentError, match="23514"):
        put(plant, ("a", 1, 1001.0, 1))


def test_a_writer_without_the_lock_is_a_failure_that_may_be_tried_again(
    plant: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(plant, ("a", 1, 1.0, 1))
    original = superseding._existing

    def meanwhile(statement: str) -> None:
        def existing(*args: Any) -> pa.Table:
            found = original(*args)
            execute(plant, statement)
            return found

        monkeypatch.setattr(superseding, "_existing", existing)

    meanwhile("DELETE FROM plant.levels")
    with pytest.raises(TransientError, match="took 1 of its rows away without the lock"):
        put(plant, ("a", 1, 2.0, 2), look_first=True)
    meanwhile(f"INSERT INTO plant.levels VALUES ('a', '{NOON.isoformat()}', 1, 1)")
    with pytest.raises(TransientError, match="added rows with the same keys without the lock"):
        put(plant, ("a", 0, 2.0, 2), look_first=True)


def test_rows_are_found_by_their_key_however_many_the_table_has(plant: Database) -> None:
    execute(
        plant,
        f"INSERT INTO plant.levels SELECT 'g', timestamptz '{NOON.isoformat()}' + make_interval(mins => n), 1, n"
        " FROM generate_series(1, 20000) AS n",
    )
    execute(plant, "ANALYZE plant.levels")
    with Session(plant) as session, session.transaction() as transaction:
        rows = table([("g", minute, 2.0, 20_000 + minute) for minute in range(1, 5001)])
        done = store_latest(transaction, Slice(Levels), rows, sequence="number", look_first=True)
        scans = transaction.value(sql.SQL("SELECT pg_stat_get_xact_numscans('plant.levels'::regclass)"))
    assert counts(done) == {"updated": 5000}
    assert scans == 0


def test_nothing_given_is_nothing_done(plant: Database) -> None:
    for look_first in (False, True):
        assert counts(put(plant, look_first=look_first)) == {}


keys = st.sampled_from([("a", 1), ("a", 2), ("b", 1), ("ü", 3)])
values = st.sampled_from([None, 0.0, 1.0, 2.0])
arrivals = st.lists(st.tuples(keys, values), max_size=25)


@settings(max_examples=40)
@given(arrivals, st.integers(0, 25))
def test_every_row_is_in_one_count_and_the_division_into_writes_does_not_matter(
    found: list[tuple[tuple[str, int], float | None]], cut: int
) -> None:
    rows: list[Row] = [(*key, value, at) for at, (key, value) in enumerate(found)]
    winners: dict[Any, Row] = {}
    lost: list[Any] = []
    for row in rows:
        before = winners.get(row[:2])
        if before is None or before[2] != row[2]:
            lost += [(*before, row[3])] if before else []
            winners[row[:2]] = row
    there: dict[Any, Row] = {}
    gave_way: list[Any] = []
    for part in (rows[:cut], rows[cut:]):
        done = resolve(Levels, table(sorted(there.values())), table(part), sequence="number")
        there |= {row[:2]: row for row in [*plain(done.new), *plain(done.changed)]}
        gave_way += [*plain(done.gave_way), *plain(done.taken_out)]
        assert plain(done.new) == sorted(plain(done.new))
        assert done.taken_out.num_rows == done.changed.num_rows
        assert len(part) == sum(
            [done.new.num_rows, done.changed.num_rows, done.unchanged, done.deduplicated, done.gave_way.num_rows]
        )
    assert there == winners
    assert sorted(gave_way, key=repr) == sorted(lost, key=repr)
