"""Slices as parquet files below a root: written under the name of their commit, and read through the heads.

What a commit is stands in `commit.py`: a file is complete, and on the disk, before the transaction commits that says that it counts. Killed before that, it
is a file that nobody knows, and is swept (`sweeping.py`).
"""

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from psycopg import sql

from etl_assets.core.contracts import Contract, Record, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.chunks import Chunks
from etl_assets.core.slices.commit import Loaded, Outcome, Part, Write, commit
from etl_assets.core.slices.copies import publish
from etl_assets.core.slices.corrections import Corrector
from etl_assets.core.slices.difference import Rows
from etl_assets.core.slices.files import (
    COPY,
    PARTITION,
    WRITTEN,
    DamagedFile,
    ParquetRoot,
    before_heads,
    is_whole,
    names_in,
    new_file,
    readable,
    remove,
    rows_and_hash,
    standing_file,
    write_table,
)
from etl_assets.core.slices.heads import Head, heads_of, key_of
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.merging import Change
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.slice import Slice, divide
from etl_assets.core.slices.sweeping import give_up
from etl_assets.core.slices.transaction import Transaction
from etl_assets.core.slices.writing import WHOLE, Data, Given, given_parts, hash_of, rejected_of, settling
from etl_assets.errors import ContractError, PermanentError
from etl_assets.redaction import public_url

__all__ = [
    "DamagedFile",
    "NothingStored",
    "ParquetRoot",
    "is_stored",
    "read_parquet",
    "stream_parquet",
    "write_parquet",
]


class NothingStored(PermanentError):
    """Of none of some slices there is a file."""


def write_parquet(
    root: ParquetRoot, database: Database, data: Data | Split[Any], slices: Sequence[Slice], how: Write
) -> list[Outcome]:
    """Store rows as one file per slice, each in one commit.

    Args:
        database: keeps the heads, the ledger and the rejected rows.
        data: as for `writing.write`; record batches are written as they come and go to a single slice. Of these rows with
            equal keys all stay: to see them would take the memory of all keys.
        how: mode `replace`, `partition` or `snapshot`; of a snapshot the rows before are not said to be deleted.

    Raises:
        ContractError: for data that do not have the contract's shape, before any file is touched.
        Outdated, TransientError, PermanentError: as `commit`; and for a disk that is full, or a folder that may not be written.
    """
    if how.mode not in WHOLE:
        raise ContractError(
            f"{slices[0].contract.config.table}: parquet knows replace, partition and snapshot, not {how.mode!r}"
        )
    given = given_parts(data, slices, source=how.source)
    # The generation is counted before a file is begun: whoever sweeps knows of each folder by its head.
    held = contextlib.nullcontext(how.lock) if how.lock else locked(database, slices)
    with held as lock, Session(database) as session:
        how = replace(how, lock=lock)
        return [outcome for one in given for outcome in store_files(session, root, [FileLoad(root, one, how)], how)]


def store_files(
    session: Session, root: ParquetRoot, loads: "Sequence[FileLoad]", how: Write, *, beside: Sequence[Part] = ()
) -> list[Outcome]:
    """Store slices in files, in one commit, under the lock of the write, which covers them.

    Args:
        beside: what is written in the same commit.

    Returns:
        What became of the rows, those of the files first.
    """
    assert how.lock is not None
    parts = [load.part for load in loads]
    outcomes = commit(session, [*parts, *beside], how, repeatable=lambda: all(load.repeatable for load in loads))
    if session.database.is_dry_run:
        return outcomes
    for load in loads:
        for name in load.given_up:
            remove(root.filesystem()[0], f"{root.folder(load.slice)}/{name}")
        if not load.is_copied:
            publish(root, how.lock, load.slice)
    return outcomes


