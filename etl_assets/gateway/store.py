"""The gateway's way to the database: a connection per request, and an answer in time whatever the database does.

A database that refuses, is silent, hangs on a lock, ends a session or has no connection left costs its request at most
`DEADLINE_S` on a quiet machine, and the next request tries anew: nothing is kept that an outage could spoil. A connection costs a few
milliseconds, which a pool would save and pay for with connections that died unseen.

What does not belong here: queries.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg

from etl_assets.core.database.connections import Database, transient_reason
from etl_assets.errors import PermanentError, PlatformError
from etl_assets.gateway.deadlines import stretched
from etl_assets.gateway.problems import Problem

DEADLINE_S = 1.5
CONNECTIONS = 16
RETRY_AFTER_S = 5
SETTINGS = """
    -- The server ends by itself what nobody waits for any more.
    SET statement_timeout = '{timeout_ms}ms';
    -- Ends the transaction of a gateway whose host has vanished, and with it the lock that would stop all others.
    SET idle_in_transaction_session_timeout = '60s';
    -- A statement after the lock must see what the lock's last holder has committed, whatever the server's default is.
    SET default_transaction_isolation = 'read committed';
    -- Instants are read in UTC, whatever the server's zone is.
    SET TimeZone = 'UTC';
    -- Every query here follows an index; a planner that knows nothing of a new table would sort all of it.
    SET enable_seqscan = off;
    SET enable_bitmapscan = off
"""

log = logging.getLogger(__name__)


class StoreDown(Problem):
    """The database did not do what was requested, or not in time; the request may succeed later.

    Args:
        what: what happened, without host, user or anything else of the address.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            503,
            "Database unavailable",
            f"the platform's database {what}: try again later; the gateway's log says more",
            headers={"Retry-After": str(RETRY_AFTER_S)},
        )


# As the document of a call shows it.
STORE_DOWN = StoreDown(f"did not answer within {DEADLINE_S:g} s")


class Busy(Exception):
    """Another request, of this gateway or of another one, has the lock of this exclusive section."""


