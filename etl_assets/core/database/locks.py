"""What one writer at a time may do in a database, whichever process it is in."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    import psycopg

LOCK_TIMEOUT = timedelta(minutes=10)
# Whoever has a lock works on between the statements of a transaction, and must not lose the one with the other.
KEPT_WHILE_IDLE = sql.SQL("SET LOCAL idle_in_transaction_session_timeout = 0")


def limit_waits(connection: "psycopg.Connection[Any]") -> None:
    """Let no statement of the transaction wait for locks of others for more than ten minutes; begins one if none is open."""
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(int(LOCK_TIMEOUT.total_seconds() * 1000)))


def advisory_lock(connection: "psycopg.Connection[Any]", name: str) -> None:
    """Wait for the lock of this name, and hold it until the transaction of the connection ends.

    That transaction begins here: what went before is committed. Each of its statements sees what was committed before
    the lock was granted, and the server does not end it for want of statements, whatever the database's defaults are.

    Raises:
        psycopg.errors.LockNotAvailable: after ten minutes.
    """
    connection.commit()
    connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
    limit_waits(connection)
    connection.execute(KEPT_WHILE_IDLE)
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 5))", (name,))
