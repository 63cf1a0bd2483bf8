"""Cast the values of one column to the type of its contract, cell by cell where a cell does not fit.

A column that arrives with a declared type of another kind (integers for a text column, times without a zone) is not a
matter of rows: that is drift, and raises. A column without a declared type (`object`) is judged by cell.
"""

import contextlib
import datetime
import decimal
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts.arrow import ARROW_TYPES
from etl_assets.core.contracts.contract import Column, Kind
from etl_assets.errors import ContractError

# Regular expressions are those of RE2. Arrow itself reads 0x10 as an integer, and refuses a plus and blanks.
WHOLE = r"^\s*(?:\+|(-))?0*([0-9]{1,19})\s*$"
NUMBER = r"(?i)^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan)$"
ISO_DATE = r"(?P<year>[0-9]{4})-?(?P<month>[0-9]{2})-?(?P<day>[0-9]{2})"
ISO_TIME = (
    r"(?P<hour>[0-9]{2})(?::?(?P<minute>[0-9]{2})(?::?(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]+))?)?)?"
    r" ?(?P<zone>[Zz]|(?P<sign>[+-])(?P<zone_hour>[0-9]{2})(?::?(?P<zone_minute>[0-9]{2}))?)?"
)
TIME = rf"^\s*{ISO_DATE}(?:[Tt ]{ISO_TIME})?\s*$"
DATE = r"^\s*(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})\s*$"
# From here on, by its bits, a float is that of several integers: 2**53 + 1 arrives as 2**53 does.
INEXACT_FROM = {16: 2**11, 32: 2**24, 64: 2**53}
SAFE_DIGITS = 18  # so many always fit into 64 bits
SECOND_US = 1_000_000
# What Python, and so every driver, can hold; Arrow and Postgres go on for longer.
YEARS = "outside of the years 1 to 9999"
FIRST_DAY, LAST_DAY = (np.datetime64(day, "D").astype(np.int64) for day in ("0001-01-01", "9999-12-31"))
FIRST_US, LAST_US = FIRST_DAY * 86_400 * SECOND_US, (LAST_DAY + 1) * 86_400 * SECOND_US - 1
# Kinds of object columns, by pandas, of which Arrow reads every cell as what it is. In others it drops the time of a
# `datetime` behind a `date`, and makes days of numbers and numbers of truth values.
READ_WHOLE = ("string", "integer", "floating", "mixed-integer-float", "boolean", "decimal", "date", "datetime", "empty")
UNREADABLE = (pa.ArrowException, ValueError, TypeError, ArithmeticError)


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
    array = _as_arrow(values, column.kind)
    if array is not None:
        cast = _cast(array, column)
        if cast is not None:
            return cast
    if untyped or (array is None and isinstance(values.dtype, pd.CategoricalDtype)):
        return _by_cell(values, column)
    given = values.dtype if array is None else array.type
    raise ContractError(
        f"column {column.name} is {given} and the contract says {column.kind.value}: "
        + (
            "give the times a zone"
            if column.kind is Kind.TIMESTAMP and array is not None and pa.types.is_timestamp(array.type)
            else "convert it where it is made, or change the contract"
        )
    )


def _as_arrow(values: pd.Series | pa.ChunkedArray | pa.Array, kind: Kind) -> pa.Array | None:
    """The values as one plain Arrow array of whatever type they have; None where its cells are not of one type."""
    array: Any = values
    if isinstance(values, pd.Series):
        if values.dtype == object and not _of_one_type(values, kind):
            return None
        if isinstance(values.dtype, pd.SparseDtype):
            values = pd.Series(np.asarray(values))
        try:
            array = pa.array(values, from_pandas=True)
        except UNREADABLE:
            return None
        if values.dtype.kind == "f" and array.null_count == len(array):
            return pa.nulls(len(array))  # a frame's column without any value has this type for want of another
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    if pa.types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.string())
    return array


