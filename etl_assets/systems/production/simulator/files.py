"""Files of records, of any size, in constant memory: JSON arrays on one line or on many, and NDJSON.

A record is the text of one element of an array, or of one line. A byte-order mark, CRLF and white space around are accepted;
what is wrong is reported with its byte. What a stream of records looks like over HTTP is not known here.
"""

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from io import BufferedReader
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from etl_assets.errors import ConfigurationError

__all__ = ["NOT_JSON", "FileRejected", "RecordFile", "RecordReader", "digest", "inspect", "json_value"]

WINDOW_BYTES = 256 * 1024
# Far beyond any record of a machine, and little enough that a missing quote does not fill the memory.
MAX_RECORD_BYTES = 64 * 1024 * 1024
NOT_JSON = object()
_BLANK = " \t\r\n"
# A file that has no record in so much text is not JSON.
_BEGINNING = 256 * 1024
_MARK_EVERY = 10_000
# The longest part of a token that the decoder can take for a mistake because the window ends in it: `-Infinit`, `\ud83d`.
_TOKEN = 16
# Numbers stay text: not needed as numbers, and Python refuses integers beyond 4,300 digits.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)

# Before the first element of an array, unless it has none; and before each further one.
_OPENING = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*+(?!\])")
_SEPARATOR = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_CLOSING = re.compile(r"[ \t\r\n]*\]")
_EMPTY = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*\]")
# What the decoder leaves of a number that the window cuts; nothing, if it cuts between digits.
_NUMBER_GOES_ON = re.compile(r"(\.|[eE][-+]?)?\Z")
# Nothing, or part of a number, a word or an escape, up to the end of the text.
_TOKEN_BEGUN = re.compile(r"[-+.\w\\]*[ \t\r\n]*\Z")
# A line break is never inside a JSON string: it and the white space around it can go without looking at the rest.
_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")

# Fields that a message names.
_MOST_NAMES = 10
# By the name that people have for them, the fields of the records that there are.
_KINDS = {"metrics": {"id", "val", "time"}, "work orders": {"product", "production", "time"}}


class FileRejected(ConfigurationError):
    """A file that cannot be served: which, what is wrong with it, and where."""


class Mark(NamedTuple):
    """A place between two records: how many come before it, at which byte it is, and whether they are in an array."""

    sequence: int
    byte: int
    is_array: bool | None


def json_value(text: str) -> Any:
    """The value of a text that is one JSON value without white space around it, numbers as text; else `NOT_JSON`."""
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return NOT_JSON
    return value if end == len(text) else NOT_JSON


