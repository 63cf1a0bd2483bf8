"""Tables that are partitioned in Postgres itself."""

import datetime

import pandas as pd
import pytest
from psycopg import sql

from etl_assets.core.contracts import Contract, Date, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import native_partitions as native
from etl_assets.core.slices.slice import Slice, Span
from etl_assets.core.slices.transaction import Transaction, refuse_drift
from etl_assets.core.slices.writing import Write, write
from etl_assets.errors import ContractError, PermanentError
from etl_assets_tests.core.slices.tables import (
    Daily,
    counts,
    create,
    daily,
    day_slice,
    execute,
    ledger,
    store,
    stored,
)


class Monthly(Contract):
    """Readings in one native partition per month of a date."""

    day: Date = column("Day")
    value: int = column("What", ge=0)

    class Config:
        table = "plant.monthly"
        key = ("day",)
        partition_by = "day"
        native = "month"


def leaves(database: Database, table: str = "plant.daily") -> dict[str, int]:
    """Rows by native partition."""
    parts = execute(
        database,
        f"SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '{table}'::regclass ORDER BY 1",
    )
    return {name: execute(database, f"SELECT count(*) FROM {name}")[0][0] for (name,) in parts}


def oid(database: Database, leaf: str) -> int:
    return int(execute(database, f"SELECT '{leaf}'::regclass::oid::bigint")[0][0])


@pytest.mark.parametrize("mode", ["append", "upsert", "replace"])
def test_partitions_are_made_for_the_rows_that_need_them(database: Database, mode: str) -> None:
    create(database, Daily)
    frame = pd.concat([daily(21, 2), daily(20, 3)])
    assert counts(store(database, frame, mode, Slice(Daily))) == {"received": 5, "inserted": 5}
    assert leaves(database) == {"plant.daily_p20240520": 3, "plant.daily_p20240521": 2}
    if mode != "append":
        assert counts(store(database, frame, mode, Slice(Daily))) == {"received": 5, "unchanged": 5}


def test_a_new_partition_is_built_aside_with_key_index_and_checks_of_the_table(database: Database) -> None:
    create(database, Daily)
    assert counts(store(database, daily(20, 500), "partition", day_slice(20))) == {"received": 500, "inserted": 500}
    store(database, daily(21, 1), "append", Slice(Daily))
    definitions = [
        {definition.replace(leaf, "leaf") for (definition,) in execute(database, query.format(leaf=leaf))}
        for leaf in ("daily_p20240520", "daily_p20240521")
        for query in (
            "SELECT indexdef FROM pg_indexes WHERE tablename = '{leaf}'"
            " UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE conrelid = 'plant.{leaf}'::regclass AND contype <> 'n'",
        )
    ]
    assert definitions[0] == definitions[1]
    assert len(definitions[0]) == 5


def test_a_partition_of_which_most_changes_is_swapped_for_one_with_the_same_names(database: Database) -> None:
    create(database, Daily)
    store(database, daily(20, 500), "partition", day_slice(20))
    before = oid(database, "plant.daily_p20240520")
    names = execute(database, "SELECT indexname FROM pg_indexes WHERE tablename = 'daily_p20240520' ORDER BY 1")
    outcome = store(database, daily(20, 400, value=2).sample(frac=1, random_state=3), "partition", day_slice(20))
    assert counts(outcome) == {"received": 400, "inserted": 400, "deleted": 500}
    assert oid(database, "plant.daily_p20240520") != before
    assert execute(database, "SELECT count(*), sum(value) FROM plant.daily") == [(400, 800.0)]
    assert names == execute(database, "SELECT indexname FROM pg_indexes WHERE tablename = 'daily_p20240520' ORDER BY 1")
    assert leaves(database) == {"plant.daily_p20240520": 400}
    assert [entry["deleted"] for entry in ledger(database)] == [0, 500]


def test_a_partition_of_which_little_changes_is_kept_and_only_the_difference_written(database: Database) -> None:
    create(database, Daily)
    store(database, daily(20, 500), "partition", day_slice(20))
    before = oid(database, "plant.daily_p20240520")
    touched = execute(database, "SELECT id, xmin::text FROM plant.daily WHERE id BETWEEN 5 AND 498 ORDER BY id")
    frame = daily(20, 499)
    frame.loc[:4, "value"] = 9.0
    assert counts(store(database, frame, "partition", day_slice(20))) == {
        "received": 499,
        "updated": 5,
        "deleted": 1,
        "unchanged": 494,
    }
    assert oid(database, "plant.daily_p20240520") == before
    assert touched == execute(database, "SELECT id, xmin::text FROM plant.daily WHERE id BETWEEN 5 AND 498 ORDER BY id")


