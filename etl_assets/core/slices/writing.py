"""The one write path: valid rows, rejected rows and the ledger row of a slice in one transaction.

At any kill point a reader sees the old slice or the new one. Free of Dagster: scripts write through it as the IO manager does.
"""

import contextlib
import hashlib
import io
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from etl_assets.core.contracts import Record, Split
from etl_assets.core.contracts.arrow import ARROW_TYPES
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import merging, streaming
from etl_assets.core.slices import native_partitions as native
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.judging import judged_by_slice
from etl_assets.core.slices.ledger import close_entries, insert_ledger, reopen_entries, store_records
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.session import Session, commit, retried
from etl_assets.core.slices.slice import OneOf, Slice, assign, divide
from etl_assets.core.slices.streaming import Chunks
from etl_assets.core.slices.transaction import Transaction, names, refuse_drift
from etl_assets.errors import ContractError, PermanentError, TransientError

__all__ = ["Data", "Outcome", "Write", "commit", "finish", "hash_of", "settle_quarantine", "write", "write_together"]

Data: TypeAlias = pd.DataFrame | pa.Table | pa.RecordBatchReader
WRITERS: Mapping[str, Callable[[Transaction, Slice, Rows], Change]] = {
    "replace": merging.replace,
    "partition": merging.partition,
    "upsert": merging.upsert,
    "append": merging.append,
}
# These replace all of a slice by what is given.
WHOLE = ("replace", "partition", "snapshot")
COUNTS = ("received", *(count.name for count in fields(Change)), "quarantined", "flagged")
# What takes the place of NULL under a hash, where its absence is noted beside it.
NOTHING: Mapping[pa.DataType, Any] = {
    kind: False if pa.types.is_boolean(kind) else "" if pa.types.is_string(kind) else 0 for kind in ARROW_TYPES.values()
}


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
    """How to write: everything about a write beside its rows.

    Attributes:
        mode: one of those of the store.
        run_id: who writes.
        source: where the rows come from.
        source_position: where the source stands after them.
        is_replay: the rows are those that are there, with some from quarantine: of what their source says now they tell nothing.
    """

    mode: str
    run_id: str = "script"
    source: str = ""
    source_position: Mapping[str, Any] | None = None
    is_replay: bool = False


@dataclass(frozen=True)
class _Part:
    """The rows and records of one slice, ready to be stored, and the identity under which the ledger will know them."""

    piece: Slice
    table: pa.Table
    records: Sequence[Record] = field(default=())
    deduplicated: int = 0
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def received(self) -> int:
        rejected = sum(record.outcome != "flagged" for record in self.records)
        return self.table.num_rows + rejected + self.deduplicated


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
    given = data if isinstance(data, Split) else Split(data)
    with Session(database) as session:
        if isinstance(given.valid, pa.RecordBatchReader):
            return [_write_stream(session, Chunks(given.valid), given, slices, how)]
        judged = split_arrow(slices[0].contract, given.valid, source=how.source)
        tables = divide(judged.valid, slices)
        homes = assign([*given.records, *judged.records], slices)
        # Nobody can tell to which slice a row belongs that was left out: the first has them in its books.
        left_out = [given.deduplicated, *(0 for _ in slices[1:])]
        parts = [_Part(*part) for part in zip(slices, tables, homes, left_out, strict=True)]
        return [outcome for part in parts for outcome in _write_parts(session, [part], how)]


def write_together(
    database: Database, given: Sequence[tuple[pd.DataFrame | pa.Table | Split[Any], Slice]], how: Write
) -> list[Outcome]:
    """Store slices, of several tables too, in one transaction: a reader sees all of them as they were, or as they are.

    Args:
        given: rows and the slice that they are, each slice once.

    Returns:
        What became of the rows, by slice.

    Raises:
        ContractError, TransientError, PermanentError: as `write`; then nothing was changed.
    """
    for _, piece in given:
        _require([piece], how)
    splits = [data if isinstance(data, Split) else Split(data) for data, _ in given]
    judged = judged_by_slice([split.valid for split in splits], [piece for _, piece in given], source=how.source)
    parts = []
    for split, found, (_, piece) in zip(splits, judged, given, strict=True):
        (rows,) = divide(found.valid, [piece])
        parts.append(_Part(piece, rows, [*split.records, *found.records], split.deduplicated))
    with Session(database) as session:
        return _write_parts(session, parts, how)


