"""Tables of the write path's tests, and short ways to fill and read them."""

import datetime
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from psycopg import sql
from psycopg.rows import dict_row

from etl_assets.core.contracts import Contract, Fault, Record, Split, Timestamp, column
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.ddl import metadata
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.slice import Slice, Span
from etl_assets.core.slices.transaction import names, relation
from etl_assets.core.slices.writing import Outcome, Write, write

NOON = datetime.datetime(2024, 5, 20, 12, tzinfo=datetime.UTC)
COUNTS = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined", "flagged")


class Readings(Contract):
    """Readings of a site, partitioned by the site."""

    id: str = column("Identity")
    site: str = column("Site")
    at: Timestamp = column("When")
    value: float | None = column("What", le=1000)

    class Config:
        table = "plant.readings"
        key = ("id",)
        partition_by = "site"


class Events(Contract):
    """Events without identity."""

    at: Timestamp = column("When")
    text: str | None = column("What")

    class Config:
        table = "plant.events"
        may_be_empty = True


class Daily(Contract):
    """Readings in one native partition per day."""

    id: int = column("Identity")
    at: Timestamp = column("When")
    value: float | None = column("What", le=1e9)

    class Config:
        table = "plant.daily"
        key = ("id", "at")
        partition_by = "at"
        native = "day"
        indexes = (("value",),)


def create(database: Database, *contracts: type[Contract]) -> None:
    """Make the tables of contracts."""
    database.prepare()
    engine = sa.create_engine(
        database.url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sa.pool.NullPool
    )
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS plant"))
        metadata(contracts).create_all(connection)


def readings(*rows: tuple[str, float | None], site: str = "a") -> pd.DataFrame:
    """Readings by identity and value."""
    return pd.DataFrame(
        {
            "id": [identity for identity, _ in rows],
            "site": [site] * len(rows),
            "at": pd.Series([NOON] * len(rows), dtype="datetime64[us, UTC]"),
            "value": pd.Series([value for _, value in rows], dtype="float64"),
        }
    )


def many(count: int, *, value: float = 1.0, prefix: str = "k") -> pd.DataFrame:
    """Readings with numbered identities."""
    return readings(*[(f"{prefix}{i:07d}", value) for i in range(count)])


def daily(day: int, count: int, *, value: float = 1.0) -> pd.DataFrame:
    """Readings of a day in May 2024, one per second."""
    start = pd.Timestamp(2024, 5, day, tz="UTC")
    at = pd.date_range(start, periods=count, freq="s").as_unit("us")
    return pd.DataFrame({"id": range(count), "at": at, "value": [value] * count})


def day_slice(day: int) -> Slice:
    """The native partition of a day in May 2024."""
    start = datetime.datetime(2024, 5, day, tzinfo=datetime.UTC)
    return Slice(Daily, f"2024-05-{day:02d}", {"at": Span(start, start + datetime.timedelta(days=1))})


def site_slice(site: str) -> Slice:
    """The partition of a site."""
    return Slice(Readings, site, {"site": site})


def as_table(contract: type[Contract], frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False).cast(arrow_schema(contract))


def as_reader(contract: type[Contract], frame: pd.DataFrame, *, batch: int = 2) -> pa.RecordBatchReader:
    table = as_table(contract, frame)
    return pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=batch))


def store(database: Database, data: Any, mode: str, *slices: Slice, **how: Any) -> Outcome:
    """Write to one slice, by default the whole table of readings."""
    (outcome,) = write(database, data, slices or [Slice(Readings)], Write(mode, **how))
    return outcome


def counts(outcome: Outcome) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: count for name, count in outcome.counts().items() if count}


def stored(database: Database, contract: type[Contract], columns: Sequence[str] = ()) -> list[tuple[Any, ...]]:
    """All rows of a table, sorted."""
    chosen = names(columns or contract.columns)
    with database.connect() as connection:
        query = sql.SQL("SELECT {} FROM {}").format(chosen, relation(contract))
        return sorted(connection.execute(query).fetchall(), key=repr)


def values(database: Database) -> dict[str, float | None]:
    """Readings by identity."""
    return dict(stored(database, Readings, ("id", "value")))  # type: ignore[arg-type]


def ledger(database: Database) -> list[dict[str, Any]]:
    """All ledger rows, the oldest first."""
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM etl.ledger ORDER BY committed_at").fetchall()


def quarantined(database: Database) -> list[dict[str, Any]]:
    """All rows in quarantine."""
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute("SELECT * FROM etl.quarantine ORDER BY id").fetchall()


def execute(database: Database, statement: str) -> list[tuple[Any, ...]]:
    with database.connect(autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def rejected(identity: str) -> Record:
    """A row that somebody else has rejected."""
    return Record((Fault("id", "unknown", identity),), {"id": identity})


def split_of(data: Any, *records: Record) -> Split[Any]:
    return Split(data, records)
