"""Files that nobody needs any more: of versions that a contract does not keep, and of writers that were ended before their commit.

Under the lock of the slice, so that none of a writer at work is among them; whoever lost that lock meets the fence, and commits no file.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.files import OF_COMMIT, ParquetRoot, names_in, remove
from etl_assets.core.slices.heads import heads_of, key_of
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction

UNFINISHED_COPY = re.compile(r"\.copy-[0-9a-f]{32}\.tmp")
# Of a version that is given up, so that nobody who reads many files meets a hole.
DELETED_AFTER = "1 day"


@dataclass(frozen=True)
class Swept:
    """What a sweep did: files deleted, of how many slices."""

    files: int
    slices: int


def give_up(transaction: Transaction, slice_: Slice, *, standing: str | None) -> list[str]:
    """Forget the files of versions that a contract does not keep; gives their names, to be deleted once that is committed.

    Args:
        standing: the file that counts.
    """
    table, partition = map(sql.Literal, key_of(slice_))
    kept = sql.Literal(slice_.contract.config.versions_kept)
    statement = sql.SQL(
        "WITH versions AS (SELECT file, max(generation) AS generation, max(committed_at) AS last, min(committed_at) AS since"
        " FROM etl.ledger WHERE asset = {table} AND partition = {partition} AND file IS NOT NULL GROUP BY file),"
        " ordered AS (SELECT file, row_number() OVER newest AS place, lag(since, {kept}) OVER newest AS given_up_at"
        " FROM versions WINDOW newest AS (ORDER BY generation DESC, last DESC))"
        " UPDATE etl.ledger AS l SET file = NULL FROM ordered AS o WHERE l.asset = {table} AND l.partition = {partition}"
        " AND l.file = o.file AND o.place > {kept} AND o.file IS DISTINCT FROM {standing}"
        " AND o.given_up_at < clock_timestamp() - {after}::interval RETURNING o.file"
    ).format(
        table=table,
        partition=partition,
        kept=kept,
        standing=sql.Literal(standing),
        after=sql.Literal(DELETED_AFTER),
    )
    return sorted({row["file"] for row in transaction.returned(statement).to_pylist()})


def sweep(database: Database, root: ParquetRoot, contracts: Iterable[type[Contract]]) -> Swept:
    """Delete the files of slices that no row of the ledger names, and those of versions that are given up.

    Names of another form than those of commits are left alone, whatever they are.

    Raises:
        TransientError, PermanentError: if the database or the folder cannot be used.
    """
    files = slices = 0
    for contract in contracts:
        named = _named_files(database, contract)
        for _, partition in sorted(heads_of(database, [Slice(contract)])):
            slice_ = Slice(contract, partition)
            known = named.get(partition, set[str]())
            if not (len(known) > contract.config.versions_kept or _unknown(root, slice_, known)):
                continue
            deleted = _swept(database, root, slice_)
            files += deleted
            slices += deleted > 0
    return Swept(files, slices)


def _swept(database: Database, root: ParquetRoot, slice_: Slice) -> int:
    filesystem, _ = root.filesystem()
    with locked(database, [slice_]):
        with database.adbc() as connection:
            head = heads_of(database, [slice_]).get(key_of(slice_))
            give_up(Transaction(connection), slice_, standing=head.file if head else None)
            connection.commit()
        doomed = _unknown(root, slice_, _named_files(database, slice_.contract, slice_.name).get(slice_.name, set()))
        for name in doomed:
            remove(filesystem, f"{root.folder(slice_)}/{name}")
    return len(doomed)


def _unknown(root: ParquetRoot, slice_: Slice, named: Iterable[str]) -> list[str]:
    """The files in the folder of a slice that are of this program and named by no row of the ledger."""
    filesystem, _ = root.filesystem()
    known = set(named)
    return [
        name
        for name in names_in(filesystem, root.folder(slice_))
        if (OF_COMMIT.fullmatch(name) and name not in known) or UNFINISHED_COPY.fullmatch(name)
    ]


def _named_files(database: Database, contract: type[Contract], partition: str | None = None) -> dict[str, set[str]]:
    """By partition the files that the ledger names."""
    named: dict[str, set[str]] = {}
    with database.connect() as connection:
        rows = connection.execute(
            "SELECT DISTINCT partition, file FROM etl.ledger WHERE asset = %(table)s AND file IS NOT NULL"
            " AND (%(partition)s::text IS NULL OR partition = %(partition)s)",
            {"table": contract.config.table, "partition": partition},
        ).fetchall()
    for of, file in rows:
        named.setdefault(of, set()).add(file)
    return named
