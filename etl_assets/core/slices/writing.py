"""Rows into tables of Postgres, each slice in one commit: judged, compared with what is there, and only what differs is written.

Free of Dagster: scripts write through it as the IO manager does. What a commit is stands in `commit.py`.
"""

import contextlib
import hashlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Record, Split
from etl_assets.core.contracts.arrow import ARROW_TYPES
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import merging
from etl_assets.core.slices import native_partitions as native
from etl_assets.core.slices.acceptance import require_accepted
from etl_assets.core.slices.chunks import Chunks, load_chunks
from etl_assets.core.slices.commit import BY_KEY, Loaded, Outcome, Part, Write, commit
from etl_assets.core.slices.corrections import Corrector
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.heads import Head
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.quarantine import settle_entries, supersede_entries
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.slice import Combinations, OneOf, Slice, assign, divide
from etl_assets.core.slices.transaction import Transaction, refuse_drift
from etl_assets.errors import ContractError, PermanentError, TransientError

__all__ = ["Data", "Given", "Outcome", "Write", "given_parts", "hash_of", "settling", "write", "write_together"]

Data: TypeAlias = pd.DataFrame | pa.Table | pa.RecordBatchReader
WRITERS: Mapping[str, Callable[[Transaction, Slice, Rows], Change]] = {
    "replace": merging.replace,
    "partition": merging.partition,
    "upsert": merging.upsert,
    "append": merging.append,
}
# These replace all of a slice by what is given.
WHOLE = ("replace", "partition", "snapshot")
# What takes the place of NULL under a hash, where its absence has a column of its own.
NOTHING: Mapping[pa.DataType, Any] = {
    kind: False if pa.types.is_boolean(kind) else "" if pa.types.is_string(kind) else 0 for kind in ARROW_TYPES.values()
}


@dataclass(frozen=True)
class Given:
    """The rows and records of one slice, ready to be stored.

    Attributes:
        data: rows that keep the contract, or batches that are judged as they are read.
        records: rejected and flagged rows that are known beforehand.
        deduplicated: rows that were left out beforehand as repetitions.
        beside: how many rows of the same input are in other slices, and how many of these are rejected.
    """

    slice: Slice
    data: pa.Table | Chunks
    records: Sequence[Record] = field(default=())
    deduplicated: int = 0
    beside: tuple[int, int] = (0, 0)

    @property
    def rejected(self) -> int:
        """How many of the records are of rows that were received and are in no table."""
        return rejected_of(self.records)

    def require_accepted(self, how: Write, *, received: int, rejected: int, records: Sequence[Record]) -> None:
        """Refuse the input that the slice is of (`acceptance`); what is derived is none.

        Args:
            received, rejected: rows of the slice; those that corrections make good are not rejected.
            records: of the rejected ones, at least the first.
        """
        if how.inputs is None:
            more, bad = self.beside
            require_accepted(
                self.slice.contract,
                received=received + more,
                rejected=rejected + bad,
                records=records,
                max_rejected=how.max_rejected,
            )


def rejected_of(records: Iterable[Record]) -> int:
    """How many of some records are of rows that are in no table."""
    return sum(record.outcome != "flagged" for record in records)


def write(database: Database, data: Data | Split[Any], slices: Sequence[Slice], how: Write) -> list[Outcome]:
    """Store rows, each slice in one commit.

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
        Outdated, TransientError, PermanentError: as `commit`.
    """
    _require(slices, how)
    with Session(database) as session:
        parts = given_parts(data, slices, source=how.source)
        if isinstance(parts[0].data, Chunks) and how.lock is None:
            # They may come slowly: the lock shows the life of this process meanwhile.
            whole = [slices[0].contract.config.table] if how.mode in BY_KEY else []
            with locked(database, slices, whole=whole) as lock:
                return _write_parts(session, parts, replace(how, lock=lock))
        return [outcome for part in parts for outcome in _write_parts(session, [part], how)]


