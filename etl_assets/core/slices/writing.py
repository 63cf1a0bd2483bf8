"""The one write path: valid rows, rejected rows and the ledger row of a slice in one transaction.

At any kill point a reader sees the old slice or the new one. Free of Dagster: scripts write through it as the IO manager does.
"""

import contextlib
import hashlib
import io
import itertools
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
from etl_assets.core.slices import merging
from etl_assets.core.slices import native_partitions as native
from etl_assets.core.slices.chunks import Chunks, Load, load_chunks
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.ledger import close_entries, insert_ledger, reopen_entries, store_records
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.session import Session, commit, retried
from etl_assets.core.slices.slice import OneOf, Slice, assign, divide
from etl_assets.core.slices.transaction import Transaction, names, refuse_drift
from etl_assets.errors import ContractError, PermanentError, TransientError

__all__ = [
    "Data",
    "Load",
    "Outcome",
    "Part",
    "Write",
    "commit",
    "finish",
    "hash_of",
    "parts_of",
    "settle_quarantine",
    "write",
    "write_together",
]

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
# What takes the place of NULL under a hash, where its absence has a column of its own.
NOTHING: Mapping[pa.DataType, Any] = {
    kind: False if pa.types.is_boolean(kind) else "" if pa.types.is_string(kind) else 0 for kind in ARROW_TYPES.values()
}


@dataclass(frozen=True)
class Outcome:
    """What became of the rows of one slice; every received row is in exactly one of the counts.

    received = inserted + updated + unchanged + deduplicated + quarantined. Flagged rows are loaded, with a remark in quarantine.
    """

    slice: Slice
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
        return {name: getattr(self if hasattr(self, name) else self.change, name) for name in COUNTS}


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
class Part:
    """The rows and records of one slice, ready to be stored, and the identity under which the ledger will know them.

    Attributes:
        data: rows that keep the contract, or batches that are judged as they are read.
        records: rejected and flagged rows that are known beforehand.
        deduplicated: rows that were left out beforehand as repetitions.
    """

    slice: Slice
    data: pa.Table | Chunks
    records: Sequence[Record] = field(default=())
    deduplicated: int = 0
    commit_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def outcome(self, load: Load, started: float) -> Outcome:
        """What became of the rows once they are loaded."""
        flagged = sum(record.outcome == "flagged" for record in self.records)
        rejected = len(self.records) - flagged
        return Outcome(
            slice=self.slice,
            commit_id=self.commit_id,
            change=replace(load.change, deduplicated=load.change.deduplicated + self.deduplicated),
            received=load.received + rejected + self.deduplicated,
            quarantined=load.quarantined + rejected,
            flagged=flagged,
            size=load.size,
            content_hash=load.content_hash,
            seconds=time.perf_counter() - started,
        )


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
    with Session(database) as session:
        parts = parts_of(data, slices, source=how.source)
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
    for _, slice_ in given:
        _require([slice_], how)
    splits = [data if isinstance(data, Split) else Split(data) for data, _ in given]
    judged = _judged([split.valid for split in splits], [slice_ for _, slice_ in given], source=how.source)
    parts = []
    for split, found, (_, slice_) in zip(splits, judged, given, strict=True):
        (rows,) = divide(found.valid, [slice_])
        parts.append(Part(slice_, rows, [*split.records, *found.records], split.deduplicated))
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
    if how.mode == "partition" and not all(slice_.bounds for slice_ in slices):
        raise ContractError(f"{contract.config.table}: mode partition needs a partition to write; state partition_by")


def parts_of(data: Data | Split[Any], slices: Sequence[Slice], *, source: str) -> list[Part]:
    """Rows judged by their contract and divided among slices; batches as they are, for a single slice.

    Raises:
        ContractError: for rows that do not have the contract's shape, or belong to none of the slices.
    """
    given = data if isinstance(data, Split) else Split(data)
    contract = slices[0].contract
    if isinstance(given.valid, pa.RecordBatchReader):
        if len(slices) != 1:
            raise ContractError(f"{contract.config.table}: record batches go to a single partition, not {len(slices)}")
        return [Part(slices[0], Chunks(given.valid), given.records, given.deduplicated)]
    judged = split_arrow(contract, given.valid, source=source)
    tables = divide(judged.valid, slices)
    homes = assign([*given.records, *judged.records], slices)
    # Nobody can tell to which slice a row belongs that was left out: the first counts them.
    left_out = [given.deduplicated, *(0 for _ in slices[1:])]
    return [Part(*part) for part in zip(slices, tables, homes, left_out, strict=True)]


def _judged(given: Sequence[pd.DataFrame | pa.Table], slices: Sequence[Slice], *, source: str) -> list[Split[pa.Table]]:
    """What keeps its contract and what does not, by slice.

    To judge a table costs milliseconds however few rows it has, so that those of one contract are judged as one, and one by
    one only if a row breaks it.
    """
    judged: dict[int, Split[pa.Table]] = {}
    for contract in dict.fromkeys(slice_.contract for slice_ in slices):
        mine = [i for i, slice_ in enumerate(slices) if slice_.contract is contract]
        tables = [given[i] for i in mine]
        found = None
        if all(isinstance(table, pa.Table) and table.schema == tables[0].schema for table in tables):
            whole = split_arrow(contract, pa.concat_tables(tables), source=source)
            ends = [0, *itertools.accumulate(len(table) for table in tables)]
            if not whole.records:
                found = [Split(whole.valid.slice(start, end - start)) for start, end in itertools.pairwise(ends)]
        judged |= zip(mine, found or [split_arrow(contract, table, source=source) for table in tables], strict=True)
    return [judged[i] for i in range(len(slices))]


