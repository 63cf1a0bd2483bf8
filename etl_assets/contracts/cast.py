"""Cast the values of one column to the type of its contract, cell by cell where a cell does not fit.

A column that arrives with a declared type of another kind (integers for a text column, times without a zone) is not a
matter of rows: that is drift, and raises. A column without a declared type (`object`) is judged by cell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.contracts.arrow import ARROW_TYPES
from etl_assets.contracts.contract import Column, Kind
from etl_assets.failures import ContractError

ZONED = r"[0-9](Z|z|[+-][0-9]{2}(:?[0-9]{2})?)$"
WHOLE = r"^\s*[+-]?[0-9]{1,18}\s*$"
TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Cast:
    """A column in its contract's type; cells that could not be cast are NULL and listed with the rule they broke."""

    values: pa.Array
    faults: Mapping[int, str] = field(default_factory=dict)


def cast_column(values: pd.Series | pa.ChunkedArray | pa.Array, column: Column) -> Cast:
    """Cast one column.

    Args:
        values: the column as a pandas Series of any dtype, or in Arrow.
        column: what the contract says of it.

    Returns:
        An Arrow array of the contract's type, of the same length, and the faults by row number.

    Raises:
        ContractError: if the column's declared type is of another kind; names the column and both types.
    """
    untyped = isinstance(values, pd.Series) and values.dtype == object
    array = _as_arrow(values, column)
    if array is None:
        return _by_cell(values, column)
    if array.type == ARROW_TYPES[column.kind]:
        return Cast(_without_nan(array))
    if pa.types.is_null(array.type):
        return Cast(array.cast(ARROW_TYPES[column.kind]))
    cast = CASTS[column.kind](array, column)
    if cast is not None:
        return cast
    if untyped:
        return _by_cell(values, column)
    raise ContractError(
        f"column {column.name} is {array.type} and the contract says {column.kind.value}: "
        + (
            "give the times a zone"
            if column.kind is Kind.TIMESTAMP and pa.types.is_timestamp(array.type)
            else "convert it where it is made, or change the contract"
        )
    )


def _as_arrow(values: pd.Series | pa.ChunkedArray | pa.Array, column: Column) -> pa.Array | None:
    """The values as one Arrow array of whatever type they have; None where Arrow finds no common type."""
    if isinstance(values, pd.Series):
        try:
            array = pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            return None
        # Arrow gives mixed naive and aware objects one zone without a word.
        if values.dtype == object and pa.types.is_timestamp(array.type):
            return None
    else:
        array = values
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks() if array.num_chunks != 1 else array.chunk(0)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    return array


def _without_nan(array: pa.Array) -> pa.Array:
    """NaN is how frames say that there is nothing."""
    if not pa.types.is_floating(array.type) or array.null_count == len(array):
        return array
    nan = pc.is_nan(array)
    return pc.if_else(nan, None, array) if pc.any(nan).as_py() else array


def _masked(array: pa.Array, good: pa.Array, rule: str) -> Cast:
    """The array with NULL where `good` is false, those rows being faults; NULL stays NULL."""
    bad = pc.fill_null(pc.invert(good), False)
    return Cast(pc.if_else(bad, None, array), dict.fromkeys(np.flatnonzero(bad).tolist(), rule))


def _to_int(array: pa.Array, column: Column) -> Cast | None:
    if pa.types.is_integer(array.type):
        good = (
            pc.less_equal(array, 2**63 - 1)
            if pa.types.is_uint64(array.type)
            else pc.is_valid(array)
        )
        cast = _masked(array, pc.if_else(pc.is_null(array), None, good), "not an integer of 64 bits")
        return Cast(cast.values.cast(pa.int64()), cast.faults)
    if pa.types.is_floating(array.type):
        array = _without_nan(array.cast(pa.float64()))
        whole = pc.and_(pc.equal(pc.floor(array), array), pc.less(pc.abs(array), 2.0**63))
        cast = _masked(array, whole, "not a whole number")
        return Cast(cast.values.cast(pa.int64()), cast.faults)
    if pa.types.is_string(array.type):
        cast = _masked(array, pc.match_substring_regex(array, WHOLE), "not a whole number")
        return Cast(pc.utf8_trim_whitespace(cast.values).cast(pa.int64()), cast.faults)
    return None


def _to_float(array: pa.Array, column: Column) -> Cast | None:
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        return Cast(_without_nan(array.cast(pa.float64(), safe=False)))
    if pa.types.is_string(array.type):
        numbers = pd.to_numeric(pd.Series(array.to_pandas(), dtype=object), errors="coerce")
        parsed = pa.array(numbers.to_numpy(np.float64))
        nothing = pc.is_in(pc.utf8_lower(array), value_set=pa.array(["nan"]))
        good = pc.or_(pc.invert(pc.is_nan(parsed)), nothing)
        cast = _masked(parsed, pc.if_else(pc.is_null(array), None, good), "not a number")
        return Cast(_without_nan(cast.values), cast.faults)
    return None


def _to_bool(array: pa.Array, column: Column) -> Cast | None:
    if pa.types.is_string(array.type):
        lowered = pc.utf8_lower(array)
        cast = _masked(lowered, pc.is_in(lowered, value_set=pa.array(list(TRUTH))), "not true or false")
        return Cast(pc.equal(cast.values, "true"), cast.faults)
    return None


def _to_text(array: pa.Array, column: Column) -> Cast | None:
    return None


