"""Locks of slices that outlive a transaction: held from before a source is asked until what it answered is committed.

They are session-level advisory locks of Postgres on a connection of their own, renewed by a thread. Who dies, or loses that connection, has lost them.
Who is only paused keeps them until somebody who waits has seen no life for a minute, and ends that session. That is safe: the writer that comes back
meets the fence (see `commit.py`).
"""

import contextlib
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import sql
from psycopg.rows import dict_row

from etl_assets.core.database.connections import Database
from etl_assets.core.database.locks import LOCK_TIMEOUT
from etl_assets.core.slices.heads import (
    NO_HEAD,
    WHOLE_TABLE,
    Head,
    as_heads,
    draw_statement,
    generations_query,
    heads_of,
    heads_query,
    key_of,
)
from etl_assets.core.slices.session import Outdated
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import TransientError

if TYPE_CHECKING:
    import psycopg

RENEWED_EVERY_S = 15.0
# So long a holder may show no life while somebody waits for its lock.
NO_LIFE_S = 60.0
LOOKED_AT_EVERY_S = 5.0
# On the session that writes under a lock, followed by the process of the server that holds that.
WRITES_FOR = "etl_assets writes for"
TABLE, PARTITION = 0, 1
ACTIVITY = """
    SELECT a.pid, concat_ws(' ', a.state, a.state_change, a.query_start, c.bytes_processed) AS activity,
      a.state LIKE 'idle%' OR a.wait_event = 'ClientRead' AS waits
    FROM pg_stat_activity AS a LEFT JOIN pg_stat_progress_copy AS c USING (pid)
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND
"""
HOLDS_LOCK = """
    a.pid IN (SELECT l.pid FROM pg_locks AS l, (SELECT hashtextextended(name, {}) AS bits FROM unnest({}::text[]) AS name) AS key
      WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = a.datid
      AND l.classid = ((key.bits >> 32) & 4294967295)::oid AND l.objid = (key.bits & 4294967295)::oid)
"""
# Its lock was given to somebody else, or to nobody, while it writes; it may be about to commit.
LOST_ITS_LOCK = """
    a.application_name LIKE {} AND NOT EXISTS (SELECT FROM pg_stat_activity AS holder
      WHERE holder.datname = a.datname AND a.application_name = concat_ws(' ', {}, holder.pid))
"""
END = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND (pid = %s OR application_name = %s)
"""


class Wanted(NamedTuple):
    """One advisory lock.

    Attributes:
        name, seed: what it is on: a table, or a partition of it.
        shared: held together with others: who writes a partition keeps off who writes the whole table, not other partitions.
    """

    name: str
    seed: int
    shared: bool


def wanted(slices: Sequence[Slice], *, whole: Collection[str] = ()) -> list[Wanted]:
    """The locks of slices, in the order in which all writers take them.

    Args:
        whole: tables that are held as a whole, since rows of other partitions are written too.
    """
    tables = {table: table in whole for table, _ in map(key_of, slices)}
    for slice_ in slices:
        tables[key_of(slice_)[0]] |= slice_.name == WHOLE_TABLE
    partitions = sorted({f"{slice_}" for slice_ in slices if not tables[key_of(slice_)[0]]})
    return [
        *(Wanted(table, TABLE, not exclusive) for table, exclusive in sorted(tables.items())),
        *(Wanted(name, PARTITION, False) for name in partitions),
    ]


def try_statement(locks: Sequence[Wanted], *, until: str) -> sql.Composed:
    """Take all of some locks without waiting; false if somebody has one of them.

    Args:
        until: `session` or `transaction`, the end of which gives them back.
    """
    function = sql.SQL("pg_try_advisory_lock" if until == "session" else "pg_try_advisory_xact_lock")
    return sql.SQL(
        "SELECT bool_and(CASE WHEN shared THEN {function}_shared(key) ELSE {function}(key) END) AS taken FROM"
        " (SELECT hashtextextended(name, seed) AS key, shared"
        " FROM unnest({names}::text[], {seeds}::int[], {shared}::bool[]) AS w (name, seed, shared)) AS k"
    ).format(
        function=function,
        names=sql.Literal([lock.name for lock in locks]),
        seeds=sql.Literal([lock.seed for lock in locks]),
        shared=sql.Literal([lock.shared for lock in locks]),
    )


class LookOutdated(Outdated):
    """Somebody else has had the lock since the source was asked, so that the answer may be older than what stands."""


class Lock:
    """The locks of some slices, with what their generations were when they were taken.

    Attributes:
        pid: of the server's process that holds them.
        generations: by table and partition, what a writer has to find unchanged at the commit.
    """

    pid: int
    generations: dict[tuple[str, str], int]

    def __init__(self, database: Database, slices: Sequence[Slice], *, whole: Collection[str] = ()) -> None:
        self.slices = tuple(slices)
        self.pid, self.generations = 0, {}
        self._database = database
        self._wanted = wanted(slices, whole=whole)
        self._stack = contextlib.ExitStack()
        self._connection: psycopg.Connection[Any] | None = None
        self._ended = threading.Event()

    def covers(self, slice_: Slice) -> bool:
        """Whether it is held by this lock: itself, or its whole table."""
        table, partition = key_of(slice_)
        return (table, partition) in self.generations or (table, WHOLE_TABLE) in self.generations

    def covering(self, slice_: Slice) -> Slice:
        """The slice of this lock by which another one is held."""
        return slice_ if key_of(slice_) in self.generations else Slice(slice_.contract)

    def begin(self) -> None:
        """Wait for the locks, then count that they were taken; in a dry run each transaction takes its own.

        Raises:
            TransientError: if somebody who shows life has one of them for more than ten minutes.
        """
        self.take()
        if self._database.is_dry_run:
            self.generations = dict.fromkeys(map(key_of, self.slices), 0)
            return
        assert self._connection is not None
        with self._database.translated("lock slices of the {} database"):
            _patiently(
                self._connection, draw_statement(self.slices), whose=_lost_its_lock(), what="the head of a slice"
            )
            found = self._connection.execute(generations_query(self.slices)).fetchall()
        self.generations = {(table, partition): generation for table, partition, generation in found}
        threading.Thread(target=self._renew, name="lock of slices", daemon=True).start()

    def take(self) -> None:
        """Take the locks if they are not held, as at the beginning or after the connection was lost."""
        if self._database.is_dry_run or (self._connection is not None and not self._connection.closed):
            return
        self._stack.close()
        self._connection = self._stack.enter_context(self._database.spare())
        self.pid = self._connection.info.backend_pid
        with self._database.translated("lock slices of the {} database"):
            self._connection.execute("SET idle_session_timeout = 0")
            self._connection.execute(sql.SQL("SET lock_timeout = {}").format(int(LOOKED_AT_EVERY_S * 1000)))
            taken = self._connection.execute(try_statement(self._wanted, until="session")).fetchone()
            if taken and taken[0]:
                return
            self._connection.execute("SELECT pg_advisory_unlock_all()")
            for lock in self._wanted:
                function = sql.SQL("pg_advisory_lock_shared" if lock.shared else "pg_advisory_lock")
                take = sql.SQL("SELECT {}(hashtextextended({}, {}))").format(function, lock.name, lock.seed)
                whose = sql.SQL(HOLDS_LOCK).format(lock.seed, [lock.name])
                _patiently(self._connection, take, whose=whose, what=f"the lock of {lock.name}")

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY_S):
            connection = self._connection
            # A connection that is lost is found by who writes next.
            with contextlib.suppress(Exception):
                if connection is not None and not connection.closed:
                    connection.execute("SELECT 1")

    def compare(self, generations: Iterable[tuple[str, str, int]]) -> None:
        """Compare generations as they are with those that were drawn.

        Raises:
            LookOutdated: if another writer has had a lock since.
        """
        for table, partition, generation in generations:
            if generation != self.generations[table, partition]:
                place = f"{table}[{partition}]" if partition else table
                raise LookOutdated(
                    f"the lock of {place} was lost, and another writer has had it since: nothing was stored or sent, the source has"
                    " to be asked again"
                )

    def require(self, connection: "psycopg.Connection[Any]", slice_: Slice) -> None:
        """Keep the lock from being given to anybody else before the transaction of a connection ends.

        Raises:
            LookOutdated: if another writer has had it since it was taken.
        """
        held = self.covering(slice_)
        keep = "SELECT 1 FROM etl.heads WHERE asset = %s AND partition = %s FOR UPDATE"
        connection.execute(keep, key_of(held))
        self.compare(connection.execute(generations_query([held])).fetchall())

    def head(self, slice_: Slice) -> Head:
        """The standing commit of a slice, asked on the connection of the lock where there is one.

        Raises:
            TransientError: if that is lost.
        """
        if self._connection is None:
            return heads_of(self._database, [slice_]).get(key_of(slice_), NO_HEAD)
        with self._database.translated("use the {} database"), self._connection.cursor(row_factory=dict_row) as cursor:
            return as_heads(cursor.execute(heads_query([slice_])).fetchall()).get(key_of(slice_), NO_HEAD)

    def close(self) -> None:
        """Give the locks back."""
        self._ended.set()
        with contextlib.suppress(Exception):
            self._stack.close()


@contextlib.contextmanager
def locked(database: Database, slices: Sequence[Slice], *, whole: Collection[str] = ()) -> Iterator[Lock]:
    """Hold the locks of slices: before a source is asked for what they will be, until that is committed.

    Args:
        whole: tables that are held as a whole.

    Raises:
        TransientError: if another writer holds one of them for too long, or the database stays unavailable.
    """
    lock = Lock(database, slices, whole=whole)
    try:
        lock.begin()
        yield lock
    finally:
        lock.close()


def draw(database: Database, slices: Sequence[Slice]) -> None:
    """Count that slices were looked at by somebody who has nothing to store: who looked before must not commit any more.

    Raises:
        TransientError: if somebody who shows life writes one of them for more than ten minutes.
    """
    if not slices or database.is_dry_run:
        return
    of_partitions = [lock.name for lock in wanted(slices) if lock.seed == PARTITION]
    writes = sql.SQL("({} OR {})").format(sql.SQL(HOLDS_LOCK).format(PARTITION, of_partitions), _lost_its_lock())
    with database.spare() as connection:
        connection.execute(sql.SQL("SET lock_timeout = {}").format(int(LOOKED_AT_EVERY_S * 1000)))
        _patiently(connection, draw_statement(slices), whose=writes, what="the head of a slice")


def _lost_its_lock() -> sql.Composed:
    return sql.SQL("({})").format(sql.SQL(LOST_ITS_LOCK).format(f"{WRITES_FOR} %", WRITES_FOR))


def _patiently(
    connection: "psycopg.Connection[Any]", statement: sql.Composed, *, whose: sql.Composed, what: str
) -> None:
    """Run a statement that may have to wait for others; who shows no life is ended.

    Args:
        whose: which sessions it can be that are waited for.
        what: what they hold.

    Raises:
        TransientError: if somebody who shows life holds it for too long.
    """
    import psycopg

    deadline = time.monotonic() + LOCK_TIMEOUT.total_seconds()
    seen: dict[int, tuple[str, float]] = {}
    while True:
        try:
            connection.execute(statement)
            return
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() > deadline:
                raise TransientError(
                    f"another writer has held {what} for {LOCK_TIMEOUT.total_seconds():.0f} s: try again when it is done"
                ) from None
        now = time.monotonic()
        for pid, activity, waits in connection.execute(sql.SQL(ACTIVITY) + whose).fetchall():
            known, since = seen.get(pid, (None, now))
            if not waits or known != activity:
                seen[pid] = (activity, now)
            elif now - since >= NO_LIFE_S:
                connection.execute(END, (pid, f"{WRITES_FOR} {pid}"))
