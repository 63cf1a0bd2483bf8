"""Rows of text of the three files as rows of four tables, judged: what a row means, and whether it can be loaded.

A bad row is loaded nowhere: it is one record with all its faults. Of the rows of a key the first that has no fault of its
own is loaded, over all batches of a file; one that says the same is left out, one that says something else is rejected.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl_assets.core.contracts import Contract, Fault, Record, Split
from etl_assets.core.contracts.arrow import ARROW_TYPES, arrow_schema
from etl_assets.core.contracts.cast import NOT_OF_KIND, Cast, cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.validation import Found, judged
from etl_assets.core.slices.acceptance import require_accepted
from etl_assets.systems.experiments.contracts import Compounds, ExperimentCompounds, UserExperiments, Users
from etl_assets.systems.experiments.source import (
    COMPOUNDS,
    EXPERIMENTS,
    USERS,
    Batch,
    CsvFile,
    RejectedFile,
    Unreadable,
)

LINE = "line"
LIST = "experiment_compound_ids"
SEPARATOR = ";"
ROWS_AT_ONCE = 1_000_000
RUNS_AT_ONCE = 8  # sorted runs of keys that are searched one by one before they are merged
MOST_LETTERS = 40
# A line can name a million ids that are none: a record names the first of them, and the line itself has all.
MOST_NAMED = 10

Numbers = NDArray[np.int64]


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

    def require_accepted(self, max_rejected: float | None) -> None:
        """Refuse all files if of one of them more is rejected than is taken, before the first is stored.

        Args:
            max_rejected: the largest share; None: what the contracts say.

        Raises:
            InputRefused: names the table, and the first of the rows.
        """
        tables = ((Users, self.users), (Compounds, self.compounds), (UserExperiments, self.user_experiments))
        for contract, given in tables:
            bad = given.rejected
            received = given.valid.num_rows + len(bad) + given.deduplicated
            require_accepted(contract, received=received, rejected=len(bad), records=bad, max_rejected=max_rejected)


@dataclass(frozen=True)
class References:
    """What the rows of other files can refer to by id.

    Attributes:
        noun: what a row of the file is.
        ids: of the rows that are loaded, in order; at least one.
        rejected: the ids of rows that are not, in order, beside their lines; of equal ones the first line comes first.
        unreadable: the first of the lines that are no rows, whose ids nobody knows, and how many there are.
    """

    noun: str
    file: CsvFile
    ids: pa.Array
    rejected: Numbers
    lines: Numbers
    unreadable: tuple[Unreadable | None, int]

    def places(self, ids: pa.Array) -> pa.Array:
        """Where each id is among those that are loaded; NULL for one that is not."""
        return pc.index_in(ids, value_set=self.ids)

    def why_not(self, number: int) -> str:
        """Why an id that is not loaded is not."""
        at = int(np.searchsorted(self.rejected, number))
        if at < len(self.rejected) and self.rejected[at] == number:
            return f"{self.noun} {number} is in quarantine itself ({self.file.name}, line {self.lines[at]})"
        first, count = self.unreadable
        among = f", of which {count:,} {'line' if count == 1 else 'lines'} cannot be read" if first else ""
        why = f" (line {first.line}: {first.rule})" if first else ""
        return f"{self.noun} {number} is not in {self.file.name}{among}{why}"


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
    counts: Numbers
    named: Numbers
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
    rows = FileRows(EXPERIMENTS, UserExperiments, {LIST: pa.list_(pa.int64())})
    named_again = left_out = 0
    for batch in experiments:
        values, found = judged(UserExperiments, batch.rows)
        cells = batch.rows[LIST].combine_chunks()
        lists = compound_lists(cells, known_compounds)
        found += [(row, LIST, "required") for row in np.flatnonzero(cells.is_null()).tolist()]
        found += [(row, LIST, rule) for row, rule in lists.faults]
        found += _unknown("user_id", values["user_id"], known_users)
        added = rows.add(batch, values.append_column(LIST, lists.ids), found)
        named_again += int((lists.named - lists.counts)[added.new].sum())
        left_out += int(lists.named[added.same].sum())
    table = rows.in_key_order()
    return Loaded(
        user_split,
        compound_split,
        rows.split(table),
        Split(_pairs(table), deduplicated=named_again + left_out),
        named_again,
    )


def _referred_to(
    contract: type[Contract], file: CsvFile, batches: Iterable[Batch], *, noun: str
) -> tuple[References, Split[pa.Table]]:
    """A file whose rows others refer to: what they can refer to, and its table."""
    rows = FileRows(file, contract)
    for batch in batches:
        rows.add(batch, *judged(contract, batch.rows))
    table = rows.in_key_order()
    if not table.num_rows:
        raise RejectedFile(
            f"{file.name} has its header and no {noun} below it: put the {noun}s there; nothing was changed"
        )
    key, faulty = contract.config.key[0], rows.faulty()
    rejected, lines = faulty[key].to_numpy(), faulty[LINE].to_numpy()
    references = References(noun, file, table[key].combine_chunks(), rejected, lines, rows.unreadable)
    return references, rows.split(table)


def _unknown(name: str, ids: pa.ChunkedArray, known: References) -> list[Found]:
    """The ids of a column that refer to nothing."""
    rows = np.flatnonzero(pc.and_(ids.is_valid(), known.places(ids).is_null()))
    return [(row, name, known.why_not(ids[row].as_py())) for row in rows.tolist()]


def _pairs(experiments: pa.Table) -> pa.Table:
    """One row per experiment and compound, of experiments in key order with their lists in order."""
    schema = arrow_schema(ExperimentCompounds)
    parts = []
    for batch in experiments.to_batches():
        ids = batch["experiment_id"].take(pc.list_parent_indices(batch[LIST]))
        parts.append(pa.RecordBatch.from_arrays([ids, batch[LIST].flatten()], schema=schema))
    return pa.Table.from_batches(parts, schema=schema)


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
    faults = _faults(bad, rows[bad], texts, cast, compounds)
    # Row and place in one number: a single sort puts all lists in order, and most are already.
    codes = rows * len(compounds.ids) + pc.fill_null(places, 0).to_numpy()
    if not (codes[1:] > codes[:-1]).all():
        codes = np.sort(codes)
        codes = codes[np.append(True, codes[1:] != codes[:-1])]
    of_row, at = np.divmod(codes, len(compounds.ids))
    counts = np.bincount(of_row, minlength=len(cells))
    offsets = pa.array(np.append(0, np.cumsum(counts)), pa.int32())
    ids = pa.ListArray.from_arrays(offsets, compounds.ids.take(pa.array(at)))
    return Lists(ids, counts, named, faults)


def _faults(bad: Numbers, rows: Numbers, texts: pa.Array, cast: Cast, compounds: References) -> list[tuple[int, str]]:
    """What is wrong with some elements of lists, no id or of nothing that is loaded: by row, each rule once, as many as a record names.

    Args:
        bad: the places of these elements.
        rows: of each of them.
        texts, cast: all elements.
    """
    by_row: dict[int, dict[str, None]] = defaultdict(dict)
    taken = pa.array(bad)
    found = zip(bad.tolist(), texts.take(taken).to_pylist(), cast.values.take(taken).to_pylist(), strict=True)
    for row, (at, text, number) in zip(rows.tolist(), found, strict=True):
        if number is not None:
            rule = compounds.why_not(number)
        elif not text.strip():
            rule = f"a compound id is blank: ids are separated by `{SEPARATOR}`"
        elif cast.faults[at] == NOT_OF_KIND[Kind.INT]:
            rule = f"`{shortened(text)}` is no compound id: ids are separated by `{SEPARATOR}`"
        else:
            rule = f"`{shortened(text)}` is {cast.faults[at]}"
        by_row[row][rule] = None
    faults = []
    for row, broken in by_row.items():
        faults += [(row, rule) for rule in list(broken)[:MOST_NAMED]]
        if len(broken) > MOST_NAMED:
            faults.append((row, f"and {len(broken) - MOST_NAMED} more faults of this kind"))
    return faults


# The rows of one file


class Added(NamedTuple):
    """Rows of a batch that are loaded, and rows that say what a loaded one says."""

    new: Numbers
    same: Numbers


class FileRows:
    """The rows of one file, batch after batch.

    Attributes:
        rejected: records of those that are not loaded.
        deduplicated: how many say what a loaded one says.
        unreadable: the first of its lines that are no rows, and how many there are.
    """

    def __init__(self, file: CsvFile, contract: type[Contract], more: Mapping[str, pa.DataType] | None = None) -> None:
        (self._key,) = contract.config.key
        self._file, self._contract = file, contract
        types = {name: ARROW_TYPES[column.kind] for name, column in contract.columns.items()}
        self._tables = [pa.schema({**types, **(more or {}), LINE: pa.int64()}.items()).empty_table()]
        self._ends = [0]  # of each table, in the order in which rows were loaded
        self._keys = _Keys()
        self._received = 0
        self._faulty = [self._tables[0].select([self._key, LINE])]
        self.rejected: list[Record] = []
        self.deduplicated = 0
        self.unreadable: tuple[Unreadable | None, int] = (None, 0)

    def add(self, batch: Batch, values: pa.Table, found: Sequence[Found]) -> Added:
        """Take the next batch.

        Args:
            values: its typed columns.
            found: the faults that its rows have by themselves; those of repeated keys are added here.
        """
        table = values.append_column(LINE, batch.rows[LINE])
        good = np.ones(table.num_rows, dtype=bool)
        good[[row for row, _, _ in found]] = False
        keys = pc.fill_null(table[self._key], 0).to_numpy()
        new = self._load(table, keys, np.flatnonzero(good))
        rest = table[self._key].is_valid().to_numpy()
        rest[new] = False
        same, others = self._compare(table, keys, np.flatnonzero(rest), good)
        rule = "line {} has this " + f"{self._key} with other values"
        found_here = [*found, *((row, self._key, rule.format(line)) for row, line in others)]
        self.rejected += _records(self._file, batch, found_here)
        if found:
            faulty = table.select([self._key, LINE]).filter(pa.array(~good))
            self._faulty.append(faulty.filter(faulty[self._key].is_valid()))
        first, count = self.unreadable
        self.unreadable = (first or next(iter(batch.unreadable), None), count + len(batch.unreadable))
        self._received += table.num_rows + len(batch.unreadable)
        self.deduplicated += len(same)
        return Added(new, same)

    def faulty(self) -> pa.Table:
        """Key and line of rows that are rejected for faults of their own, by key and then by line."""
        return pa.concat_tables(self._faulty).sort_by([(self._key, "ascending"), (LINE, "ascending")])

    def in_key_order(self) -> pa.Table:
        """The rows to load, without their lines, when all batches have been taken; they are kept no longer.

        Raises:
            RejectedFile: if there are rows and none to load.
        """
        places = self._keys.places_in_order()
        if self._received and not len(places):
            record = self.rejected[0]
            fault = record.faults[0]
            raise RejectedFile(
                f"no row of {self._file.name} can be loaded, for example"
                f" {record.source.removeprefix(f'{self._file.name}, ')}:"
                f" {fault.column or 'the line'} `{shortened(fault.raw or '')}`: {fault.rule}; nothing was changed"
            )
        self._tables = [table.drop_columns(LINE) for table in self._tables]
        if (places[1:] > places[:-1]).all():
            rows = pa.concat_tables(self._tables)
        else:
            parts = range(0, len(places), ROWS_AT_ONCE)
            rows = pa.concat_tables([self._rows(places[at : at + ROWS_AT_ONCE]) for at in parts])
        self._tables.clear()
        return rows

    def split(self, rows: pa.Table) -> Split[pa.Table]:
        """Rows to load in the contract's schema, and what of the file is not loaded."""
        schema = arrow_schema(self._contract)
        table = pa.Table.from_arrays([rows[name] for name in schema.names], schema=schema)
        return Split(table, self.rejected, self.deduplicated)

    def _load(self, table: pa.Table, keys: Numbers, candidates: Numbers) -> Numbers:
        """Load those candidates whose key no row has before them, and say which they are."""
        free = candidates[self._keys.find(keys[candidates]) < 0]
        _, first = np.unique(keys[free], return_index=True)
        new = free[np.sort(first)]
        self._tables.append(table.take(pa.array(new)) if len(new) < len(keys) else table)
        self._keys.add(keys[new], self._ends[-1])
        self._ends.append(self._ends[-1] + len(new))
        return new

    def _compare(
        self, table: pa.Table, keys: Numbers, rows: Numbers, good: NDArray[np.bool_]
    ) -> tuple[Numbers, list[tuple[int, int]]]:
        """Of some rows those that say what the loaded one of their key says, and those that say something else behind it.

        The latter stand beside the line of the loaded one.
        """
        places = self._keys.find(keys[rows])
        rows, places = rows[places >= 0], places[places >= 0]
        if not len(rows):
            return rows, []
        loaded, given = self._rows(places), table.take(pa.array(rows))
        before = loaded[LINE].to_numpy()
        same = good[rows] & _same_values(loaded.drop_columns(LINE), given)
        other = ~same & (before < given[LINE].to_numpy())
        return rows[same], list(zip(rows[other].tolist(), before[other].tolist(), strict=True))

    def _rows(self, places: Numbers) -> pa.Table:
        """The loaded rows at some places; each batch gives its own, for a `take` from all would copy them all."""
        batch_of = np.searchsorted(self._ends, places, side="right")
        order = np.argsort(batch_of, kind="stable")
        parts = []
        for at in np.unique(batch_of).tolist():
            inside = places[order][batch_of[order] == at] - self._ends[at - 1]
            parts.append(self._tables[at].take(pa.array(inside)))
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return pa.concat_tables(parts).take(pa.array(back))