class FileLoad:
    """Writes the file of a slice, within the transaction that makes it count.

    Attributes:
        loaded: what that did, once it has.
        given_up: names of files that are older than the contract keeps, to be deleted once that is committed.
    """

    def __init__(self, root: ParquetRoot, given: Given, how: Write) -> None:
        self.slice = given.slice
        self.loaded = Loaded(Change(), 0)
        self._root = root
        self._given = given
        self._how = how
        self._corrector = Corrector(given.slice)
        self._commit_id = uuid.uuid4().hex
        self._written: Loaded | None = None
        self._standing: str | None = None
        self.given_up: Sequence[str] = ()

    @property
    def part(self) -> Part:
        """The slice as a part of a commit."""
        settle = settling(self._given.slice, self._how, self._corrector, self._commit_id)
        return Part(self._given.slice, self._how.mode, self, settle, self._commit_id)

    @property
    def is_copied(self) -> bool:
        """Whether the file is the one that stood before, and there is a copy."""
        copy = f"{self._root.folder(self.slice)}/{COPY}"
        return self.loaded.file == self._standing and bool(self._root.filesystem()[0].exists(copy))

    @property
    def repeatable(self) -> bool:
        """Whether it can be loaded again: record batches only once they are in their file."""
        data = self._given.data
        return not isinstance(data, Chunks) or not data.begun or self._written is not None

    def __call__(self, transaction: Transaction, head: Head) -> Loaded:
        """Write the file unless the one that stands has these rows; what is older than the contract keeps is given up."""
        self._standing = head.file
        self.loaded = self._loaded(transaction, head)
        self.given_up = give_up(transaction, self.slice, standing=head.file)
        return self.loaded

    def _loaded(self, transaction: Transaction, head: Head) -> Loaded:
        filesystem, _ = self._root.filesystem()
        slice_ = self._given.slice
        standing = standing_file(self._root, slice_, head)
        rows_before, hash_before = (head.rows, head.content_hash) if head.file else rows_and_hash(filesystem, standing)
        if self._how.mode == "snapshot":
            rows_before, hash_before = 0, None
        if isinstance(self._given.data, Chunks):
            loaded = self._written or self._stream(transaction, self._given.data)
            self._written = loaded
            return replace(loaded, change=replace(loaded.change, deleted=rows_before or 0))
        return self._table(transaction, self._given.data, head, standing, (rows_before or 0, hash_before))

    def _table(
        self,
        transaction: Transaction,
        table: pa.Table,
        head: Head,
        standing: str | None,
        before: tuple[int, str | None],
    ) -> Loaded:
        filesystem, _ = self._root.filesystem()
        self._corrector.ids.clear()
        found = self._corrector.applied(transaction, self._given.records, beside=table)
        whole = table if found.rows is None else pa.concat_tables([table, found.rows])
        rejected = rejected_of(found.records)
        received = whole.num_rows + rejected + found.repeated + self._given.deduplicated
        self._given.require_accepted(self._how, received=received, rejected=rejected, records=found.records)
        rows = Rows(whole, self._given.slice.contract.config.key)
        content_hash = hash_of(rows.table)
        count = rows.table.num_rows
        same = content_hash == before[1]
        if same and head.file and standing and is_whole(filesystem, standing):
            file = head.file
        else:
            file = f"{self._commit_id}.parquet"
        if file != head.file and not transaction.is_dry_run:
            write_table(filesystem, f"{self._root.folder(self._given.slice)}/{file}", rows.table, content_hash)
        left_out = rows.duplicates + found.repeated + self._given.deduplicated
        return Loaded(
            Change(unchanged=count, deduplicated=left_out)
            if same
            else Change(inserted=count, deleted=before[0], deduplicated=left_out),
            received=received,
            quarantined=rejected,
            records=found.records,
            size=whole.nbytes,
            content_hash=content_hash,
            file=file,
            rows=count,
        )

    def _stream(self, transaction: Transaction, chunks: Chunks) -> Loaded:
        """Write batches as they come, each judged."""
        filesystem, _ = self._root.filesystem()
        slice_, file = self._given.slice, f"{self._commit_id}.parquet"
        loaded = received = size = 0
        records: list[Record] = []
        place = f"{self._root.folder(slice_)}/{file}"
        with (
            Path(os.devnull).open("wb") if transaction.is_dry_run else new_file(filesystem, place) as opened,
            pq.ParquetWriter(opened, arrow_schema(slice_.contract), **WRITTEN) as writer,
        ):
            for chunk in chunks:
                judged = split_arrow(slice_.contract, chunk, source=self._how.source, first_row=received)
                divide(judged.valid, [slice_])
                writer.write_table(judged.valid)
                received += chunk.num_rows
                loaded += judged.valid.num_rows
                size += judged.valid.nbytes
                records += judged.records
            found = self._corrector.applied(transaction, [*self._given.records, *records], beside=None)
            received += self._given.rejected + self._given.deduplicated
            rejected = rejected_of(found.records)
            self._given.require_accepted(self._how, received=received, rejected=rejected, records=found.records)
            if found.rows is not None:
                writer.write_table(found.rows)
                loaded += found.rows.num_rows
        left_out = found.repeated + self._given.deduplicated
        return Loaded(
            Change(inserted=loaded, deduplicated=left_out),
            received=received,
            quarantined=rejected,
            records=found.records,
            size=size,
            file=file,
            rows=loaded,
        )


def is_stored(root: ParquetRoot, database: Database, slices: Sequence[Slice]) -> list[bool]:
    """For each slice whether it has a file, as far as that can be told by its end; one query for all."""
    filesystem, _ = root.filesystem()
    heads = heads_of(database, slices)
    found = []
    for slice_ in slices:
        path = standing_file(root, slice_, heads.get(key_of(slice_), Head()))
        try:
            with contextlib.ExitStack() as stack:
                if path is not None:
                    stack.enter_context(readable(filesystem, path))
            found.append(path is not None)
        except DamagedFile:
            found.append(False)
    return found


