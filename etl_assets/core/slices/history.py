"""What the ledger tells of slices: their commits, what these were derived from, and which slices are behind their inputs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql
from psycopg.rows import dict_row

from etl_assets.core.contracts import Contract
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.commit import COUNTS
from etl_assets.core.slices.heads import WHOLE_TABLE
from etl_assets.core.slices.transaction import names

SHOWN = (
    "committed_at",
    "commit_id",
    "partition",
    "mode",
    "run_id",
    *COUNTS,
    "inputs",
    "source_position",
    "file",
    "remark",
)


@dataclass(frozen=True)
class Behind:
    """A slice that was derived from something that does not stand any more.

    Attributes:
        partition: of the slice; empty for a whole table.
        input: the table, with its partition, that has moved on.
        since: when it did, by the database's clock.
    """

    partition: str
    input: str
    since: datetime


def history(
    database: Database, contract: type[Contract], partition: str | None = None, *, limit: int = 50
) -> list[dict[str, Any]]:
    """The commits of a table, or of one of its slices, the newest first: the columns of `SHOWN`, and whether the head is that commit (`stands`)."""
    query = sql.SQL(
        "SELECT {}, EXISTS (SELECT FROM etl.heads AS h WHERE h.asset = l.asset AND h.partition = l.partition"
        " AND h.commit_id = l.commit_id) AS stands FROM etl.ledger AS l"
        " WHERE asset = %(table)s AND (%(partition)s::text IS NULL OR partition = %(partition)s)"
        " ORDER BY committed_at DESC, generation DESC LIMIT %(limit)s"
    ).format(names(SHOWN))
    values = {"table": contract.config.table, "partition": partition, "limit": limit}
    with database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(query, values).fetchall()
    return [{**row, "inputs": json.loads(row["inputs"]) if row["inputs"] else {}} for row in rows]


def behind(
    database: Database, inputs_in: Database, contract: type[Contract], *, longer_than: timedelta
) -> tuple[int, list[Behind]]:
    """The slices of a derived table that have been behind a changed input for longer than they may be.

    Args:
        inputs_in: the database of the inputs' heads.

    Returns:
        How many slices were looked at, and those that are behind.
    """
    with database.connect() as connection:
        derived = connection.execute(
            "SELECT partition, inputs FROM etl.heads WHERE asset = %s AND inputs IS NOT NULL ORDER BY partition",
            (contract.config.table,),
        ).fetchall()
    inputs = {partition: json.loads(text) for partition, text in derived}
    tables = sorted({table for of in inputs.values() for table in of})
    with inputs_in.connect() as connection:
        moved = connection.execute(
            "SELECT asset, partition, commit_id, changed_at FROM etl.heads WHERE asset = ANY(%s) AND commit_id IS NOT NULL"
            " AND changed_at < clock_timestamp() - %s",
            (tables, longer_than),
        ).fetchall()
    standing = {(table, partition): (commit_id, since) for table, partition, commit_id, since in moved}
    found = [
        Behind(partition, f"{table}[{of}]" if of else table, standing[table, of][1])
        for partition, by_table in inputs.items()
        for table, commits in by_table.items()
        # Whoever has written the whole table since has written each of its partitions.
        for of in {**commits, WHOLE_TABLE: None}
        if (table, of) in standing and standing[table, of][0] != commits.get(of)
    ]
    return len(inputs), found


def stored_partitions(database: Database, contract: type[Contract]) -> Sequence[tuple[str, str | None]]:
    """By partition the commit that stands, also of what was stored before there were heads, of which that is None."""
    with database.connect() as connection:
        return connection.execute(
            "SELECT partition, h.commit_id FROM (SELECT DISTINCT partition FROM etl.ledger WHERE asset = %(table)s) AS l"
            " LEFT JOIN (SELECT * FROM etl.heads WHERE asset = %(table)s) AS h USING (partition) ORDER BY partition",
            {"table": contract.config.table},
        ).fetchall()
