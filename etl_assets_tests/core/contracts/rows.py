"""Rows made from a contract: one that keeps it, and for each constraint a value that breaks this one and no other."""

import functools
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import hypothesis
from hypothesis import strategies as st

from etl_assets.core.contracts import Column, Contract
from etl_assets.core.contracts.contract import Kind

EXAMPLES: dict[Kind, Any] = {
    Kind.INT: 7,
    Kind.FLOAT: 2.5,
    Kind.BOOL: True,
    Kind.TEXT: "example",
    Kind.ID: "spindle-1",
    Kind.DATE: date(2024, 2, 29),
    Kind.TIMESTAMP: datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
}
# A cell that is of no column's type.
NO_VALUE = object()


def good_row(contract: type[Contract]) -> dict[str, Any]:
    """A row that keeps the contract, with a value in every column."""
    return {name: good_value(c) for name, c in contract.columns.items()}


@functools.cache  # a text that matches a pattern is searched for
def good_value(c: Column) -> Any:
    """A value that keeps all rules of its column."""
    if c.isin is not None:
        return next(value for value in c.isin if keeps_bounds(c, value))
    if c.pattern is not None:
        return found(c.pattern, lambda text: keeps_lengths(c, text))
    if c.kind in (Kind.TEXT, Kind.ID):
        candidates = [EXAMPLES[c.kind].ljust(c.min_length or 0, "x")[: c.max_length]]
    else:
        candidates = [EXAMPLES[c.kind]]
    candidates += [bound for bound in (c.ge, c.le) if bound is not None]
    candidates += [after(c.gt)] if c.gt is not None else []
    candidates += [before(c.lt)] if c.lt is not None else []
    return next(value for value in candidates if keeps_bounds(c, value))


def broken_constraints(c: Column) -> Iterator[tuple[str, Any]]:
    """For each constraint of a column the rule as it is reported, and a value that breaks it alone."""
    good = good_value(c)
    values: Mapping[str, Any] = {
        "required": lambda: ("required", None),
        "ge": lambda: (f">= {c.ge}", before(c.ge)),
        "gt": lambda: (f"> {c.gt}", c.gt),
        "le": lambda: (f"<= {c.le}", after(c.le)),
        "lt": lambda: (f"< {c.lt}", c.lt),
        "isin": lambda: (f"one of {', '.join(map(str, c.isin or ()))}", outsider(c, good)),
        "pattern": lambda: (f"matches {c.pattern}", stranger(c)),
        "min_length": lambda: (f"at least {c.min_length} characters", good[: (c.min_length or 0) - 1]),
        "max_length": lambda: (
            f"at most {c.max_length} characters",
            good.ljust((c.max_length or 0) + 1, good[-1:] or "x"),
        ),
        "printable": lambda: ("printable", good[:-1] + "\n"),
        "finite": lambda: ("finite", float("-inf") if c.lt is not None or c.le is not None else float("inf")),
    }
    for constraint in c.constraints:
        yield values[constraint]()


def after(value: Any) -> Any:
    """A value of the same type that is a little greater; text of the same length."""
    if isinstance(value, str):
        return chr(ord(value[0]) + 1) + value[1:]
    if isinstance(value, datetime):
        return value + timedelta(microseconds=1)
    return value + (timedelta(days=1) if isinstance(value, date) else type(value)(1))


def before(value: Any) -> Any:
    """A value of the same type that is a little less; text of the same length."""
    if isinstance(value, str):
        return chr(ord(value[0]) - 1) + value[1:]
    return value - (after(value) - value)


def outsider(c: Column, good: Any) -> Any:
    """A value that is not among those allowed."""
    if c.kind is Kind.BOOL:
        return not good
    if c.kind in (Kind.TEXT, Kind.ID):
        return good[:-1] + next(letter for letter in "xyz" if good[:-1] + letter not in (c.isin or ()))
    return after(max(c.isin or ()))


def stranger(c: Column) -> str:
    """Text of an allowed length that does not match the column's pattern."""
    candidates = ("?" * n for n in range(c.min_length or 0, (c.max_length or 40) + 1))
    return next(text for text in candidates if not re.fullmatch(c.pattern or "", text))


def found(pattern: str, wanted: Any) -> str:
    """The simplest text that matches a pattern and is wanted."""
    settings = hypothesis.settings(database=None, derandomize=True)
    return hypothesis.find(st.from_regex(pattern, fullmatch=True), wanted, settings=settings)


def keeps_lengths(c: Column, text: str) -> bool:
    return (c.min_length or 0) <= len(text) <= (len(text) if c.max_length is None else c.max_length)


def keeps_bounds(c: Column, value: Any) -> bool:
    return (
        (c.ge is None or value >= c.ge)
        and (c.gt is None or value > c.gt)
        and (c.le is None or value <= c.le)
        and (c.lt is None or value < c.lt)
    )