def test_several_days_in_one_call_are_several_partitions(database: Database) -> None:
    create(database, Daily)
    frame = pd.concat([daily(day, 300) for day in (1, 2, 3)])
    for value in (1, 2):
        outcomes = write(database, frame.assign(value=value), [day_slice(day) for day in (3, 1, 2)], Write("partition"))
        assert [outcome.loaded for outcome in outcomes] == [300] * 3
    assert list(leaves(database).values()) == [300] * 3
    assert execute(database, "SELECT sum(value) FROM plant.daily") == [(1800.0,)]


def test_an_empty_partition_empties_what_is_there_and_makes_nothing_that_is_not(database: Database) -> None:
    create(database, Daily)
    assert counts(store(database, daily(19, 0), "partition", day_slice(19))) == {}
    assert leaves(database) == {}
    store(database, daily(20, 300), "partition", day_slice(20))
    assert counts(store(database, daily(20, 0), "partition", day_slice(20))) == {"deleted": 300}
    assert stored(database, Daily) == []


@pytest.mark.parametrize("span", [12, 48])
def test_a_slice_that_is_not_one_native_partition_is_written_through_the_table(database: Database, span: int) -> None:
    create(database, Daily)
    start = datetime.datetime(2024, 5, 20, tzinfo=datetime.UTC)
    slice_ = Slice(Daily, f"{span} h", {"at": Span(start, start + datetime.timedelta(hours=span))})
    assert native.leaf_of(slice_) is None
    store(database, daily(20, 400), "append", Slice(Daily))
    outcome = store(database, daily(20, 300, value=2), "partition", slice_)
    assert counts(outcome) == {"received": 300, "inserted": 300, "deleted": 400}


def test_bad_rows_of_a_swapped_partition_are_in_quarantine(database: Database) -> None:
    create(database, Daily)
    frame = daily(20, 300)
    frame.loc[7, "value"] = 1e10
    assert counts(store(database, frame, "partition", day_slice(20))) == {
        "received": 300,
        "inserted": 299,
        "quarantined": 1,
    }


def test_a_detached_partition_is_not_taken_for_one_of_the_table(database: Database) -> None:
    create(database, Daily)
    store(database, daily(20, 300), "partition", day_slice(20))
    execute(database, "ALTER TABLE plant.daily DETACH PARTITION plant.daily_p20240520")
    with pytest.raises(PermanentError, match="already exists"):
        store(database, daily(20, 300), "partition", day_slice(20))
    assert execute(database, "SELECT count(*) FROM plant.daily_p20240520") == [(300,)]


@pytest.mark.parametrize("there", [True, False])
def test_drift_of_a_natively_partitioned_table_is_found(database: Database, there: bool) -> None:
    create(database, Daily)
    if there:
        store(database, daily(20, 300), "partition", day_slice(20))
    execute(database, "ALTER TABLE plant.daily ALTER COLUMN value TYPE bigint")
    with pytest.raises(ContractError, match="column value is bigint in the table"):
        store(database, daily(20, 300, value=2), "partition", day_slice(20))


def test_a_writer_of_the_table_does_not_lock_the_partitions_that_others_may_swap(database: Database) -> None:
    create(database, Daily)
    store(database, daily(20, 300), "partition", day_slice(20))
    with database.adbc() as connection:
        transaction = Transaction(connection)
        refuse_drift(transaction, Daily)
        mine = transaction.value(sql.SQL("SELECT pg_backend_pid()"))
        # The server's own workers lock what they please, in whatever database.
        locked = execute(
            database,
            "SELECT relation::regclass::text FROM pg_locks"
            f" WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND pid = {mine}",
        )
    assert locked == [("plant.daily",)]


def test_months_of_dates_are_partitions_too_over_the_turn_of_the_year(database: Database) -> None:
    create(database, Monthly)
    days = [datetime.date(2023, 12, 31), datetime.date(2024, 1, 1), datetime.date(2024, 2, 29)]
    store(database, pd.DataFrame({"day": days, "value": [1, 2, 3]}), "append", Slice(Monthly))
    assert leaves(database, "plant.monthly") == {
        "plant.monthly_p202312": 1,
        "plant.monthly_p202401": 1,
        "plant.monthly_p202402": 1,
    }
    slice_ = Slice(Monthly, "2024-02", {"day": Span(datetime.date(2024, 2, 1), datetime.date(2024, 3, 1))})
    assert native.leaf_of(slice_) == "monthly_p202402"
    frame = pd.DataFrame({"day": [datetime.date(2024, 2, 1)], "value": [5]})
    assert counts(store(database, frame, "partition", slice_)) == {"received": 1, "inserted": 1, "deleted": 1}