def _require(slices: Sequence[Slice], how: Write) -> None:
    contract = slices[0].contract
    if how.mode not in WRITERS:
        raise ContractError(f"{contract.config.table}: unknown mode {how.mode!r}; known are {', '.join(WRITERS)}")
    if how.mode == "upsert" and not contract.config.key:
        raise ContractError(
            f"{contract.config.table} has no key: rows without identity can be appended or replaced, not merged"
        )
    if how.mode == "partition" and not all(piece.bounds for piece in slices):
        raise ContractError(f"{contract.config.table}: mode partition needs a partition to write; state partition_by")


def _write_parts(session: Session, parts: Sequence[_Part], how: Write) -> list[Outcome]:
    """Store parts in one transaction."""
    began = time.perf_counter()
    prepared = [(part, *_prepared(session, part, how)) for part in parts]
    attempts = 0

    def attempt() -> list[Outcome]:
        nonlocal attempts
        attempts += 1
        with session.transaction() as transaction:
            # In one order for all writers, or two of them could wait for each other.
            for piece in sorted((part.piece for part in parts), key=str):
                transaction.lock(piece, anywhere=how.mode == "upsert")
            earlier = _committed_before(transaction, parts) if attempts > 1 else None
            if earlier is not None:
                return earlier
            outcomes = []
            started = began
            _refuse_drift(transaction, [part.piece for part in parts], how)
            for part, rows, content_hash in prepared:
                outcomes.append(_stored(transaction, part, rows, content_hash, how, started))
                finish(transaction, outcomes[-1], how)
                started = time.perf_counter()
            session.commit(outcomes[-1].commit_id)
        return outcomes

    return retried(attempt)


def _prepared(session: Session, part: _Part, how: Write) -> "tuple[Rows, Future[str]]":
    """What is computed beside the server's work."""
    rows = Rows(part.table, part.piece.contract.config.key)
    content_hash = session.background(lambda: hash_of(rows.table))
    if how.mode != "append":
        session.background(rows.in_key_order)
    return rows, content_hash


def _stored(
    transaction: Transaction, part: _Part, rows: Rows, content_hash: "Future[str]", how: Write, started: float
) -> Outcome:
    if _already_appended(transaction, part, how, content_hash):
        change = Change(unchanged=rows.table.num_rows)
    else:
        with _conflicts_named(part.piece, how):
            change = WRITERS[how.mode](transaction, part.piece, rows)
    store_records(transaction, part.piece, part.records, run_id=how.run_id)
    settle_quarantine(transaction, part.piece, how)
    return Outcome(
        piece=part.piece,
        commit_id=part.commit_id,
        change=replace(change, deduplicated=change.deduplicated + rows.duplicates + part.deduplicated),
        received=part.received,
        quarantined=sum(record.outcome != "flagged" for record in part.records),
        flagged=sum(record.outcome == "flagged" for record in part.records),
        size=part.table.nbytes,
        content_hash=content_hash.result(),
        seconds=time.perf_counter() - started,
    )


def _refuse_drift(transaction: Transaction, pieces: Sequence[Slice], how: Write) -> None:
    """Look at each table once: it stays as it is until the end of the transaction."""
    for contract, table in dict.fromkeys(
        (piece.contract, _table_to_check(transaction, piece, how)) for piece in pieces
    ):
        refuse_drift(transaction, contract, table)


def _table_to_check(transaction: Transaction, piece: Slice, how: Write) -> str | None:
    """The native partition that mode partition may swap, instead of the table: a lock on that would be in the way."""
    leaf = native.leaf_of(piece) if how.mode == "partition" else None
    return leaf if leaf and native.exists(transaction, piece.contract, leaf) else None


def _committed_before(transaction: Transaction, parts: Sequence[_Part]) -> list[Outcome] | None:
    """The outcomes of an earlier attempt that was committed although its answer was lost."""
    outcomes = []
    for part in parts:
        query = sql.SQL("SELECT {} FROM etl.ledger WHERE commit_id = {}").format(
            names((*COUNTS, "size", "content_hash", "seconds")), sql.Literal(part.commit_id)
        )
        found = transaction.rows(query).to_pylist()
        if not found:
            return None
        row = found[0]
        change = Change(**{count.name: row.pop(count.name) for count in fields(Change)})
        outcomes.append(Outcome(piece=part.piece, commit_id=part.commit_id, change=change, **row))
    return outcomes


