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
from etl_assets.core.contracts.arrow import ARROW_TYPES
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
    bounds: Mapping[str, Value | OneOf | Span] = field(default_factory=dict)

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
            else:
                parts.append(sql.SQL("{c} = {value}").format(c=c, value=sql.Literal(bound)))
        return sql.SQL(" AND ").join(parts) if parts else sql.SQL("TRUE")


def assign(records: Sequence[Record], slices: Sequence[Slice]) -> list[list[Record]]:
    """Give each record to the slice that its raw row names, as far as that can be read; one that names none goes with the first."""
    homes: list[list[Record]] = [[] for _ in slices]
    if len(slices) == 1 or not records:
        return [list(records), *homes[1:]]
    contract = slices[0].contract
    cells = {
        name: cast_column(
            pd.Series([record.raw.get(name) for record in records], dtype=object), contract.columns[name]
        ).values
        for name in slices[0].bounds
    }
    for record, place in zip(records, _places(pa.table(cells), slices).tolist(), strict=True):
        homes[max(place, 0)].append(record)
    return homes


def _within(values: pa.Array | pa.ChunkedArray, bound: Value | OneOf | Span) -> Any:
    if isinstance(bound, OneOf):
        return pc.is_in(values, value_set=pa.array(bound.values, type=values.type))
    if isinstance(bound, Span):
        low, high = (pa.scalar(v, type=values.type) for v in (bound.start, bound.end))
        return pc.and_(pc.greater_equal(values, low), pc.less(values, high))
    return pc.equal(values, pa.scalar(bound, type=values.type))


def divide(table: pa.Table, slices: Sequence[Slice]) -> list[pa.Table]:
    """The rows of each slice, in the order given.

    Args:
        table: rows in the contract's schema.
        slices: slices of one contract that do not overlap and are bounded by the same columns.

    Raises:
        ContractError: if a row belongs to none of them; gives the number of such rows and an example.
    """
    contract = slices[0].contract
    places = np.zeros(table.num_rows, dtype=np.int64)
    if len(slices) == 1:
        for name, bound in slices[0].bounds.items():
            inside = pc.fill_null(_within(table[name], bound), False).to_numpy()
            places[~inside] = -1
        parts = [table]
    else:
        places = _places(table, slices)
        order = np.argsort(places, kind="stable")
        ordered = table if np.all(order[1:] > order[:-1]) else table.take(pa.array(order))
        ends = np.searchsorted(places[order], np.arange(len(slices)), side="right")
        starts = np.searchsorted(places[order], np.arange(len(slices)), side="left")
        parts = [ordered.slice(int(a), int(b - a)) for a, b in zip(starts, ends, strict=True)]
    outside = np.flatnonzero(places < 0)
    if len(outside):
        columns = list(slices[0].bounds)
        example = {name: table[name][int(outside[0])].as_py() for name in columns}
        names = ", ".join(s.name for s in slices[:3]) + (", …" if len(slices) > 3 else "")
        raise ContractError(
            f"{contract.config.table}: {len(outside)} rows lie outside partition {names}, for example {example}: "
            "nothing was written"
        )
    return parts


def _places(table: pa.Table, slices: Sequence[Slice]) -> np.ndarray:
    """For each row the number of its slice, -1 for none."""
    codes = np.zeros(table.num_rows, dtype=np.int64)
    outside = np.zeros(table.num_rows, dtype=bool)
    slice_codes = np.zeros(len(slices), dtype=np.int64)
    for name in slices[0].bounds:
        kind = ARROW_TYPES[slices[0].contract.columns[name].kind]
        distinct = list(dict.fromkeys(s.bounds[name] for s in slices))
        if isinstance(distinct[0], Span):
            distinct.sort(key=lambda span: span.start)  # type: ignore[union-attr]
            at, beyond = _span_numbers(table[name], distinct, kind)
        else:
            found = pc.index_in(table[name], value_set=pa.array(distinct, type=kind))
            at = pc.fill_null(found, -1).to_numpy().astype(np.int64)
            beyond = at < 0
        codes = codes * len(distinct) + at
        outside |= beyond
        slice_codes = slice_codes * len(distinct) + np.array([distinct.index(s.bounds[name]) for s in slices])
    order = np.argsort(slice_codes)
    at = np.minimum(np.searchsorted(slice_codes[order], codes), len(slices) - 1)
    places = order[at]
    places[outside | (slice_codes[places] != codes)] = -1
    return places


def _span_numbers(values: pa.ChunkedArray, spans: Sequence[Any], kind: pa.DataType) -> tuple[np.ndarray, np.ndarray]:
    def numbers(array: Any) -> np.ndarray:
        integers = array.cast(pa.int32()).cast(pa.int64()) if pa.types.is_date(kind) else array
        if pa.types.is_timestamp(kind):
            integers = array.cast(pa.int64())
        return integers.to_numpy()

    missing = values.is_null().to_numpy()
    if missing.any():
        values = values.fill_null(
            pa.scalar(0).cast(pa.int32()).cast(kind) if pa.types.is_date(kind) else pa.scalar(0).cast(kind)
        )
    starts = numbers(pa.chunked_array([pa.array([span.start for span in spans], type=kind)]))
    ends = numbers(pa.chunked_array([pa.array([span.end for span in spans], type=kind)]))
    rows = numbers(values)
    at = np.searchsorted(starts, rows, side="right") - 1
    beyond = missing | (at < 0) | (rows >= ends[np.maximum(at, 0)])
    return np.maximum(at, 0), beyond
