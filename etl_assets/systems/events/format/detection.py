"""Files that are rejected whole: text that is not a file of the feed, and what it is instead, as far as that can be told."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from etl_assets.core.contracts import Record
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.files import FileRejected, Reason, quoted

MARKS = (
    (b"\xef\xbb\xbf", "begins with a byte-order mark"),
    (b"\xff\xfe", "is text in UTF-16"),
    (b"\xfe\xff", "is text in UTF-16"),
)
# A name of a column, by which no event begins: the id of an event is a number.
NAME_OF_COLUMN = re.compile(rb"[\"']?[A-Za-z_][A-Za-z0-9_ ]*[\"']?")
FIELDS = len(RawEvents.columns) - 1  # the interval is not among them
FIELDS_OF_1_0 = (57, 58)
SPREADSHEET = "a spreadsheet, or another program, has saved it again"
OWN_FILE = "take the file as the feed has it"
SEPARATORS = ((";", "semicolons"), (",", "commas"))
# A line without a TAB and with so many of another separator has its fields between those.
MANY = 40
# A row has a TAB behind each field but the last, an id, and a line feed.
SHORTEST_ROW_BYTES = FIELDS + 1
# Up to this size a file is judged line by line, which says more of it; beyond, lines that are hardly any bytes cost memory a
# hundred times their own.
LARGE_BYTES = 2**20
# Rows have some 400 bytes. A longer line than this would be a record that no quarantine should have to hold.
LONGEST_LINE_BYTES = 2**20
# Of a long line so much is looked at to tell what it is.
HEAD_BYTES = 2**16
ROUNDED = re.compile(r"[0-9][.,][0-9]+E\+?[0-9]+", re.IGNORECASE)


def reject_at_sight(content: bytes, name: str) -> None:
    """Raises FileRejected for a file that begins as no file of the feed does, though its other rows may be in order.

    A file with a byte-order mark or a header is refused as one that has been saved again: nobody can tell what else that has changed.
    A large one is refused if more than half of its lines are bad by their number: not all can be long enough for a row.
    """
    for mark, what in MARKS:
        if content.startswith(mark):
            raise FileRejected(name, f"{what}: {SPREADSHEET}", OWN_FILE, "format")
    first = content[:4096].partition(b"\n")[0]
    for separator in (b"\t", b";", b","):
        names = first.split(separator)
        if len(names) > 1 and all(NAME_OF_COLUMN.fullmatch(cell) for cell in names[:3]):
            words = quoted(first.decode("utf-8", "backslashreplace"))
            if len(names) < MANY:
                raise FileRejected(
                    name, f"begins with {words}, where a file of the feed has an event", OWN_FILE, "format"
                )
            what = f"begins with a header, {words}, which no file of the feed has"
            raise FileRejected(name, f"{what}: {SPREADSHEET}", OWN_FILE, "format")
    if len(content) > LARGE_BYTES:
        lines = content.count(b"\n") + (not content.endswith(b"\n"))
        if lines > 2 * ((len(content) + 1) // SHORTEST_ROW_BYTES):
            counted = f"has {lines:,} lines in {len(content):,} bytes, too short for rows of {FIELDS} fields"
            raise _rejection(first, name, counted)


def reject_long_line(lines: Sequence[bytes], name: str) -> None:
    """Raises FileRejected for a file with a line that is longer than any row."""
    longest = max(map(len, lines), default=0)
    if longest > LONGEST_LINE_BYTES:
        number = next(number for number, line in enumerate(lines) if len(line) == longest)
        counted = f"line {number + 1:,} has {longest:,} bytes, and no row is as long"
        raise _rejection(lines[number], name, counted)


def _rejection(line: bytes, name: str, counted: str) -> FileRejected:
    """The refusal of a file by the number or the length of its lines, and by what one of them seems to be."""
    what, remedy, reason = _told({"text": line[:HEAD_BYTES].decode("utf-8", "backslashreplace")}, "fields")
    return FileRejected(name, f"{counted}; {what}" if what else counted, remedy, reason)


def mostly_bad(name: str, *, bad: int, rows: int, kind: Reason, example: Record) -> FileRejected:
    """The refusal of a file in which more than half of the rows are bad: then not they are wrong, but the file.

    Args:
        bad: how many rows are bad.
        rows: how many rows the file has.
        kind: how most of these are bad.
        example: the first that is bad in this way.
    """
    fault = example.faults[0]
    cell = f"{fault.column} {quoted(fault.raw)}, " if fault.column and fault.raw else ""
    counted = f"{bad:,} of {rows:,} rows cannot be taken ({example.source.rpartition(', ')[2]}: {cell}{fault.rule})"
    what, remedy, reason = _told(example.raw, kind)
    return FileRejected(name, f"{counted}; {what}" if what else counted, remedy, reason)


def mostly_broken(name: str, *, bad: int, rows: int, example: Record) -> FileRejected:
    """As `mostly_bad`, of rows that can be read and whose values cannot be right."""
    fault = example.faults[0]
    cell = "" if fault.raw is None else f" {quoted(str(fault.raw))}"
    where = f"{example.source.rpartition(', ')[2]}: {fault.column}{cell}, {fault.rule}"
    what = f"{bad:,} of {rows:,} rows cannot be taken ({where})"
    return FileRejected(name, what, f"it is no file of events, or damaged: {OWN_FILE}", "values")


def is_of_another_format(raw: Mapping[str, Any]) -> bool:
    """Whether the raw row of a line says that its file is one of another program, or of another format."""
    return _told(raw, "values")[2] == "format"


def _told(raw: Mapping[str, Any], kind: Reason) -> tuple[str, str, Reason]:
    """What a file is by the raw row of one of its lines, what to do, and the reason."""
    line: str = raw.get("text") or ""
    separated = line.count("\t") + 1
    if line.lstrip().startswith("<"):
        return "it is a web page", "ask the feed again, or whatever stands before it", "format"
    if separated in FIELDS_OF_1_0:
        remedy = f"take the file of format 2.0, which has {FIELDS} fields"
        return "it is a file of format 1.0", remedy, "format"
    for separator, words in SEPARATORS:
        if separated == 1 and line.count(separator) >= MANY:
            return f"its fields are separated by {words}: {SPREADSHEET}", OWN_FILE, "format"
    if (raw.get("source_url") or "").endswith("\r") or ROUNDED.fullmatch(raw.get("date_added") or ""):
        return SPREADSHEET, OWN_FILE, "format"
    return "", f"it is no file of events, or damaged: {OWN_FILE}", kind
