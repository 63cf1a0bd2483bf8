"""Slices of a table as parquet files under a root URL: replaced as a whole, never seen half-written.

    <root>/<system>/<asset>/data.parquet                          a whole table
    <root>/<system>/<asset>/partition=<name>/data.parquet          a partition
    <root>/<system>/<asset>/snapshot=<UTC instant>/data.parquet    a snapshot of each write; the newest counts

A file is written under a temporary name and renamed, within the transaction that enters it into the ledger and its rejected rows
into quarantine. Killed between the rename and the commit, the file is there without its ledger row, and the next run
writes both again.
"""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets.core.contracts import Contract, Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.difference import without_duplicates
from etl_assets.core.slices.ledger import store_records
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.parquet.form import (
    UNREADABLE,
    WRITTEN,
    DamagedFile,
    damage_named,
    is_damage,
    is_whole,
    opened,
)
from etl_assets.core.slices.slice import Slice, assign, divide
from etl_assets.core.slices.streaming import Chunks
from etl_assets.core.slices.transaction import Transaction
from etl_assets.core.slices.writing import Data, Outcome, Write, commit, finish, hash_of, settle_quarantine
from etl_assets.errors import ConfigurationError, ContractError, PermanentError

SNAPSHOTS_KEPT = 100
HASH = b"etl_assets.content_hash"


class NothingStored(PermanentError):
    """Of none of some slices there is a file."""


@dataclass(frozen=True)
class ParquetRoot:
    """Where the parquet layers are.

    Attributes:
        url: a folder, or an fsspec URL (`s3://bucket/prefix`).
    """

    url: str

    def filesystem(self) -> tuple[Any, str]:
        """The file system and the path of the root in it.

        Raises:
            ConfigurationError: for a scheme that is not known, or whose package is not installed.
        """
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise ConfigurationError(f"ETL_STORAGE_URL cannot be used: {error}") from error
        return found

    def folder(self, piece: Slice) -> str:
        """The folder of a slice, below the root."""
        _, root = self.filesystem()
        parts = [root, piece.contract.schema_name(), piece.contract.table_name()]
        if piece.name:
            parts.append(f"partition={quote(piece.name, safe='')}")
        return "/".join(parts)


def write_parquet(
    root: ParquetRoot, database: Database, data: Data | Split[Any], slices: Sequence[Slice], how: Write
) -> list[Outcome]:
    """Store rows as one file per slice.

    Args:
        database: keeps the ledger and the rejected rows.
        data: as for `writing.write`; record batches are written as they come and go to a single slice. Of these rows with
            equal keys all stay: to see them would take the memory of all keys.
        how: mode `replace`, `partition` or `snapshot`.

    Raises:
        ContractError: for data that do not have the contract's shape, before any file is touched.
    """
    contract = slices[0].contract
    if how.mode not in ("replace", "partition", "snapshot"):
        raise ContractError(f"{contract.config.table}: parquet knows replace, partition and snapshot, not {how.mode!r}")
    given = data if isinstance(data, Split) else Split(data)
    if isinstance(given.valid, pa.RecordBatchReader):
        if len(slices) != 1:
            raise ContractError(f"{contract.config.table}: record batches go to a single partition, not {len(slices)}")
        return [_store(root, database, slices[0], given, how)]
    judged = split_arrow(contract, given.valid, source=how.source)
    homes = assign([*given.records, *judged.records], slices)
    left_out = [given.deduplicated, *(0 for _ in slices[1:])]
    return [
        _store(root, database, piece, Split(table, records, deduplicated), how)
        for piece, table, records, deduplicated in zip(
            slices, divide(judged.valid, slices), homes, left_out, strict=True
        )
    ]


