"""Ids: read from text, looked up in the files that they refer to, one by one or in lists."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl_assets.core.contracts import Column
from etl_assets.core.contracts.cast import NOT_OF_KIND, Cast, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.systems.experiments.contracts import ExperimentCompounds
from etl_assets.systems.experiments.csv.files import CsvFile

SEPARATOR = ";"
# So many digits always fit into 64 bits.
SAFE_DIGITS = 18
# A line can name a million ids that are none: a record names the first of them, and the line itself has all.
MOST_NAMED = 10
MOST_SHOWN = 40


@dataclass(frozen=True)
class References:
    """What the rows of other files can refer to by id.

    Attributes:
        noun: what a row of the file is.
        ids: of the rows that are loaded, in order; at least one.
        rejected: the ids of rows that are not, in order, beside their lines; of equal ones the first line comes first.
    """

    noun: str
    file: CsvFile
    ids: pa.Array
    rejected: NDArray[np.int64]
    lines: NDArray[np.int64]

    def places(self, ids: pa.Array) -> pa.Array:
        """Where each id is among those that are loaded; NULL for one that is not."""
        return pc.index_in(ids, value_set=self.ids)

    def why_not(self, number: int) -> str:
        """Why an id that is not loaded is not."""
        at = int(np.searchsorted(self.rejected, number))
        if at < len(self.rejected) and self.rejected[at] == number:
            return f"{self.noun} {number} is in quarantine itself ({self.file.name}, line {self.lines[at]})"
        return f"{self.noun} {number} is not in {self.file.name}"


@dataclass(frozen=True)
class Lists:
    """The lists of ids of some rows.

    Attributes:
        ids: per row the ids of its list in order, each once; of no meaning for a row whose list has a fault.
        counts: how many those are.
        named: how many ids each list names, repeated ones as often as it does.
        faults: row and rule.
    """

    ids: pa.ListArray
    counts: NDArray[np.int64]
    named: NDArray[np.int64]
    faults: Sequence[tuple[int, str]]


def shortened(text: str) -> str:
    """Text as a message can show it."""
    return text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…"


def cast_ids(values: pa.Array, column: Column) -> Cast:
    """As `cast_column` for a column of integers; plain digits, which ids mostly are, at a tenth of its cost."""
    plain = pc.and_(pc.ascii_is_decimal(values), pc.less_equal(pc.binary_length(values), SAFE_DIGITS))
    plain = pc.fill_null(plain, True)
    if pc.all(plain, min_count=0).as_py():
        return Cast(values.cast(pa.int64()))
    rest = np.flatnonzero(~plain.to_numpy(zero_copy_only=False))
    read = cast_column(values.take(pa.array(rest)), column)
    numbers = pc.if_else(plain, values, None).cast(pa.int64())
    return Cast(
        pc.replace_with_mask(numbers, pc.invert(plain), read.values),
        {int(rest[at]): rule for at, rule in read.faults.items()},
    )


def compound_lists(cells: pa.Array, compounds: References) -> Lists:
    """Lists of ids of compounds, separated by `;`, white space around each id being nothing.

    A NULL cell makes an empty list without a fault: that something is required there is another rule.
    """
    lists = pc.split_pattern(cells, SEPARATOR)
    named = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(cells)), named)
    texts = lists.flatten()
    cast = cast_ids(texts, ExperimentCompounds.columns["compound_id"])
    places = compounds.places(cast.values)
    bad = np.flatnonzero(places.is_null())
    faults = _faults(rows[bad], _rules(bad, texts, cast, compounds))
    ids, counts = _sets(rows, pc.fill_null(places, 0).to_numpy(), compounds, len(cells))
    offsets = pa.array(np.append(0, np.cumsum(counts)), pa.int32())
    return Lists(pa.ListArray.from_arrays(offsets, ids), counts, named, faults)


def _sets(
    rows: NDArray[np.int64], places: NDArray[np.int32], compounds: References, length: int
) -> tuple[pa.Array, NDArray[np.int64]]:
    """The ids at some places, in order and each once within its row; and how many there are in each row."""
    # Row and place in one number: a single sort puts all lists in order, and most are already.
    codes = rows * len(compounds.ids) + places
    if not (codes[1:] > codes[:-1]).all():
        codes = np.sort(codes)
        codes = codes[np.append(True, codes[1:] != codes[:-1])]
    rows, at = np.divmod(codes, len(compounds.ids))
    return compounds.ids.take(pa.array(at)), np.bincount(rows, minlength=length)


def _rules(bad: NDArray[np.int64], texts: pa.Array, cast: Cast, compounds: References) -> list[str]:
    """What is wrong with some elements of lists: no id, or of nothing that is loaded."""
    taken = pa.array(bad)
    rules = []
    for at, text, number in zip(
        bad.tolist(), texts.take(taken).to_pylist(), cast.values.take(taken).to_pylist(), strict=True
    ):
        if number is not None:
            rules.append(compounds.why_not(number))
        elif not text.strip():
            rules.append(f"a compound id is blank: ids are separated by `{SEPARATOR}`")
        elif cast.faults[at] == NOT_OF_KIND[Kind.INT]:
            rules.append(f"`{shortened(text)}` is no compound id: ids are separated by `{SEPARATOR}`")
        else:
            rules.append(f"`{shortened(text)}` is {cast.faults[at]}")
    return rules


def _faults(rows: NDArray[np.int64], rules: Sequence[str]) -> list[tuple[int, str]]:
    """The rules that each row breaks, each of them once, as many as a record names."""
    by_row: dict[int, dict[str, None]] = defaultdict(dict)
    for row, rule in zip(rows.tolist(), rules, strict=True):
        by_row[row][rule] = None
    found = []
    for row, broken in by_row.items():
        found += [(row, rule) for rule in list(broken)[:MOST_NAMED]]
        if len(broken) > MOST_NAMED:
            found.append((row, f"and {len(broken) - MOST_NAMED} more faults of this kind"))
    return found