def read_parquet(
    root: ParquetRoot,
    database: Database,
    slices: Sequence[Slice],
    columns: Sequence[str] = (),
    *,
    inputs: Inputs | None = None,
    heads: Mapping[tuple[str, str], Head] | None = None,
    as_of: str | None = None,
) -> pa.Table:
    """The rows of some slices; those that were never stored are left out.

    Args:
        columns: those that are wanted; all by default. One that came to the contract later is NULL in older files.
        inputs: is told by which commits they are as they are.
        heads: those of the slices, where they are known already.
        as_of: a commit of the one slice that is read: as that commit left it.

    Raises:
        NothingStored: if none of them was ever stored.
        DamagedFile, PermanentError: if a file is damaged, or cannot be read; if a version is not kept any more.
        ContractError: if a file does not have the contract's columns.
    """
    return stream_parquet(root, database, slices, columns, inputs=inputs, heads=heads, as_of=as_of).read_all()


def stream_parquet(
    root: ParquetRoot,
    database: Database,
    slices: Sequence[Slice],
    columns: Sequence[str] = (),
    *,
    inputs: Inputs | None = None,
    heads: Mapping[tuple[str, str], Head] | None = None,
    as_of: str | None = None,
) -> pa.RecordBatchReader:
    """As `read_parquet`, in batches."""
    if not slices:
        raise ContractError("no partition is asked for: a range begins with the earlier one")
    filesystem, _ = root.filesystem()
    contract = slices[0].contract
    schema = arrow_schema(contract, tuple(columns))
    if as_of is None:
        heads = heads_of(database, slices) if heads is None else heads
        found = [standing_file(root, slice_, heads.get(key_of(slice_), Head())) for slice_ in slices]
        if inputs is not None:
            inputs.read(database, slices, heads)
    else:
        found = [_file_as_of(root, database, slices, as_of)]
    files = [path for path in found if path is not None]
    if not files:
        names = ", ".join(str(slice_) for slice_ in slices[:3])
        raise NothingStored(f"{names}: nothing is stored under {public_url(root.url)} yet: materialise it first")

    def batches() -> Iterator[pa.RecordBatch]:
        for path in files:
            with readable(filesystem, path) as stored:
                there = [name for name in schema.names if name in stored.schema_arrow.names]
                missing = [name for name in schema.names if name not in there]
                if required := [name for name in missing if not contract.columns[name].nullable]:
                    raise ContractError(f"{path} has no column {', '.join(required)}: materialise it again")
                for batch in stored.iter_batches(columns=there):
                    table = pa.Table.from_batches([batch])
                    for name in missing:
                        table = table.append_column(name, pa.nulls(table.num_rows, schema.field(name).type))
                    yield from table.select(schema.names).cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _file_as_of(root: ParquetRoot, database: Database, slices: Sequence[Slice], commit_id: str) -> str:
    """The file of a slice as a commit left it."""
    if len(slices) != 1:
        raise ContractError(f"a commit is of one slice: {len(slices)} are asked for as of {commit_id}")
    table, partition = key_of(slices[0])
    query = sql.SQL("SELECT file FROM etl.ledger WHERE commit_id = %s AND asset = %s AND partition = %s")
    with database.connect() as connection:
        found = connection.execute(query, (commit_id, table, partition)).fetchone()
    if found is None:
        raise PermanentError(f"{slices[0]} has no commit {commit_id}: see `etl-assets ledger show {table} {partition}`")
    if found[0] is None:
        raise PermanentError(
            f"{slices[0]} as of {commit_id} is not kept any more: its contract says how many versions are"
        )
    return f"{root.folder(slices[0])}/{found[0]}"


def rows_stored(database: Database, root: ParquetRoot, contract: type[Contract]) -> int:
    """Rows of a table in files, over all its partitions."""
    filesystem, _ = root.filesystem()
    table = Slice(contract)
    heads = heads_of(database, [table])
    counted = sum(head.rows or 0 for head in heads.values())
    committed = {root.folder(Slice(contract, partition)) for (_, partition), head in heads.items() if head.commit_id}
    # Slices that nobody has written since there were heads.
    names = (name for name in names_in(filesystem, root.folder(table)) if name.startswith(PARTITION))
    folders = [root.folder(table), *(f"{root.folder(table)}/{name}" for name in names)]
    older = (before_heads(filesystem, folder) for folder in folders if folder not in committed)
    return counted + sum(rows_and_hash(filesystem, path)[0] for path in older)