class RecordReader:
    """Reads the records of a file forward, through a window of its text that grows only for a record that is longer.

    `RecordFile.reader` makes one.

    Attributes:
        sequence: of the last record that was read.
        is_array: whether the file is an array, whose records are known to be JSON; lines are not. None: not known yet.
        at_end: whether the last block reached the end of the file as it was then.
    """

    def __init__(self, origin: "RecordFile", file: BufferedReader, *, after: int) -> None:
        self.sequence, self._start, self.is_array = origin.mark(after)
        self.at_end = False
        self._origin, self._file, self._after = origin, file, after
        # Decoded and not yet taken, from byte `_start` of the file on; and what was read behind it and is no whole character.
        self._text, self._undecoded = "", b""
        # What is wrong right behind the text; no more is read.
        self._fault: FileRejected | None = None
        self._closed = False
        file.seek(self._start)

    def block(self, *, for_s: float = math.inf) -> list[str]:
        """The texts of the next records after the place to begin at; none at the end of the file as it is now.

        Args:
            for_s: for about so long is read towards that place; if it is not reached, there are none either.

        Raises:
            FileRejected: if the next record cannot be read; names it and the byte.
        """
        until = time.monotonic() + for_s
        while True:
            before = self.sequence
            records = self._next()[max(self._after - before, 0) :]
            self._origin.add_mark(Mark(self.sequence, self._start, self.is_array))
            if records or self.at_end or time.monotonic() > until:
                return records

    def finish(self) -> None:
        """Judges what is left at the end of a file that grows no more; an array that lacks its end was rejected before.

        Raises:
            FileRejected: if that is half a record.
        """
        if self.is_array is False and (self._text.strip(_BLANK) or self._undecoded):
            raise self._cut(f"inside of record {self.sequence + 1:,}")

    def close(self) -> None:
        self._file.close()

    def _next(self) -> list[str]:
        """The records of the next window, which may be none; those that are complete before a fault come before it."""
        with _readable(self._origin.path):
            more = self._fill()
        final = not more and self._fault is None
        if self.is_array is None:
            self.is_array = self._form(final=final)
        records: list[str] = []
        if self.is_array is not None:
            records, end = self._elements(final=final) if self.is_array else self._lines(final=final)
            self._start, self._text = self._byte(end), self._text[end:]
            self.sequence += len(records)
        if self._fault and not more and not records:
            raise self._fault
        self.at_end = not more and not records
        return records

    def _fill(self) -> bool:
        """Reads on; False at the end of the file as it is now, or before a fault."""
        if len(self._text) > MAX_RECORD_BYTES and not self._fault:
            self._fault = self._rejection(f"a record is longer than {MAX_RECORD_BYTES:,} bytes", 0)
        # At least as much as there is: a long record is scanned again only when the window has doubled.
        size = max(WINDOW_BYTES, len(self._text))
        if self._origin.limit is not None:
            size = min(size, max(self._origin.limit - self._file.tell(), 0))
        if self._fault or not (read := self._file.read(size)):
            return False
        data = self._undecoded + read
        first = self._file.tell() - len(data)
        if first == 0 and data.startswith(b"\xef\xbb\xbf"):
            data, first, self._start = data[3:], 3, 3
        self._undecoded = b""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            text, at = data[: error.start].decode(), error.start
            if error.reason == "unexpected end of data":
                self._undecoded = data[at:]
            else:
                what = f"is not UTF-8: byte {first + at:,} is 0x{data[at]:02x}; save it as UTF-8"
                self._fault = FileRejected(f"{self._origin.path}: {what}")
        text, nul, _ = text.partition("\0")
        if nul:
            what = f"is not JSON: byte {first + len(text.encode()):,} is NUL, which no text contains"
            self._fault = FileRejected(f"{self._origin.path}: {what}")
        self._text += text
        return True

    def _form(self, *, final: bool) -> bool | None:
        """Whether the file is an array and not lines; None as long as that cannot be told.

        Args:
            final: the window holds the file to its end; as below.
        """
        text = self._text.lstrip(_BLANK)
        if not text or text.startswith("["):
            return True if text else None
        lines = [line.strip(_BLANK) for line in text.split("\n")]
        # A record that is not JSON may come first, so one line that is an object is enough.
        if any(line.startswith("{") and json_value(line) is not NOT_JSON for line in lines):
            return False
        if self._fault:
            raise self._fault
        begun = text.startswith("{") and len(lines) == 1
        if not final and (begun or len(text) < _BEGINNING):
            return None
        what = "has objects that are not each on one line: put each on a line of its own, or all into an array"
        if not self._begins_with_an_object(text):
            if begun:
                return False  # which is cut, or still being written
            begin = text[:20].partition("\n")[0]
            what = f"is not JSON: neither an array nor lines of objects; it begins with {begin!r}"
        raise self._rejection(what, len(self._text) - len(text))

    @staticmethod
    def _begins_with_an_object(text: str) -> bool:
        """Whether it is JSON at its beginning, as objects are that go over several lines, or stand on one."""
        try:
            return isinstance(_DECODER.raw_decode(text)[0], dict)
        except (ValueError, RecursionError):
            return False

    def _lines(self, *, final: bool) -> tuple[list[str], int]:
        """The lines of the window that are not blank, and where they end.

        A last line without a line break counts as soon as it is a JSON object.
        """
        end = self._text.rfind("\n") + 1
        records = [record for line in self._text[:end].split("\n") if (record := line.strip(_BLANK))]
        rest = self._text[end:].strip(_BLANK)
        if final and not self._undecoded and rest.startswith("{") and json_value(rest) is not NOT_JSON:
            return [*records, rest], len(self._text)
        return records, end

    def _elements(self, *, final: bool) -> tuple[list[str], int]:
        """The elements of the array that are complete in the window, each on one line, and where they end.

        Raises:
            FileRejected: if what the window begins with is no element; what is complete before it is given first.
        """
        text, position = self._text, 0
        records: list[str] = []
        between = _SEPARATOR if self.sequence else _OPENING
        while not self._closed and (found := between.match(text, position)):
            begin = found.end()
            try:
                _, end = _DECODER.raw_decode(text, begin)
            except (json.JSONDecodeError, RecursionError) as error:
                if not records:
                    self._judge(error, begin, final=final)
                break
            if text[end - 1] not in '}]"' and _NUMBER_GOES_ON.match(text, end):
                break
            records.append(text[begin:end])
            position, between = end, _SEPARATOR
        if not records:
            position = self._end_of_array(final=final)
        if "\n" in text or "\r" in text:
            records = [_BREAK.sub("", record) if "\n" in record or "\r" in record else record for record in records]
        return records, position

    def _judge(self, error: json.JSONDecodeError | RecursionError, begin: int, *, final: bool) -> None:
        """Raises unless the record may only be incomplete."""
        record = f"record {self.sequence + 1:,}"
        if isinstance(error, RecursionError):
            raise self._rejection(f"{record} is nested too deeply to read", begin) from None
        near_end = error.pos > len(self._text) - _TOKEN and (not final or _TOKEN_BEGUN.match(self._text, error.pos))
        if not near_end and not error.msg.startswith("Unterminated string"):
            what = f"is not JSON in {record}: {error.msg[0].lower()}{error.msg[1:]}"
            raise self._rejection(what, error.pos) from None

    def _end_of_array(self, *, final: bool) -> int:
        """How far the window holds nothing but the end of the array; raises for what is neither that nor a record."""
        text, position = self._text, 0
        if not self._closed and (found := (_CLOSING if self.sequence else _EMPTY).match(text)):
            self._closed, position = True, found.end()
        rest = text[position:].lstrip(_BLANK)
        if self._closed:
            if rest:
                raise self._rejection("goes on after the end of its array", len(text) - len(rest))
            return len(text)
        if self.sequence and rest and not rest.startswith(","):
            what = f"is not JSON after record {self.sequence:,}: a comma or the end of the array is expected"
            raise self._rejection(what, len(text) - len(rest))
        if final:
            inside = rest.lstrip("[," + _BLANK) or not self.sequence
            raise self._cut(f"{'inside of' if inside else 'after'} record {self.sequence + bool(inside):,}")
        return 0

    def _cut(self, where: str) -> FileRejected:
        return self._rejection(f"is cut in the middle: the file ends {where}", len(self._text))

    def _rejection(self, what: str, position: int) -> FileRejected:
        """The rejection of the file for what is at a position of the text."""
        return FileRejected(f"{self._origin.path}: {what} (byte {self._byte(position):,})")

    def _byte(self, position: int) -> int:
        """The byte of the file at a position of the text."""
        return self._start + (position if self._text.isascii() else len(self._text[:position].encode()))


