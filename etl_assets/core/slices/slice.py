"""Slices: which rows of a table one transaction is about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from etl_assets.core.contracts import Contract, Record
from etl_assets.core.contracts.cast import cast_column
from etl_assets.errors import ContractError

Value = str | int | float | bool | date | datetime


@dataclass(frozen=True)
class Span:
    """The half-open interval [start, end)."""

    start: Value
    end: Value


@dataclass(frozen=True)
class OneOf:
    """Any of some values, at least one."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Combinations:
    """Any of some values of several columns together, at least one; kept under the name of the first column."""

    columns: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]


@dataclass(frozen=True)
class Slice:
    """A whole table, or the rows of it that belong to one partition.

    Attributes:
        contract: the table.
        name: the partition as Dagster writes it; empty for a whole table.
        bounds: by column, the value, the values or the interval that the slice's rows have. Slices that are written side by
            side, or loaded as one, have values or intervals.
    """

    contract: type[Contract]
    name: str = ""
    bounds: Mapping[str, Value | OneOf | Combinations | Span] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.contract.config.table}[{self.name}]" if self.name else self.contract.config.table

    def predicate(self, relation: str | None = None) -> sql.Composable:
        """The slice as a condition in SQL on the columns of `relation`; values are literals of their column's type."""
        parts: list[sql.Composable] = []
        for name, bound in self.bounds.items():
            c = sql.Identifier(relation, name) if relation else sql.Identifier(name)
            if isinstance(bound, Span):
                interval = sql.SQL("{c} >= {start} AND {c} < {end}")
                parts.append(interval.format(c=c, start=sql.Literal(bound.start), end=sql.Literal(bound.end)))
            elif isinstance(bound, OneOf):
                values = sql.SQL(", ").join(map(sql.Literal, bound.values))
                parts.append(sql.SQL("{c} IN ({values})").format(c=c, values=values))
            elif isinstance(bound, Combinations):
                identifiers = [
                    sql.Identifier(relation, one) if relation else sql.Identifier(one) for one in bound.columns
                ]
                rows = [sql.SQL("({})").format(sql.SQL(", ").join(map(sql.Literal, row))) for row in bound.values]
                both = sql.SQL("({}) IN ({})")
                parts.append(both.format(sql.SQL(", ").join(identifiers), sql.SQL(", ").join(rows)))
            else:
                parts.append(sql.SQL("{c} = {value}").format(c=c, value=sql.Literal(bound)))
        return sql.SQL(" AND ").join(parts) if parts else sql.SQL("TRUE")


def assign(records: Sequence[Record], slices: Sequence[Slice]) -> list[list[Record]]:
    """Give each record to the slice that its raw row names, as far as that can be read; one that names none goes with the first."""
    homes: list[list[Record]] = [[] for _ in slices]
    if len(slices) == 1 or not records:
        return [list(records), *homes[1:]]
    columns = slices[0].contract.columns
    cells = {
        name: cast_column(pd.Series([record.raw.get(name) for record in records], dtype=object), columns[name]).values
        for name in slices[0].bounds
    }
    for record, place in zip(records, _places(pa.table(cells), slices).tolist(), strict=True):
        homes[max(place, 0)].append(record)
    return homes


def divide(table: pa.Table, slices: Sequence[Slice]) -> list[pa.Table]:
    """The rows of each slice, in the order given.

    Args:
        table: rows in the contract's schema.
        slices: slices of one contract that do not overlap and are bounded by the same columns.

    Raises:
        ContractError: if a row belongs to none of them; gives the number of such rows and an example.
    """
    places = inside(table, slices[0]).astype(np.int64) - 1 if len(slices) == 1 else _places(table, slices)
    outside = np.flatnonzero(places < 0)
    if len(outside):
        example = {name: table[name][int(outside[0])].as_py() for name in slices[0].bounds}
        names = ", ".join(s.name for s in slices[:3]) + (", …" if len(slices) > 3 else "")
        raise ContractError(
            f"{slices[0].contract.config.table}: {len(outside)} rows lie outside partition {names}, for example {example}: "
            "nothing was written"
        )
    if len(slices) == 1:
        return [table]
    order = np.argsort(places, kind="stable")
    ordered = table if np.all(order[1:] > order[:-1]) else table.take(pa.array(order))
    ends = np.cumsum(np.bincount(places, minlength=len(slices)))
    return [ordered.slice(int(a), int(b - a)) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


def inside(table: pa.Table, slice_: Slice) -> np.ndarray:
    """For each row whether it belongs to the slice."""
    found = np.ones(table.num_rows, dtype=bool)
    for name, bound in slice_.bounds.items():
        if isinstance(bound, Combinations):
            cells = pd.MultiIndex.from_arrays([table[one].to_pandas() for one in bound.columns])
            found &= pd.MultiIndex.from_tuples(bound.values).get_indexer(cells) >= 0
            continue
        bounds = bound.values if isinstance(bound, OneOf) else (bound,)
        found &= _numbers(table[name], bounds) >= 0
    return found


def _places(table: pa.Table, slices: Sequence[Slice]) -> np.ndarray:
    """For each row the number of its slice, -1 for none."""
    of_rows, of_slices = [], []
    for name in slices[0].bounds:
        numbers = {bound: number for number, bound in enumerate(dict.fromkeys(s.bounds[name] for s in slices))}
        of_rows.append(_numbers(table[name], list(numbers)))
        of_slices.append([numbers[s.bounds[name]] for s in slices])
    return pd.MultiIndex.from_arrays(of_slices).get_indexer(pd.MultiIndex.from_arrays(of_rows))


def _numbers(values: pa.ChunkedArray, bounds: Sequence[Any]) -> np.ndarray:
    """For each value the number of the value or of the interval that it lies in, -1 for none."""
    if not isinstance(bounds[0], Span):
        found = pc.index_in(values, value_set=pa.array(bounds, type=values.type))
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)
    starts, ends = (
        integers(pa.array([getattr(span, side) for span in bounds], type=values.type)) for side in ("start", "end")
    )
    rows = integers(pc.fill_null(values, pa.scalar(bounds[0].start, type=values.type)))
    order = np.argsort(starts)
    at = np.searchsorted(starts[order], rows, side="right") - 1
    found = np.where(at < 0, -1, order[at])
    return np.where((rows >= ends[found]) | values.is_null().to_numpy(), -1, found)


def integers(array: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Dates and instants as integers, anything else as it is."""
    whole = array.cast(pa.int32()) if pa.types.is_date(array.type) else array
    return (whole.cast(pa.int64()) if pa.types.is_temporal(array.type) else whole).to_numpy(zero_copy_only=False)
