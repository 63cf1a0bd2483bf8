"""Where the files of slices are, and how one is written and read: whole, on the disk before anybody is told of it, and with checksums.

    <root>/<system>/<asset>/[partition=<name>/]<commit>.parquet    a slice as that commit made it; which one counts is said by its head
    <root>/<system>/<asset>/[partition=<name>/]data.parquet         a copy of the one that counts, for readers from outside (`copies.py`)

Before there were heads the file of a slice was `data.parquet`, or in the newest of `snapshot=<UTC instant>/`: that counts until the first commit.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets.core.slices.heads import Head
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import ConfigurationError, PermanentError, of_system
from etl_assets.redaction import without_secrets

HASH = b"etl_assets.content_hash"
# Without a checksum per page a byte that a disk returns wrong is mostly a wrong value, and no error: of 400 single flipped bits in a
# file of 2,000 rows 373 changed values silently; with them none did, for no time that can be measured.
WRITTEN: Final[dict[str, Any]] = {"compression": "zstd", "write_page_checksum": True}
# What a page or a footer that is another can look to Arrow.
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError)
COPY = "data.parquet"
SNAPSHOT = "snapshot="
PARTITION = "partition="
OF_COMMIT = re.compile(r"[0-9a-f]{32}\.parquet")
# A name on a disk has 255 bytes at most.
LONGEST_NAME = 200


class DamagedFile(PermanentError):
    """A parquet file does not hold what was written to it."""


@dataclass(frozen=True)
class ParquetRoot:
    """Where the parquet layers are.

    Attributes:
        url: a folder, or an fsspec URL (`s3://bucket/prefix`).
    """

    url: str = field(repr=False)

    def filesystem(self) -> tuple[Any, str]:
        """The file system and the path of the root in it.

        Raises:
            ConfigurationError: for a scheme that is not known, or whose package is not installed.
        """
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            said = without_secrets(f"{error}", self.url)
            raise ConfigurationError(f"ETL_STORAGE_URL cannot be used: {said}") from None
        return found

    def shown(self, slice_: Slice) -> str:
        """The folder of a slice, for people: without what its URL carries."""
        return without_secrets(self.folder(slice_), self.url)

    def folder(self, slice_: Slice) -> str:
        """The folder of a slice, below the root."""
        _, root = self.filesystem()
        parts = [root, slice_.contract.schema_name(), slice_.contract.table_name()]
        if slice_.name:
            parts.append(f"{PARTITION}{_folder_name(slice_.name)}")
        return "/".join(parts)


def _folder_name(partition: str) -> str:
    """A partition as the name of a folder: quoted; of one that is too long the beginning and its digest."""
    quoted = quote(partition, safe="")
    if len(quoted) <= LONGEST_NAME:
        return quoted
    # A plus sign is in no quoted name.
    return f"{quoted[: LONGEST_NAME - 65]}+{hashlib.sha256(partition.encode()).hexdigest()}"


def standing_file(root: ParquetRoot, slice_: Slice, head: Head) -> str | None:
    """The path of the file that holds a slice; None if it was never stored."""
    filesystem, _ = root.filesystem()
    folder = root.folder(slice_)
    if head.file is not None:
        return f"{folder}/{head.file}"
    return before_heads(filesystem, folder) if head.commit_id is None else None


def before_heads(filesystem: Any, folder: str) -> str | None:
    """The file of a slice that was written before there were heads."""
    names = names_in(filesystem, folder)
    for snapshot in sorted((name for name in names if name.startswith(SNAPSHOT)), reverse=True):
        path = f"{folder}/{snapshot}/{COPY}"
        if filesystem.exists(path):
            return path
    return f"{folder}/{COPY}" if COPY in names else None


def names_in(filesystem: Any, folder: str) -> list[str]:
    """The names in a folder, none of a folder that is not there; nothing in its path is taken for a pattern.

    Raises:
        PermanentError, TransientError: if it cannot be listed.
    """
    with disk_errors(folder):
        try:
            found = filesystem.ls(folder, detail=False, refresh=True)
        except FileNotFoundError:
            return []
    return [path.rstrip("/").rsplit("/", 1)[-1] for path in found if path.rstrip("/") != folder.rstrip("/")]


def is_local(filesystem: Any) -> bool:
    """Whether a file system is a disk of this machine, whose files have to be synced."""
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    return "file" in protocols


@contextlib.contextmanager
def new_file(filesystem: Any, path: str) -> Iterator[IO[bytes]]:
    """A file to be written; afterwards it and its name are on the disk. One that cannot be written to its end is gone.

    Raises:
        PermanentError: if this process may not write it.
        TransientError: if the disk is full, or fails.
    """
    folder = path.rsplit("/", 1)[0]
    with disk_errors(path):
        made = _made(filesystem, folder)
        try:
            with filesystem.open(path, "wb") as file:
                yield file
                if is_local(filesystem):
                    file.flush()
                    os.fsync(file.fileno())
        except BaseException:
            remove(filesystem, path)
            raise
        if is_local(filesystem):
            for place in (folder, *made):
                _sync(place)


def _made(filesystem: Any, folder: str) -> list[str]:
    """Make a folder; gives the folders whose content that changed."""
    if not is_local(filesystem):
        filesystem.makedirs(folder, exist_ok=True)
        return []
    missing = []
    place = Path(folder)
    while not place.exists():
        missing.append(f"{place.parent}")
        place = place.parent
    Path(folder).mkdir(parents=True, exist_ok=True)
    return missing


def _sync(folder: str) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def remove(filesystem: Any, path: str) -> None:
    """Delete a file, if it is there and can be: what stays is found by the next sweep."""
    with contextlib.suppress(OSError):
        filesystem.rm_file(path)


@contextlib.contextmanager
def disk_errors(path: str) -> Iterator[None]:
    """Turn what a file system raises into a failure of ours, classified once.

    Raises:
        PermanentError: for what is there and may not be used.
        TransientError: for a disk that is full, or fails.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        # To Arrow what cannot be unpacked is one too, but none of the system's.
        if error.errno is None:
            raise
        raise of_system(error, place=path, variable="ETL_STORAGE_URL") from error