def _to_date(array: pa.Array, column: Column) -> Cast | None:
    if pa.types.is_date(array.type):
        return Cast(array.cast(pa.date32()))
    if pa.types.is_timestamp(array.type) and array.type.tz is None:
        midnight = pc.equal(pc.floor_temporal(array, unit="day"), array)
        cast = _masked(array, midnight, "not a date: has a time of day")
        return Cast(cast.values.cast(pa.date32(), safe=False), cast.faults)
    if pa.types.is_string(array.type):
        parsed = pd.to_datetime(pd.Series(array.to_pandas(), dtype=object), format="%Y-%m-%d", errors="coerce")
        dates = pa.array(parsed, from_pandas=True).cast(pa.timestamp("us")).cast(pa.date32(), safe=False)
        good = pc.if_else(pc.is_null(array), None, pc.is_valid(dates))
        return _masked(dates, good, "not a date (YYYY-MM-DD)")
    return None


def _to_timestamp(array: pa.Array, column: Column) -> Cast | None:
    target = ARROW_TYPES[Kind.TIMESTAMP]
    if pa.types.is_timestamp(array.type):
        if array.type.tz is not None:
            return Cast(array.cast(target, safe=False))
        if column.zone is not None:
            return _localised(array.cast(pa.timestamp("us"), safe=False), column.zone)
        return None
    if pa.types.is_string(array.type):
        return _parsed(array, column)
    return None


def _localised(naive: pa.Array, zone: str) -> Cast:
    """Naive local times in UTC; a time that a change of the clocks makes ambiguous or leaves out is a fault."""
    local = pd.Series(naive.to_pandas()).dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    utc = pa.array(local, from_pandas=True).cast(ARROW_TYPES[Kind.TIMESTAMP], safe=False)
    good = pc.if_else(pc.is_null(naive), None, pc.is_valid(utc))
    return _masked(utc, good, f"ambiguous or missing local time in {zone}")


def _parsed(array: pa.Array, column: Column) -> Cast:
    """ISO 8601 text as instants. Digits beyond the microsecond are dropped, which keeps the order of times."""
    text = pd.Series(array.to_pandas(), dtype=object)
    if column.zone is not None:
        naive = pd.to_datetime(text, format="ISO8601", errors="coerce")
        unread = _masked(array, pc.if_else(pc.is_null(array), None, pa.array(naive.notna())), "not a time")
        local = _localised(pa.array(naive, from_pandas=True).cast(pa.timestamp("us"), safe=False), column.zone)
        return Cast(local.values, {**local.faults, **unread.faults})
    zoned = pc.match_substring_regex(array, ZONED)
    aware = pd.to_datetime(text.where(pd.Series(zoned.to_pandas()).eq(True)), format="ISO8601", errors="coerce", utc=True)
    utc = pa.array(aware, from_pandas=True).cast(ARROW_TYPES[Kind.TIMESTAMP], safe=False)
    good = pc.if_else(pc.is_null(array), None, pc.is_valid(utc))
    cast = _masked(utc, good, "not a time")
    naive_rows = np.flatnonzero(pc.fill_null(pc.invert(zoned), False))
    read = pd.to_datetime(text.iloc[naive_rows], format="ISO8601", errors="coerce", utc=True).notna()
    without_zone = dict.fromkeys(naive_rows[read.to_numpy()].tolist(), "a time without a zone")
    return Cast(cast.values, {**cast.faults, **without_zone})


CASTS: Mapping[Kind, Callable[[pa.Array, Column], Cast | None]] = {
    Kind.INT: _to_int,
    Kind.FLOAT: _to_float,
    Kind.BOOL: _to_bool,
    Kind.TEXT: _to_text,
    Kind.DATE: _to_date,
    Kind.TIMESTAMP: _to_timestamp,
}

NOT_OF_KIND = {
    Kind.INT: "not a whole number",
    Kind.FLOAT: "not a number",
    Kind.BOOL: "not true or false",
    Kind.TEXT: "not text",
    Kind.DATE: "not a date (YYYY-MM-DD)",
    Kind.TIMESTAMP: "not a time",
}


def _by_cell(values: Any, column: Column) -> Cast:
    """Each cell on its own, for columns of mixed types: slow, and met only where something is wrong."""
    target = ARROW_TYPES[column.kind]
    cells: list[Any] = []
    faults: dict[int, str] = {}
    for row, value in enumerate(values):
        cell, rule = _cell(value, column)
        cells.append(cell)
        if rule is not None:
            faults[row] = rule
    return Cast(pa.array(cells, type=target), faults)


def _cell(value: Any, column: Column) -> tuple[Any, str | None]:
    if value is None or value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
        return None, None
    rule = NOT_OF_KIND[column.kind]
    if column.kind is Kind.TEXT:
        return (value, None) if _is_text(value) else (None, rule)
    try:
        array = pa.array([value])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError, UnicodeEncodeError):
        return None, rule
    if array.type == ARROW_TYPES[column.kind]:
        return _without_nan(array)[0].as_py(), None
    cast = CASTS[column.kind](array, column)
    if cast is None:
        naive = column.kind is Kind.TIMESTAMP and pa.types.is_timestamp(array.type)
        return None, "a time without a zone" if naive else rule
    return cast.values[0].as_py(), cast.faults.get(0)


def _is_text(value: Any) -> bool:
    """Whether a value is text that UTF-8 can hold (JSON can carry lone surrogates)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
