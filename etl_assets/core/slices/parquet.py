"""Slices of a table as parquet files under a root URL: replaced as a whole, never seen half-written.

    <root>/<system>/<asset>/data.parquet                          a whole table
    <root>/<system>/<asset>/partition=<name>/data.parquet          a partition
    <root>/<system>/<asset>/snapshot=<UTC instant>/data.parquet    a snapshot of each write; the newest counts

A file is written under a temporary name and renamed, within the transaction that records it in the ledger and its rejected rows
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
from typing import IO, Any, Final
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets.core.contracts import Contract, Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import reading
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.ledger import store_records
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.session import retried
from etl_assets.core.slices.slice import Slice, divide
from etl_assets.core.slices.transaction import Transaction
from etl_assets.core.slices.writing import (
    WHOLE,
    Data,
    Load,
    Outcome,
    Part,
    Write,
    commit,
    finish,
    hash_of,
    parts_of,
    settle_quarantine,
)
from etl_assets.errors import ConfigurationError, ContractError, PermanentError

SNAPSHOTS_KEPT = 100
HASH = b"etl_assets.content_hash"
# Without a checksum per page a byte that a disk returns wrong is mostly a wrong value, and no error: of 400 single flipped bits in a
# file of 2,000 rows 373 changed values silently; with them none did, for no time that can be measured.
WRITTEN: Final[dict[str, Any]] = {"compression": "zstd", "write_page_checksum": True}
# What a page or a footer that is another can look like to Arrow.
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError)


class NothingStored(PermanentError):
    """Of none of some slices there is a file."""


class DamagedFile(PermanentError):
    """A parquet file does not hold what was written to it."""


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

    def folder(self, slice_: Slice) -> str:
        """The folder of a slice, below the root."""
        _, root = self.filesystem()
        parts = [root, slice_.contract.schema_name(), slice_.contract.table_name()]
        if slice_.name:
            parts.append(f"partition={quote(slice_.name, safe='')}")
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
    if how.mode not in WHOLE:
        raise ContractError(
            f"{slices[0].contract.config.table}: parquet knows replace, partition and snapshot, not {how.mode!r}"
        )
    return [_store(root, database, part, how) for part in parts_of(data, slices, source=how.source)]


def _store(root: ParquetRoot, database: Database, part: Part, how: Write) -> Outcome:
    started = time.perf_counter()
    filesystem, _ = root.filesystem()
    folder = root.folder(part.slice)
    target = f"{folder}/snapshot={datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}" if how.mode == "snapshot" else folder
    with _new_file(filesystem, target) as temporary:
        load, found = _write_file(filesystem, temporary, part, how)
        with database.adbc() as connection:
            transaction = Transaction(connection)
            transaction.lock(part.slice)
            rows_before, hash_before = _rows_and_hash(filesystem, f"{target}/data.parquet")
            if load.content_hash is not None and load.content_hash == hash_before:
                load = replace(load, change=replace(load.change, inserted=0, unchanged=load.change.inserted))
            else:
                load = replace(load, change=replace(load.change, deleted=rows_before))
            outcome = part.outcome(load, started)
            store_records(transaction, part.slice, [*part.records, *found], run_id=how.run_id)
            settle_quarantine(transaction, part.slice, how)
            finish(transaction, outcome, how)
            if not (outcome.change.unchanged and is_whole(filesystem, f"{target}/data.parquet")):
                publish(filesystem, temporary, f"{target}/data.parquet")
            commit(database, connection, outcome.commit_id)
    if how.mode == "snapshot":
        _forget_old_snapshots(filesystem, folder)
    return outcome


def mirror(root: ParquetRoot, database: Database, slice_: Slice) -> int:
    """Make the parquet file of a slice hold what is in Postgres, in key order and constant memory.

    Under the lock of the slice, so that of two writers none can leave a copy of the other's earlier rows. The copy has no
    ledger row of its own: its rows were received once.

    Returns:
        The number of rows.

    Raises:
        TransientError: if the database stays unavailable or busy; the earlier copy is as it was.
    """
    filesystem, _ = root.filesystem()
    folder = root.folder(slice_)

    def attempt() -> int:
        with database.adbc() as connection:
            Transaction(connection).lock(slice_)
            batches = reading.stream_within(connection, [slice_], ordered=bool(slice_.contract.config.key))
            rows = 0
            with _new_file(filesystem, folder) as temporary:
                with (
                    filesystem.open(temporary, "wb") as file,
                    pq.ParquetWriter(file, batches.schema, **WRITTEN) as writer,
                ):
                    for batch in batches:
                        writer.write_batch(batch)
                        rows += batch.num_rows
                publish(filesystem, temporary, f"{folder}/data.parquet")
            return rows

    return retried(attempt)


@contextlib.contextmanager
def _new_file(filesystem: Any, folder: str) -> Iterator[str]:
    """The name of a file to be written in a folder, which is made; unless it is published, it goes at the end.

    Raises:
        PermanentError: if the folder cannot be made.
    """
    try:
        filesystem.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise PermanentError(
            f"{folder} cannot be made ({error.strerror}): let ETL_STORAGE_URL name a folder that this process may write to"
        ) from error
    temporary = f"{folder}/.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            filesystem.rm(temporary)


def _write_file(filesystem: Any, path: str, part: Part, how: Write) -> tuple[Load, list[Record]]:
    """Write the rows of a slice to a new file, those of batches judged as they come; gives the records of these."""
    contract = part.slice.contract
    if isinstance(part.data, pa.Table):
        rows = Rows(part.data, contract.config.key)
        content_hash = hash_of(rows.table)
        with filesystem.open(path, "wb") as file:
            pq.write_table(rows.table.replace_schema_metadata({HASH: content_hash.encode()}), file, **WRITTEN)
        change = Change(inserted=rows.table.num_rows, deduplicated=rows.duplicates)
        return Load(change, part.data.num_rows, 0, part.data.nbytes, content_hash), []
    loaded = received = size = 0
    records: list[Record] = []
    with filesystem.open(path, "wb") as file, pq.ParquetWriter(file, arrow_schema(contract), **WRITTEN) as writer:
        for chunk in part.data:
            judged = split_arrow(contract, chunk, source=how.source, first_row=received)
            divide(judged.valid, [part.slice])
            writer.write_table(judged.valid)
            received += chunk.num_rows
            loaded += judged.valid.num_rows
            size += judged.valid.nbytes
            records += judged.records
    return Load(Change(inserted=loaded), received, len(records), size), records


def publish(filesystem: Any, temporary: str, final: str) -> None:
    """Give a complete file its name: at once on a local disk, by the store's own atomic put elsewhere."""
    if "file" in (filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)):
        with Path(temporary).open("rb+") as file:
            os.fsync(file.fileno())
        Path(temporary).replace(final)
    else:
        filesystem.mv(temporary, final)


