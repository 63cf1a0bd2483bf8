"""The contract as a Postgres table."""

from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateSchema

from etl_assets.core.contracts import Contract, Date, Timestamp, column
from etl_assets.core.contracts.ddl import metadata
from etl_assets_tests.core.contracts.rows import broken_constraints, good_row


class Odd(Contract):
    """Names and values that SQL has other plans for: 50%, 'quoted', :bound, back\\slash."""

    user: str = column("It's 100% :of [it]", unit="%", isin=("50%", " :y", "a:b", "it's", "back\\slash", "%s"))
    order: int = column("Order", ge=-1, lt=10)
    end: float | None = column("End", gt=0, le=1e6)
    at: Timestamp = column("Instant", ge=datetime(2020, 1, 1, tzinfo=UTC), lt=datetime(2030, 1, 1, tzinfo=UTC))
    day: Date | None = column("Day", gt=date(2020, 1, 1), le=date(2024, 12, 31))
    ok: bool | None = column("Truth", isin=(True,))
    text: str = column("Text", min_length=2, max_length=3, ge="bb", lt="yy")

    class Config:
        table = "odd.select"
        key = ("order", "at")
        indexes = (("user", "end"),)


class Daily(Contract):
    """A table that Postgres divides by day."""

    order: int = column("Order")
    at: Timestamp = column("Instant")

    class Config:
        table = "odd.daily"
        key = ("order", "at")
        partition_by = "at"
        native = "day"


class Elsewhere(Contract):
    """Lives in files."""

    order: int = column("Order")

    class Config:
        table = "odd.elsewhere"
        store = "parquet"


@pytest.fixture
def connection(empty_database_url: str) -> Any:
    """A connection to a database with the tables of these contracts."""
    engine = sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(empty_database_url), poolclass=sa.NullPool
    )
    with engine.begin() as creator:
        creator.execute(CreateSchema("odd"))
        metadata([Odd, Daily, Elsewhere]).create_all(creator)
    with psycopg.connect(empty_database_url) as connection:
        yield connection


def insert(connection: Any, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    with connection.transaction():
        connection.execute(
            f'INSERT INTO odd."select" ({names}) VALUES ({", ".join(["%s"] * len(row))})', list(row.values())
        )


def test_valid_rows_are_accepted_and_read_back(connection: Any) -> None:
    rows = [{**good_row(Odd), "user": user, "order": at} for at, user in enumerate(Odd.columns["user"].isin or ())]

    for row in rows:
        insert(connection, row)

    there = connection.execute('SELECT "user" FROM odd."select" ORDER BY "order"').fetchall()
    assert [user for (user,) in there] == list(Odd.columns["user"].isin or ())
    assert connection.execute('SELECT * FROM odd."select" WHERE "order" = 0').fetchone() == tuple(rows[0].values())


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "value"),
    [(c.name, value) for c in Odd.columns.values() for _, value in broken_constraints(c)] + [("end", float("nan"))],
)
def test_rows_that_break_a_rule_are_refused(connection: Any, name: str, value: Any) -> None:
    with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)):
        insert(connection, {**good_row(Odd), name: value})


def test_missing_values_are_accepted_where_the_contract_allows_them(connection: Any) -> None:
    insert(connection, {**good_row(Odd), "end": None, "day": None, "ok": None})

    assert connection.execute('SELECT "end", day, ok FROM odd."select"').fetchall() == [(None, None, None)]


def test_the_key_is_unique(connection: Any) -> None:
    insert(connection, good_row(Odd))

    with pytest.raises(psycopg.errors.UniqueViolation):
        insert(connection, {**good_row(Odd), "text": "cc"})


def test_meaning_and_units_are_the_comments(connection: Any) -> None:
    comments = connection.execute(
        "SELECT obj_description('odd.\"select\"'::regclass), col_description('odd.\"select\"'::regclass, 1)"
    ).fetchone()

    assert comments == (Odd.__doc__, "It's 100% :of [it] [%]")


def test_text_sorts_by_bytes_and_indexes_are_as_stated(connection: Any) -> None:
    collations = connection.execute(
        "SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_schema = 'odd' AND data_type = 'text'"
    ).fetchall()
    indexes = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'select_user_end_idx'").fetchall()

    assert collations == [("C",)]
    assert indexes == [('CREATE INDEX select_user_end_idx ON odd."select" USING btree ("user", "end")',)]


def test_a_native_partition_is_by_range_of_its_column_and_files_have_no_table(connection: Any) -> None:
    partitioned = connection.execute("SELECT pg_get_partkeydef('odd.daily'::regclass)").fetchone()
    tables = connection.execute(
        "SELECT relname::text FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'odd'::regnamespace ORDER BY 1"
    )

    assert partitioned == ("RANGE (at)",)
    assert tables.fetchall() == [("daily",), ("select",)]
