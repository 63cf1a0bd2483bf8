"""Rows that are not in their table, or are there with a remark: kept with the reason until somebody has looked.

Stored by the one commit in the transaction that stores the rest of the slice (`commit.py`); how they are looked at, replayed and closed is in `entries.py`.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
from psycopg import sql

from etl_assets.core.contracts import Contract, Record, Timestamp, column
from etl_assets.core.contracts.cast import cast_column
from etl_assets.core.contracts.split import as_json
from etl_assets.core.slices.difference import in_key_order
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, names


class Quarantine(Contract):
    """Rows that are not in their table, or are there with a remark: the raw row, all its faults, and where it came from."""

    id: str = column("Identity: the same record of the same slice has the same one in every run", max_length=64)
    asset: str = column("Table that the row was meant for, schema.table")
    partition: str = column("Partition that was written; empty for a whole table")
    outcome: str = column("What became of the row", isin=("rejected", "flagged", "superseded"))
    status: str = column(
        "open: somebody has to look; replayed: its row was stored after a correction; superseded: a later record of its key counts;"
        " accepted: nobody will mend it; gone: its source was read again, whole, without it, or was given up",
        isin=("open", "replayed", "superseded", "accepted", "gone"),
    )
    faults: str = column("All faults as JSON: column, rule, raw value")
    raw: str = column("The row as it was received, as JSON")
    source: str = column("Where it came from")
    run_id: str = column("Run that met it last")
    seen: int = column("How often it was met", unit="rows", ge=1)
    first_seen: Timestamp = column("When it was met first")
    last_seen: Timestamp = column("When it was met last")
    commit_id: str | None = column("Commit that met it last; NULL before that was kept")
    remark: str | None = column("Why it was accepted, and by whom")

    class Config:
        table = "etl.quarantine"
        key = ("id",)
        indexes = (("asset", "status"),)


def store_records(
    transaction: Transaction, slice_: Slice, records: Sequence[Record], *, run_id: str, commit_id: str
) -> None:
    """Put records into quarantine; one that is there already is counted, not repeated, and open again if it was gone or superseded."""
    if not records:
        return
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        entry: dict[str, Any] = {
            **entry_of(slice_, record),
            "source": record.source.replace("\x00", "\\0"),
            "run_id": run_id,
            "commit_id": commit_id,
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
            " run_id = excluded.run_id, source = excluded.source, commit_id = excluded.commit_id,"
            " status = CASE WHEN q.status IN ('gone', 'superseded') THEN 'open' ELSE q.status END"
        ).format(c=names(columns), s=stage)
    )


def settle_entries(
    transaction: Transaction, slice_: Slice, *, commit_id: str, corrected: Collection[str], partial: bool
) -> None:
    """Bring the entries of a slice up to a commit that has replaced all of it.

    What it has not met is gone from the source, with its correction. What it has met although its row was stored by a replay is open again: that
    row has just been taken away.

    Args:
        corrected: entries that it has met and stored as they were corrected.
        partial: it was not told all that the source has of the slice, so that what it has not met tells nothing.
    """
    gone = sql.SQL("FALSE" if partial else "status = 'open' AND commit_id IS DISTINCT FROM {}").format(
        sql.Literal(commit_id)
    )
    again = sql.SQL("status = 'replayed' AND commit_id = {}").format(sql.Literal(commit_id))
    transaction.run(
        sql.SQL(
            "WITH closed AS (UPDATE etl.corrections SET closed_at = clock_timestamp()"
            " WHERE closed_at IS NULL AND {unmet} AND {slice} AND NOT id = ANY({corrected}::text[]))"
            " UPDATE etl.quarantine SET status = CASE status WHEN 'open' THEN 'gone' ELSE 'open' END"
            " WHERE {slice} AND (({gone}) OR ({again}))"
        ).format(
            unmet=sql.SQL("FALSE" if partial else "TRUE"),
            slice=entries_of(slice_),
            corrected=sql.Literal(sorted(corrected)),
            gone=gone,
            again=again,
        )
    )


def supersede_entries(
    transaction: Transaction, contract: type[Contract], given: Callable[[pa.Table], pa.Table]
) -> None:
    """Close the entries of a table of which later records have been merged: one that says what is there already leaves no trace in the table.

    Args:
        given: which of some keys the records have.
    """
    query = sql.SQL(
        "SELECT id, raw FROM etl.quarantine WHERE asset = {} AND outcome = 'rejected' AND status IN ('open', 'accepted')"
    ).format(sql.Literal(contract.config.table))
    waiting = transaction.rows(query).to_pylist()
    if not waiting:
        return
    raws = [json.loads(entry["raw"]) for entry in waiting]
    key = list(contract.config.key)
    cells = {name: pd.Series([raw.get(name) for raw in raws], dtype=object) for name in key}
    keys = pa.table({name: cast_column(cells[name], contract.columns[name]).values for name in key})
    identified = keys.append_column("id of the entry", pa.array([entry["id"] for entry in waiting]))
    met = identified.join(given(keys.drop_null()).select(key), key, join_type="left semi")["id of the entry"]
    transaction.run(
        sql.SQL("UPDATE etl.quarantine SET status = 'superseded' WHERE id = ANY({}::text[])").format(
            sql.Literal(met.to_pylist())
        )
    )


def give_up_entries(transaction: Transaction, slice_: Slice) -> None:
    """Close all entries of a slice, with their corrections, whose source was given up."""
    transaction.run(
        sql.SQL(
            "WITH closed AS (UPDATE etl.corrections SET closed_at = clock_timestamp() WHERE closed_at IS NULL AND {slice})"
            " UPDATE etl.quarantine SET status = 'gone' WHERE status <> 'gone' AND {slice}"
        ).format(slice=entries_of(slice_))
    )


def entries_of(slice_: Slice) -> sql.Composed:
    """The entries of a slice."""
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