class _Keys:
    """The keys of loaded rows, and their places in the order in which they were loaded.

    A batch is a sorted run. Runs of keys that ascend over the batches are told apart by their ends; of others many are
    merged into one, so that rows in any order cost about what a sort of them costs.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Numbers, Numbers]] = []

    def add(self, keys: Numbers, start: int) -> None:
        """Put in keys that are not among these, of rows at the places from `start` on."""
        if len(keys):
            order = np.argsort(keys, kind="stable")
            self._runs.append((keys[order], start + order))
        if len(self._runs) > RUNS_AT_ONCE:
            self._merge()

    def find(self, keys: Numbers) -> Numbers:
        """The places of the rows that have some keys; -1 where none has."""
        order = np.argsort(keys, kind="stable")  # in order they are found at a tenth of the cost
        wanted, found = keys[order], np.full(len(keys), -1, dtype=np.int64)
        for run, places in self._runs:
            if len(wanted) and run[0] <= wanted[-1] and wanted[0] <= run[-1]:
                at = np.minimum(np.searchsorted(run, wanted), len(run) - 1)
                hit = run[at] == wanted
                found[order[hit]] = places[at[hit]]
        return found

    def places_in_order(self) -> Numbers:
        """The places of all rows in the order of their keys."""
        self._merge()
        return self._runs[0][1]

    def _merge(self) -> None:
        empty = np.empty(0, np.int64)
        keys = np.concatenate([empty, *(keys for keys, _ in self._runs)])
        places = np.concatenate([empty, *(places for _, places in self._runs)])
        order = np.argsort(keys, kind="stable")  # which merges what is in order
        self._runs = [(keys[order], places[order])]


def _same_values(ours: pa.Table, theirs: pa.Table) -> NDArray[np.bool_]:
    """In which rows all columns of one table have the values of the other; nothing equals nothing."""
    same = np.ones(ours.num_rows, dtype=bool)
    for one, other in zip(ours.columns, theirs.select(ours.column_names).columns, strict=True):
        if pa.types.is_list(one.type):  # which Arrow cannot compare
            one, other = (pc.binary_join(ids.cast(pa.list_(pa.string())), SEPARATOR) for ids in (one, other))
        same &= pc.coalesce(pc.equal(one, other), pc.and_(one.is_null(), other.is_null())).to_numpy()
    return same


def _records(file: CsvFile, batch: Batch, found: Sequence[Found]) -> list[Record]:
    """What of a batch is not loaded, in the order of its lines: rows with a fault, and lines that are no rows.

    The raw row of a record is the line as it is in the file under `text`, and its cells by column; a line that is no row
    has its text alone.
    """
    rules: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for row, column, rule in sorted(found, key=lambda fault: file.columns.index(fault[1])):
        rules[row].append((column, rule))
    bad = batch.rows.take(pa.array(rules, pa.int64())).to_pylist()
    lines: dict[int, tuple[dict[str, Any], Sequence[tuple[str, str]]]] = {
        **{line.line: ({}, [("", line.rule)]) for line in batch.unreadable},
        **{cells.pop(LINE): (cells, broken) for cells, broken in zip(bad, rules.values(), strict=True)},
    }
    records = []
    for number in sorted(lines):
        cells, broken = lines[number]
        raw = {"text": batch.block.text(number), **cells}
        faults = tuple(Fault(column, rule, raw[column or "text"]) for column, rule in broken)
        records.append(Record(faults, raw, f"{file.name}, line {number}"))
    return records


def shortened(text: str) -> str:
    """Text as a message can hold it."""
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + "…"
