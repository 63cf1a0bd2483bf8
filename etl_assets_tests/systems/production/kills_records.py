"""Two files of records for the kill test, and what tables and quarantine are after any number of their records.

The files have what real ones have: numbers as text, seconds and milliseconds, NaN, keys that come again with another value or
the same one, and records that are none. What they come to is computed from their text in plain Python, one record after the
other, by rules that are written here once more.
"""

import json
import math
import random
from array import array
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

START = 1_704_693_600  # 2024-01-08T06:00:00Z
PARAMETERS, PRODUCTS = 40, 3
AGAIN, AGAIN_THE_SAME, POISONED, IN_OTHER_FORM = 0.02, 0.01, 0.004, 0.02
POISON = (
    '{"id": 1, "product": 1,',
    "no JSON",
    "[]",
    '"text"',
    "{}",
    '{"id": "", "product": "", "val": 1, "production": 1, "time": 1704693600}',
    '{"id": 1.5, "product": 1.5, "val": 1, "production": 1, "time": 1704693600}',
    '{"id": 1, "product": 1, "val": "N/A", "production": "N/A", "time": 1704693600}',
    '{"id": 1, "product": 1, "val": Infinity, "production": -Infinity, "time": 1704693600}',
    '{"id": 1, "product": 1, "val": true, "production": false, "time": 1704693600}',
    '{"id": 1, "product": 1, "val": 1, "production": 1, "time": null}',
    '{"id": 1, "product": 1, "val": 1, "production": 1}',
)
_MILLISECONDS_FROM = 1e11

Key = tuple[str, datetime]


@dataclass(frozen=True)
class Fields:
    """What the fields of a record are called."""

    group: str
    value: str


METRICS = Fields("id", "val")
WORKORDERS = Fields("product", "production")


def records(fields: Fields, number: int, groups: int, dice: random.Random) -> list[str]:
    """The texts of records, in their order."""
    texts: list[str] = []
    known: list[tuple[int, int, Any]] = []
    for second in range(number):
        draw = dice.random()
        if draw < POISONED:
            texts.append(dice.choice(POISON))
            continue
        group, time, value = dice.randrange(groups), START + second, _value(dice)
        if known and draw < POISONED + AGAIN + AGAIN_THE_SAME:
            group, time, before = dice.choice(known)
            value = before if draw < POISONED + AGAIN_THE_SAME else value
        known.append((group, time, value))
        texts.append(_record(fields, group, time, value, dice))
    return texts


def _value(dice: random.Random) -> Any:
    return dice.choice((None, math.nan)) if dice.random() < 0.01 else round(dice.gauss(0, 1000), 3)


def _record(fields: Fields, group: int, time: int, value: Any, dice: random.Random) -> str:
    """A record, now and then in another form that means the same."""
    record: dict[str, Any] = {fields.group: group, fields.value: value, "time": time}
    if dice.random() < IN_OTHER_FORM:
        other = dice.choice((fields.group, fields.value, "time", "iso", "ms"))
        if other == "iso":
            record["time"] = datetime.fromtimestamp(time, UTC).isoformat()
        elif other == "ms":
            record["time"] = time * 1000
        elif record[other] is not None:
            record[other] = str(record[other])
    return json.dumps(record)


def row(text: str, fields: Fields) -> tuple[Key, float | None] | None:
    """Key and value of a record; None if it is none."""
    try:
        record = json.loads(text)
        group, value = _id(record[fields.group]), record[fields.value]
        number = None if value is None else _number(value)
        at = _instant(record["time"])
    except (ValueError, KeyError, TypeError):
        return None
    if number is not None and math.isinf(number):
        return None
    return (group, at), None if number is None or math.isnan(number) else number


def _id(cell: Any) -> str:
    number = 0 if isinstance(cell, str) else _number(cell)
    if number != int(number) or cell == "":
        raise ValueError("neither text nor a whole number")
    return cell if isinstance(cell, str) else str(int(number))


def _number(cell: Any) -> float:
    if isinstance(cell, bool):
        raise ValueError("a truth value")
    return float(cell)


def _instant(cell: Any) -> datetime:
    if isinstance(cell, str) and "T" in cell:
        return datetime.fromisoformat(cell)
    number = _number(cell)
    return datetime.fromtimestamp(number / 1000 if number >= _MILLISECONDS_FROM else number, UTC)


@dataclass(frozen=True)
class Counts:
    """What can be counted after the first records.

    Attributes:
        rows: in the table.
        sequences: the sum of their sequences, which tells which ones they are.
        newest: the highest of them.
        superseded, rejected: in quarantine.
    """

    rows: int
    sequences: int
    newest: int
    superseded: int
    rejected: int


@dataclass
class Expected:
    """What table and quarantine are after all records, and what can be counted after the first of them.

    Attributes:
        table: by key, value and sequence.
        superseded: by sequence, that of the record that took its place.
        rejected: sequences of records that are none.
    """

    total: int = 0
    table: dict[Key, tuple[float | None, int]] = field(default_factory=dict)
    superseded: dict[int, int] = field(default_factory=dict)
    rejected: set[int] = field(default_factory=set)
    _counts: "list[array[int]]" = field(default_factory=lambda: [array("q", [0]) for _ in range(5)])

    @classmethod
    def of(cls, texts: list[str], fields: Fields) -> "Expected":
        """Record after record: a value that differs from the one before takes its place."""
        expected, sequences, newest = cls(total=len(texts)), 0, 0
        for sequence, text in enumerate(texts, start=1):
            found = row(text, fields)
            if found is None:
                expected.rejected.add(sequence)
            else:
                key, value = found
                before = expected.table.get(key)
                if before is None or before[0] != value:
                    expected.table[key] = (value, sequence)
                    sequences, newest = sequences + sequence, sequence
                    if before is not None:
                        expected.superseded[before[1]] = sequence
                        sequences -= before[1]
            counts = (len(expected.table), sequences, newest, len(expected.superseded), len(expected.rejected))
            for column, count in zip(expected._counts, counts, strict=True):
                column.append(count)
        return expected

    def after(self, position: int) -> Counts:
        """What can be counted after so many records."""
        return Counts(*(column[position] for column in self._counts))
