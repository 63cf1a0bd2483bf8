"""A frame divided into rows that keep the contract and records of those that do not; and frames by partition."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

Frame = TypeVar("Frame", covariant=True)
NOTHING = ("NaTType", "NAType")  # of pandas, which is not imported for two values


@dataclass(frozen=True)
class Fault:
    """One reason why a row is not as it should be: the column, the rule, and the value as it came."""

    column: str
    rule: str
    raw: Any


@dataclass(frozen=True)
class Record:
    """A row for quarantine, with all its faults and the raw row.

    Attributes:
        faults: every fault of the row; at least one.
        raw: the row as it was received.
        source: where it came from (`GET /outages, element 12`; `users.csv, line 7`).
        outcome: `rejected` rows are in no table; `flagged` rows were loaded and are only reported; a `superseded` row
            gave way to a later one of the same key.
    """

    faults: tuple[Fault, ...]
    raw: Mapping[str, Any]
    source: str = ""
    outcome: Literal["rejected", "flagged", "superseded"] = "rejected"


@dataclass(frozen=True)
class Split(Generic[Frame]):
    """Rows that keep the contract, and records of the rest.

    Attributes:
        valid: the rows to store, in the form that was given (frame, Arrow table, record batches).
        records: rows for quarantine, and flagged rows, which are among the valid too.
        deduplicated: rows that were left out because another one says the same.
    """

    valid: Frame
    records: Sequence[Record] = field(default=())
    deduplicated: int = 0

    @property
    def rejected(self) -> list[Record]:
        """The records of rows that are in no table."""
        return [record for record in self.records if record.outcome != "flagged"]


@dataclass(frozen=True)
class ByPartition(Generic[Frame]):
    """The rows of several partitions, one after another: each is stored before the next one is made.

    Attributes:
        parts: name of the partition and its rows, in any form that can be stored.
        locked: who makes them takes the lock of each before its source is asked, and gives it as a third; else all are locked before the
            first is made.
    """

    parts: Iterable[tuple[str, "Frame | Split[Frame]"] | tuple[str, "Frame | Split[Frame]", Any]]
    locked: bool = False


def as_json(record: Record) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Faults and raw row of a record as values that JSON can hold; anything else goes in as its text."""
    faults = [{"column": f.column, "rule": f.rule, "raw": _plain(f.raw)} for f in record.faults]
    return faults, {str(name): _plain(value) for name, value in record.raw.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None if value != value else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if type(value).__name__ in NOTHING:
        return None
    # Of what is numpy's, numbers and arrays; its times would give a bare count of their units.
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    plain = value.tolist() if kind and kind in "biufUO" else str(value)
    return _plain(plain) if type(plain) is not type(value) else str(value)
