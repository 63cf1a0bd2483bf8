"""What is asked of the tables of the system in SQL, for lack of a need to load them, and how far their streams are stored.

That is kept in the ledger, in the row of the transaction that stored the records.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.transaction import Transaction, relation
from etl_assets.core.sources.streams.broker import Position
from etl_assets.errors import TransientError
from etl_assets.systems.production.contracts import Metrics, Stream, Workorders

BEGINNING = Position("", 0)


def rows_stored(database: Database, contract: type[Contract]) -> int:
    """How many rows a table has."""
    return _number(database, "SELECT count(*) FROM {}", contract)


def parameter_ids(database: Database) -> Sequence[int]:
    """The parameters that have readings, in order; one step of the key's index for each."""
    with database.connect() as connection:
        rows = connection.execute(
            "WITH RECURSIVE known AS ("
            " (SELECT parameter_id FROM production.metrics ORDER BY parameter_id LIMIT 1)"
            " UNION ALL SELECT (SELECT m.parameter_id FROM production.metrics AS m"
            " WHERE m.parameter_id > known.parameter_id ORDER BY m.parameter_id LIMIT 1)"
            " FROM known WHERE known.parameter_id IS NOT NULL)"
            " SELECT parameter_id FROM known WHERE parameter_id IS NOT NULL"
        ).fetchall()
    return [row[0] for row in rows]


def readings_without_value(database: Database) -> int:
    """How many readings say that they are no number."""
    return _number(database, "SELECT count(*) FROM {} WHERE value IS NULL", Metrics)


def quarantined(database: Database) -> Mapping[tuple[str, str], int]:
    """Records in quarantine by table and outcome, of those that were read from the source that is in the table now.

    Quarantine keeps what earlier sources left there; what counts was met after the last write of another source, or reset. A
    source that was read twice has its records there a single time.
    """
    with database.connect() as connection:
        rows = connection.execute(
            "WITH written AS (SELECT asset, committed_at, source_position::json ->> 'source' AS source,"
            " source_position::json ->> 'sequence' AS sequence FROM etl.ledger"
            " WHERE asset = ANY(%(assets)s) AND partition = '' AND source_position IS NOT NULL),"
            " newest AS (SELECT DISTINCT ON (asset) asset, source FROM written ORDER BY asset, committed_at DESC),"
            " earlier AS (SELECT asset, max(committed_at) AS ended FROM written JOIN newest USING (asset)"
            " WHERE written.source <> newest.source OR sequence = '0' GROUP BY asset)"
            " SELECT asset, outcome, count(*) FROM etl.quarantine LEFT JOIN earlier USING (asset)"
            " WHERE asset = ANY(%(assets)s) AND status = 'open' AND (ended IS NULL OR last_seen > ended)"
            " GROUP BY asset, outcome",
            {"assets": [Metrics.config.table, Workorders.config.table]},
        ).fetchall()
    return {(asset, outcome): count for asset, outcome, count in rows}


def highest_sequence(database: Database, contract: type[Contract]) -> int:
    """The last place in the stream that a row of the table comes from; 0 without rows."""
    return _number(database, "SELECT coalesce(max(sequence), 0) FROM {}", contract)


def _number(database: Database, query: LiteralString, contract: type[Contract]) -> int:
    """What a query of one number gives for a table."""
    with database.connect() as connection:
        [(number,)] = connection.execute(sql.SQL(query).format(relation(contract))).fetchall()
    return int(number)


def committed_position(database: Database, stream: Stream) -> Position:
    """How far the table is: source and sequence of the last record; 0 before the first."""
    with database.connect(autocommit=True) as connection:
        found = connection.execute(_newest(stream, "source_position")).fetchone()
    return _position(found[0] if found else None)


def read_position(transaction: Transaction, stream: Stream) -> Position:
    """The same within a transaction that holds the lock of the table, and is going to move it.

    Raises:
        TransientError: if the database's clock is behind the newest row, which the next one would then not follow.
    """
    found = transaction.rows(
        _newest(stream, "source_position, committed_at >= clock_timestamp() AS is_later")
    ).to_pylist()
    if found and found[0]["is_later"]:
        raise TransientError(
            f"the database's clock is behind the last write to {stream.contract.config.table}, nothing was written: set"
            " the clock of its server, or wait until it has caught up"
        )
    return _position(found[0]["source_position"] if found else None)


def is_committed(transaction: Transaction, commit_id: str) -> bool:
    """Whether the ledger has a commit."""
    query = sql.SQL("SELECT count(*) FROM etl.ledger WHERE commit_id = {}").format(sql.Literal(commit_id))
    return bool(transaction.value(query))


def emptied(transaction: Transaction, stream: Stream) -> int:
    """Delete all rows and say how many; quarantined records that were replayed into the table are open again, for they went with it."""
    contract = stream.contract
    # TRUNCATE would take the rows from readers who began before as well.
    deleted = transaction.changed(sql.SQL("DELETE FROM {}").format(relation(contract)))
    reopen = sql.SQL("UPDATE etl.quarantine SET status = 'open' WHERE asset = {} AND status = 'replayed'")
    transaction.changed(reopen.format(sql.Literal(contract.config.table)))
    return deleted


def _newest(stream: Stream, columns: str) -> sql.Composed:
    # Replays are in the ledger too, but move no position.
    return sql.SQL(
        "SELECT {} FROM etl.ledger WHERE asset = {} AND partition = '' AND source_position IS NOT NULL"
        " ORDER BY committed_at DESC LIMIT 1"
    ).format(sql.SQL(columns), sql.Literal(stream.contract.config.table))


def _position(entry: str | None) -> Position:
    found: dict[str, Any] = json.loads(entry) if entry else {}
    return Position(found["source"], found["sequence"]) if found else BEGINNING
