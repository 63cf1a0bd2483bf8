"""Files that are refused whole: text that is not a file of the feed, and what it is instead, as far as that can be told."""

import re
from collections.abc import Mapping
from typing import Any

from etl_assets.contracts import Record
from etl_assets.events.columns import RAW_COLUMNS
from etl_assets.events.refused import FileRefused, Reason, shown

MARKS = (
    (b"\xef\xbb\xbf", "begins with a byte-order mark"),
    (b"\xff\xfe", "is text in UTF-16"),
    (b"\xfe\xff", "is text in UTF-16"),
)
# A name of a column, by which no event begins: the id of an event is a number.
NAME_OF_COLUMN = re.compile(rb"[\"']?[A-Za-z_][A-Za-z0-9_ ]*[\"']?")
FIELDS_OF_1_0 = (57, 58)
SPREADSHEET = "a spreadsheet, or another program, has saved it again"
OWN_FILE = "take the file as the feed has it"
SEPARATORS = ((";", "semicolons"), (",", "commas"))
# A line without a TAB and with so many of another separator has its fields between those.
MANY = 40
ROUNDED = re.compile(r"[0-9][.,][0-9]+E\+?[0-9]+", re.IGNORECASE)


def refuse_at_sight(content: bytes, name: str) -> None:
    """Raises FileRefused for a file that begins as no file of the feed does, though its other rows may be in order.

    A file with a byte-order mark or a header is refused as one that has been saved again: nobody can tell what else that has changed.
    """
    for mark, what in MARKS:
        if content.startswith(mark):
            raise FileRefused(name, f"{what}: {SPREADSHEET}", OWN_FILE, "format")
    first = content[:4096].partition(b"\n")[0]
    for separator in (b"\t", b";", b","):
        names = first.split(separator)
        if len(names) > 1 and all(NAME_OF_COLUMN.fullmatch(cell) for cell in names[:3]):
            what = f"begins with a header, {shown(first.decode('utf-8', 'backslashreplace'))}, which no file of the feed has"
            raise FileRefused(name, f"{what}: {SPREADSHEET}", OWN_FILE, "format")


def mostly_bad(name: str, *, bad: int, rows: int, kind: Reason, example: Record) -> FileRefused:
    """The refusal of a file in which more than half of the rows are bad: then not they are wrong, but the file.

    Args:
        bad: how many rows are bad.
        rows: how many rows the file has.
        kind: how most of these are bad.
        example: the first that is bad in this way.
    """
    fault = example.faults[0]
    cell = f"{fault.column} {shown(fault.raw)}, " if fault.column and fault.raw else ""
    counted = f"{bad:,} of {rows:,} rows cannot be taken ({example.source.rpartition(', ')[2]}: {cell}{fault.rule})"
    what, remedy, reason = _told(example.raw, kind)
    return FileRefused(name, f"{counted}; {what}" if what else counted, remedy, reason)


def mostly_broken(name: str, *, bad: int, rows: int, example: Record) -> FileRefused:
    """As `mostly_bad`, of rows that can be read and whose values cannot be right."""
    fault = example.faults[0]
    cell = "" if fault.raw is None else f" {shown(str(fault.raw))}"
    where = f"{example.source.rpartition(', ')[2]}: {fault.column}{cell}, {fault.rule}"
    what = f"{bad:,} of {rows:,} rows cannot be taken ({where})"
    return FileRefused(name, what, f"it is no file of events, or damaged: {OWN_FILE}", "values")


def _told(raw: Mapping[str, Any], kind: Reason) -> tuple[str, str, Reason]:
    """What a file is by the raw row of one of its lines, what to do, and the reason."""
    line: str = raw.get("text") or ""
    separated = line.count("\t") + 1
    if line.lstrip().startswith("<"):
        return "it is a web page", "ask the feed again, or whatever stands before it", "format"
    if separated in FIELDS_OF_1_0:
        remedy = f"take the file of format 2.0, which has {len(RAW_COLUMNS)} fields"
        return "it is a file of format 1.0", remedy, "format"
    for separator, words in SEPARATORS:
        if separated == 1 and line.count(separator) >= MANY:
            return f"its fields are separated by {words}: {SPREADSHEET}", OWN_FILE, "format"
    if (raw.get("source_url") or "").endswith("\r") or ROUNDED.fullmatch(raw.get("date_added") or ""):
        return SPREADSHEET, OWN_FILE, "format"
    return "", f"it is no file of events, or damaged: {OWN_FILE}", kind