def _store(
    root: ParquetRoot,
    database: Database,
    piece: Slice,
    given: Split[pa.Table | pa.RecordBatchReader],
    how: Write,
) -> Outcome:
    started = time.perf_counter()
    filesystem, _ = root.filesystem()
    folder = root.folder(piece)
    now = datetime.now(UTC)
    target = f"{folder}/snapshot={now:%Y%m%dT%H%M%S.%fZ}" if how.mode == "snapshot" else folder
    make_folder(filesystem, target)
    temporary = f"{target}/.{uuid.uuid4().hex}.tmp"
    try:
        file = _write_file(filesystem, temporary, piece, given.valid, how)
        with database.adbc() as connection:
            transaction = Transaction(connection)
            transaction.lock(piece)
            change = _change(file, *_rows_and_hash(filesystem, f"{target}/data.parquet"))
            outcome = Outcome(
                piece=piece,
                commit_id=uuid.uuid4().hex,
                change=replace(change, deduplicated=change.deduplicated + given.deduplicated),
                received=file.received + len(given.rejected) + given.deduplicated,
                quarantined=len(file.records) + len(given.rejected),
                flagged=len(given.records) - len(given.rejected),
                size=file.size,
                content_hash=file.content_hash,
                seconds=time.perf_counter() - started,
            )
            store_records(transaction, piece, [*given.records, *file.records], run_id=how.run_id)
            settle_quarantine(transaction, piece, how)
            finish(transaction, outcome, how)
            if not (outcome.change.unchanged and is_whole(filesystem, f"{target}/data.parquet")):
                publish(filesystem, temporary, f"{target}/data.parquet")
            commit(database, connection, outcome.commit_id)
    finally:
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(temporary)
    if how.mode == "snapshot":
        _forget_old_snapshots(filesystem, folder)
    return outcome


@dataclass(frozen=True)
class _File:
    rows: int
    received: int
    duplicates: int
    size: int
    records: Sequence[Record]
    content_hash: str | None


def _write_file(filesystem: Any, path: str, piece: Slice, data: pa.Table | pa.RecordBatchReader, how: Write) -> _File:
    """Write the rows of a slice, judged, to a new file."""
    contract = piece.contract
    schema = arrow_schema(contract)
    if isinstance(data, pa.Table):
        table = without_duplicates(data, contract.config.key)
        content_hash = hash_of(table)
        with filesystem.open(path, "wb") as file:
            pq.write_table(table.replace_schema_metadata({HASH: content_hash.encode()}), file, **WRITTEN)
        return _File(table.num_rows, data.num_rows, data.num_rows - table.num_rows, data.nbytes, (), content_hash)
    rows = received = size = 0
    records: list[Record] = []
    with filesystem.open(path, "wb") as file, pq.ParquetWriter(file, schema, **WRITTEN) as writer:
        for chunk in Chunks(data):
            judged = split_arrow(contract, chunk, source=how.source, first_row=received)
            divide(judged.valid, [piece])
            writer.write_table(judged.valid)
            received += chunk.num_rows
            rows += judged.valid.num_rows
            size += judged.valid.nbytes
            records += judged.records
    return _File(rows, received, 0, size, records, None)


def _change(file: _File, rows_before: int, hash_before: str | None) -> Change:
    if file.content_hash is not None and file.content_hash == hash_before:
        return Change(unchanged=file.rows, deduplicated=file.duplicates)
    return Change(inserted=file.rows, deleted=rows_before, deduplicated=file.duplicates)


def publish(filesystem: Any, temporary: str, final: str) -> None:
    """Give a complete file its name: at once on a local disk, by the store's own atomic put elsewhere."""
    if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
        with Path(temporary).open("rb+") as file:
            os.fsync(file.fileno())
        Path(temporary).replace(final)
    else:
        filesystem.mv(temporary, final)


def make_folder(filesystem: Any, folder: str) -> None:
    """Make a folder below the root, if it is not there.

    Raises:
        PermanentError: if that cannot be.
    """
    try:
        filesystem.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise PermanentError(
            f"{folder} cannot be made ({error.strerror}): let ETL_STORAGE_URL name a folder that this process may write to"
        ) from error


def rows_of(filesystem: Any, path: str) -> int:
    """Rows of a parquet file by its footer; 0 if there is none."""
    return _rows_and_hash(filesystem, path)[0]


def _rows_and_hash(filesystem: Any, path: str) -> tuple[int, str | None]:
    """Rows and content hash by the footer; 0 and None where there is no file or a damaged one, None for one that was written in batches."""
    try:
        with filesystem.open(path, "rb") as file:
            stored = opened(file)
            content_hash = (stored.schema_arrow.metadata or {}).get(HASH) or b""
            return int(stored.metadata.num_rows), content_hash.decode() or None
    except (OSError, *UNREADABLE) as error:
        if not (isinstance(error, FileNotFoundError) or is_damage(error)):
            raise
        return 0, None


