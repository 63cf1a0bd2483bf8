"""The one write path: valid rows, rejected rows and the ledger row of a slice in one transaction.

At any kill point a reader sees the old slice or the new one. Free of Dagster: scripts write through it as the IO manager does.
"""

import hashlib
import io
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa
import tenacity
from psycopg import sql

from etl_assets.contracts import Contract, Record, Split
from etl_assets.contracts.validation import split_arrow
from etl_assets.failures import ContractError, PermanentError, TransientError
from etl_assets.io_managers import merging, streaming
from etl_assets.io_managers.bookkeeping import insert_ledger, store_records
from etl_assets.io_managers.difference import without_duplicates
from etl_assets.io_managers.merging import Change
from etl_assets.io_managers.slices import Slice, divide
from etl_assets.io_managers.transaction import Transaction, refuse_drift
from etl_assets.resources.database import Database, translated

Data = pd.DataFrame | pa.Table | pa.RecordBatchReader
WRITERS: Mapping[str, Callable[[Transaction, Slice, pa.Table], Change]] = {
    "replace": merging.replace,
    "partition": merging.replace,
    "upsert": merging.upsert,
    "append": merging.append,
}
ATTEMPTS = 4


@dataclass(frozen=True)
class Outcome:
    """What became of the rows of one slice; every received row is in exactly one of the counts.

    received = inserted + updated + unchanged + deduplicated + quarantined. Flagged rows are loaded and noted.
    """

    piece: Slice
    commit_id: str
    change: Change
    received: int
    quarantined: int
    flagged: int
    size: int
    content_hash: str | None
    seconds: float

    @property
    def loaded(self) -> int:
        """Rows that the write put into the table, new or with new values."""
        return self.change.inserted + self.change.updated

    def counts(self) -> dict[str, int]:
        """All counts by name, as the ledger has them."""
        c = self.change
        return {
            "received": self.received,
            "inserted": c.inserted,
            "updated": c.updated,
            "deleted": c.deleted,
            "unchanged": c.unchanged,
            "deduplicated": c.deduplicated,
            "quarantined": self.quarantined,
            "flagged": self.flagged,
        }


@dataclass(frozen=True)
class Write:
    """How to write: everything about a write beside its rows."""

    mode: str
    run_id: str = "script"
    source: str = ""
    source_position: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class _Part:
    """The rows and records of one slice, ready to be stored."""

    piece: Slice
    table: pa.Table
    records: Sequence[Record] = field(default=())

    @property
    def received(self) -> int:
        return self.table.num_rows + sum(record.outcome != "flagged" for record in self.records)


def write(database: Database, data: Data | Split[Any], slices: Sequence[Slice], how: Write) -> list[Outcome]:
    """Store rows, each slice in one transaction.

    Args:
        database: where to.
        data: a frame, an Arrow table or record batches with the contract's columns, or a `Split` of one. Of batches no more
            than a few are in memory; they go to a single slice.
        slices: the whole table, or the partitions that the rows belong to.
        how: the mode and where the rows come from.

    Returns:
        What became of the rows, by slice.

    Raises:
        ContractError: for data or a table that do not have the contract's shape, before anything is changed.
        TransientError: if the database stays unavailable or busy.
        PermanentError: for what the database refuses.
    """
    _require(slices, how)
    valid, records = (data.valid, data.records) if isinstance(data, Split) else (data, ())
    if isinstance(valid, pa.RecordBatchReader):
        return [_write_stream(database, valid, records, slices, how)]
    contract = slices[0].contract
    judged = split_arrow(contract, valid, source=how.source)
    everything = [*records, *judged.records]
    tables = divide(judged.valid, slices)
    return [
        _retried(lambda part=part: _write_part(database, part, how))
        for part in _parts(slices, tables, everything)
    ]


def _require(slices: Sequence[Slice], how: Write) -> None:
    contract = slices[0].contract
    if how.mode not in WRITERS:
        raise ContractError(f"{contract.config.table}: unknown mode {how.mode!r}; known are {', '.join(WRITERS)}")
    if how.mode == "upsert" and not contract.config.key:
        raise ContractError(f"{contract.config.table} has no key: rows without identity can be appended or replaced, not merged")
    if how.mode == "partition" and not all(piece.bounds for piece in slices):
        raise ContractError(f"{contract.config.table}: mode partition needs a partition to write; state partition_by")


def _parts(slices: Sequence[Slice], tables: Sequence[pa.Table], records: Sequence[Record]) -> list[_Part]:
    """Give each record to the slice that its raw row names; one that names none goes with the first."""
    if len(slices) == 1:
        return [_Part(slices[0], tables[0], records)]
    by_slice: list[list[Record]] = [[] for _ in slices]
    for record in records:
        home = next((i for i, piece in enumerate(slices) if piece.holds(record.raw)), 0)
        by_slice[home].append(record)
    return [_Part(*part) for part in zip(slices, tables, by_slice, strict=True)]


