"""Rows of text of the three files as rows of four tables, judged: what a row means, and whether it can be loaded.

A bad row is loaded nowhere: it is one record with all its faults. Of the rows of a key the first that has no fault of its
own is loaded; one that says the same is left out, one that says something else is rejected.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts import Contract, Split
from etl_assets.core.contracts.arrow import ARROW_TYPES, arrow_schema
from etl_assets.core.contracts.cast import cast_column
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.validation import broken_rules
from etl_assets.systems.experiments.contracts import Compounds, ExperimentCompounds, UserExperiments, Users
from etl_assets.systems.experiments.csv.files import COMPOUNDS, EXPERIMENTS, USERS, Batch, CsvFile, RejectedFile
from etl_assets.systems.experiments.csv.rejected import Found, Rejected
from etl_assets.systems.experiments.references import References, cast_ids, compound_lists, shortened
from etl_assets.systems.experiments.repeats import LINE, Holders, Settled

LIST = "experiment_compound_ids"


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
    rows, named_again, left_out = _FileRows(EXPERIMENTS, UserExperiments, {LIST: pa.list_(pa.int64())}), 0, 0
    for batch in experiments:
        values, found = _judged(UserExperiments, batch)
        cells = batch.rows[LIST].combine_chunks()
        lists = compound_lists(cells, known_compounds)
        found += [(row, LIST, "required") for row in np.flatnonzero(cells.is_null()).tolist()]
        found += [(row, LIST, rule) for row, rule in lists.faults]
        found += _unknown(values, "user_id", known_users)
        settled = rows.add(batch, {**values, LIST: lists.ids}, found)
        named_again += int((lists.named - lists.counts)[settled.new].sum())
        left_out += int(lists.named[settled.same].sum())
    table = rows.in_key_order()
    return Loaded(
        user_split,
        compound_split,
        Split(_in_schema(UserExperiments, table), rows.rejected, rows.deduplicated),
        Split(_pairs(table), deduplicated=named_again + left_out),
        named_again,
    )


class _FileRows:
    """The rows of one file, batch after batch.

    Attributes:
        rejected: records of those that are not loaded.
        deduplicated: how many say what a loaded one says.
    """

    def __init__(self, file: CsvFile, contract: type[Contract], more: Mapping[str, pa.DataType] | None = None) -> None:
        (self._key,) = contract.config.key
        self._file = file
        types = {name: ARROW_TYPES[column.kind] for name, column in contract.columns.items()}
        self._holders = Holders(self._key, pa.schema({**types, **(more or {}), LINE: pa.int64()}.items()))
        self._seen = 0
        self._lost = [pa.schema([(self._key, pa.int64()), (LINE, pa.int64())]).empty_table()]
        self.rejected = Rejected(file)
        self.deduplicated = 0

    def add(self, batch: Batch, values: Mapping[str, pa.Array], found: Sequence[Found]) -> Settled:
        """Take the next batch.

        Args:
            values: its typed columns.
            found: the faults that its rows have by themselves; those of repeated keys are added here.
        """
        table = pa.table({**values, LINE: batch.rows[LINE]})
        good = np.ones(table.num_rows, dtype=bool)
        good[[row for row, _, _ in found]] = False
        settled = self._holders.settle(table, good)
        rule = "line {} has this " + f"{self._key} with other values"
        self.rejected.add(batch, [*found, *((row, self._key, rule.format(line)) for row, line in settled.others)])
        if found:
            lost = table.select([self._key, LINE]).filter(pa.array(~good))
            self._lost.append(lost.filter(pc.is_valid(lost[self._key])))
        self._seen += table.num_rows + len(batch.unreadable)
        self.deduplicated += len(settled.same)
        return settled

    def lost(self) -> pa.Table:
        """Key and line of rows that are rejected for faults of their own, by key and then by line."""
        return pa.concat_tables(self._lost).sort_by([(self._key, "ascending"), (LINE, "ascending")])

    def in_key_order(self) -> pa.Table:
        """The rows to load, once all have been taken.

        Raises:
            RejectedFile: if there are rows and none to load.
        """
        if self._seen and not len(self._holders):
            record = self.rejected[0]
            fault = record.faults[0]
            raise RejectedFile(
                f"no row of {self._file.name} can be loaded, for example"
                f" {record.source.removeprefix(f'{self._file.name}, ')}:"
                f" {fault.column or 'the line'} `{shortened(fault.raw or '')}`: {fault.rule}; nothing was changed"
            )
        return self._holders.in_key_order()


def _referred_to(
    contract: type[Contract], file: CsvFile, batches: Iterable[Batch], *, noun: str
) -> tuple[References, Split[pa.Table]]:
    """A file whose rows others refer to: what they can refer to, and its table."""
    rows = _FileRows(file, contract)
    for batch in batches:
        rows.add(batch, *_judged(contract, batch))
    table = _in_schema(contract, rows.in_key_order())
    if not table.num_rows:
        raise RejectedFile(
            f"{file.name} has its header and no {noun} below it: put the {noun}s there; nothing was changed"
        )
    key, lost = contract.config.key[0], rows.lost()
    references = References(noun, file, table[key].combine_chunks(), lost[key].to_numpy(), lost[LINE].to_numpy())
    return references, Split(table, rows.rejected, rows.deduplicated)


def _judged(contract: type[Contract], batch: Batch) -> tuple[dict[str, pa.Array], list[Found]]:
    """The columns of a contract, typed, and the faults of their cells; a failed cast stands for its cell."""
    casts = {
        name: (cast_ids if column.kind is Kind.INT else cast_column)(batch.rows[name].combine_chunks(), column)
        for name, column in contract.columns.items()
    }
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
