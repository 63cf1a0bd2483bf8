"""A Postgres database of the platform: connections, and its schema brought to head before the first of them.

Bulk work goes over ADBC (`adbc`), everything else over psycopg (`connect`). Neither opens anything before it is used.
"""

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from etl_assets.errors import PermanentError, PlatformError, TransientError
from etl_assets.redaction import without_secrets

if TYPE_CHECKING:
    import psycopg
    from adbc_driver_postgresql.dbapi import Connection

    from etl_assets.core.database.pool import AdbcPool

# SQLSTATE by prefix: what may succeed when tried again. Everything else needs a change first.
TRANSIENT_STATES = {
    "08": "the connection was lost",
    "25P03": "the server ended a transaction that was idle for too long",
    "25P04": "the server ended a transaction that took too long",
    "40": "the transaction gave way to another (deadlock or serialization)",
    "53": "the server is out of a resource (disk, memory or connections)",
    "55P03": "another writer held the lock for too long",
    "57": "the server cancelled the statement or is shutting down",
    "58": "the server met a system error",
}
# What a server says of a login, without a SQLSTATE: to ask again does not help.
REFUSED = re.compile(
    r"(password|\S+) authentication failed|no password supplied|no pg_hba\.conf entry|is not permitted to log in"
    r"|(database|role) \S+ does not exist|permission denied for database"
)
# Connections that fail, logins that are refused, databases that are not there.
OF_THE_ADDRESS = ("08", "28", "3D", "57P")
SPARES = 4
LOST = ("server closed the connection", "connection", "terminating", "SSL SYSCALL", "no COPY in progress")


class Database:
    """One database by URL.

    Args:
        url: `postgresql://…`, or a function that gives it when it is first needed (it may start a server).
        name: which of the databases it is, for messages and for its migrations.
        migrate: `auto` brings an older database to head; `off` stops and names the command.
        variable: the environment variable that has its URL, for messages.

    Attributes:
        is_dry_run: whatever is written to it is rolled back; see `for_dry_run`.
    """

    is_dry_run = False

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        name: str = "platform",
        migrate: str = "auto",
        variable: str | None = None,
    ) -> None:
        self._url = url
        self._variable = variable
        self._name = name
        self._migrate = migrate
        self._ready = False
        self._used = ""
        self._lock = threading.Lock()
        self._adbc_pool: AdbcPool | None = None
        self._spares = Spares()
        weakref.finalize(self, self._spares.close)

    def __repr__(self) -> str:
        return f"Database({self._name})"

    def for_dry_run(self) -> "Database":
        """The same database for a dry run, which changes nothing of it.

        A write goes its whole way: rows are judged, compared and loaded in a transaction, which is rolled back instead of committed
        (`slices.session`). No lock outlives a transaction, files are not written (`slices.parquet`), and every other connection only reads,
        so that whatever else would write is refused by the server. Migrations are run as by any command.
        """
        dry = Database(self._url, name=self._name, migrate=self._migrate, variable=self._variable)
        dry.is_dry_run = True
        return dry

    @property
    def url(self) -> str:
        """The URL, secret included: for drivers, never for output."""
        self._used = self._url if isinstance(self._url, str) else self._url()
        return self._used

    @contextlib.contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """As the function of this name.

        Args:
            doing: with `{}` for the name of the database.
        """
        with translated(doing.format(self._name), secret=lambda: self._used, variable=self._variable):
            yield

    def prepare(self, *, migrate: str | None = None) -> None:
        """Bring the schema to head, once per process.

        Args:
            migrate: in place of what the database was made with.

        Raises:
            PermanentError: with migrations off, if the database is behind; names the command.
        """
        with self._lock:
            if not self._ready:
                from etl_assets.core.migrations.upgrade import ensure_head

                with self.translated("prepare the {} database"):
                    ensure_head(self.url, database=self._name, migrate=migrate or self._migrate)
                self._ready = True

    @contextlib.contextmanager
    def connect(self, *, autocommit: bool = False) -> "Iterator[psycopg.Connection[Any]]":
        """A psycopg connection; commits at the end unless an exception passes. It waits ten minutes at most for locks of others.

        Raises:
            TransientError, PermanentError: what the server said, classified by its SQLSTATE.
        """
        self.prepare()
        with self.translated("use the {} database"), self._opened(autocommit=autocommit) as connection:
            yield connection

    @contextlib.contextmanager
    def spare(self) -> "Iterator[psycopg.Connection[Any]]":
        """As `connect`, each statement a transaction of its own. It is kept for others unless an exception passes: opening one takes longer
        than what locks and heads take.
        """
        self.prepare()
        with self.translated("use the {} database"):
            connection = self._spares.take() or self._opened(autocommit=True)
            with contextlib.ExitStack() as closing:
                closing.callback(connection.close)
                yield connection
                if not self.is_dry_run and self._spares.keep(connection):
                    closing.pop_all()

    def _opened(self, *, autocommit: bool) -> "psycopg.Connection[Any]":
        return _opened(self.url, autocommit=autocommit, read_only=self.is_dry_run)

    def described(self, kind: str) -> str:
        """What server this is and whether migrations are to be run, for people; brings nothing to head.

        Args:
            kind: how it was named, to stand behind it.

        Raises:
            TransientError, PermanentError: as `connect`; for one that is newer than this version, or behind with migrations off.
        """
        from etl_assets.core.migrations.upgrade import behind

        with self.translated("use the {} database"), _opened(self.url, autocommit=True) as connection:
            row = connection.execute("SELECT current_setting('server_version'), current_database()").fetchone()
            lacking = ", ".join(behind(connection, self._name))
        if lacking and self._migrate == "off":
            raise PermanentError(f"{lacking}, and ETL_MIGRATE is off: run `etl-assets migrate`")
        said = f"PostgreSQL {row[0]}, database {row[1]} ({kind})" if row else kind
        return f"{said}; the next command that needs it runs its migrations ({lacking})" if lacking else said

    @contextlib.contextmanager
    def adbc(self) -> "Iterator[Connection]":
        """An ADBC connection with an open transaction; rolls back unless the caller has committed.

        It may have served others before, and is kept for others unless an exception passes.
        """
        self.prepare()
        with self.translated("use the {} database"):
            pooled = self._pool().connect()
            try:
                yield pooled.driver_connection
            except BaseException:
                pooled.invalidate()
                raise
            pooled.close()

    def _pool(self) -> "AdbcPool":
        # Imported where a connection is wanted, since SQLAlchemy takes its time.
        from etl_assets.core.database.pool import AdbcPool

        with self._lock:
            if self._adbc_pool is None:
                # It closes with the database, and so must not keep it alive.
                this = weakref.proxy(self)
                self._adbc_pool = AdbcPool(lambda: this.url)
                weakref.finalize(self, self._adbc_pool.close)
            return self._adbc_pool

    def close(self) -> None:
        """Close the connections that nobody uses; the next use opens new ones."""
        self._pool().close()
        self._spares.close()


