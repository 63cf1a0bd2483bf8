"""What a write is derived from: the commits of the rows that were read."""

import json
from collections.abc import Mapping, Sequence

from etl_assets.core.contracts import Contract
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.heads import WHOLE_TABLE, Head, as_heads, heads_of, heads_query, key_of
from etl_assets.core.slices.session import Outdated
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction

Commits = dict[tuple[str, str], str | None]


class InputsMoved(Outdated):
    """What a write is derived from is no longer what stands: its inputs have to be read again."""


class Inputs:
    """The commits of slices that were read, filled by who reads them (`reading`, `parquet`).

    Rows that were stored before there were commits have none, and None stands for it.
    """

    def __init__(self) -> None:
        self._read: list[tuple[Database, tuple[Slice, ...], Commits]] = []
        self._by_partition: set[str] = set()

    def read(self, database: Database, slices: Sequence[Slice], heads: Mapping[tuple[str, str], Head]) -> None:
        """Record that slices were read as they are by these heads; takes the place of an earlier reading of the same."""
        these = tuple(slices)
        self._read = [one for one in self._read if one[1] != these]
        self._read.append((database, these, commits_of(slices, heads)))

    def go_by_partition(self, contract: type[Contract]) -> None:
        """Note that each partition of a table is what the partition of the same name is derived from, and no other."""
        self._by_partition.add(contract.config.table)

    @property
    def slices(self) -> list[Slice]:
        """What was read."""
        return [slice_ for _, slices, _ in self._read for slice_ in slices]

    def only(self, slices: Sequence[Slice]) -> "Inputs":
        """These inputs without what is not among some slices."""
        wanted = {key_of(slice_) for slice_ in slices}
        chosen = Inputs()
        chosen._by_partition = self._by_partition
        for database, read, commits in self._read:
            kept = tuple(slice_ for slice_ in read if key_of(slice_) in wanted)
            if kept:
                tables = {(table, WHOLE_TABLE) for table, _ in map(key_of, kept)}
                mine = {key: commit for key, commit in commits.items() if key in {*map(key_of, kept), *tables}}
                chosen._read.append((database, kept, mine))
        return chosen

    def as_json(self, of: Slice | None = None) -> str | None:
        """The commit by table and partition, as the ledger keeps it; None for no input.

        Args:
            of: only what this one is derived from, of slices that are stored together.
        """
        by_table: dict[str, dict[str, str]] = {}
        for _, _, commits in self._read:
            for (table, partition), commit in commits.items():
                another = of is not None and table in self._by_partition and partition not in (of.name, WHOLE_TABLE)
                if commit is not None and not another:
                    by_table.setdefault(table, {})[partition] = commit
        return json.dumps(by_table, sort_keys=True) if self._read else None

    def require_current(self, database: Database, transaction: Transaction) -> None:
        """Look whether what was read still stands.

        For one who holds the lock of what is derived: who has derived it from something newer has committed before that look, or waits for
        the lock.

        Args:
            database, transaction: where what is derived goes, and its open transaction; other databases are asked on a connection of their own.

        Raises:
            InputsMoved: if not; names the tables.
        """
        for of in dict.fromkeys(one[0] for one in self._read):
            mine = [(slices, commits) for other, slices, commits in self._read if other is of]
            wanted = [slice_ for slices, _ in mine for slice_ in slices]
            if of is database:
                heads = as_heads(transaction.rows(heads_query(wanted)).to_pylist())
            else:
                heads = heads_of(of, wanted)
            moved = {
                key_of(slice_)[0]
                for slices, commits in mine
                if commits_of(slices, heads) != commits
                for slice_ in slices
            }
            if moved:
                raise InputsMoved(
                    f"{', '.join(sorted(moved))} was written again after it had been read, so that nothing was derived from it:"
                    " read it again"
                )


def standing_inputs(database: Database, written: Sequence[tuple[Slice, str | None]]) -> Inputs:
    """Rows that were in hand when they were stored, as what something is derived from; none in a dry run.

    Args:
        written: slices, and the content hash of the rows of each.

    Raises:
        InputsMoved: if other rows stand by now.
    """
    if database.is_dry_run:
        # They are not stored, and so nobody can have replaced them.
        return Inputs()
    hashes = {key_of(slice_): content_hash for slice_, content_hash in written}
    slices = [slice_ for slice_, _ in written]
    heads = heads_of(database, slices)
    moved = [f"{slice_}" for slice_ in slices if heads[key_of(slice_)].content_hash != hashes[key_of(slice_)]]
    if moved:
        raise InputsMoved(
            f"{', '.join(moved)} was written again since, so that nothing was derived from it: read it again"
        )
    inputs = Inputs()
    inputs.read(database, slices, heads)
    return inputs


def commits_of(slices: Sequence[Slice], heads: Mapping[tuple[str, str], Head]) -> Commits:
    """By slice the commit that stands, among the heads of a reading; of a whole table by all its partitions that have one."""
    found: Commits = {}
    for table, partition in map(key_of, slices):
        if partition == WHOLE_TABLE:
            found |= {key: head.commit_id for key, head in heads.items() if key[0] == table and head.commit_id}
        else:
            whole = heads.get((table, WHOLE_TABLE))
            if whole and whole.commit_id:
                found[table, WHOLE_TABLE] = whole.commit_id
            found[table, partition] = heads[table, partition].commit_id if (table, partition) in heads else None
    return found