class RecordFile:
    """A file of records that several readers read, and that may grow if it is NDJSON; places in it are remembered.

    Args:
        path: the file; nothing is opened yet.

    Attributes:
        limit: byte at which the file counts as ended; None means its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit: int | None = None
        self._marks = [Mark(0, 0, None)]
        self._first: os.stat_result | None = None
        self._lock = Lock()

    def mark(self, after: int) -> Mark:
        """The last remembered place that is not beyond `after` records."""
        with self._lock:
            return next(mark for mark in reversed(self._marks) if mark.sequence <= after)

    def add_mark(self, mark: Mark) -> None:
        """Remembers a place if it is well beyond the others."""
        with self._lock:
            if mark.sequence >= self._marks[-1].sequence + _MARK_EVERY:
                self._marks.append(mark)

    def size(self) -> int:
        """Its bytes now.

        Raises:
            FileRejected: if the file is not there.
        """
        with _readable(self.path):
            return self.path.stat().st_size

    def reader(self, *, after: int = 0) -> RecordReader:
        """A reader that gives the records after the first `after`.

        Raises:
            FileRejected: if the file cannot be opened, or is another one than when it was first read.
        """
        with _readable(self.path):
            file = _open(self.path)
        now = os.fstat(file.fileno())
        with self._lock:
            self._first = self._first or now
            same = os.path.samestat(self._first, now) and now.st_size >= self._marks[-1].byte
        if not same:
            file.close()
            raise FileRejected(f"{self.path}: was replaced or cut while it was served: start the API anew")
        return RecordReader(self, file, after=after)

    def blocks(self, *, after: int = 0) -> Iterator[list[str]]:
        """The texts of all records after the first `after`, a window at a time; lines may be other than JSON.

        Raises:
            FileRejected: if the file cannot be opened; while it is read, if it goes wrong, after all complete records.
        """
        with closing(self.reader(after=after)) as reader:
            while block := reader.block():
                yield block
            reader.finish()


def _open(path: Path) -> BufferedReader:
    if path.exists() and not path.is_file() and not path.is_dir():
        # A pipe would be waited for, and cannot be read twice.
        raise FileRejected(f"{path}: cannot be read (it is no regular file)")
    return path.open("rb")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Rejects a file that cannot be read, and says why."""
    try:
        yield
    except IsADirectoryError:
        raise FileRejected(f"{path}: is a folder: name a file") from None
    except FileNotFoundError:
        raise FileRejected(f"{path}: there is no such file") from None
    except OSError as error:
        raise FileRejected(f"{path}: cannot be read ({error.strerror or error})") from None


