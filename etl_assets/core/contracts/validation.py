"""Divide data into rows that keep their contract and records of those that do not.

Rules are functions of Arrow over a whole column; all faults of a row are gathered in its one record.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts.arrow import ARROW_TYPES, arrow_schema
from etl_assets.core.contracts.cast import Cast, cast_column, missing_cells
from etl_assets.core.contracts.contract import SIGNS, Column, Contract, Kind
from etl_assets.core.contracts.split import Fault, Record, Split
from etl_assets.errors import ContractError

Raw = Sequence[Mapping[str, Any]]
Found = tuple[int, str, str]  # a row, one of its columns, and the rule that its cell breaks
COMPARE = {"ge": pc.greater_equal, "gt": pc.greater, "le": pc.less_equal, "lt": pc.less}


def split(
    contract: type[Contract], frame: pd.DataFrame, *, raw: Raw | None = None, source: str = ""
) -> Split[pd.DataFrame]:
    """Cast and judge a frame; never raises for bad rows.

    Args:
        contract: what the rows must keep to.
        frame: one column per column of the contract, in any order and of any dtype.
        raw: the rows as they were received, aligned with `frame`; by default the frame's own cells.
        source: where the rows came from; each record adds its row number.

    Returns:
        The rows that keep the contract, in order, with its dtypes (times in UTC, microseconds), and one record per row that does not.

    Raises:
        ContractError: for what is not row-shaped: a missing or unknown column, a column of another type.
        ValueError: if `raw` has another number of rows than the frame.
    """
    parts = split_arrow(contract, frame, raw=raw, source=source)
    return Split(to_frame(parts.valid), parts.records)


def split_arrow(
    contract: type[Contract],
    data: pd.DataFrame | pa.Table,
    *,
    raw: Raw | None = None,
    source: str = "",
    first_row: int = 0,
) -> Split[pa.Table]:
    """As `split`, from a frame or an Arrow table to an Arrow table in the contract's schema.

    Args:
        first_row: number of the first row in the whole that `data` is a batch of.
    """
    require_columns(contract, list(data.columns) if isinstance(data, pd.DataFrame) else data.column_names)
    rows = len(data) if isinstance(data, pd.DataFrame) else data.num_rows
    if raw is not None and len(raw) != rows:
        raise ValueError(f"{contract.config.table}: {len(raw)} raw rows are given for {rows} rows")
    table, found = judged(contract, data)
    if not found:
        return Split(_in_schema(table, contract))
    order = list(contract.columns)
    broken: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for row, name, rule in sorted(found, key=lambda fault: (fault[0], order.index(fault[1]))):
        broken[row].append((name, rule))
    bad = np.array(list(broken))
    keep = np.ones(rows, dtype=bool)
    keep[bad] = False
    records = [
        Record(
            tuple(Fault(name, rule, cells[name]) for name, rule in broken[row]),
            cells if raw is None else raw[row],
            f"{source or 'the data'}, row {first_row + row}",
        )
        for row, cells in zip(bad.tolist(), _cells(data, order, bad), strict=True)
    ]
    return Split(_in_schema(table.filter(pa.array(keep)), contract), records)


def judged(contract: type[Contract], data: pd.DataFrame | pa.Table) -> tuple[pa.Table, list[Found]]:
    """The columns of a contract, typed, and all faults of their cells; a failed cast stands for its cell."""
    casts = {name: _cast(contract, data, name) for name in contract.columns}
    table = pa.table({name: cast.values for name, cast in casts.items()})
    found = [(row, name, rule) for name, cast in casts.items() for row, rule in cast.faults.items()]
    broken = broken_rules(contract, table)
    return table, found + [(row, name, rule) for name, rule, row in broken if row not in casts[name].faults]


def _cells(data: pd.DataFrame | pa.Table, names: Sequence[str], rows: np.ndarray) -> list[dict[str, Any]]:
    """Some rows as they came, each by column; whatever a frame has for nothing is None, as in Arrow."""
    if isinstance(data, pa.Table):
        taken = data.select(list(names)).take(pa.array(rows))
        columns = [_python_values(taken[name]) for name in names]
    else:
        given = [data[name].iloc[rows] for name in names]
        columns = [_or_none(cells.tolist(), missing_cells(cells)) for cells in given]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _or_none(cells: list[Any], missing: np.ndarray) -> list[Any]:
    for at in np.flatnonzero(missing).tolist():
        cells[at] = None
    return cells


def _python_values(column: pa.ChunkedArray) -> list[Any]:
    try:
        values = column.to_pylist()
    except (OverflowError, ValueError):
        values = [_python_value(cell) for cell in column]
    return [None if isinstance(value, float) and value != value else value for value in values]


def _python_value(cell: pa.Scalar) -> Any:
    """An Arrow value as Python has it; a time that Python cannot hold as its count of units."""
    try:
        return cell.as_py()
    except (OverflowError, ValueError):
        return cell.value


def _in_schema(table: pa.Table, contract: type[Contract]) -> pa.Table:
    return pa.Table.from_arrays(table.columns, schema=arrow_schema(contract))


def _cast(contract: type[Contract], data: pd.DataFrame | pa.Table, name: str) -> Cast:
    try:
        return cast_column(data[name], contract.columns[name])
    except ContractError as error:
        raise ContractError(f"{contract.config.table}: {error}") from None


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a frame that is the same under pandas 2 and 3: times in microseconds, text without NaN.

    Integers and booleans with NULLs keep their exact values in pandas' nullable types.
    """
    exact = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    columns = dict(zip(table.column_names, table.columns, strict=True))
    with_nulls = [name for name, values in columns.items() if values.null_count and values.type in exact]
    frame = table.drop_columns(with_nulls).to_pandas()
    frame.index = pd.RangeIndex(table.num_rows)
    for name in with_nulls:
        frame.insert(table.column_names.index(name), name, columns[name].to_pandas(types_mapper=exact.get))
    return frame


