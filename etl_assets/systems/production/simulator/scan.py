"""Cuts the text of records out of a window that slides over a file; what is wrong is reported with its byte.

A record is the text of one element of a JSON array, or of one line. Nothing here keeps more of a file than one window,
which grows only for a record that is longer.
"""

import json
import re
from json.scanner import make_scanner
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from etl_assets.errors import ConfigurationError

WINDOW_BYTES = 256 * 1024
# Far beyond any record of a machine, and little enough that a missing quote does not fill the memory.
MAX_RECORD_BYTES = 64 * 1024 * 1024
BLANK = " \t\r\n"
# A file that has no record in so much text is not JSON.
_BEGINNING = 256 * 1024
# The longest part of a token that the decoder can take for a mistake because the window ends in it: `-Infinit`, `\ud83d`.
_TOKEN = 16

# Numbers stay text: not needed as numbers, and Python refuses integers beyond 4,300 digits.
# The type stubs take its argument for a scanner; it is what has a decoder's settings.
scan_value = make_scanner(json.JSONDecoder(parse_int=str, parse_float=str))  # type: ignore[arg-type]

_OPENING = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*")
_SEPARATOR = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_CLOSING = re.compile(r"[ \t\r\n]*\]")
_SPACE = re.compile(r"[ \t\r\n]*")
# What the decoder leaves of a number that the window cuts; nothing, if it cuts between digits.
_NUMBER_GOES_ON = re.compile(r"(\.|[eE][-+]?)?\Z")
# Nothing, or part of a number, a word or an escape, up to the end of the text.
_TOKEN_BEGUN = re.compile(r"[-+.\w\\]*[ \t\r\n]*\Z")
# A line break is never inside a JSON string: it and the white space around it can go without looking at the rest.
_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")


class FileRejected(ConfigurationError):
    """A file that cannot be served: which, what is wrong with it, and where."""


def json_value(text: str) -> Any:
    """The value of a text that is one JSON value, its numbers as text.

    Raises:
        ValueError: if it is not JSON, or nested too deeply to read.
    """
    try:
        value, end = scan_value(text, 0)
    except (StopIteration, RecursionError):
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("not JSON")
    return value


def is_json(text: str) -> bool:
    """Whether a text is one JSON value, without white space around it."""
    try:
        _, end = scan_value(text, 0)
    except (StopIteration, RecursionError, ValueError):
        return False
    return bool(end == len(text))


class Window:
    """The part of a file that is decoded and not yet taken.

    Attributes:
        text: that part.
        start: byte of the file at which it begins.
        taken: records before it.
        limit: byte at which the file counts as ended; None means its end.
        fault: what is wrong right behind the text; no more is read.
    """

    def __init__(self, path: Path, file: BinaryIO, *, start: int = 0, taken: int = 0) -> None:
        self.path = path
        self.text = ""
        self.start = start
        self.taken = taken
        self.limit: int | None = None
        self.fault: FileRejected | None = None
        self._file = file
        self._undecoded = b""
        self._read_to = start
        file.seek(start)

    @property
    def broken_character(self) -> bool:
        """Whether the file ends inside of a character."""
        return bool(self._undecoded)

    def fill(self) -> bool:
        """Reads on; False at the end of the file as it is now, or before a fault."""
        if self.fault:
            return False
        if len(self.text) > MAX_RECORD_BYTES:
            self.fault = self.rejection(f"a record is longer than {MAX_RECORD_BYTES:,} bytes", 0)
            return False
        # At least as much as there is: a long record is scanned again only when the window has doubled.
        size = max(WINDOW_BYTES, len(self.text))
        if self.limit is not None:
            size = min(size, max(self.limit - self._read_to, 0))
        read = self._file.read(size)
        if not read:
            return False
        self._take(self._undecoded + read, self._read_to - len(self._undecoded))
        self._read_to += len(read)
        return True

    def _take(self, data: bytes, first: int) -> None:
        """Decodes what was read from byte `first` on, as far as it is text."""
        if first == 0 and data.startswith(b"\xef\xbb\xbf"):
            data, first, self.start = data[3:], 3, 3
        self._undecoded = b""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            text = data[: error.start].decode()
            if error.reason == "unexpected end of data":
                self._undecoded = data[error.start :]
            else:
                self.fault = FileRejected(
                    f"{self.path}: is not UTF-8: byte {first + error.start:,} is 0x{data[error.start]:02x};"
                    " save it as UTF-8"
                )
        if "\0" in text:
            text = text[: text.index("\0")]
            self.fault = FileRejected(
                f"{self.path}: is not JSON: byte {first + len(text.encode()):,} is NUL, which no text contains"
            )
        self.text += text

    def drop(self, position: int, *, records: int) -> None:
        """Gives up the text before a position, in which so many records were."""
        self.taken += records
        self.start = self.byte(position)
        self.text = self.text[position:]

    def byte(self, position: int) -> int:
        """The byte of the file at a position of the text."""
        return self.start + (position if self.text.isascii() else len(self.text[:position].encode()))

    def rejection(self, what: str, position: int) -> FileRejected:
        """The rejection of the file for what is at a position of the text."""
        return FileRejected(f"{self.path}: {what} (byte {self.byte(position):,})")