def _of_one_type(values: pd.Series, wanted: Kind) -> bool:
    try:
        kind = pd.api.types.infer_dtype(values, skipna=True)
    except ArithmeticError:  # by a decimal that is a signalling NaN, of which Arrow can die
        return False
    if kind == "datetime":
        # Arrow gives mixed naive and aware times one zone without a word.
        return len({value.tzinfo is None for value in values[values.notna()]}) == 1
    if kind == "date":
        # A datetime is a date too: behind one Arrow would drop its time of day.
        return not any(isinstance(value, datetime.datetime) for value in values[values.notna()])
    if kind == "mixed-integer-float" and wanted in (Kind.INT, Kind.ID):
        return False  # beside a float Arrow makes floats of the integers
    return kind in READ_WHOLE


def missing_cells(values: pd.Series) -> np.ndarray:
    """Where a frame has nothing: None, NaN of any type, NaT, NA."""
    try:
        return values.isna().to_numpy()
    except ArithmeticError:  # by a decimal that is a signalling NaN
        return np.array([v.is_nan() if isinstance(v, decimal.Decimal) else pd.isna(v) is True for v in values])


def _cast(array: pa.Array, column: Column) -> Cast | None:
    """An array of one type in the contract's type; None if there is no way from one kind to the other."""
    target = ARROW_TYPES[column.kind]
    if pa.types.is_null(array.type):
        return Cast(array.cast(target))
    if array.type == target and column.kind not in (Kind.DATE, Kind.TIMESTAMP):
        return Cast(_without_nan(array))
    return CASTS[column.kind](array, column)


def _without_nan(array: pa.Array) -> pa.Array:
    """NaN is how frames say that there is nothing."""
    if not pa.types.is_floating(array.type) or array.null_count == len(array):
        return array
    nan = pc.is_nan(array)
    return pc.if_else(nan, None, array) if pc.any(nan).as_py() else array


def _masked(array: pa.Array, good: pa.Array | np.ndarray, rule: str) -> Cast:
    """The array with NULL where `good` is false, those rows being faults; where `good` is NULL there is nothing."""
    bad = pc.fill_null(pc.invert(good if isinstance(good, pa.Array) else pa.array(good)), False)
    rows = np.flatnonzero(bad)
    return Cast(pc.if_else(bad, None, array), dict.fromkeys(rows.tolist(), rule)) if len(rows) else Cast(array)


def _then(first: Cast, second: Cast) -> Cast:
    """A cast of what another has left; a cell has the fault that was found first."""
    return Cast(second.values, {**second.faults, **first.faults})


def _to_int(array: pa.Array, _column: Column) -> Cast | None:
    if pa.types.is_uint64(array.type):
        cast = _masked(array, pc.less_equal(array, pa.scalar(2**63 - 1, pa.uint64())), "not an integer of 64 bits")
        return Cast(cast.values.cast(pa.int64()), cast.faults)
    if pa.types.is_integer(array.type):
        return Cast(array.cast(pa.int64()))
    if pa.types.is_floating(array.type):
        inexact_from = INEXACT_FROM[array.type.bit_width]
        array = _without_nan(array.cast(pa.float64()))
        whole = _masked(array, pc.and_(pc.equal(pc.floor(array), array), pc.is_finite(array)), "not a whole number")
        exact = _masked(whole.values, pc.less(pc.abs(whole.values), inexact_from), "beyond what a float holds exactly")
        return _then(whole, Cast(exact.values.cast(pa.int64()), exact.faults))
    if pa.types.is_decimal(array.type):
        numbers: list[decimal.Decimal | None] = array.to_pylist()
        of_whole = [None if n is None else n == n.to_integral_value() for n in numbers]
        fitting = [None if n is None else -(2**63) <= n < 2**63 for n in numbers]
        good = [
            None if n is None or not (a and b) else int(n) for n, a, b in zip(numbers, of_whole, fitting, strict=True)
        ]
        large = _masked(pa.array(good, pa.int64()), pa.array(fitting, pa.bool_()), "not an integer of 64 bits")
        return _then(_masked(large.values, pa.array(of_whole, pa.bool_()), "not a whole number"), large)
    if pa.types.is_string(array.type):
        plain = pc.and_(pc.ascii_is_decimal(array), pc.less_equal(pc.binary_length(array), SAFE_DIGITS))
        if pc.all(plain, min_count=0).as_py():  # most columns, at a tenth of the cost
            return Cast(array.cast(pa.int64()))
        cast = _masked(array, pc.match_substring_regex(array, WHOLE), "not a whole number")
        digits = pc.replace_substring_regex(cast.values, WHOLE, r"\1\2")
        try:
            return Cast(digits.cast(pa.int64()), cast.faults)
        except pa.ArrowInvalid:
            fits = [None if d is None else -(2**63) <= int(d) < 2**63 for d in digits.to_pylist()]
            large = _masked(digits, pa.array(fits, pa.bool_()), "not an integer of 64 bits")
            return _then(cast, Cast(large.values.cast(pa.int64()), large.faults))
    return None


