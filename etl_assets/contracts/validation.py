"""Divide data into rows that keep their contract and records of those that do not.

The rules are judged by pandera, whose schema is rendered from the contract; all faults of a row are gathered in its
one record.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from etl_assets.contracts.arrow import arrow_schema
from etl_assets.contracts.cast import Cast, cast_column
from etl_assets.contracts.contract import Column, Contract, Kind
from etl_assets.contracts.split import Fault, Record, Split
from etl_assets.failures import ContractError

Raw = Sequence[Mapping[str, Any]]


def split(contract: type[Contract], frame: pd.DataFrame, *, raw: Raw | None = None, source: str = "") -> Split[pd.DataFrame]:
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
    """
    parts = split_arrow(contract, frame, raw=raw, source=source)
    return Split(to_frame(parts.valid), parts.records)


def split_arrow(
    contract: type[Contract], data: pd.DataFrame | pa.Table, *, raw: Raw | None = None, source: str = "", first_row: int = 0
) -> Split[pa.Table]:
    """As `split`, from a frame or an Arrow table to an Arrow table in the contract's schema.

    Args:
        first_row: number of the first row in the whole that `data` is a batch of.
    """
    require_columns(contract, list(data.columns) if isinstance(data, pd.DataFrame) else data.column_names)
    casts = {name: _cast(contract, data, name) for name in contract.columns}
    table = pa.table({name: cast.values for name, cast in casts.items()})
    broken: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, cast in casts.items():
        for row, rule in cast.faults.items():
            broken[row].append((name, rule))
    for name, rule, row in broken_rules(contract, table):
        if row not in casts[name].faults:
            broken[row].append((name, rule))
    if not broken:
        return Split(pa.Table.from_arrays(table.columns, schema=arrow_schema(contract)))
    bad = np.array(sorted(broken))
    keep = np.ones(table.num_rows, dtype=bool)
    keep[bad] = False
    valid = table.filter(pa.array(keep))
    order = list(contract.columns)
    records = [
        Record(
            tuple(
                Fault(name, rule, cells[name])
                for name, rule in sorted(broken[row], key=lambda fault: order.index(fault[0]))
            ),
            cells if raw is None else raw[row],
            f"{source or 'the data'}, row {first_row + row}",
        )
        for row, cells in zip(bad.tolist(), _cells(data, order, bad), strict=True)
    ]
    return Split(pa.Table.from_arrays(valid.columns, schema=arrow_schema(contract)), records)


def _cells(data: pd.DataFrame | pa.Table, names: Sequence[str], rows: np.ndarray) -> list[dict[str, Any]]:
    """Some rows as they came, each by column."""
    if isinstance(data, pa.Table):
        return data.select(list(names)).take(pa.array(rows)).to_pylist()
    columns = [data[name].iloc[rows].tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _cast(contract: type[Contract], data: pd.DataFrame | pa.Table, name: str) -> Cast:
    try:
        return cast_column(data[name], contract.columns[name])
    except ContractError as error:
        raise ContractError(f"{contract.config.table}: {error}") from None


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a frame that is the same under pandas 2 and 3: times in microseconds, text without NaN.

    Integers and booleans with NULLs keep their exact values in pandas' nullable types.
    """
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    with_nulls = {
        f.type for f, c in zip(table.schema, table.columns, strict=True) if c.null_count and f.type in nullable
    }
    return table.to_pandas(types_mapper=lambda kind: nullable[kind] if kind in with_nulls else None)


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
    if table.num_rows == 0:
        return []
    import pandera.errors

    frame = table.to_pandas(types_mapper=pd.ArrowDtype)
    try:
        pandera_schema(contract).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        rules = {"not_nullable": "required"}
        return [
            (str(name), rules.get(str(check), str(check)), int(row))
            for name, check, row in zip(cases["column"], cases["check"], cases["index"], strict=True)
        ]
    return []


@functools.cache
def pandera_schema(contract: type[Contract]) -> Any:
    """The contract as a pandera schema over Arrow-backed columns; the name of each check is the rule that it judges."""
    import pandera.pandas as pandera

    return pandera.DataFrameSchema(
        {
            name: pandera.Column(
                nullable=c.nullable,
                checks=[
                    pandera.Check(test, name=rule, error=rule, element_wise=False)
                    for rule, test in rules_of(c).items()
                ],
            )
            for name, c in contract.columns.items()
        },
        strict=True,
    )


def rules_of(c: Column) -> dict[str, Callable[[pd.Series], pd.Series]]:
    """The rules of a column's values by their text, each with a vectorised test; NULL is judged apart."""
    rules: dict[str, Callable[[pd.Series], pd.Series]] = {}
    compare = {"ge": (">=", "ge"), "gt": (">", "gt"), "le": ("<=", "le"), "lt": ("<", "lt")}
    for rule, (sign, method) in compare.items():
        bound = getattr(c, rule)
        if bound is not None:
            rules[f"{sign} {bound}"] = lambda s, method=method, bound=bound: getattr(s, method)(bound)
    if c.isin is not None:
        rules[f"one of {', '.join(map(str, c.isin))}"] = lambda s, allowed=list(c.isin): s.isin(allowed)
    if c.pattern is not None:
        rules[f"matches {c.pattern}"] = lambda s, pattern=c.pattern: s.str.fullmatch(pattern)
    if c.min_length is not None:
        rules[f"at least {c.min_length} characters"] = lambda s, least=c.min_length: s.str.len() >= least
    if c.max_length is not None:
        rules[f"at most {c.max_length} characters"] = lambda s, most=c.max_length: s.str.len() <= most
    if c.kind is Kind.FLOAT:
        rules["finite"] = lambda s: pd.Series(np.isfinite(s.to_numpy(dtype=np.float64, na_value=0.0)), index=s.index)
    if c.kind is Kind.TEXT:
        rules["no NUL"] = lambda s: ~s.str.contains("\x00", regex=False)
    return rules
