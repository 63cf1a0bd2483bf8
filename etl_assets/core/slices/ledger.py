"""The ledger: what was written when, by whom and from what, one row per commit and slice."""

from collections.abc import Mapping
from typing import Any

from psycopg import sql

from etl_assets.core.contracts import Contract, Timestamp, column
from etl_assets.core.slices.heads import key_of
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names

MODES = ("replace", "partition", "upsert", "append", "snapshot", "delivery", "replay", "accept", "forget")


class Ledger(Contract):
    """Writes that were committed, one row per slice and transaction; stored in that same transaction."""

    commit_id: str = column("Identity of the commit, made by the writer", max_length=64)
    asset: str = column("Table that was written, schema.table")
    partition: str = column("Partition that was written; empty for a whole table")
    run_id: str = column("Run that wrote, or `script`")
    mode: str = column(
        "How it wrote, or what else was done to the slice: accept and forget are of its entries in quarantine",
        isin=MODES,
    )
    received: int = column("Rows that arrived", unit="rows", ge=0)
    inserted: int = column("Rows that are new in the table", unit="rows", ge=0)
    updated: int = column("Rows whose values changed", unit="rows", ge=0)
    deleted: int = column("Rows that were there and no longer are", unit="rows", ge=0)
    unchanged: int = column("Rows that arrived and were there already, untouched", unit="rows", ge=0)
    deduplicated: int = column("Rows that gave way to a later one of the same key", unit="rows", ge=0)
    quarantined: int = column("Rows that broke the contract", unit="rows", ge=0)
    flagged: int = column("Rows that were loaded with a remark in quarantine", unit="rows", ge=0)
    size: int = column("Size of the valid rows in Arrow", unit="bytes", ge=0)
    content_hash: str | None = column("SHA-256 of the valid rows as they were given; none for a stream of batches")
    source_position: str | None = column("Where the source stood after these rows, as JSON")
    seconds: float = column("Duration of the write", unit="s", ge=0)
    generation: int = column("Order of the commits of a slice, by its head; 0 before there were heads", ge=0)
    batch: str | None = column("Identity of what was appended: root run, step and part; a batch is appended once")
    inputs: str | None = column("What the rows were derived from, as JSON: the commit by table and partition")
    file: str | None = column("Name of the file that was written, as long as it is kept")
    remark: str | None = column("Why, where a person did it")
    committed_at: Timestamp = column("Instant of the write, by the database's clock")

    class Config:
        table = "etl.ledger"
        key = ("commit_id",)
        indexes = (("asset", "partition", "generation", "committed_at"), ("asset", "partition", "file"), ("batch",))


def commit_lock(commit_id: str) -> sql.Composed:
    """The advisory lock that is held from the ledger row until that is committed or gone: who has to find out waits for it."""
    return sql.SQL("pg_advisory_xact_lock(hashtextextended({}, 3))").format(sql.Literal(commit_id))


def record(transaction: Transaction, slice_: Slice, entry: Mapping[str, Any], head: Mapping[str, Any]) -> None:
    """Record one write in the ledger and on the head of its slice; the database's clock gives the instant.

    Args:
        entry: columns of `Ledger`.
        head: columns of `Heads` that change.
    """
    table, partition = key_of(slice_)
    row = {"asset": table, "partition": partition, **entry}
    statement = sql.SQL(
        "WITH recorded AS (INSERT INTO etl.ledger ({columns}, generation, committed_at)"
        " SELECT {values}, h.generation, clock_timestamp() FROM {lock} AS l, etl.heads AS h"
        " WHERE h.asset = {table} AND h.partition = {partition} RETURNING committed_at){others}"
        " UPDATE etl.heads AS h SET {head} FROM recorded WHERE h.asset = {table} AND h.partition = {partition}"
    ).format(
        columns=names(row),
        values=sql.SQL(", ").join(map(sql.Literal, row.values())),
        lock=commit_lock(entry["commit_id"]),
        table=sql.Literal(table),
        partition=sql.Literal(partition),
        others=_others(slice_) if "commit_id" in head else sql.SQL(""),
        head=sql.SQL(", ").join(
            [
                *(sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in head.items()),
                sql.SQL("changed_at = {}").format(
                    sql.SQL("recorded.committed_at" if "commit_id" in head else "h.changed_at")
                ),
            ]
        ),
    )
    if transaction.changed(statement) != 1:
        raise AssertionError(f"{slice_} has no head: a fault of the write path itself")


def record_moved(transaction: Transaction, slice_: Slice, commit_id: str) -> None:
    """Record on the head of the whole table that a commit of a partition took rows of others, which nobody can name by their rows: what
    is derived from any of them is behind.
    """
    table, partition = key_of(slice_)
    transaction.run(
        sql.SQL(
            "WITH others AS (UPDATE etl.heads SET content_hash = NULL WHERE asset = {table} AND partition NOT IN ('', {partition}))"
            " INSERT INTO etl.heads AS h (asset, partition, generation, commit_id, changed_at)"
            " VALUES ({table}, '', 0, {commit}, clock_timestamp()) ON CONFLICT (asset, partition) DO UPDATE"
            " SET commit_id = excluded.commit_id, changed_at = excluded.changed_at, content_hash = NULL"
        ).format(table=sql.Literal(table), partition=sql.Literal(partition), commit=sql.Literal(commit_id))
    )


def _others(slice_: Slice) -> sql.Composable:
    """Forget what a partition was given once the whole table is written, and the other way round: it holds other rows now."""
    if slice_.contract.config.store != "postgres":
        return sql.SQL("")
    return sql.SQL(
        ", others AS (UPDATE etl.heads SET content_hash = NULL WHERE asset = {table} AND content_hash IS NOT NULL AND {these})"
    ).format(
        table=sql.Literal(slice_.contract.config.table),
        these=sql.SQL("partition = ''" if slice_.name else "partition <> ''"),
    )
