"""Whether an input is taken at all: of one of which nothing can be loaded, or less than its contract asks for, nothing is changed.

An input is what a person or a source gives whole: a file, an answer. What is derived, drained from a stream or replayed goes on: its bad rows are in quarantine.
"""

from collections.abc import Sequence
from typing import Any

from etl_assets.core.contracts import Contract, Record
from etl_assets.errors import InputRefused

ALL = 1.0
MOST_CHARS = 120


def require_accepted(
    contract: type[Contract],
    *,
    received: int,
    records: Sequence[Record],
    rejected: int,
    max_rejected: float | None = None,
) -> None:
    """Refuse an input whose rows are all rejected, or more of them than are taken.

    Args:
        received: its rows, the rejected ones included.
        records: of rejected rows, at least the first one.
        rejected: how many rows are.
        max_rejected: the largest share that is taken; by default what the contract says.

    Raises:
        InputRefused: says how many, of how many, and what is wrong with the first.
    """
    most = contract.config.max_rejected if max_rejected is None else max_rejected
    if not rejected or (rejected < received and (most is None or rejected <= most * received)):
        return
    first = next(record for record in records if record.outcome != "flagged")
    if rejected == received:
        found, advice = (
            f"none of the {received:,} rows can be loaded" if received > 1 else "its only row cannot be loaded",
            "",
        )
    else:
        found = f"{rejected:,} of {received:,} rows are rejected, more than {most:.0%}"
        advice = "; correct the source, or load all the same with --allow-rejected (in Dagster the tag etl_assets/allow_rejected)"
    raise InputRefused(f"{contract.config.table}: {found}, nothing was changed; the first{described(first)}{advice}")


def described(record: Record) -> str:
    """Where a rejected row is from and what is wrong with it, for the end of a sentence about it."""
    fault = record.faults[0]
    column = f"{fault.column} " if fault.column else ""
    place = f", {record.source}" if record.source else ""
    return f"{place}: {column}{shortened(fault.raw)}: {fault.rule}"


def shortened(raw: Any) -> str:
    """A value as it came, as a message can hold it."""
    text = repr(raw)
    return text if len(text) <= MOST_CHARS else f"{text[:MOST_CHARS]}…"