def _write_parts(session: Session, parts: Sequence[Part], how: Write) -> list[Outcome]:
    """Store parts in one transaction; once the reading of batches has begun, a lost one cannot be repeated."""
    began = time.perf_counter()
    loads = [_loading(session, part, how) for part in parts]
    attempts = itertools.count()

    def attempt() -> list[Outcome]:
        with session.transaction() as transaction:
            # In one order for all writers, or two of them could wait for each other.
            for slice_ in sorted((part.slice for part in parts), key=str):
                transaction.lock(slice_, anywhere=how.mode == "upsert")
            earlier = _committed_before(transaction, parts) if next(attempts) else None
            if earlier is not None:
                return earlier
            # Each table is looked at once: it stays as it is until the end of the transaction.
            for contract, table in dict.fromkeys(_table_to_check(transaction, part, how) for part in parts):
                refuse_drift(transaction, contract, table)
            outcomes: list[Outcome] = []
            for part, load in zip(parts, loads, strict=True):
                started = time.perf_counter() if outcomes else began
                outcomes.append(_stored(transaction, part, load, how, started))
                finish(transaction, outcomes[-1], how)
            session.commit(outcomes[-1].commit_id)
        return outcomes

    return retried(attempt, while_=lambda: not any(isinstance(p.data, Chunks) and p.data.begun for p in parts))


Loading: TypeAlias = Callable[[Transaction], Load]


def _loading(session: Session, part: Part, how: Write) -> Loading:
    """How the rows of a part are loaded; what does not need the server is begun beside it."""
    slice_, data = part.slice, part.data
    if isinstance(data, Chunks):
        return lambda transaction: load_chunks(
            transaction, slice_, data, mode=how.mode, source=how.source, run_id=how.run_id
        )
    rows = Rows(data, slice_.contract.config.key)
    content_hash = session.background(lambda: hash_of(rows.table))
    if how.mode != "append":
        session.background(rows.in_key_order)

    def load(transaction: Transaction) -> Load:
        if _already_appended(transaction, slice_, how, content_hash):
            change = Change(unchanged=rows.table.num_rows)
        else:
            change = WRITERS[how.mode](transaction, slice_, rows)
        change = replace(change, deduplicated=change.deduplicated + rows.duplicates)
        return Load(change, data.num_rows, 0, data.nbytes, content_hash.result())

    return load


def _stored(transaction: Transaction, part: Part, load: Loading, how: Write, started: float) -> Outcome:
    with _conflicts_named(part.slice, how):
        loaded = load(transaction)
    store_records(transaction, part.slice, part.records, run_id=how.run_id)
    settle_quarantine(transaction, part.slice, how)
    return part.outcome(loaded, started)


def _table_to_check(transaction: Transaction, part: Part, how: Write) -> tuple[Any, str | None]:
    """The contract, and the native partition that mode partition may swap: a lock on the table would be in the way."""
    contract = part.slice.contract
    swappable = how.mode == "partition" and isinstance(part.data, pa.Table)
    leaf = native.leaf_of(part.slice) if swappable else None
    return contract, leaf if leaf and native.exists(transaction, contract, leaf) else None


def _committed_before(transaction: Transaction, parts: Sequence[Part]) -> list[Outcome] | None:
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
        outcomes.append(Outcome(slice=part.slice, commit_id=part.commit_id, change=change, **row))
    return outcomes


@contextlib.contextmanager
def _conflicts_named(slice_: Slice, how: Write) -> Iterator[None]:
    """Say what equal keys in the table mean."""
    try:
        yield
    except Exception as error:
        if getattr(error, "sqlstate", None) != "23505":
            raise
        text = " ".join(str(error).split())
        if how.mode == "append":
            raise PermanentError(
                f"append to {slice_} met keys that are there already, nothing was written:"
                f" use upsert, or append new rows only ({text})"
            ) from error
        # Somebody writes to this table without taking its lock; the next attempt sees their rows.
        raise TransientError(
            f"could not write {slice_}: its keys are in another partition, or another writer added them without the lock ({text})"
        ) from error


def _already_appended(transaction: Transaction, slice_: Slice, how: Write, content_hash: "Future[str]") -> bool:
    """Whether this very run has appended these very rows: its first attempt was committed and then lost."""
    if how.mode != "append" or how.run_id == "script":
        return False
    query = sql.SQL(
        "SELECT count(*) FROM etl.ledger WHERE asset = {} AND partition = {} AND run_id = {} AND content_hash = {}"
    ).format(*map(sql.Literal, (slice_.contract.config.table, slice_.name, how.run_id, content_hash.result())))
    return bool(transaction.value(query))


def settle_quarantine(transaction: Transaction, slice_: Slice, how: Write) -> None:
    """Bring the entries of a slice up to what its source says now, once the records of the write are stored.

    Only where all of the slice is replaced: a write that adds to it says nothing of what it does not meet.
    """
    part_of_it = any(isinstance(bound, OneOf) for bound in slice_.bounds.values())
    if how.mode in WHOLE and not (part_of_it or how.is_replay):
        if not slice_.contract.config.partial_loads:
            close_entries(transaction, slice_)
        reopen_entries(transaction, slice_)


def finish(transaction: Transaction, outcome: Outcome, how: Write) -> None:
    """Balance the counts and record the write in the ledger.

    Raises:
        AssertionError: if a received row is in no count or in two: a fault of the write path itself.
    """
    counts = outcome.counts()
    parts = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")
    if counts["received"] != sum(counts[name] for name in parts):
        raise AssertionError(f"the counts of {outcome.slice} do not balance: {counts}")
    insert_ledger(
        transaction,
        outcome.slice,
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
