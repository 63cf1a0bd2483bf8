"""How far a stream is stored: kept in the ledger, in the row of the transaction that stored the records."""

import json
from typing import Any

from psycopg import sql

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.transaction import Transaction, relation
from etl_assets.core.sources.streams.broker import Position
from etl_assets.errors import TransientError
from etl_assets.systems.production.contracts import Stream

BEGINNING = Position("", 0)


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
