"""Rows of text of the three files as rows of four tables, judged: what a row means, and whether it can be loaded.

A bad row is loaded nowhere: it is one record with all its faults. Of the rows of a key the first that has no fault of its
own is loaded; one that says the same is left out, one that says something else is rejected.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl_assets.core.contracts import Contract, Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.cast import NOT_OF_KIND, Cast, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.validation import broken_rules
from etl_assets.systems.experiments.contracts import Compounds, ExperimentCompounds, UserExperiments, Users
from etl_assets.systems.experiments.csv.files import COMPOUNDS, EXPERIMENTS, USERS, Batch, CsvFile, RejectedFile
from etl_assets.systems.experiments.rows import LINE, FileRows, Found, shortened

LIST = "experiment_compound_ids"
SEPARATOR = ";"
MOST_NAMED = (
    10  # a line can name a million ids that are none: a record names the first of them, and the line itself has all
)


@dataclass(frozen=True)
class Loaded:
    """The three files as four tables, in key order, and what of them is not loaded.

    Attributes:
        experiment_compounds: the pairs of the loaded experiments and their compounds. Its `deduplicated` are the ids that
            a list names again, and all ids of experiments that are left out as repeated. It has no records: a bad list
            rejects its experiment.
        repeated_compound_ids: ids that a list names again, over the loaded experiments.
    """

    users: Split[pa.Table]
    compounds: Split[pa.Table]
    user_experiments: Split[pa.Table]
    experiment_compounds: Split[pa.Table]
    repeated_compound_ids: int


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


def loaded(users: Iterable[Batch], compounds: Iterable[Batch], experiments: Iterable[Batch]) -> Loaded:
    """Judge the rows of the three files.

    Args:
        users: batches of users.csv, in the order of its lines; likewise `compounds` of compounds.csv.
        experiments: batches of user_experiments.csv; taken last, when all users and compounds are known.

    Returns:
        Valid rows in the contracts' schemas, each key once; records in the order of the lines.

    Raises:
        RejectedFile: if none of a file's rows can be loaded, or if there is no user or no compound at all; names the file.
    """
    known_users, user_split = _referred_to(Users, USERS, users, noun="user")
    known_compounds, compound_split = _referred_to(Compounds, COMPOUNDS, compounds, noun="compound")
    rows, named_again, left_out = FileRows(EXPERIMENTS, UserExperiments, {LIST: pa.list_(pa.int64())}), 0, 0
    for batch in experiments:
        values, found = _judged(UserExperiments, batch)
        cells = batch.rows[LIST].combine_chunks()
        lists = compound_lists(cells, known_compounds)
        found += [(row, LIST, "required") for row in np.flatnonzero(cells.is_null()).tolist()]
        found += [(row, LIST, rule) for row, rule in lists.faults]
        found += _unknown(values, "user_id", known_users)
        added = rows.add(batch, {**values, LIST: lists.ids}, found)
        named_again += int((lists.named - lists.counts)[added.new].sum())
        left_out += int(lists.named[added.same].sum())
    table = rows.in_key_order()
    return Loaded(
        user_split,
        compound_split,
        Split(_in_schema(UserExperiments, table), rows.rejected, rows.deduplicated),
        Split(_pairs(table), deduplicated=named_again + left_out),
        named_again,
    )


def _referred_to(
    contract: type[Contract], file: CsvFile, batches: Iterable[Batch], *, noun: str
) -> tuple[References, Split[pa.Table]]:
    """A file whose rows others refer to: what they can refer to, and its table."""
    rows = FileRows(file, contract)
    for batch in batches:
        rows.add(batch, *_judged(contract, batch))
    table = _in_schema(contract, rows.in_key_order())
    if not table.num_rows:
        raise RejectedFile(
            f"{file.name} has its header and no {noun} below it: put the {noun}s there; nothing was changed"
        )
    key, faulty = contract.config.key[0], rows.faulty()
    references = References(noun, file, table[key].combine_chunks(), faulty[key].to_numpy(), faulty[LINE].to_numpy())
    return references, Split(table, rows.rejected, rows.deduplicated)


def _judged(contract: type[Contract], batch: Batch) -> tuple[dict[str, pa.Array], list[Found]]:
    """The columns of a contract, typed, and the faults of their cells; a failed cast stands for its cell."""
    casts = {name: cast_column(batch.rows[name].combine_chunks(), column) for name, column in contract.columns.items()}
    values = {name: cast.values for name, cast in casts.items()}
    found = [(row, name, rule) for name, cast in casts.items() for row, rule in cast.faults.items()]
    found += [
        (row, name, rule)
        for name, rule, row in broken_rules(contract, pa.table(values))
        if row not in casts[name].faults
    ]
    return values, found


def _unknown(values: Mapping[str, pa.Array], name: str, known: References) -> list[Found]:
    """Ids that refer to nothing."""
    missing = pc.and_(values[name].is_valid(), known.places(values[name]).is_null())
    rows = np.flatnonzero(missing)
    numbers = values[name].take(pa.array(rows)).to_pylist()
    return [(row, name, known.why_not(number)) for row, number in zip(rows.tolist(), numbers, strict=True)]


def _pairs(experiments: pa.Table) -> pa.Table:
    """One row per experiment and compound, of experiments in key order with their lists in order."""
    schema = arrow_schema(ExperimentCompounds)
    parts = []
    for batch in experiments.to_batches():
        ids = batch["experiment_id"].take(pc.list_parent_indices(batch[LIST]))
        parts.append(pa.RecordBatch.from_arrays([ids, batch[LIST].flatten()], schema=schema))
    return pa.Table.from_batches(parts, schema=schema)


def _in_schema(contract: type[Contract], table: pa.Table) -> pa.Table:
    schema = arrow_schema(contract)
    return pa.Table.from_arrays([table[name] for name in schema.names], schema=schema)


def compound_lists(cells: pa.Array, compounds: References) -> Lists:
    """Lists of ids of compounds, separated by `;`, white space around each id being nothing.

    A NULL cell makes an empty list without a fault: that something is required there is another rule.
    """
    lists = pc.split_pattern(cells, SEPARATOR)
    named = pc.fill_null(pc.list_value_length(lists), 0).to_numpy().astype(np.int64)
    rows = np.repeat(np.arange(len(cells)), named)
    texts = lists.flatten()
    cast = cast_column(texts, ExperimentCompounds.columns["compound_id"])
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
