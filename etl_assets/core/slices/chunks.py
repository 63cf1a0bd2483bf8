"""Load record batches of any number in constant memory: judged, staged or appended, and merged in the server."""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import pyarrow as pa

from etl_assets.core.contracts import Record
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.core.slices import merging
from etl_assets.core.slices import native_partitions as native
from etl_assets.core.slices.commit import Loaded
from etl_assets.core.slices.corrections import Corrector
from etl_assets.core.slices.difference import Rows, in_key_order
from etl_assets.core.slices.merging import CHUNK, Change
from etl_assets.core.slices.quarantine import store_records, supersede_entries
from etl_assets.core.slices.slice import Slice, divide
from etl_assets.core.slices.transaction import Transaction, equal_keys

CHUNK_ROWS = 250_000


class Chunks:
    """A reader's batches gathered or cut to a size that is worth a bulk load and fits into memory many times over.

    Attributes:
        begun: whether a batch has been asked for; they can be read once only.
    """

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader
        self.begun = False

    def __iter__(self) -> Iterator[pa.Table]:
        self.begun = True
        waiting: list[pa.RecordBatch] = []
        rows = 0
        for batch in self._reader:
            for at in range(0, batch.num_rows, CHUNK_ROWS):
                waiting.append(batch.slice(at, CHUNK_ROWS))
                rows += waiting[-1].num_rows
                if rows >= CHUNK_ROWS:
                    yield pa.Table.from_batches(waiting)
                    waiting, rows = [], 0
        if rows:
            yield pa.Table.from_batches(waiting)


def load_chunks(
    transaction: Transaction,
    slice_: Slice,
    chunks: Iterable[pa.Table],
    *,
    mode: str,
    source: str,
    run_id: str,
    commit_id: str,
    corrector: Corrector,
    first: pa.Table | None,
) -> Loaded:
    """Store all chunks within the open transaction.

    Args:
        first: rows that keep the contract, to be stored before those of the chunks.
    """
    key = slice_.contract.config.key
    merged = mode != "append" and bool(key)
    stage = None
    rejected: Record | None = None
    received = quarantined = size = appended = duplicates = deleted = 0
    if mode in ("replace", "partition") and not merged:
        deleted = merging.write_anew(transaction, slice_, Rows(_nothing(slice_), ())).deleted

    def judged() -> Iterator[pa.Table]:
        nonlocal received, quarantined, duplicates, rejected
        if first is not None:
            received += first.num_rows
            yield first
        for chunk in chunks:
            found = split_arrow(slice_.contract, chunk, source=source, first_row=received)
            divide(found.valid, [slice_])
            fixed = corrector.applied(transaction, found.records, beside=found.valid)
            store_records(transaction, slice_, fixed.records, run_id=run_id, commit_id=commit_id)
            received += chunk.num_rows
            quarantined += len(fixed.records)
            rejected = rejected or next(iter(fixed.records), None)
            duplicates += fixed.repeated
            yield found.valid if fixed.rows is None else pa.concat_tables([found.valid, fixed.rows])

    for number, table in enumerate(judged()):
        size += table.nbytes
        rows = Rows(table, key)
        duplicates += rows.duplicates
        if not merged:
            appended += merging.append(transaction, slice_, rows).inserted
            continue
        native.table_for(transaction, slice_, rows.table)
        numbered = _numbered(in_key_order(rows.table, key), number)
        if stage is None:
            stage = transaction.stage(numbered)
        else:
            transaction.extend(stage, numbered)
    if not merged:
        change = Change(inserted=appended, deleted=deleted, deduplicated=duplicates)
        return Loaded(change, received, quarantined, size=size, first_rejected=rejected)
    stage = stage or transaction.stage(_numbered(_nothing(slice_), 0))
    transaction.analyse(stage)
    change = merging.merge_stage(
        transaction, slice_, stage, rows=received - quarantined - duplicates, delete=mode != "upsert"
    )
    if mode == "upsert":
        matching = equal_keys(key, "s", "t")
        given = functools.partial(merging.rows_with_keys, transaction, slice_.contract, target=stage, matching=matching)
        supersede_entries(transaction, slice_.contract, given)
    change = replace(change, deduplicated=change.deduplicated + duplicates)
    return Loaded(change, received, quarantined, size=size, first_rejected=rejected)


def _nothing(slice_: Slice) -> pa.Table:
    return arrow_schema(slice_.contract).empty_table()


def _numbered(table: pa.Table, chunk: int) -> pa.Table:
    """The rows with the number of their chunk: where the server puts a row says nothing about when it came."""
    return table.append_column(CHUNK, pa.repeat(pa.scalar(chunk, pa.int64()), table.num_rows))