def write_table(filesystem: Any, path: str, table: pa.Table, content_hash: str) -> None:
    """Write rows as one file; raises as `new_file`."""
    with new_file(filesystem, path) as file:
        pq.write_table(table.replace_schema_metadata({HASH: content_hash.encode()}), file, **WRITTEN)


def opened(file: IO[bytes]) -> pq.ParquetFile:
    """A file that is read with its checksums."""
    return pq.ParquetFile(file, page_checksum_verification=True)


@contextlib.contextmanager
def readable(filesystem: Any, path: str) -> Iterator[pq.ParquetFile]:
    """A file, open to be read.

    Raises:
        DamagedFile: if it does not hold what was written, or is not there.
        PermanentError: if this process may not read it.
    """
    try:
        with disk_errors(path), filesystem.open(path, "rb") as file:
            yield opened(file)
    except FileNotFoundError as error:
        raise DamagedFile(f"{path} is gone: materialise it again") from error
    except (*UNREADABLE, OSError) as error:
        text = " ".join(str(error).split())
        raise DamagedFile(f"{path} is damaged, or no parquet file ({text}): materialise it again") from error


def rows_and_hash(filesystem: Any, path: str | None) -> tuple[int, str | None]:
    """Rows and content hash by the footer; 0 and None where there is no file or a damaged one, no hash for one that was written in batches."""
    if path is None:
        return 0, None
    try:
        with readable(filesystem, path) as stored:
            content_hash = (stored.schema_arrow.metadata or {}).get(HASH) or b""
            return int(stored.metadata.num_rows), content_hash.decode() or None
    except DamagedFile:
        return 0, None


def is_whole(filesystem: Any, path: str) -> bool:
    """Whether each page of a file can be read."""
    try:
        with readable(filesystem, path) as stored:
            for _ in stored.iter_batches():
                pass
    except DamagedFile:
        return False
    return True