def _retried(attempt: Callable[[], Outcome]) -> Outcome:
    """Run a transaction again when it gave way to another or lost its connection."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=5),
        reraise=True,
    )
    return retrying(attempt)


def _write_part(database: Database, part: _Part, how: Write) -> Outcome:
    started = time.perf_counter()
    contract = part.piece.contract
    table = without_duplicates(part.table, contract.config.key)
    content_hash = hash_of(table)
    with database.adbc() as connection:
        transaction = Transaction(connection)
        refuse_drift(transaction, contract)
        transaction.lock(part.piece)
        done = _already_appended(transaction, part, how, content_hash)
        change = Change(unchanged=table.num_rows) if done else _changed(transaction, part.piece, table, how)
        change = _with_duplicates(change, part.table.num_rows - table.num_rows)
        outcome = Outcome(
            piece=part.piece,
            commit_id=uuid.uuid4().hex,
            change=change,
            received=part.received,
            quarantined=sum(record.outcome != "flagged" for record in part.records),
            flagged=sum(record.outcome == "flagged" for record in part.records),
            size=part.table.nbytes,
            content_hash=content_hash,
            seconds=time.perf_counter() - started,
        )
        store_records(transaction, part.piece, part.records, run_id=how.run_id)
        finish(transaction, outcome, how)
        commit(database, connection, outcome.commit_id)
    return outcome


def _changed(transaction: Transaction, piece: Slice, table: pa.Table, how: Write) -> Change:
    try:
        return WRITERS[how.mode](transaction, piece, table)
    except Exception as error:
        if getattr(error, "sqlstate", None) != "23505":
            raise
        if how.mode == "append":
            text = " ".join(str(error).split())
            raise PermanentError(
                f"append to {piece} met keys that are there already, nothing was written: use upsert, or append new rows only ({text})"
            ) from error
        # Somebody writes to this table without taking its lock; the next attempt sees their rows.
        raise TransientError(f"could not write {piece}: another writer added the same keys without the lock") from error


def _with_duplicates(change: Change, duplicates: int) -> Change:
    return Change(change.inserted, change.updated, change.deleted, change.unchanged, change.deduplicated + duplicates)


def _already_appended(transaction: Transaction, part: _Part, how: Write, content_hash: str) -> bool:
    """Whether this very run has appended these very rows: its first attempt was committed and then lost."""
    if how.mode != "append" or how.run_id == "script":
        return False
    query = sql.SQL(
        "SELECT count(*) FROM etl.ledger WHERE asset = {} AND partition = {} AND run_id = {} AND content_hash = {}"
    ).format(*map(sql.Literal, (part.piece.contract.config.table, part.piece.name, how.run_id, content_hash)))
    return bool(transaction.value(query))


def _write_stream(
    database: Database, reader: pa.RecordBatchReader, records: Sequence[Record], slices: Sequence[Slice], how: Write
) -> Outcome:
    """Store record batches of any number; they can be read once only, so that a lost transaction is not repeated."""
    if len(slices) != 1:
        raise ContractError(f"{slices[0].contract.config.table}: record batches go to a single partition, not {len(slices)}")
    piece, started = slices[0], time.perf_counter()
    with database.adbc() as connection:
        transaction = Transaction(connection)
        refuse_drift(transaction, piece.contract)
        transaction.lock(piece)
        store_records(transaction, piece, records, run_id=how.run_id)
        load = streaming.load(transaction, piece, reader, mode=how.mode, source=how.source, run_id=how.run_id)
        given = Split(None, records)
        outcome = Outcome(
            piece=piece,
            commit_id=uuid.uuid4().hex,
            change=load.change,
            received=load.received + len(given.rejected),
            quarantined=load.quarantined + len(given.rejected),
            flagged=len(records) - len(given.rejected),
            size=load.size,
            content_hash=None,
            seconds=time.perf_counter() - started,
        )
        finish(transaction, outcome, how)
        commit(database, connection, outcome.commit_id)
    return outcome


def finish(transaction: Transaction, outcome: Outcome, how: Write) -> None:
    """Balance the books and enter the write into the ledger.

    Raises:
        AssertionError: if a received row is in no count or in two: a fault of the write path itself.
    """
    counts = outcome.counts()
    parts = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")
    if counts["received"] != sum(counts[name] for name in parts):
        raise AssertionError(f"the books of {outcome.piece} do not balance: {counts}")
    insert_ledger(
        transaction,
        outcome.piece,
        {
            "commit_id": outcome.commit_id,
            "run_id": how.run_id,
            "mode": how.mode,
            **counts,
            "size": outcome.size,
            "content_hash": outcome.content_hash,
            "source_position": None if how.source_position is None else json.dumps(how.source_position),
            "seconds": outcome.seconds,
        },
    )


def commit(database: Database, connection: Any, commit_id: str) -> None:
    """Commit; when the answer is lost, look up in the ledger whether it was done.

    Raises:
        TransientError: if it was not.
    """
    try:
        with translated("commit"):
            connection.commit()
    except TransientError:
        with database.connect() as probe:
            known = probe.execute("SELECT 1 FROM etl.ledger WHERE commit_id = %s", (commit_id,)).fetchone()
        if known is None:
            raise


def hash_of(table: pa.Table) -> str:
    """SHA-256 over the rows in their order, the same however they were chunked."""
    digest = hashlib.sha256()

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

    with pa.PythonFile(Sink(), mode="w") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return digest.hexdigest()
