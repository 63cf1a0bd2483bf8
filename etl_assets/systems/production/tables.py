"""What is asked of the tables of the system in SQL, for lack of a need to load them, and how far their streams are stored.

That is kept in the ledger, in the row of the transaction that stored the records.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, LiteralString

from psycopg import sql

from etl_assets.core.contracts import Contract
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.heads import heads_of
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.quarantine import give_up_entries
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import Transaction, relation
from etl_assets.core.sources.streams.broker import Position
from etl_assets.systems.production.contracts import Metrics, Stream, Workorders

BEGINNING = Position("", 0)


def rows_stored(database: Database, contract: type[Contract]) -> int:
    """How many rows a table has."""
    return _number(database, "SELECT count(*) FROM {}", contract)


def parameter_ids(database: Database, inputs: Inputs) -> Sequence[str]:
    """The parameters that have readings, in order; one step of the key's index for each.

    Args:
        inputs: is told by which commits the readings are as they are.
    """
    inputs.read(database, [Slice(Metrics)], heads_of(database, [Slice(Metrics)]))
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
    """Open records in quarantine by table and outcome: those of the source that is in the table, for those of another went with it."""
    with database.connect() as connection:
        rows = connection.execute(
            "SELECT asset, outcome, count(*) FROM etl.quarantine WHERE asset = ANY(%s) AND status = 'open' GROUP BY 1, 2",
            ([Metrics.config.table, Workorders.config.table],),
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
    """The same within a transaction that holds the lock of the table, and is going to move it."""
    found = transaction.rows(_newest(stream, "source_position")).to_pylist()
    return _position(found[0]["source_position"] if found else None)


def emptied(transaction: Transaction, stream: Stream) -> int:
    """Delete all rows and say how many; what of their source is in quarantine is closed, for nothing of it is to come into the table any more."""
    contract = stream.contract
    # TRUNCATE would take the rows from readers who began before as well.
    deleted = transaction.changed(sql.SQL("DELETE FROM {}").format(relation(contract)))
    give_up_entries(transaction, Slice(contract))
    return deleted


def _newest(stream: Stream, columns: str) -> sql.Composed:
    # Replays are in the ledger too, but move no position.
    return sql.SQL(
        "SELECT {} FROM etl.ledger WHERE asset = {} AND partition = '' AND source_position IS NOT NULL"
        " ORDER BY generation DESC, committed_at DESC LIMIT 1"
    ).format(sql.SQL(columns), sql.Literal(stream.contract.config.table))


def _position(entry: str | None) -> Position:
    found: dict[str, Any] = json.loads(entry) if entry else {}
    return Position(found["source"], found["sequence"]) if found else BEGINNING