def inspect(path: Path, fields: Collection[str]) -> int:
    """Reads a whole file.

    Args:
        fields: what at least one record has to have.

    Returns:
        How many records are objects with all of the fields.

    Raises:
        FileRejected: if the file is missing, unreadable, a folder, empty or without records, cut in the middle, no
            JSON, no array of objects or object per line, or if no record has the expected fields.
    """
    expected = set(fields)
    records = matching = objects = 0
    found: dict[str, None] = {}
    for block in RecordFile(path).blocks():
        records += len(block)
        for value in map(json_value, block):
            if isinstance(value, dict):
                objects += 1
                matching += expected <= value.keys()
                if not matching and len(found) < _MOST_NAMES:
                    found |= dict.fromkeys(value)
    if not records:
        raise FileRejected(f"{path}: {'has no records' if RecordFile(path).size() else 'is empty'}")
    if not objects:
        raise FileRejected(
            f"{path}: is no array of objects and no lines of objects: none of {records:,} records is one"
        )
    if not matching:
        kind = next((kind for kind, names in _KINDS.items() if names <= found.keys()), None)
        looks = f", it looks like {kind}" if kind else ""
        names = ", ".join(name[:40] for name in list(found)[:_MOST_NAMES]) or "no fields"
        raise FileRejected(f"{path}: no record has {', '.join(sorted(expected))}{looks}: found {names}")
    return matching


def digest(*paths: Path) -> str:
    """What identifies the content of files, in hex digits.

    Raises:
        FileRejected: if one cannot be read.
    """
    together = hashlib.sha256()
    for path in paths:
        with _readable(path), _open(path) as file:
            together.update(hashlib.file_digest(file, "sha256").digest())
    return together.hexdigest()
