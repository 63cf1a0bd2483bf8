"""ADBC connections that nobody uses at the moment: opening one takes longer than a small write."""

import contextlib
import os
import threading
import time
import weakref
from typing import Any

KEPT_AT_MOST = 4
KEPT_FOR_S = 60.0


class IdleConnections:
    """Open connections of one database, the last one used first. For any number of threads, and the process that made it."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Any]] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        weakref.finalize(self, _close_all, self._kept, self._process)

    def take(self) -> Any | None:
        """A connection that still answers, without an open transaction; none if there is none."""
        while True:
            with self._lock:
                # The sockets of a process belong to it: its child must neither use nor close them.
                if not self._kept or os.getpid() != self._process:
                    return None
                since, connection = self._kept.pop()
            if time.monotonic() - since < KEPT_FOR_S and _answers(connection):
                return connection
            close(connection)

    def give(self, connection: Any) -> None:
        """Keep a connection, as if it were new; close it if that cannot be, or if there are enough."""
        if os.getpid() != self._process:
            close(connection)
            return
        try:
            connection.rollback()
            _forget(connection)
        except Exception:
            close(connection)
            return
        with self._lock:
            spare = self._kept.pop(0)[1] if len(self._kept) == KEPT_AT_MOST else None
            self._kept.append((time.monotonic(), connection))
        if spare is not None:
            close(spare)


def close(connection: Any) -> None:
    """Give up a connection and what is not committed, whatever state it is in."""
    with contextlib.suppress(Exception):
        connection.rollback()
    with contextlib.suppress(Exception):
        connection.close()


def _answers(connection: Any) -> bool:
    """Whether the server is still there: it may have been restarted, or have ended this connection."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchall()
        connection.rollback()
    except Exception:
        return False
    return True


def _forget(connection: Any) -> None:
    """Drop the temporary tables, which would take their room for as long as the connection lives."""
    with connection.cursor() as cursor:
        cursor.execute("DISCARD TEMP")
    connection.commit()


def _close_all(kept: list[tuple[float, Any]], process: int) -> None:
    if os.getpid() == process:
        while kept:
            close(kept.pop()[1])
