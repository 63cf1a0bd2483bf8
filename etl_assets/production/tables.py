"""What is asked of the tables of the system in SQL, for lack of a need to load them."""

from collections.abc import Mapping, Sequence

from psycopg import sql

from etl_assets.contracts import Contract
from etl_assets.io_managers.transaction import relation
from etl_assets.production.contracts import Metrics, Workorders
from etl_assets.resources.database import Database


def rows_stored(database: Database, contract: type[Contract]) -> int:
    """How many rows a table has."""
    with database.connect() as connection:
        row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(relation(contract))).fetchone()
    return int(row[0]) if row else 0


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
    with database.connect() as connection:
        row = connection.execute("SELECT count(*) FROM production.metrics WHERE value IS NULL").fetchone()
    return int(row[0]) if row else 0


def quarantined(database: Database) -> Mapping[tuple[str, str], int]:
    """Rows in quarantine by table and outcome."""
    with database.connect() as connection:
        rows = connection.execute(
            "SELECT asset, outcome, sum(seen)::bigint FROM etl.quarantine WHERE asset = ANY(%s) AND status = 'open'"
            " GROUP BY asset, outcome",
            ([Metrics.config.table, Workorders.config.table],),
        ).fetchall()
    return {(asset, outcome): count for asset, outcome, count in rows}


def highest_sequence(database: Database, contract: type[Contract]) -> int:
    """The last place in the stream that a row of the table comes from; 0 without rows."""
    with database.connect() as connection:
        row = connection.execute(
            sql.SQL("SELECT coalesce(max(sequence), 0) FROM {}").format(relation(contract))
        ).fetchone()
    return int(row[0]) if row else 0
