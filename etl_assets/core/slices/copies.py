"""Copies for readers from outside: `data.parquet` of each slice, and what there is of a table in its `manifest.json`.

They follow after the commit, and nobody of us reads them. A copy that lags behind, or that a writer who was paused has put in the place of a newer one,
is put right by whoever comes next: its writer looks at the head once more.
"""

import contextlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from psycopg.rows import dict_row

from etl_assets.core.contracts import Contract
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import reading
from etl_assets.core.slices.files import (
    COPY,
    WRITTEN,
    ParquetRoot,
    disk_errors,
    is_local,
    names_in,
    remove,
    rows_and_hash,
)
from etl_assets.core.slices.heads import NO_HEAD, Head, heads_of, key_of
from etl_assets.core.slices.lock import Lock, locked
from etl_assets.core.slices.session import retried
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import PlatformError

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
# Of a table with more slices it is written by housekeeping alone: to write it costs as much as to write all of them.
LONGEST_MANIFEST = 2_000
ROUNDS = 5


def publish(root: ParquetRoot, lock: Lock, slice_: Slice) -> None:
    """Make the copy of a slice in files one of the file that counts. What goes wrong is left to housekeeping: the commit stands."""
    filesystem, _ = root.filesystem()
    folder = root.folder(slice_)

    def copied(head: Head, temporary: str) -> None:
        filesystem.cp_file(f"{folder}/{head.file}", temporary)

    try:
        _follow_head(root, slice_, lambda: lock.head(slice_), copied)
    except (PlatformError, OSError) as error:
        log.warning(
            "%s is stored, its copy for readers from outside is not: %s; `etl-assets ledger sweep` makes it",
            slice_,
            error,
        )


def mirror(root: ParquetRoot, database: Database, slice_: Slice) -> int:
    """Make the copy of a slice that is in Postgres one of its rows, in key order and constant memory; it has no row of its own in the ledger.

    Returns:
        The number of rows.

    Raises:
        TransientError: if the database stays unavailable or busy, or the disk is full; the earlier copy is as it was.
        PermanentError: for a folder that may not be written.
    """
    rows = 0
    if database.is_dry_run:
        return rows
    filesystem, _ = root.filesystem()

    def dumped(_: Head, temporary: str) -> None:
        nonlocal rows
        rows = 0
        batches = reading.stream(database, [slice_], ordered=bool(slice_.contract.config.key))
        with filesystem.open(temporary, "wb") as file, pq.ParquetWriter(file, batches.schema, **WRITTEN) as writer:
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows

    retried(lambda: _follow_head(root, slice_, lambda: _head(database, slice_), dumped))
    return rows


def _follow_head(
    root: ParquetRoot, slice_: Slice, head_now: Callable[[], Head], make: Callable[[Head, str], None]
) -> None:
    """Put a copy in its place until it is one of what stands: whoever replaced a newer one sees that the head has moved."""
    filesystem, _ = root.filesystem()
    folder = root.folder(slice_)
    head = head_now()
    for _ in range(ROUNDS):
        with _replaced(filesystem, folder, COPY) as temporary:
            make(head, temporary)
        now = head_now()
        if now.commit_id == head.commit_id:
            return
        head = now


def _head(database: Database, slice_: Slice) -> Head:
    return heads_of(database, [slice_]).get(key_of(slice_), NO_HEAD)


@contextlib.contextmanager
def _replaced(filesystem: Any, folder: str, name: str) -> Iterator[str]:
    """A name to write to in a folder, which is made; at the end the file takes the place of that of its final name."""
    temporary = f"{folder}/.copy-{uuid.uuid4().hex}.tmp"
    with disk_errors(f"{folder}/{name}"):
        try:
            filesystem.makedirs(folder, exist_ok=True)
            yield temporary
            # Where nothing is renamed, the store's own copy puts the whole in place.
            if is_local(filesystem):
                Path(temporary).replace(f"{folder}/{name}")
            else:
                filesystem.mv(temporary, f"{folder}/{name}")
        finally:
            remove(filesystem, temporary)


def write_manifest(
    root: ParquetRoot, database: Database, contract: type[Contract], *, longest: int = LONGEST_MANIFEST
) -> None:
    """Say which file of each slice of a table counts, for readers from outside who want more than the copies."""
    if database.is_dry_run:
        return
    filesystem, _ = root.filesystem()
    query = (
        "SELECT partition, commit_id, file, rows, changed_at FROM etl.heads WHERE asset = %s AND file IS NOT NULL"
        " ORDER BY partition LIMIT %s"
    )
    with database.spare() as connection, connection.cursor(row_factory=dict_row) as cursor:
        slices = cursor.execute(query, (contract.config.table, longest + 1)).fetchall()
    if len(slices) > longest:
        return
    for entry in slices:
        of = root.folder(Slice(contract, entry["partition"]))
        entry["file"] = f"{of[len(root.folder(Slice(contract))) :].lstrip('/')}/{entry['file']}".lstrip("/")
    text = json.dumps({"table": contract.config.table, "slices": slices}, default=_as_text, indent=1)
    with contextlib.suppress(PlatformError, OSError):
        with _replaced(filesystem, root.folder(Slice(contract)), MANIFEST) as temporary:
            with filesystem.open(temporary, "wb") as file:
                file.write(text.encode())


def _as_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def mend(root: ParquetRoot, database: Database, contract: type[Contract]) -> int:
    """Put the copies and the manifest of a table in files right; gives how many copies were not."""
    filesystem, _ = root.filesystem()
    mended = 0
    for (_, partition), head in heads_of(database, [Slice(contract)]).items():
        if head.file is None:
            continue
        slice_ = Slice(contract, partition)
        folder = root.folder(slice_)
        names = names_in(filesystem, folder)
        counts = rows_and_hash(filesystem, f"{folder}/{head.file}")
        if COPY not in names or rows_and_hash(filesystem, f"{folder}/{COPY}") != counts or counts[1] is None:
            with locked(database, [slice_]) as lock:
                publish(root, lock, slice_)
            mended += 1
    write_manifest(root, database, contract, longest=10 * 365 * 96)
    return mended
