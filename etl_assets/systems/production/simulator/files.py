"""Files of records, of any size, in constant memory: JSON arrays on one line or on many, and NDJSON.

A byte-order mark, CRLF and white space around are accepted. What a stream of them looks like over HTTP is not known
here.
"""

import errno
import hashlib
import math
import os
import stat
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple

from etl_assets.systems.production.simulator.scan import (
    ArrayScanner,
    FileRejected,
    LineScanner,
    Scanner,
    Window,
    json_value,
    scanner_of,
)

__all__ = ["FileRejected", "FileSummary", "RecordFile", "RecordReader", "digest", "inspect", "open_records"]

_MARK_EVERY = 10_000
# Fields that a message names.
_MOST_NAMES = 10
# By the name that people have for them, the fields of the records that there are.
_KINDS = {"metrics": {"id", "val", "time"}, "work orders": {"product", "production", "time"}}


class Mark(NamedTuple):
    """A place between two records: how many come before it, and at which byte it is."""

    sequence: int
    byte: int


class RecordReader:
    """Reads the records of a file forward, a window at a time; `RecordFile.reader` makes one."""

    def __init__(self, origin: "RecordFile", file: BinaryIO, *, after: int) -> None:
        mark = origin.mark(after)
        self._after = after
        self._pending: list[str] = []
        self._origin = origin
        self._file = file
        self._window = Window(origin.path, file, start=mark.byte, taken=mark.sequence)
        self._scanner: Scanner | None = None
        if mark.sequence:
            self._scanner = ArrayScanner(begun=True) if origin.is_array else LineScanner()

    @property
    def sequence(self) -> int:
        """Of the last record that was read."""
        return self._window.taken

    @property
    def checked(self) -> bool:
        """Whether the records are known to be JSON: those of an array are, lines are not."""
        return self._scanner is not None and self._scanner.checked

    def approach(self, *, for_s: float) -> bool:
        """Reads towards the place to begin at, for about so long; True if it is reached, or the end as it is now.

        Raises:
            FileRejected: as `block`.
        """
        until = time.monotonic() + for_s
        while not self._pending:
            before = self.sequence
            records, more = self._next()
            if records and self.sequence >= self._origin.marked + _MARK_EVERY:
                self._origin.add_mark(Mark(self.sequence, self._window.start), is_array=self.checked)
            self._pending = records[max(self._after - before, 0) :]
            if not more:
                break
            if time.monotonic() > until:
                return bool(self._pending)
        return True

    def block(self) -> list[str]:
        """The texts of the next records after the place to begin at; none at the end of the file as it is now.

        Raises:
            FileRejected: if the next record cannot be read; names it and the byte.
        """
        self.approach(for_s=math.inf)
        block, self._pending = self._pending, []
        return block

    def _next(self) -> tuple[list[str], bool]:
        """The records of the next window, which may be none, and whether there is more to read."""
        window = self._window
        window.limit = self._origin.limit
        try:
            more = window.fill()
        except OSError as error:
            raise _unreadable(self._origin.path, error) from None
        final = not more and window.fault is None
        self._scanner = self._scanner or scanner_of(window, final=final)
        records = self._scanner.take(window, final=final) if self._scanner else []
        if not more and not records and window.fault:
            raise window.fault
        return records, more or bool(records)

    def finish(self) -> None:
        """Judges what is left at the end of a file that grows no more.

        Raises:
            FileRejected: if that is half a record.
        """
        if self._scanner:
            self._scanner.finish(self._window)

    def close(self) -> None:
        self._file.close()