def write_together(
    database: Database, given: Sequence[tuple[pd.DataFrame | pa.Table | Split[Any], Slice]], how: Write
) -> list[Outcome]:
    """Store slices, of several tables too, in one commit: a reader sees all of them as they were, or as they are.

    Args:
        given: rows and the slice that they are, each slice once.

    Returns:
        What became of the rows, by slice.

    Raises:
        ContractError, TransientError, PermanentError: as `write`; then nothing was changed.
    """
    with Session(database) as session:
        return _write_parts(session, together(given, how), how)


def together(given: Sequence[tuple[pd.DataFrame | pa.Table | Split[Any], Slice]], how: Write) -> list[Given]:
    """Rows judged, by slice.

    Raises:
        ContractError: as `write`.
    """
    for _, slice_ in given:
        _require([slice_], how)
    splits = [data if isinstance(data, Split) else Split(data) for data, _ in given]
    judged = _judged([split.valid for split in splits], [slice_ for _, slice_ in given], source=how.source)
    parts = []
    for split, found, (_, slice_) in zip(splits, judged, given, strict=True):
        (rows,) = divide(found.valid, [slice_])
        parts.append(Given(slice_, rows, [*split.records, *found.records], split.deduplicated))
    return parts


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


def given_parts(data: Data | Split[Any], slices: Sequence[Slice], *, source: str) -> list[Given]:
    """Rows judged by their contract and divided among slices; batches as they are, for a single slice.

    Raises:
        ContractError: for rows that do not have the contract's shape, or belong to none of the slices.
    """
    given = data if isinstance(data, Split) else Split(data)
    contract = slices[0].contract
    if isinstance(given.valid, pa.RecordBatchReader):
        if len(slices) != 1:
            raise ContractError(f"{contract.config.table}: record batches go to a single partition, not {len(slices)}")
        return [Given(slices[0], Chunks(given.valid), given.records, given.deduplicated)]
    judged = split_arrow(contract, given.valid, source=source)
    tables = divide(judged.valid, slices)
    homes = assign([*given.records, *judged.records], slices)
    # Nobody can tell to which slice a row belongs that was left out: the first counts them.
    left_out = [given.deduplicated, *(0 for _ in slices[1:])]
    parts = [Given(*part) for part in zip(slices, tables, homes, left_out, strict=True)]
    received, rejected = sum(map(_received, parts)), sum(part.rejected for part in parts)
    return [replace(part, beside=(received - _received(part), rejected - part.rejected)) for part in parts]


def _received(given: Given) -> int:
    """The rows of a slice that is no stream of batches, and those that are left out of it."""
    assert isinstance(given.data, pa.Table)
    return int(given.data.num_rows) + given.rejected + given.deduplicated


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


def _write_parts(session: Session, given: Sequence[Given], how: Write) -> list[Outcome]:
    """Store parts in one commit; once the reading of batches has begun, it cannot be repeated."""
    parts = [as_part(session, one, how) for one in given]

    def prepare(transaction: Transaction) -> None:
        # Each table is looked at once: it stays as it is until the end of the transaction.
        for contract, table in dict.fromkeys(_table_to_check(transaction, one, how) for one in given):
            refuse_drift(transaction, contract, table)

    chunks = [one.data for one in given if isinstance(one.data, Chunks)]
    return commit(session, parts, how, prepare=prepare, repeatable=lambda: not any(data.begun for data in chunks))


def as_part(session: Session, given: Given, how: Write) -> Part:
    """A slice of Postgres as a part of a commit; what does not need the server is begun beside it."""
    corrector = Corrector(given.slice)
    part = Part(given.slice, how.mode, lambda *_: Loaded(Change(), 0))
    if isinstance(given.data, Chunks):
        load = _chunks_loading(given, given.data, corrector, how, part.commit_id)
    else:
        load = _table_loading(session, given, given.data, corrector, how)
    settle = settling(given.slice, how, corrector, part.commit_id)
    contract, table = given.slice.contract, given.data
    if isinstance(table, pa.Table) and contract.config.key and (how.mode == "upsert" or contract.config.partial_loads):

        def settle_merged(transaction: Transaction) -> None:
            settle(transaction)
            supersede_entries(transaction, contract, lambda _: table)

        return replace(part, load=load, settle=settle_merged)
    return replace(part, load=load, settle=settle)