def _to_float(array: pa.Array, _column: Column) -> Cast | None:
    if pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        return Cast(_without_nan(array.cast(pa.float64(), safe=False)))
    if pa.types.is_string(array.type):
        text = pc.ascii_trim_whitespace(array)
        cast = _masked(text, pc.match_substring_regex(text, NUMBER), "not a number")
        return Cast(_without_nan(cast.values.cast(pa.float64())), cast.faults)
    return None


def _to_bool(array: pa.Array, _column: Column) -> Cast | None:
    if pa.types.is_string(array.type):
        lowered = pc.utf8_lower(array)
        cast = _masked(lowered, pc.is_in(lowered, value_set=pa.array(["true", "false"])), "not true or false")
        return Cast(pc.equal(pc.if_else(pc.is_null(array), None, cast.values), "true"), _present(cast.faults, array))
    return None


def _present(faults: Mapping[int, str], array: pa.Array) -> Mapping[int, str]:
    """The faults of cells that are there: `is_in` answers false for NULL."""
    missing = set(np.flatnonzero(array.is_null()).tolist()) if array.null_count else set()
    return {row: rule for row, rule in faults.items() if row not in missing}


def _to_text(_array: pa.Array, _column: Column) -> Cast | None:
    return None


def _to_id(array: pa.Array, column: Column) -> Cast | None:
    """Whole numbers as their text, however they are written; text is an id already."""
    if pa.types.is_integer(array.type):
        return Cast(array.cast(pa.string()))
    numbers = None if pa.types.is_string(array.type) else _to_int(array, column)
    return numbers and Cast(numbers.values.cast(pa.string()), numbers.faults)


def _to_date(array: pa.Array, _column: Column) -> Cast | None:
    kind = array.type
    if pa.types.is_date32(kind):
        return _within_years(array)
    if pa.types.is_date64(kind) or (pa.types.is_timestamp(kind) and kind.tz is None):
        instants = _microseconds(array.cast(pa.timestamp("ms")) if pa.types.is_date64(kind) else array)
        values, missing = _numbers(instants.values)
        days, rest = np.divmod(values, 86_400 * SECOND_US)
        dates = pa.array(days.astype(np.int32), mask=missing).cast(pa.date32())
        midnight = pa.array(rest == 0, mask=missing)
        return _then(instants, _masked(dates, midnight, "not a date: has a time of day"))
    if pa.types.is_string(kind):
        parts = pc.extract_regex(array, DATE)
        days, valid = _days(parts)
        dates = pa.array(np.where(valid, days, 0).astype(np.int32), mask=~valid).cast(pa.date32())
        read = _masked(dates, pa.array(valid, mask=_missing(array)), NOT_OF_KIND[Kind.DATE])
        return _then(read, _within_years(read.values))
    return None


def _to_timestamp(array: pa.Array, column: Column) -> Cast | None:
    if pa.types.is_timestamp(array.type):
        if array.type.tz is None and column.zone is None:
            return None
        instants = _microseconds(array)
        if array.type.tz is None:
            return _then(instants, _localised(instants.values, column.zone))
        return Cast(instants.values.cast(ARROW_TYPES[Kind.TIMESTAMP]), instants.faults)
    if pa.types.is_string(array.type):
        return _parsed(array, column)
    return None


def _missing(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)


