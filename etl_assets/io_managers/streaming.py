"""Load record batches of any number in constant memory: judged, staged or appended, and merged in the server."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from etl_assets.contracts.arrow import arrow_schema
from etl_assets.contracts.validation import split_arrow
from etl_assets.io_managers import merging
from etl_assets.io_managers.bookkeeping import store_records
from etl_assets.io_managers.difference import in_key_order, without_duplicates
from etl_assets.io_managers.merging import Change
from etl_assets.io_managers.slices import Slice, divide
from etl_assets.io_managers.transaction import Transaction

CHUNK_ROWS = 250_000


@dataclass(frozen=True)
class Load:
    """What a stream of batches brought."""

    change: Change
    received: int
    quarantined: int
    size: int


def load(
    transaction: Transaction, piece: Slice, reader: pa.RecordBatchReader, *, mode: str, source: str, run_id: str
) -> Load:
    """Store all batches of a reader within the open transaction."""
    contract = piece.contract
    merged = mode != "append" and bool(contract.config.key)
    stage = None
    received = quarantined = size = appended = duplicates = deleted = 0
    if mode in ("replace", "partition") and not merged:
        deleted = merging.write_anew(transaction, piece, arrow_schema(contract).empty_table()).deleted
    for chunk in _chunks(reader):
        judged = split_arrow(contract, chunk, source=source, first_row=received)
        divide(judged.valid, [piece])
        store_records(transaction, piece, judged.records, run_id=run_id)
        received += chunk.num_rows
        quarantined += len(judged.records)
        size += judged.valid.nbytes
        rows = in_key_order(without_duplicates(judged.valid, contract.config.key), contract.config.key)
        duplicates += judged.valid.num_rows - rows.num_rows
        if not merged:
            appended += merging.append(transaction, piece, rows).inserted
        elif stage is None:
            stage = transaction.stage(rows)
        else:
            transaction.extend(stage, rows)
    if merged:
        stage = stage or transaction.stage(arrow_schema(contract).empty_table())
        delete = mode != "upsert"
        change = merging.merge_stage(
            transaction, piece, stage, rows=received - quarantined - duplicates, delete=delete
        )
        change = Change(
            change.inserted, change.updated, change.deleted, change.unchanged, change.deduplicated + duplicates
        )
    else:
        change = Change(inserted=appended, deleted=deleted, deduplicated=duplicates)
    return Load(change=change, received=received, quarantined=quarantined, size=size)


def _chunks(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Batches gathered or cut to a size that is worth a bulk load and fits into memory many times over."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        for at in range(0, batch.num_rows, CHUNK_ROWS):
            waiting.append(batch.slice(at, CHUNK_ROWS))
            rows += waiting[-1].num_rows
            if rows >= CHUNK_ROWS:
                yield pa.Table.from_batches(waiting)
                waiting, rows = [], 0
    if rows:
        yield pa.Table.from_batches(waiting)
