"""Rows that are not in their table, or are there with a remark: kept with the reason until somebody has looked.

Stored by the writers in the transaction that stores the rest of the slice; listed, looked up and replayed from here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
from psycopg.rows import dict_row

from etl_assets.core.contracts import Contract, Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split, split_arrow, to_frame
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.ledger import Quarantine, entry_of
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet, stored_mode, write_parquet
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, write
from etl_assets.errors import ConfigurationError, PermanentError

# Makes rows of a contract from raw rows whose fields have other names; gets the rows that are stored already.
RawReader = Callable[[Sequence[Mapping[str, Any]], pd.DataFrame], Split[pd.DataFrame]]
COLUMNS = ", ".join(Quarantine.columns)


@dataclass(frozen=True)
class Entry:
    """One entry of the quarantine; the fields are those of its contract."""

    id: str
    asset: str
    partition: str
    outcome: str
    status: str
    faults: list[dict[str, Any]]
    raw: dict[str, Any]
    source: str
    run_id: str
    seen: int
    first_seen: datetime
    last_seen: datetime

    def as_dict(self) -> dict[str, Any]:
        """The entry as JSON can hold it."""
        return {
            **asdict(self),
            "first_seen": self.first_seen.isoformat(),
            "last_seen": self.last_seen.isoformat(),
        }


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{**row, "faults": json.loads(row["faults"]), "raw": json.loads(row["raw"])})


def list_entries(
    database: Database, *, asset: str | None = None, status: str = "open", limit: int = 100
) -> tuple[list[Entry], int]:
    """Entries, the newest first, and how many there are in all.

    Args:
        asset: only those of this table.
        status: `open`, `replayed`, `gone` or `all`.
    """
    condition = "(%(asset)s::text IS NULL OR asset = %(asset)s) AND (%(status)s = 'all' OR status = %(status)s)"
    values = {"asset": asset, "status": status, "limit": limit}
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"SELECT {COLUMNS} FROM etl.quarantine WHERE {condition} ORDER BY last_seen DESC, id LIMIT %(limit)s",
            values,
        ).fetchall()
        total = cursor.execute(f"SELECT count(*) AS n FROM etl.quarantine WHERE {condition}", values).fetchone()
    return [_entry(row) for row in rows], total["n"] if total else 0


def find_entry(database: Database, prefix: str) -> Entry:
    """The entry whose id begins so.

    Raises:
        PermanentError: if there is none, or more than one.
    """
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            f"SELECT {COLUMNS} FROM etl.quarantine WHERE starts_with(id, %s) LIMIT 2", (prefix,)
        ).fetchall()
    if len(rows) != 1:
        raise PermanentError(
            f"{'no entry' if not rows else 'more than one entry'} of the quarantine begins with {prefix!r}"
        )
    return _entry(rows[0])


def replay(
    database: Database,
    storage_url: str,
    entry: Entry,
    *,
    contract: type[Contract],
    read_raw: RawReader | None = None,
    corrections: Mapping[str, Any] | None = None,
    storing: Callable[[], None] | None = None,
) -> list[str]:
    """Judge an entry's raw row anew and store it if it passes; a second time changes nothing.

    Args:
        storage_url: root of the parquet layers, for tables that live there.
        contract: the contract of the entry's table, as it is now.
        read_raw: for a table whose raw rows are not named as its columns are.
        corrections: fields of the raw row to replace.
        storing: called once it is clear that the row will be stored, before it is.

    Returns:
        The faults that the row still has; none if it was stored.

    Raises:
        PermanentError: if the entry was only flagged: its row is in the table already; or is gone from its source.
    """
    if entry.status == "gone":
        raise PermanentError(
            f"{entry.id} is gone: its source ({entry.source}) was read again without it, so there is nothing to store"
        )
    if entry.outcome != "rejected":
        raise PermanentError(f"{entry.id} was {entry.outcome}, not rejected: there is nothing to store")
    raw = [{**entry.raw, **(corrections or {})}]
    root, slice_ = ParquetRoot(storage_url), Slice(contract, entry.partition)
    in_parquet = contract.config.store == "parquet"
    there = read_parquet(root, [slice_]) if in_parquet else arrow_schema(contract).empty_table()
    judged = (
        read_raw(raw, to_frame(there))
        if read_raw
        else split(contract, _frame(contract, raw), raw=raw, source=entry.source)
    )
    source = f"replay of {entry.id}"
    # A reader of raw rows judges their form; the contract has the last word.
    by_contract = split_arrow(contract, judged.valid, source=source)
    rejected = [*judged.rejected, *by_contract.rejected]
    if rejected:
        return [
            f"{fault.column}: {fault.rule}" if fault.column else fault.rule
            for record in rejected
            for fault in record.faults
        ]
    if storing:
        storing()
    if in_parquet:
        rows = pa.concat_tables([there, by_contract.valid])
        write_parquet(root, database, rows, [slice_], Write(stored_mode(root, slice_), source=source, is_replay=True))
    else:
        mode = "upsert" if contract.config.key else "append"
        write(database, by_contract.valid, [Slice(contract)], Write(mode, source=source))
    with database.connect() as connection:
        connection.execute("UPDATE etl.quarantine SET status = 'replayed' WHERE id = %s", (entry.id,))
    return []


def not_replayed(database: Database, slice_: Slice, records: Sequence[Record]) -> list[Record]:
    """The records of a slice but for those whose rows were stored by a replay."""
    identities = [entry_of(slice_, record)["id"] for record in records]
    with database.connect() as connection:
        found = connection.execute(
            "SELECT id FROM etl.quarantine WHERE status = 'replayed' AND id = ANY(%s)", (identities,)
        ).fetchall()
    replayed = {identity for (identity,) in found}
    return [record for identity, record in zip(identities, records, strict=True) if identity not in replayed]


def _frame(contract: type[Contract], raw: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    columns = {name: pd.Series([row.get(name) for row in raw], dtype=object) for name in contract.columns}
    return pd.DataFrame(columns)


@dataclass(frozen=True)
class Replay:
    """How rows of a table are replayed.

    Attributes:
        read_raw: makes a row of the table of the raw record; None where the raw record is the row.
        reload: why a row is not replayed but its source loaded again, with `{entry}` for the entry; None where it is replayed.
        fixed: fields that cannot be corrected, with the reason.
        lock: holds what has to be held while a row is judged and stored; gives what is called before it is stored.
    """

    read_raw: RawReader | None = None
    reload: str | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    lock: Callable[[Database, Entry], AbstractContextManager[Callable[[], None] | None]] | None = None

    def require(self, entry: Entry, corrections: Mapping[str, object]) -> None:
        """Refuse what the next load of its source would take away again, and a correction of what is fixed.

        Raises:
            ConfigurationError: says what to do instead.
        """
        if self.reload is not None:
            raise ConfigurationError(f"{entry.id} {self.reload.format(entry=entry)}")
        for name, reason in self.fixed.items():
            if name in corrections:
                raise ConfigurationError(f"{entry.id} {reason.format(entry=entry)}")

    def locked(self, database: Database, entry: Entry) -> AbstractContextManager[Callable[[], None] | None]:
        """What is held meanwhile, beside the lock of the slice."""
        return self.lock(database, entry) if self.lock else nullcontext()