def is_stored(root: ParquetRoot, piece: Slice) -> bool:
    """Whether a slice that has no snapshots has a file, as far as that can be told by its end."""
    filesystem, _ = root.filesystem()
    path = f"{root.folder(piece)}/data.parquet"
    try:
        with damage_named(path), filesystem.open(path, "rb") as file:
            opened(file)
    except (FileNotFoundError, DamagedFile):
        return False
    return True


def _snapshots(filesystem: Any, folder: str) -> list[str]:
    """Folders of complete snapshots, oldest first."""
    found = filesystem.glob(f"{folder}/snapshot=*/data.parquet")
    return sorted(path.rsplit("/", 1)[0] for path in found)


def stored_mode(root: ParquetRoot, piece: Slice) -> str:
    """The mode by which a slice that is there was written."""
    filesystem, _ = root.filesystem()
    if _snapshots(filesystem, root.folder(piece)):
        return "snapshot"
    return "partition" if piece.name else "replace"


def _forget_old_snapshots(filesystem: Any, folder: str) -> None:
    """Keep the newest complete snapshots; what is older goes, also what a killed writer left unfinished."""
    kept = _snapshots(filesystem, folder)[-SNAPSHOTS_KEPT:]
    for old in filesystem.glob(f"{folder}/snapshot=*"):
        if old < kept[0]:
            filesystem.rm(old, recursive=True)


def _files(root: ParquetRoot, slices: Sequence[Slice]) -> list[str]:
    """The files of the slices that are there; of snapshots the newest.

    Raises:
        NothingStored: if none is there.
    """
    filesystem, _ = root.filesystem()
    found = []
    for piece in slices:
        folder = root.folder(piece)
        snapshots = _snapshots(filesystem, folder)
        path = f"{snapshots[-1] if snapshots else folder}/data.parquet"
        if filesystem.exists(path):
            found.append(path)
    if not found:
        names = ", ".join(str(piece) for piece in slices[:3])
        raise NothingStored(f"{names}: nothing is stored under {root.url} yet: materialise it first")
    return found


def read_parquet(root: ParquetRoot, slices: Sequence[Slice], columns: Sequence[str] = ()) -> pa.Table:
    """The rows of some slices; those that were never stored are left out.

    Raises:
        PermanentError: if none of them was ever stored, or one is damaged.
        ContractError: if a file does not have the contract's columns.
    """
    return stream_parquet(root, slices, columns).read_all()


def stream_parquet(root: ParquetRoot, slices: Sequence[Slice], columns: Sequence[str] = ()) -> pa.RecordBatchReader:
    """As `read_parquet`, in batches."""
    if not slices:
        raise ContractError("no partition is asked for: a range begins with the earlier one")
    filesystem, _ = root.filesystem()
    contract = slices[0].contract
    schema = arrow_schema(contract, tuple(columns))
    files = _files(root, slices)

    def batches() -> Iterator[pa.RecordBatch]:
        for path in files:
            with damage_named(path), filesystem.open(path, "rb") as file:
                stored = opened(file)
                there = stored.schema_arrow.names
                missing = [name for name in schema.names if name not in there]
                if missing:
                    raise ContractError(f"{path} has no column {', '.join(missing)}: materialise it again")
                for batch in stored.iter_batches(columns=schema.names):
                    yield from pa.Table.from_batches([batch]).select(schema.names).cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def rows_stored(url: str, contract: type[Contract]) -> int:
    """Rows of a table under a root, over all partitions; of snapshots those of the newest."""
    root = ParquetRoot(url)
    filesystem, _ = root.filesystem()
    folder = root.folder(Slice(contract))
    snapshots = _snapshots(filesystem, folder)
    if snapshots:
        return rows_of(filesystem, f"{snapshots[-1]}/data.parquet")
    files = filesystem.glob(f"{folder}/partition=*/data.parquet")
    return sum(rows_of(filesystem, path) for path in [f"{folder}/data.parquet", *files])