def _rows_and_hash(filesystem: Any, path: str) -> tuple[int, str | None]:
    """Rows and content hash by the footer; 0 and None where there is no file or a damaged one, None for one that was written in batches."""
    try:
        with filesystem.open(path, "rb") as file:
            stored = _opened(file)
            content_hash = (stored.schema_arrow.metadata or {}).get(HASH) or b""
            return int(stored.metadata.num_rows), content_hash.decode() or None
    except (OSError, *UNREADABLE) as error:
        if not (isinstance(error, FileNotFoundError) or _is_damage(error)):
            raise
        return 0, None


def _opened(file: IO[bytes]) -> pq.ParquetFile:
    """A file that is read with its checksums."""
    return pq.ParquetFile(file, page_checksum_verification=True)


def is_whole(filesystem: Any, path: str) -> bool:
    """Whether each page of a file can be read."""
    try:
        with _damage_named(path), filesystem.open(path, "rb") as file:
            for _ in _opened(file).iter_batches():
                pass
    except (FileNotFoundError, DamagedFile):
        return False
    return True


def is_stored(root: ParquetRoot, slice_: Slice) -> bool:
    """Whether a slice that has no snapshots has a file, as far as that can be told by its end."""
    filesystem, _ = root.filesystem()
    path = f"{root.folder(slice_)}/data.parquet"
    try:
        with _damage_named(path), filesystem.open(path, "rb") as file:
            _opened(file)
    except (FileNotFoundError, DamagedFile):
        return False
    return True


