"""What the layout of a file means, row by row, in the plainest Python: the oracle of `layout`."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from etl_assets.systems.events.format import RAW_COLUMNS

WRONG = object()
REQUIRED = ("global_event_id", "sql_date", "date_added")
RANGES = {
    "is_root_event": (0, 1), "quad_class": (1, 4), "goldstein_scale": (-10, 10),
    "num_mentions": (0, math.inf), "num_sources": (0, math.inf), "num_articles": (0, math.inf),
    **{f"{whose}_geo_type": (0, 5) for whose in ("actor1", "actor2", "action")},
    **{f"{whose}_geo_lat": (-90, 90) for whose in ("actor1", "actor2", "action")},
    **{f"{whose}_geo_long": (-180, 180) for whose in ("actor1", "actor2", "action")},
}  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What comes of a file: its rows in order, the columns with a fault by line number (from 1), and how many rows gave way."""

    rows: list[dict[str, Any]]
    faults: dict[int, list[str]]
    deduplicated: int
    refused: bool


def expected(content: bytes) -> Expected:
    """What comes of a file that begins with a row, by what can be read."""
    good, faults = _read(content)
    return _outcome(list(good.values()), faults, refused=_is_refused(content, faults))


def expected_valid(content: bytes) -> Expected:
    """As `expected`, by what can be read and keeps the contract."""
    good, faults = _read(content)
    unreadable = _is_refused(content, faults)
    broken = {number: wrong for number, row in good.items() if (wrong := _broken(row))}
    kept = [row for number, row in good.items() if number not in broken]
    rows = len(good) + len(faults)
    bad = dict(sorted({**faults, **broken}.items()))
    return _outcome(kept, bad, refused=unreadable or (2 * len(bad) > rows and len(bad) > 1))


def _read(content: bytes) -> tuple[dict[int, dict[str, Any]], dict[int, list[str]]]:
    """The rows that can be read, and the columns with a fault of the others, by line."""
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    good: dict[int, dict[str, Any]] = {}
    faults: dict[int, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        values = _row(line)
        wrong = [""] if values is None else [name for name, value in values.items() if value is WRONG]
        if wrong:
            faults[number] = wrong
        else:
            good[number] = values or {}
    return good, faults


def _is_refused(content: bytes, faults: dict[int, list[str]]) -> bool:
    """Whether most lines are bad; one alone, of 61 clean fields and no spreadsheet's, may be."""
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    alone = lines == 1 and faults.get(1, [""]) != [""] and not set(content) & set(b"\0\r") and b".02E+13" not in content
    return 2 * len(faults) > lines and not alone


def _outcome(good: list[dict[str, Any]], faults: dict[int, list[str]], *, refused: bool) -> Expected:
    last = {row["global_event_id"]: place for place, row in enumerate(good)}
    rows = [row for place, row in enumerate(good) if last[row["global_event_id"]] == place]
    return Expected(rows, faults, len(good) - len(rows), refused)


def _broken(row: dict[str, Any]) -> list[str]:
    """The columns whose values break the contract."""
    missing = {name for name in REQUIRED if row[name] is None}
    outside = {name for name, (low, high) in RANGES.items() if row[name] is not None and not low <= row[name] <= high}
    return [name for name in row if name in missing | outside]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        cells = line.decode().split("\t")
    except UnicodeDecodeError:
        return None
    if len(cells) != 61:
        return None
    values = {name: _value(cell, kind) for (name, kind), cell in zip(RAW_COLUMNS.items(), cells, strict=True)}
    if values["global_event_id"] is None:
        values["global_event_id"] = WRONG
    return values


def _value(cell: str, kind: str) -> Any:
    if cell == "":
        return None
    if "\0" in cell or "\r" in cell:
        return WRONG
    return cell if kind == "text" else {"int": _int, "float": _float, "date": _date, "timestamp": _time}[kind](cell)


def _int(cell: str) -> Any:
    digits = cell[1:] if cell[0] == "-" else cell
    fits = _digits(digits) and abs(int(cell)) < 2**63 + (cell[0] == "-")
    return int(cell) if fits else WRONG


def _float(cell: str) -> Any:
    if cell[0] == "+" or set(cell) - set("+-.0123456789eE"):
        return WRONG
    try:
        value = float(cell)
    except ValueError:
        return WRONG
    return value if math.isfinite(value) else WRONG


def _date(cell: str) -> Any:
    if len(cell) != 8 or not _digits(cell):
        return WRONG
    try:
        return datetime(int(cell[:4]), int(cell[4:6]), int(cell[6:])).date()
    except ValueError:
        return WRONG


def _time(cell: str) -> Any:
    if len(cell) != 14 or not _digits(cell):
        return WRONG
    parts = [int(cell[start : start + 2]) for start in range(4, 14, 2)]
    try:
        return datetime(int(cell[:4]), *parts, tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        return WRONG


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