def _numbers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Times or days as integers (0 where there is none), and where there is none."""
    integers = array.cast(pa.int32() if pa.types.is_date32(array.type) else pa.int64())
    return pc.fill_null(integers, 0).to_numpy(zero_copy_only=False), _missing(array)


def _within_years(array: pa.Array) -> Cast:
    """Days or microseconds within the years that everybody can hold."""
    first, last = (FIRST_DAY, LAST_DAY) if pa.types.is_date32(array.type) else (FIRST_US, LAST_US)
    values, missing = _numbers(array)
    if len(values) == 0 or (values.min() >= first and values.max() <= last):
        return Cast(array)
    return _masked(array, pa.array((values >= first) & (values <= last), mask=missing), YEARS)


def _microseconds(array: pa.Array) -> Cast:
    """Timestamps of any unit in microseconds, their zone as it was. Digits beyond are dropped, which keeps the order."""
    target = pa.timestamp("us", array.type.tz)
    if array.type.unit == "us":
        return _within_years(array)
    values, missing = _numbers(array)
    if array.type.unit == "ns":
        return Cast(pa.array(values // 1000, mask=missing).cast(target))
    factor = {"ms": 1000, "s": SECOND_US}[array.type.unit]
    inside = (values >= FIRST_US // factor) & (values <= LAST_US // factor)
    micros = pa.array(np.where(inside, values, 0) * factor, mask=missing).cast(target)
    return _masked(micros, pa.array(inside, mask=missing), YEARS)


def _localised(naive: pa.Array, zone: str | None) -> Cast:
    """Naive local times in UTC; a time that a change of the clocks makes ambiguous or leaves out is a fault."""
    local = pd.Series(naive.to_pandas()).dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT")
    utc = pa.array(local, from_pandas=True).cast(ARROW_TYPES[Kind.TIMESTAMP], safe=False)
    good = pc.if_else(pc.is_null(naive), None, pc.is_valid(utc))
    found = _masked(utc, good, f"ambiguous or missing local time in {zone}")
    return _then(found, _within_years(found.values))


def _parsed(array: pa.Array, column: Column) -> Cast:
    """ISO 8601 text as instants; text without a zone is taken for local only where the contract states the zone."""
    target = ARROW_TYPES[Kind.TIMESTAMP]
    if column.zone is None:
        try:
            return _within_years(array.cast(target))  # all written as Arrow reads it: most columns
        except pa.ArrowInvalid:
            pass
    parts = pc.extract_regex(array, TIME)
    micros, valid = _clock(parts)
    zoned = pc.fill_null(pc.not_equal(parts.field("zone"), ""), False).to_numpy(zero_copy_only=False)
    read = _masked(
        pa.array(micros, mask=~valid).cast(pa.timestamp("us")), pa.array(valid, mask=_missing(array)), "not a time"
    )
    if column.zone is None:
        named = _masked(read.values, pa.array(zoned, mask=~valid), "a time without a zone")
        instants = _then(read, named)
    else:
        local = _localised(pc.if_else(pa.array(zoned), None, read.values), column.zone)
        utc = pc.if_else(pa.array(zoned), read.values.cast(target), local.values)
        instants = _then(read, Cast(utc, local.faults))
    return _then(instants, _within_years(instants.values.cast(target)))


def _number(parts: pa.StructArray, name: str) -> np.ndarray:
    """A group of digits of each match; 0 where it is not there."""
    text = parts.field(name)
    return pc.fill_null(pc.if_else(pc.equal(text, ""), "0", text), "0").cast(pa.int64()).to_numpy()


def _days(parts: pa.StructArray) -> tuple[np.ndarray, np.ndarray]:
    """Days since 1970 of matched dates, and which are dates of the calendar."""
    year, month, day = (_number(parts, name) for name in ("year", "month", "day"))
    months = (year - 1970) * 12 + np.clip(month, 1, 12) - 1
    first = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    after = (months + 1).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    valid = (month >= 1) & (month <= 12) & (day >= 1) & (first + day <= after)
    return first + day - 1, valid & ~_missing(parts)


def _clock(parts: pa.StructArray) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds since 1970 of matched times (of naive ones as if they were UTC), and which are times at all."""
    days, valid = _days(parts)
    fraction = pc.utf8_rpad(pc.utf8_slice_codeunits(pc.fill_null(parts.field("fraction"), ""), 0, 6), 6, "0")
    hour, minute, second = (_number(parts, name) for name in ("hour", "minute", "second"))
    zone_hour, zone_minute = (_number(parts, name) for name in ("zone_hour", "zone_minute"))
    east = np.where(pc.fill_null(pc.equal(parts.field("sign"), "-"), False).to_numpy(zero_copy_only=False), -1, 1)
    valid &= (hour <= 23) & (minute <= 59) & (second <= 59) & (zone_hour <= 23) & (zone_minute <= 59)
    seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - east * (zone_hour * 60 + zone_minute) * 60
    return seconds * SECOND_US + fraction.cast(pa.int64()).to_numpy(), valid