@contextlib.contextmanager
def _conflicts_named(piece: Slice, how: Write) -> Iterator[None]:
    """Say what equal keys in the table mean."""
    try:
        yield
    except Exception as error:
        if getattr(error, "sqlstate", None) != "23505":
            raise
        text = " ".join(str(error).split())
        if how.mode == "append":
            raise PermanentError(
                f"append to {piece} met keys that are there already, nothing was written:"
                f" use upsert, or append new rows only ({text})"
            ) from error
        # Somebody writes to this table without taking its lock; the next attempt sees their rows.
        raise TransientError(
            f"could not write {piece}: its keys are in another partition, or another writer added them without the lock ({text})"
        ) from error


def _already_appended(transaction: Transaction, part: _Part, how: Write, content_hash: "Future[str]") -> bool:
    """Whether this very run has appended these very rows: its first attempt was committed and then lost."""
    if how.mode != "append" or how.run_id == "script":
        return False
    query = sql.SQL(
        "SELECT count(*) FROM etl.ledger WHERE asset = {} AND partition = {} AND run_id = {} AND content_hash = {}"
    ).format(*map(sql.Literal, (part.piece.contract.config.table, part.piece.name, how.run_id, content_hash.result())))
    return bool(transaction.value(query))


def _write_stream(session: Session, chunks: Chunks, given: Split[Any], slices: Sequence[Slice], how: Write) -> Outcome:
    """Store record batches of any number; once reading has begun, a lost transaction cannot be repeated."""
    if len(slices) != 1:
        raise ContractError(
            f"{slices[0].contract.config.table}: record batches go to a single partition, not {len(slices)}"
        )
    piece, started, commit_id = slices[0], time.perf_counter(), uuid.uuid4().hex

    def attempt() -> Outcome:
        with session.transaction() as transaction:
            transaction.lock(piece, anywhere=how.mode == "upsert")
            refuse_drift(transaction, piece.contract)
            store_records(transaction, piece, given.records, run_id=how.run_id)
            with _conflicts_named(piece, how):
                load = streaming.load(transaction, piece, chunks, mode=how.mode, source=how.source, run_id=how.run_id)
            settle_quarantine(transaction, piece, how)
            outcome = Outcome(
                piece=piece,
                commit_id=commit_id,
                change=replace(load.change, deduplicated=load.change.deduplicated + given.deduplicated),
                received=load.received + len(given.rejected) + given.deduplicated,
                quarantined=load.quarantined + len(given.rejected),
                flagged=len(given.records) - len(given.rejected),
                size=load.size,
                content_hash=None,
                seconds=time.perf_counter() - started,
            )
            finish(transaction, outcome, how)
            session.commit(commit_id)
        return outcome

    return retried(attempt, while_=lambda: not chunks.begun)


def settle_quarantine(transaction: Transaction, piece: Slice, how: Write) -> None:
    """Bring the entries of a slice up to what its source says now, once the records of the write are stored.

    Only where all of the slice is replaced: a write that adds to it says nothing of what it does not meet.
    """
    part_of_it = any(isinstance(bound, OneOf) for bound in piece.bounds.values())
    if how.mode in WHOLE and not (part_of_it or how.is_replay):
        if not piece.contract.config.partial_loads:
            close_entries(transaction, piece)
        reopen_entries(transaction, piece)


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


def hash_of(table: pa.Table) -> str:
    """SHA-256 over the rows in their order, the same however they were chunked, and whatever lies under a NULL."""
    digest = hashlib.sha256()

    class Sink(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            digest.update(data)
            return len(data)

    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            columns[f"{name} is there"] = column.is_valid()
            column = pc.fill_null(column, pa.scalar(NOTHING[column.type]).cast(column.type))
        columns[name] = column
    plain = pa.table(columns).combine_chunks()
    with pa.PythonFile(Sink(), mode="w") as sink, pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_table(plain)
    return digest.hexdigest()