def _is_damage(error: Exception) -> bool:
    """To Arrow what cannot be read or unpacked is an OSError too, but none of the system's."""
    return isinstance(error, UNREADABLE) or (isinstance(error, OSError) and error.errno is None)


@contextlib.contextmanager
def _damage_named(path: str) -> Iterator[None]:
    """Say which file it is that cannot be read.

    Raises:
        DamagedFile: if it does not hold what was written.
        PermanentError: if this process may not read it.
    """
    try:
        yield
    except (PermissionError, IsADirectoryError, NotADirectoryError) as error:
        raise PermanentError(
            f"{path} cannot be read ({error.strerror}): make it a file that this process may read"
        ) from error
    except (*UNREADABLE, OSError) as error:
        if not _is_damage(error):
            raise
        text = " ".join(str(error).split())
        raise DamagedFile(f"{path} is damaged, or no parquet file ({text}): materialise it again") from error


def _snapshots(filesystem: Any, folder: str) -> list[str]:
    """Folders of complete snapshots, oldest first."""
    found = filesystem.glob(f"{folder}/snapshot=*/data.parquet")
    return sorted(path.rsplit("/", 1)[0] for path in found)


def stored_mode(root: ParquetRoot, slice_: Slice) -> str:
    """The mode by which a slice that is there was written."""
    filesystem, _ = root.filesystem()
    if _snapshots(filesystem, root.folder(slice_)):
        return "snapshot"
    return "partition" if slice_.name else "replace"


def _forget_old_snapshots(filesystem: Any, folder: str) -> None:
    """Keep the newest complete snapshots; what is older goes, also what a killed writer left unfinished."""
    kept = _snapshots(filesystem, folder)[-SNAPSHOTS_KEPT:]
    for old in filesystem.glob(f"{folder}/snapshot=*"):
        if old < kept[0]:
            filesystem.rm(old, recursive=True)


def _newest(filesystem: Any, folder: str) -> str:
    """The file of a slice: that of its newest snapshot, if it has any."""
    return f"{[folder, *_snapshots(filesystem, folder)][-1]}/data.parquet"


def read_parquet(root: ParquetRoot, slices: Sequence[Slice], columns: Sequence[str] = ()) -> pa.Table:
    """The rows of some slices; those that were never stored are left out.

    Raises:
        NothingStored: if none of them was ever stored.
        DamagedFile, PermanentError: if a file is damaged, or cannot be read.
        ContractError: if a file does not have the contract's columns.
    """
    return stream_parquet(root, slices, columns).read_all()


def stream_parquet(root: ParquetRoot, slices: Sequence[Slice], columns: Sequence[str] = ()) -> pa.RecordBatchReader:
    """As `read_parquet`, in batches."""
    if not slices:
        raise ContractError("no partition is asked for: a range begins with the earlier one")
    filesystem, _ = root.filesystem()
    schema = arrow_schema(slices[0].contract, tuple(columns))
    files = [_newest(filesystem, root.folder(slice_)) for slice_ in slices]
    files = [path for path in files if filesystem.exists(path)]
    if not files:
        names = ", ".join(str(slice_) for slice_ in slices[:3])
        raise NothingStored(f"{names}: nothing is stored under {root.url} yet: materialise it first")

    def batches() -> Iterator[pa.RecordBatch]:
        for path in files:
            with _damage_named(path), filesystem.open(path, "rb") as file:
                stored = _opened(file)
                missing = [name for name in schema.names if name not in stored.schema_arrow.names]
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
    files = [_newest(filesystem, folder)]
    if not _snapshots(filesystem, folder):
        files += filesystem.glob(f"{folder}/partition=*/data.parquet")
    return sum(_rows_and_hash(filesystem, path)[0] for path in files)
