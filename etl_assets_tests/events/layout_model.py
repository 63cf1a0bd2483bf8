"""What the layout of a file means, row by row, in the plainest Python: the oracle of `layout`."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from etl_assets.events.columns import RAW_COLUMNS

WRONG = object()


@dataclass(frozen=True)
class Expected:
    """What comes of a file: its rows in order, the columns with a fault by line number (from 1), and how many rows gave way."""

    rows: list[dict[str, Any]]
    faults: dict[int, list[str]]
    deduplicated: int
    refused: bool


def expected(content: bytes) -> Expected:
    """What comes of a file that begins with a row."""
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    good: list[dict[str, Any]] = []
    faults: dict[int, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        values = _row(line)
        wrong = [""] if values is None else [name for name, value in values.items() if value is WRONG]
        if wrong:
            faults[number] = wrong
        else:
            good.append(values or {})
    last = {row["global_event_id"]: place for place, row in enumerate(good)}
    rows = [row for place, row in enumerate(good) if last[row["global_event_id"]] == place]
    return Expected(rows, faults, len(good) - len(rows), 2 * len(faults) > len(lines))


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
