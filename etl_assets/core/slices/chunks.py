"""Load record batches of any number in constant memory: judged, staged or appended, and merged in the server."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.core.slices import merging
from etl_assets.core.slices import native_partitions as native
from etl_assets.core.slices.difference import Rows, in_key_order
from etl_assets.core.slices.ledger import store_records
from etl_assets.core.slices.merging import CHUNK, Change
from etl_assets.core.slices.slice import Slice, divide
from etl_assets.core.slices.transaction import Transaction

CHUNK_ROWS = 250_000


@dataclass(frozen=True)
class Load:
    """What loading the rows of a slice did.

    Attributes:
        received: rows, those that were rejected while they were loaded included.
        quarantined: how many of them were rejected.
        size: bytes of the valid ones in Arrow.
        content_hash: of the valid ones; none of batches.
    """

    change: Change
    received: int
    quarantined: int
    size: int
    content_hash: str | None = None


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
    transaction: Transaction, slice_: Slice, chunks: Iterable[pa.Table], *, mode: str, source: str, run_id: str
) -> Load:
    """Store all chunks within the open transaction."""
    key = slice_.contract.config.key
    merged = mode != "append" and bool(key)
    stage = None
    received = quarantined = size = appended = duplicates = deleted = 0
    if mode in ("replace", "partition") and not merged:
        deleted = merging.write_anew(transaction, slice_, Rows(_nothing(slice_), ())).deleted
    for number, chunk in enumerate(chunks):
        judged = split_arrow(slice_.contract, chunk, source=source, first_row=received)
        divide(judged.valid, [slice_])
        store_records(transaction, slice_, judged.records, run_id=run_id)
        received += chunk.num_rows
        quarantined += len(judged.records)
        size += judged.valid.nbytes
        rows = Rows(judged.valid, key)
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
        return Load(Change(inserted=appended, deleted=deleted, deduplicated=duplicates), received, quarantined, size)
    stage = stage or transaction.stage(_numbered(_nothing(slice_), 0))
    transaction.analyse(stage)
    change = merging.merge_stage(
        transaction, slice_, stage, rows=received - quarantined - duplicates, delete=mode != "upsert"
    )
    return Load(replace(change, deduplicated=change.deduplicated + duplicates), received, quarantined, size)


def _nothing(slice_: Slice) -> pa.Table:
    return arrow_schema(slice_.contract).empty_table()


def _numbered(table: pa.Table, chunk: int) -> pa.Table:
    """The rows with the number of their chunk: where the server puts a row says nothing about when it came."""
    return table.append_column(CHUNK, pa.repeat(pa.scalar(chunk, pa.int64()), table.num_rows))
