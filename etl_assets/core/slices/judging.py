"""The rows of several slices, judged by their contracts before anything is written."""

import itertools
from collections.abc import Sequence

import pandas as pd
import pyarrow as pa

from etl_assets.core.contracts import Split
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.core.slices.slice import Slice


def judged_by_slice(
    given: Sequence[pd.DataFrame | pa.Table], pieces: Sequence[Slice], *, source: str
) -> list[Split[pa.Table]]:
    """What keeps its contract and what does not, by slice.

    To judge a table costs milliseconds however few rows it has, so that those of one contract are judged as one, and one by
    one only if a row breaks it.

    Args:
        given: the rows of each slice.
        pieces: slices, of one contract or of several.
        source: where the rows come from, for the records of those that are rejected.

    Raises:
        ContractError: for rows that do not have the contract's shape.
    """
    judged: dict[int, Split[pa.Table]] = {}
    for contract in dict.fromkeys(piece.contract for piece in pieces):
        mine = [i for i, piece in enumerate(pieces) if piece.contract is contract]
        tables = [given[i] for i in mine]
        together = _as_one(tables)
        whole = None if together is None else split_arrow(contract, together, source=source)
        if whole is None or whole.records:
            found = [split_arrow(contract, table, source=source) for table in tables]
        else:
            ends = itertools.accumulate(len(table) for table in tables)
            found = [
                Split(whole.valid.slice(end - len(table), len(table))) for end, table in zip(ends, tables, strict=True)
            ]
        judged |= dict(zip(mine, found, strict=True))
    return [judged[i] for i in range(len(pieces))]


def _as_one(tables: Sequence[pd.DataFrame | pa.Table]) -> pa.Table | None:
    """Arrow tables of one schema, one after the other; None if they are not."""
    arrow = [table for table in tables if isinstance(table, pa.Table)]
    alike = len(arrow) == len(tables) and all(table.schema == arrow[0].schema for table in arrow)
    return pa.concat_tables(arrow) if alike else None