class Scanner(Protocol):
    """Takes records out of a window.

    Attributes:
        checked: whether what it gives is known to be JSON.
    """

    checked: bool

    def take(self, window: Window, *, final: bool) -> list[str]:
        """All records that are complete in the window, which then begins behind them.

        Args:
            final: the window holds the file to its end.

        Raises:
            FileRejected: if what the window begins with is no record; what is complete before it is given first.
        """
        ...

    def finish(self, window: Window) -> None:
        """Judges what is left at the end of a file that grows no more.

        Raises:
            FileRejected: if that is the beginning of a record.
        """
        ...


class ArrayScanner:
    """The elements of one JSON array.

    Args:
        begun: the window begins behind an element, not before the array.
    """

    checked = True

    def __init__(self, *, begun: bool = False) -> None:
        self._between = _SEPARATOR if begun else _OPENING
        self._closed = False

    def take(self, window: Window, *, final: bool) -> list[str]:
        """See `Scanner`; each record is on one line."""
        text = window.text
        records: list[str] = []
        position = end = 0
        while not self._closed and (found := self._between.match(text, position)):
            begin = found.end()
            try:
                _, end = scan_value(text, begin)
            except (StopIteration, RecursionError, ValueError) as error:
                if records or (self._between is _OPENING and _CLOSING.match(text, begin)):
                    break
                self._judge(window, error, begin, final=final)
                break
            if text[end - 1] not in '}]"' and _NUMBER_GOES_ON.match(text, end):
                break
            records.append(text[begin:end])
            position = end
            self._between = _SEPARATOR
        if not records:
            position = self._ended(window, final=final)
        if "\n" in text or "\r" in text:
            records = [_BREAK.sub("", record) if "\n" in record or "\r" in record else record for record in records]
        window.drop(position, records=len(records))
        return records

    @staticmethod
    def _judge(window: Window, error: BaseException, begin: int, *, final: bool) -> None:
        """Raises unless the record may only be incomplete."""
        if isinstance(error, RecursionError):
            raise window.rejection(f"record {window.taken + 1:,} is nested too deeply to read", begin) from None
        at, message = begin, "Expecting value"
        if isinstance(error, json.JSONDecodeError):
            at, message = error.pos, error.msg
        elif isinstance(error, StopIteration):
            at = error.value
        if message.startswith("Unterminated string"):
            return
        if at > len(window.text) - _TOKEN and (not final or _TOKEN_BEGUN.match(window.text, at)):
            return
        raise window.rejection(
            f"is not JSON in record {window.taken + 1:,}: {message[0].lower()}{message[1:]}", at
        ) from None

    def _ended(self, window: Window, *, final: bool) -> int:
        """How far the window holds nothing but the end of the array; raises for what is neither that nor a record."""
        position = 0
        if not self._closed:
            opened = _OPENING.match(window.text) if self._between is _OPENING else None
            closing = _CLOSING.match(window.text, opened.end() if opened else 0)
            if closing is None:
                self._expect_more(window, final=final)
                return 0
            self._closed = True
            position = closing.end()
        found = _SPACE.match(window.text, position)
        position = found.end() if found else position
        if position < len(window.text):
            raise window.rejection("goes on after the end of its array", position)
        return position

    def _expect_more(self, window: Window, *, final: bool) -> None:
        rest = window.text.lstrip(BLANK)
        if self._between is _SEPARATOR and rest and not rest.startswith(","):
            raise window.rejection(
                f"is not JSON after record {window.taken:,}: a comma or the end of the array is expected",
                len(window.text) - len(rest),
            )
        if final:
            inside = bool(rest.lstrip("[," + BLANK)) or not window.taken
            where = f"inside of record {window.taken + 1:,}" if inside else f"after record {window.taken:,}"
            raise window.rejection(f"is cut in the middle: the file ends {where}", len(window.text))

    def finish(self, window: Window) -> None:
        """See `Scanner`; an array that lacks its end was rejected when it was taken."""


class LineScanner:
    """The lines that are not blank."""

    checked = False

    def take(self, window: Window, *, final: bool) -> list[str]:
        """See `Scanner`; a last line without a line break counts as soon as it is a JSON object."""
        text = window.text
        end = text.rfind("\n") + 1
        records = [record for line in text[:end].split("\n") if (record := line.strip(BLANK))]
        if final and not window.broken_character:
            rest = text[end:].strip(BLANK)
            if rest.startswith("{") and is_json(rest):
                records.append(rest)
                end = len(text)
        window.drop(end, records=len(records))
        return records

    def finish(self, window: Window) -> None:
        """See `Scanner`."""
        if window.text.strip(BLANK) or window.broken_character:
            raise window.rejection(
                f"is cut in the middle: the file ends inside of record {window.taken + 1:,}", len(window.text)
            )


def scanner_of(window: Window, *, final: bool) -> Scanner | None:
    """The scanner for what a file begins with; None as long as that cannot be told.

    Raises:
        FileRejected: if that is not JSON.
    """
    text = window.text.lstrip(BLANK)
    if not text:
        return None
    if text.startswith("["):
        return ArrayScanner()
    lines = [line.strip(BLANK) for line in text.split("\n")]
    # A record that is not JSON may come first, so one line that is an object is enough.
    if any(line.startswith("{") and is_json(line) for line in lines):
        return LineScanner()
    if window.fault:
        raise window.fault
    if not final and (len(text) < _BEGINNING or (text.startswith("{") and len(lines) == 1)):
        return None
    if text.startswith("{") and len(lines) == 1:
        return LineScanner()  # which knows that it is cut, or still being written
    begin = text[:20].split("\n")[0]
    raise window.rejection(
        f"is not JSON: neither an array nor lines of objects; it begins with {begin!r}", len(window.text) - len(text)
    )