class Connection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that breaks off when the time of its request is used up.

    It is cut rather than cancelled: psycopg waits seconds for the server to confirm that it has cancelled, which a silent one
    never does.

    Attributes:
        expired: whether that happened.
    """

    expired = False
    _timer: asyncio.TimerHandle | None = None

    def break_off_at(self, when: float) -> None:
        """Set the deadline, in the time of the event loop."""
        self._timer = asyncio.get_running_loop().call_at(when, self._break_off)

    def keep(self) -> float:
        """Lift the deadline and give the seconds that were left."""
        if self._timer is None:
            raise RuntimeError("this connection has no deadline")
        self._timer.cancel()
        return self._timer.when() - asyncio.get_running_loop().time()

    @contextlib.contextmanager
    def deadline_paused(self) -> Iterator[None]:
        """For waiting on something else than the database: the time that is spent in here does not count."""
        left_s = self.keep()
        try:
            yield
        finally:
            self.break_off_at(asyncio.get_running_loop().time() + left_s)

    def _break_off(self) -> None:
        self.expired = True
        with contextlib.suppress(psycopg.OperationalError, OSError):  # closed already
            with socket.socket(fileno=os.dup(self.fileno())) as underneath:
                underneath.shutdown(socket.SHUT_RDWR)


class Store:
    """Access to one database from one event loop.

    Args:
        database: its URL may be a function that takes long or starts a server; it is called in a thread.
        deadline_s: what the database may take of one request, connecting included, on a quiet machine.
    """

    def __init__(self, database: Database, *, deadline_s: float = DEADLINE_S) -> None:
        self._database = database
        self._deadline_s = deadline_s
        self._url: str | None = None
        self._opening: asyncio.Future[None] | None = None
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._held: set[str] = set()

    @contextlib.asynccontextmanager
    async def connection(self, *, at_head: bool = True) -> AsyncIterator[Connection]:
        """A connection in autocommit for one request, whose deadline begins now.

        Args:
            at_head: False for who wants to see also a database whose schema could not be brought to head.

        Raises:
            StoreDown: for everything that goes wrong with the database, also in the body.
        """
        limit_s = stretched(self._deadline_s)
        deadline = asyncio.get_running_loop().time() + limit_s
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(deadline):
                    await stack.enter_async_context(self._slots)
                    connection = await self._connect(at_head=at_head)
                    stack.push_async_callback(connection.close)
                    connection.break_off_at(deadline)
            except TimeoutError:
                raise _late(limit_s) from None
            try:
                await connection.execute(SETTINGS.format(timeout_ms=round(limit_s * 1000)))
                yield connection
            except psycopg.Error as error:
                raise _late(limit_s) if connection.expired else _failed(error) from error
            finally:
                connection.keep()

    @contextlib.asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[Connection]:
        """A transaction that one request at a time has, among all gateways on this database; committed at its end.

        Raises:
            Busy: if another one has it: nobody is waited for.
            StoreDown: as with `connection`.
        """
        # Checked first: a burst of requests costs one connection, not one each.
        if name in self._held:
            raise Busy(name)
        self._held.add(name)
        try:
            async with self.connection() as connection, connection.transaction():
                cursor = await connection.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 4))", (name,))
                if await cursor.fetchone() != (True,):
                    raise Busy(name)
                yield connection
        finally:
            self._held.discard(name)

    async def _connect(self, *, at_head: bool) -> Connection:
        url = await self._address(at_head=at_head)
        try:
            return await Connection.connect(url, autocommit=True, fallback_application_name="etl-assets gateway")
        except BaseException as error:
            # An embedded server that was started anew may have another address: it is looked up again.
            if self._opening is not None and self._opening.done():
                self._opening = None
            if not isinstance(error, psycopg.Error):
                raise
            log.warning("no connection to the database: %s", _loggable(error))
            raise StoreDown("accepts no connection") from error

    def _prepare(self) -> None:
        """Bring the schema to head; blocks. Where that fails, the next request tries again."""
        self._url = self._database.url
        self._database.prepare()

    async def _address(self, *, at_head: bool) -> str:
        """The URL of a database that is up and at head, brought there by one thread for all who wait."""
        if self._opening is None or (self._opening.done() and self._opening.exception()):
            self._opening = _in_background(self._prepare)
        try:
            await asyncio.shield(self._opening)
        except Exception as error:
            if at_head or self._url is None or not isinstance(error, PermanentError):
                log.warning("the database is not ready: %s", _loggable(error))
                raise StoreDown("is not ready") from error
        assert self._url is not None
        return self._url


def _late(limit_s: float) -> StoreDown:
    log.warning("the database did not answer within %.2g s", limit_s)
    return StoreDown(f"did not answer within {limit_s:.2g} s")


def _failed(error: psycopg.Error) -> StoreDown:
    log.warning("the database failed: %s", _loggable(error))
    reason = transient_reason(error.sqlstate, str(error))
    return StoreDown(f"failed: {reason or f'SQLSTATE {error.sqlstate}'}")


def _loggable(error: BaseException) -> str:
    """What a log may say of a failure: what is not known to leave it out may quote the URL, password included."""
    cause = error.__cause__ or error
    if isinstance(cause, psycopg.ProgrammingError) and cause.sqlstate is None:
        return "ETL_POSTGRES_URL cannot be read: set it to postgresql://user:password@host:port/database"
    if isinstance(error, psycopg.Error | PlatformError):
        return " ".join(str(error).split())
    return f"unexpected {type(error).__name__}"


def _in_background(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run something in a thread that the end of the process does not wait for."""
    done: concurrent.futures.Future[None] = concurrent.futures.Future()

    def run() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="prepare", daemon=True).start()
    future = asyncio.wrap_future(done)
    # The requests that waited may have ended by the time it fails; the next one tries again.
    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
    return future
