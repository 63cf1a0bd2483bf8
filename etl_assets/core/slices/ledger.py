"""The two tables that every database of ours has: what was written (ledger), what was not (quarantine)."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts import Contract, Record, Timestamp, column
from etl_assets.core.contracts.split import as_json
from etl_assets.core.slices.difference import in_key_order
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names


class Ledger(Contract):
    """Writes that were committed, one row per slice and transaction; stored in that same transaction."""

    commit_id: str = column("Identity of the commit, made by the writer", max_length=64)
    asset: str = column("Table that was written, schema.table")
    partition: str = column("Partition that was written; empty for a whole table")
    run_id: str = column("Run that wrote, or `script`")
    mode: str = column(
        "How it wrote", isin=("replace", "partition", "upsert", "append", "snapshot", "delivery", "replay")
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
    committed_at: Timestamp = column("Instant of the write, by the database's clock")

    class Config:
        table = "etl.ledger"
        key = ("commit_id",)
        indexes = (("asset", "partition", "committed_at"),)


class Quarantine(Contract):
    """Rows that are not in their table, or are there with a remark: the raw row, all its faults, and where it came from."""

    id: str = column("Identity: the same record of the same slice has the same one in every run", max_length=64)
    asset: str = column("Table that the row was meant for, schema.table")
    partition: str = column("Partition that was written; empty for a whole table")
    outcome: str = column("What became of the row", isin=("rejected", "flagged", "superseded"))
    status: str = column(
        "open: somebody has to look; replayed: its row was stored after a correction; gone: its source was read again, whole, without it",
        isin=("open", "replayed", "gone"),
    )
    faults: str = column("All faults as JSON: column, rule, raw value")
    raw: str = column("The row as it was received, as JSON")
    source: str = column("Where it came from")
    run_id: str = column("Run that met it last")
    seen: int = column("How often it was met", unit="rows", ge=1)
    first_seen: Timestamp = column("When it was met first")
    last_seen: Timestamp = column("When it was met last")

    class Config:
        table = "etl.quarantine"
        key = ("id",)
        indexes = (("asset", "status"),)


def insert_ledger(transaction: Transaction, slice_: Slice, entry: Mapping[str, Any]) -> None:
    """Record one write; who has to find out later whether it was committed can wait for its end on the same lock."""
    transaction.row(sql.SQL("SELECT {}").format(commit_lock(entry["commit_id"])))
    transaction.run(ledger_statement(slice_, entry))


def commit_lock(commit_id: str) -> sql.Composed:
    """The advisory lock that is held from the ledger row until that is committed or gone."""
    return sql.SQL("pg_advisory_xact_lock(hashtextextended({}, 3))").format(sql.Literal(commit_id))


def ledger_statement(slice_: Slice, entry: Mapping[str, Any]) -> sql.Composed:
    """The INSERT of one write, for whichever connection has the transaction; the database's clock gives the instant."""
    row = {"asset": slice_.contract.config.table, "partition": slice_.name, **entry}
    return sql.SQL("INSERT INTO etl.ledger ({}, committed_at) VALUES ({}, clock_timestamp())").format(
        names(row), sql.SQL(", ").join([sql.Literal(value) for value in row.values()])
    )


def store_records(transaction: Transaction, slice_: Slice, records: Sequence[Record], *, run_id: str) -> None:
    """Put records into quarantine; one that is there already is counted, not repeated, and open again if it was gone."""
    if not records:
        return
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        entry: dict[str, Any] = {
            **entry_of(slice_, record),
            "source": record.source.replace("\x00", "\\0"),
            "run_id": run_id,
            "seen": 0,
        }
        rows.setdefault(entry["id"], entry)["seen"] += 1
    stage = transaction.stage(in_key_order(pa.Table.from_pylist(list(rows.values())), ("id",)))
    columns = list(next(iter(rows.values())))
    transaction.run(
        sql.SQL(
            "INSERT INTO etl.quarantine AS q ({c}, status, first_seen, last_seen)"
            " SELECT {c}, 'open', clock_timestamp(), clock_timestamp() FROM {s} ORDER BY id"
            " ON CONFLICT (id) DO UPDATE SET seen = q.seen + excluded.seen, last_seen = excluded.last_seen,"
            " run_id = excluded.run_id, source = excluded.source, status = CASE q.status WHEN 'gone' THEN 'open' ELSE q.status END"
        ).format(c=names(columns), s=stage)
    )


def close_entries(transaction: Transaction, slice_: Slice) -> None:
    """Close the open entries of a slice that this transaction has not met, where it replaces all that the source had of the slice."""
    transaction.run(
        sql.SQL("UPDATE etl.quarantine SET status = 'gone' WHERE status = 'open' AND last_seen < {} AND {}").format(
            sql.Literal(transaction.locked_at), _entries_of(slice_)
        )
    )


def reopen_entries(transaction: Transaction, slice_: Slice) -> None:
    """Open the replayed entries of a slice that this transaction has met, where it takes away the rows that were stored by the replay."""
    transaction.run(
        sql.SQL(
            "UPDATE etl.quarantine SET status = 'open' WHERE status = 'replayed' AND last_seen >= {} AND {}"
        ).format(sql.Literal(transaction.locked_at), _entries_of(slice_))
    )


def _entries_of(slice_: Slice) -> sql.Composed:
    return sql.SQL("asset = {} AND partition = {}").format(
        sql.Literal(slice_.contract.config.table), sql.Literal(slice_.name)
    )


def entry_of(slice_: Slice, record: Record) -> dict[str, str]:
    """A record of a slice as it is stored: its identity says what it is and why, not when or where it was met."""
    faults, raw = (json.dumps(part, sort_keys=True) for part in as_json(record))
    entry = {
        "asset": slice_.contract.config.table,
        "partition": slice_.name,
        "outcome": record.outcome,
        "faults": faults,
        "raw": raw,
    }
    return {"id": hashlib.sha256("\n".join(entry.values()).encode()).hexdigest()[:16], **entry}
