"""A pool of ADBC connections: opening one takes longer than a small write."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import QueuePool

KEPT_AT_MOST = 4
REPLACED_AFTER_S = 60
# Pools of the process that this one was forked from: its sockets must neither be used here nor closed.
_OF_PARENT: list[QueuePool] = []


class AdbcDialect(DefaultDialect):
    """How the pool looks after a connection between two of its users."""

    def _do_ping_w_event(self, dbapi_connection: Any) -> bool:
        """Whether the server is still there: it may have been restarted, or have ended this connection."""
        try:
            with dbapi_connection.cursor() as cursor:
                cursor.execute("SELECT 1")
                cursor.fetchall()
            dbapi_connection.rollback()
        except Exception:
            return False
        return True

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Make the connection as good as new; one that cannot be is closed, and the next ping finds that out.

        Temporary tables go as well: they would take up space for as long as the connection lives.
        """
        try:
            dbapi_connection.rollback()
            with dbapi_connection.cursor() as cursor:
                cursor.execute("DISCARD TEMP")
            dbapi_connection.commit()
        except Exception:
            self.do_close(dbapi_connection)

    def do_close(self, dbapi_connection: Any) -> None:
        """Give up a connection and what is not committed, whatever state it is in."""
        for give_up in (dbapi_connection.rollback, dbapi_connection.close):
            with contextlib.suppress(Exception):
                give_up()


class AdbcPool:
    """Connections to one database, the last one used first, for all threads of a process; a forked child gets its own.

    Args:
        url: gives the URL, each time that a connection is opened.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._pool = QueuePool(
            self._open,
            pool_size=KEPT_AT_MOST,
            max_overflow=-1,
            use_lifo=True,
            recycle=REPLACED_AFTER_S,
            pre_ping=True,
            dialect=AdbcDialect(),
        )

    def _open(self) -> Any:
        from adbc_driver_postgresql import dbapi

        return dbapi.connect(self._url())

    def connect(self) -> Any:
        """A connection without an open transaction: `close` gives it back, `invalidate` gives it up."""
        if os.getpid() != self._process:
            _OF_PARENT.append(self._pool)
            self._begin()
        return self._pool.connect()

    def close(self) -> None:
        """Close what nobody uses."""
        if os.getpid() == self._process:
            self._pool.dispose()