class RecordFile:
    """A file of records that several readers read, and that may grow if it is NDJSON; places in it are remembered.

    Args:
        path: the file; nothing is opened yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit: int | None = None
        self.is_array = False
        self._marks = [Mark(0, 0)]
        self._identity: tuple[int, int] | None = None
        self._lock = Lock()

    @property
    def marked(self) -> int:
        """The sequence of the last place that is remembered."""
        return self._marks[-1].sequence

    def mark(self, after: int) -> Mark:
        """The last remembered place that is not beyond `after` records."""
        with self._lock:
            return next(mark for mark in reversed(self._marks) if mark.sequence <= after)

    def add_mark(self, mark: Mark, *, is_array: bool) -> None:
        """Remembers a place if it is beyond the others."""
        with self._lock:
            if mark.sequence > self.marked:
                self.is_array = is_array
                self._marks.append(mark)

    def size(self) -> int:
        """Its bytes now.

        Raises:
            FileRejected: if the file is not there.
        """
        try:
            return self.path.stat().st_size
        except OSError as error:
            raise _unreadable(self.path, error) from None

    def reader(self, *, after: int = 0) -> RecordReader:
        """A reader that gives the records after the first `after`.

        Raises:
            FileRejected: if the file cannot be opened, or is another one than when it was first read.
        """
        try:
            file = _open(self.path)
        except OSError as error:
            raise _unreadable(self.path, error) from None
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        with self._lock:
            self._identity = self._identity or identity
            same = self._identity == identity and status.st_size >= self._marks[-1].byte
        if not same:
            file.close()
            raise FileRejected(f"{self.path}: was replaced or cut while it was served: start the API anew")
        return RecordReader(self, file, after=after)


def _open(path: Path) -> BufferedReader:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        # A pipe would be waited for, and cannot be read twice.
        raise OSError(errno.EINVAL, "it is no regular file")
    return path.open("rb")


def _unreadable(path: Path, error: OSError) -> FileRejected:
    if isinstance(error, IsADirectoryError):
        return FileRejected(f"{path}: is a folder: name a file")
    if isinstance(error, FileNotFoundError):
        return FileRejected(f"{path}: there is no such file")
    return FileRejected(f"{path}: cannot be read ({error.strerror or error})")


def open_records(path: Path, *, after: int = 0) -> Iterator[bytes]:
    """The text of each record of a file, without white space around and on one line; lines may be other than JSON.

    Args:
        after: how many records to leave out at the beginning.

    Raises:
        FileRejected: if the file cannot be opened; while it is read, if it goes wrong, after all complete records.
    """
    return map(str.encode, _texts(RecordFile(path).reader(after=after)))


def _texts(reader: RecordReader) -> Iterator[str]:
    try:
        while block := reader.block():
            yield from block
        reader.finish()
    finally:
        reader.close()


@dataclass(frozen=True)
class FileSummary:
    """What a file holds.

    Attributes:
        records: all of them.
        matching: those that are objects with all of the expected fields.
        not_json: lines that are not JSON.
        size_bytes: of the file.
    """

    records: int
    matching: int
    not_json: int
    size_bytes: int


def inspect(path: Path, fields: Collection[str]) -> FileSummary:
    """Reads a whole file and says what it holds.

    Args:
        fields: what at least one record has to have.

    Raises:
        FileRejected: if the file is missing, unreadable, a folder, empty or without records, cut in the middle, no
            JSON, no array of objects or object per line, or if no record has the expected fields.
    """
    expected = set(fields)
    records = matching = objects = not_json = 0
    found: dict[str, None] = {}
    for record in _texts(RecordFile(path).reader()):
        records += 1
        try:
            value = json_value(record)
        except ValueError:
            not_json += 1
            continue
        if isinstance(value, dict):
            objects += 1
            matching += expected <= value.keys()
            if not matching and len(found) < _MOST_NAMES:
                found |= dict.fromkeys(value)
    size = RecordFile(path).size()
    if not records:
        raise FileRejected(f"{path}: {'has no records' if size else 'is empty'}")
    if not objects:
        raise FileRejected(
            f"{path}: is no array of objects and no lines of objects: none of {records:,} records is one"
        )
    if not matching:
        raise FileRejected(f"{path}: {_mismatch(expected, found)}")
    return FileSummary(records, matching, not_json, size)


def _mismatch(expected: Collection[str], found: Collection[str]) -> str:
    kind = next((kind for kind, fields in _KINDS.items() if fields <= set(found)), None)
    looks = f", it looks like {kind}" if kind else ""
    names = ", ".join(name[:40] for name in list(found)[:_MOST_NAMES]) or "no fields"
    return f"no record has {', '.join(sorted(expected))}{looks}: found {names}"


def digest(*paths: Path) -> str:
    """What identifies the content of files, in hex digits.

    Raises:
        FileRejected: if one cannot be read.
    """
    together = hashlib.sha256()
    for path in paths:
        try:
            with _open(path) as file:
                together.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise _unreadable(path, error) from None
    return together.hexdigest()