def require_columns(contract: type[Contract], given: Sequence[str], *, where: str = "the data") -> None:
    """Compare the names of columns with the contract's, in any order.

    Raises:
        ContractError: if a column is missing, unknown or given twice; names it.
    """
    names = [str(name) for name in given]
    problems = [f"column {name} is missing" for name in contract.columns if name not in names]
    problems += [f"column {name} is not in the contract" for name in names if name not in contract.columns]
    problems += [f"column {name} occurs twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise ContractError(f"{contract.config.table}: in {where} {', '.join(problems)}")


def broken_rules(contract: type[Contract], table: pa.Table) -> list[tuple[str, str, int]]:
    """The rules that typed rows break: column, rule, row number."""
    broken: list[tuple[str, str, int]] = []
    for name, c in contract.columns.items():
        values = table[name]
        if not c.nullable and values.null_count:
            broken += [(name, "required", row) for row in np.flatnonzero(values.is_null()).tolist()]
        for rule, kept in rules_of(c).items():
            try:
                good = kept(values)
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise ContractError(
                    f"{contract.config.table}: column {name} cannot be judged, correct the rule in its contract:"
                    f" {rule}: {error}"
                ) from error
            if not pc.all(good, min_count=0).as_py():  # NULL is passed over
                bad = pc.and_(pc.invert(good), values.is_valid())
                broken += [(name, rule, row) for row in np.flatnonzero(pc.fill_null(bad, False)).tolist()]
    return broken


def rules_of(c: Column) -> dict[str, Callable[[pa.Array], pa.Array]]:
    """The rules of a column's values by their text, each with a test over values that are there; NULL is judged apart."""
    kind = ARROW_TYPES[c.kind]
    rules: dict[str, Callable[[pa.Array], pa.Array]] = {}
    for name, sign in SIGNS.items():
        if (bound := getattr(c, name)) is not None:
            rules[f"{sign} {bound}"] = functools.partial(_compared, COMPARE[name], pa.scalar(bound, type=kind))
    if c.isin is not None:
        allowed = pa.array(c.isin, type=kind)
        rules[f"one of {', '.join(map(str, c.isin))}"] = lambda values: pc.is_in(values, value_set=allowed)
    if c.pattern is not None:
        rules[f"matches {c.pattern}"] = lambda values: pc.match_substring_regex(values, rf"\A(?:{c.pattern})\z")
    for words, length, name in (("at least", c.min_length, "ge"), ("at most", c.max_length, "le")):
        if length is not None:
            rules[f"{words} {length} characters"] = functools.partial(_of_length, COMPARE[name], length)
    if c.kind is Kind.FLOAT:
        rules["finite"] = pc.is_finite
    if c.kind is Kind.TEXT:
        rules["no NUL"] = _without_nul
    if c.kind is Kind.ID:
        rules["printable"] = _printable
    return rules


def _printable(values: pa.ChunkedArray) -> pa.Array:
    """Which texts are those of a name: nothing in them is hidden from a reader, and they are not blank."""
    return pc.and_not(pc.utf8_is_printable(values), pc.utf8_is_space(values))


def _without_nul(values: pa.ChunkedArray) -> pa.Array:
    # Next to no text has one, and of a million rows their bytes are looked through in a tenth of the time.
    if all(_bytes_of(chunk).all() for chunk in values.chunks):
        return pa.repeat(True, len(values))
    return pc.invert(pc.match_substring(values, "\x00"))


def _bytes_of(text: pa.Array) -> np.ndarray:
    """All bytes of an array of text, those under its NULLs too."""
    _, ends, data = text.buffers()
    if data is None:
        return np.zeros(0, np.uint8)
    ends = np.frombuffer(ends, np.int32)[text.offset : text.offset + len(text) + 1]
    return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]


def _compared(compare: Callable[[pa.Array, pa.Scalar], pa.Array], bound: pa.Scalar, values: pa.Array) -> pa.Array:
    return compare(values, bound)


def _of_length(compare: Callable[[pa.Array, int], pa.Array], length: int, values: pa.Array) -> pa.Array:
    return compare(pc.utf8_length(values), length)