def _chunks_loading(
    given: Given, data: Chunks, corrector: Corrector, how: Write, commit_id: str
) -> Callable[[Transaction, Head], Loaded]:
    def load(transaction: Transaction, _: Head) -> Loaded:
        corrector.ids.clear()
        found = corrector.applied(transaction, given.records, beside=None)
        with _conflicts_named(given.slice, how):
            loaded = load_chunks(
                transaction,
                given.slice,
                data,
                mode=how.mode,
                source=how.source,
                run_id=how.run_id,
                commit_id=commit_id,
                corrector=corrector,
                first=found.rows,
            )
        left_out = given.deduplicated + found.repeated
        rejected = rejected_of(found.records)
        first = [*found.records, *([loaded.first_rejected] if loaded.first_rejected else [])]
        received, quarantined = loaded.received + rejected + left_out, loaded.quarantined + rejected
        given.require_accepted(how, received=received, rejected=quarantined, records=first)
        return replace(
            loaded,
            change=replace(loaded.change, deduplicated=loaded.change.deduplicated + left_out),
            received=received,
            quarantined=quarantined,
            records=found.records,
        )

    return load


def _table_loading(
    session: Session, given: Given, table: pa.Table, corrector: Corrector, how: Write
) -> Callable[[Transaction, Head], Loaded]:
    slice_ = given.slice
    prepared = _Prepared(session, table, slice_, how)

    def load(transaction: Transaction, _: Head) -> Loaded:
        corrector.ids.clear()
        found = corrector.applied(transaction, given.records, beside=table)
        received, rejected = table.num_rows + given.rejected + given.deduplicated, rejected_of(found.records)
        given.require_accepted(how, received=received, rejected=rejected, records=found.records)
        ready = prepared
        if found.rows is not None:
            ready = _Prepared(session, pa.concat_tables([table, found.rows]), slice_, how)
        with _conflicts_named(slice_, how):
            change = WRITERS[how.mode](transaction, slice_, ready.rows)
        left_out = change.deduplicated + ready.rows.duplicates + given.deduplicated + found.repeated
        return Loaded(
            replace(change, deduplicated=left_out),
            received=received,
            quarantined=rejected,
            records=found.records,
            size=ready.size,
            content_hash=ready.content_hash.result(),
        )

    return load


class _Prepared:
    """Rows of which no two have the same key, in the making of what else is needed of them beside the server's work."""

    def __init__(self, session: Session, table: pa.Table, slice_: Slice, how: Write) -> None:
        self.rows = Rows(table, slice_.contract.config.key)
        self.size: int = table.nbytes
        self.content_hash: Future[str] = session.background(lambda: hash_of(self.rows.table))
        if how.mode != "append":
            session.background(self.rows.in_key_order)


def _table_to_check(transaction: Transaction, given: Given, how: Write) -> tuple[Any, str | None]:
    """The contract, and the native partition that mode partition may swap: a lock on the table would be in the way."""
    contract = given.slice.contract
    swappable = how.mode == "partition" and isinstance(given.data, pa.Table)
    leaf = native.leaf_of(given.slice) if swappable else None
    return contract, leaf if leaf and native.exists(transaction, contract, leaf) else None


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


def settling(slice_: Slice, how: Write, corrector: Corrector, commit_id: str) -> Callable[[Transaction], None]:
    """What brings the entries of a slice up to what its source says now, once the records of the write are stored.

    A write that adds to the slice says nothing of what it does not meet.
    """
    part_of_it = any(isinstance(bound, OneOf | Combinations) for bound in slice_.bounds.values())
    if how.mode not in WHOLE or part_of_it:
        return lambda _: None
    partial = slice_.contract.config.partial_loads
    return lambda transaction: settle_entries(
        transaction, slice_, commit_id=commit_id, corrected=corrector.ids, partial=partial
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