def _opened(url: str, *, autocommit: bool, read_only: bool = False) -> "psycopg.Connection[Any]":
    import psycopg

    from etl_assets.core.database.locks import limit_waits

    # Prepared statements would not survive that a connection is made as good as new.
    connection = psycopg.connect(url, autocommit=True, connect_timeout=10, prepare_threshold=None)
    try:
        # Before a transaction begins, which could be rolled back.
        limit_waits(connection)
        if read_only:
            connection.execute("SET default_transaction_read_only = on")
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


class Spares:
    """Connections that nobody uses, of this process."""

    def __init__(self) -> None:
        self._idle: list[psycopg.Connection[Any]] = []
        self._process = os.getpid()
        self._lock = threading.Lock()

    def take(self) -> "psycopg.Connection[Any] | None":
        """One that the server still knows; None if there is none."""
        with self._lock:
            if self._process != os.getpid():
                # Those of the process that this one was forked from are not to be used, nor closed.
                self._idle, self._process = [], os.getpid()
            while self._idle:
                # It stays among them while it is asked, so that it is not lost when that is interrupted.
                with contextlib.suppress(Exception):
                    self._idle[-1].execute("SELECT 1")
                    return self._idle.pop()
                self._idle.pop().close()
        return None

    def keep(self, connection: "psycopg.Connection[Any]") -> bool:
        """Make one as good as new and keep it; false if it is not kept."""
        from etl_assets.core.database.locks import limit_waits

        with self._lock:
            if len(self._idle) < SPARES and self._process == os.getpid():
                with contextlib.suppress(Exception):
                    connection.execute("DISCARD ALL")
                    limit_waits(connection)
                    self._idle.append(connection)
                    return True
        return False

    def close(self) -> None:
        """Close all."""
        with self._lock:
            while self._idle:
                connection = self._idle.pop()
                if self._process == os.getpid():
                    connection.close()


@contextlib.contextmanager
def translated(doing: str, *, secret: Callable[[], str] = str, variable: str | None = None) -> Iterator[None]:
    """Turn what a driver raises into a failure of ours, classified once.

    Args:
        doing: what was going on, to follow `could not`.
        secret: gives the URL that was used: drivers quote one that they cannot read, with its password.
        variable: which has that URL; named where it may be what is wrong.
    """
    try:
        yield
    except PlatformError:
        raise
    except Exception as error:
        if not _from_driver(error):
            raise
        # SQLAlchemy wraps the driver's error, and adds the statement and an address to read.
        driver = getattr(error, "orig", None) or error
        state = getattr(driver, "sqlstate", None)
        said = " ".join(str(driver).split())
        text = without_secrets(said, secret())
        # Dagster and tracebacks show causes as well.
        cause = error if text == said else None
        reason = transient_reason(state, text)
        unreachable = type(driver).__name__ in ("OperationalError", "ProgrammingError") if state is None else False
        if variable and (unreachable or (state or "").startswith(OF_THE_ADDRESS)):
            text = f"{text}: see whether {variable} is right, and whether its server runs and can be reached from here"
        if reason:
            raise TransientError(f"could not {doing}: {reason}: {text}") from cause
        if state is None:
            raise PermanentError(f"could not {doing}: {text}") from cause
        raise PermanentError(f"could not {doing} (SQLSTATE {state}): {text}") from cause


def transient_reason(state: str | None, text: str) -> str | None:
    """Why the same statement may succeed later; None if it will not."""
    if state:
        return next((why for prefix, why in TRANSIENT_STATES.items() if state.startswith(prefix)), None)
    if REFUSED.search(text):
        return None
    return TRANSIENT_STATES["08"] if any(sign in text for sign in LOST) else None


def _from_driver(error: Exception) -> bool:
    modules = ("psycopg", "adbc_driver_manager", "sqlalchemy", "psycopg2")
    return any(kind.__module__.split(".")[0] in modules for kind in type(error).__mro__)
