"""How long a writer or a reader waits for the locks of others."""

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    import psycopg

LOCK_TIMEOUT = timedelta(minutes=10)


def limit_waits(connection: "psycopg.Connection[Any]") -> None:
    """Let no statement of a connection wait for locks of others for more than ten minutes."""
    connection.execute(sql.SQL("SET lock_timeout = {}").format(int(LOCK_TIMEOUT.total_seconds() * 1000)))