CASTS: Mapping[Kind, Callable[[pa.Array, Column], Cast | None]] = {
    Kind.INT: _to_int,
    Kind.FLOAT: _to_float,
    Kind.BOOL: _to_bool,
    Kind.TEXT: _to_text,
    Kind.ID: _to_id,
    Kind.DATE: _to_date,
    Kind.TIMESTAMP: _to_timestamp,
}

NOT_OF_KIND = {
    Kind.INT: "not a whole number",
    Kind.FLOAT: "not a number",
    Kind.BOOL: "not true or false",
    Kind.TEXT: "not text",
    Kind.ID: "not an id: neither text nor a whole number",
    Kind.DATE: "not a date (YYYY-MM-DD)",
    Kind.TIMESTAMP: "not a time",
}


def _by_cell(values: pd.Series, column: Column) -> Cast:
    """Each cell as its own type says, for columns of mixed types; cells of one type are cast together."""
    cells = values.tolist()
    missing = missing_cells(values)
    groups: dict[Any, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~missing).tolist():
        groups[type(cells[row]), getattr(cells[row], "tzinfo", None) is None].append(row)
    places = [np.flatnonzero(missing)]
    parts = [pa.nulls(len(places[0]), ARROW_TYPES[column.kind])]
    faults: dict[int, str] = {}
    for rows in groups.values():
        cast = _cast_alike([cells[row] for row in rows], column)
        places.append(np.array(rows))
        parts.append(cast.values)
        faults.update({rows[at]: rule for at, rule in cast.faults.items()})
    back = np.argsort(np.concatenate(places), kind="stable")
    return Cast(pa.concat_arrays(parts).take(pa.array(back)), faults)


def _cast_alike(cells: Sequence[Any], column: Column) -> Cast:
    """Cells of one Python type; one by one when Arrow cannot read them together."""
    try:
        array = pa.array(cells, from_pandas=True)
    except UNREADABLE:
        if len(cells) == 1:
            return _cast_large(cells[0], column)
        alone = [_cast_alike([cell], column) for cell in cells]
        faults = {row: cast.faults[0] for row, cast in enumerate(alone) if cast.faults}
        return Cast(pa.concat_arrays([cast.values for cast in alone]), faults)
    cast = _cast(_as_arrow(array, column.kind), column)
    if cast is not None:
        return cast
    naive = column.kind is Kind.TIMESTAMP and pa.types.is_timestamp(array.type)
    rule = "a time without a zone" if naive else NOT_OF_KIND[column.kind]
    return Cast(pa.nulls(len(cells), ARROW_TYPES[column.kind]), dict.fromkeys(range(len(cells)), rule))


def _cast_large(cell: Any, column: Column) -> Cast:
    """A cell that Arrow cannot hold: a number too large for any of its types, or no value of a table at all."""
    rule = NOT_OF_KIND[column.kind]
    if isinstance(cell, (int, decimal.Decimal)):
        if column.kind is Kind.FLOAT:
            with contextlib.suppress(OverflowError, ValueError):
                return Cast(pa.array([float(cell)]))
        if column.kind is Kind.ID and isinstance(cell, int):
            return Cast(pa.array([str(cell)]))
        if column.kind is Kind.INT and isinstance(cell, int):
            rule = "not an integer of 64 bits"
    return Cast(pa.nulls(1, ARROW_TYPES[column.kind]), {0: rule})
