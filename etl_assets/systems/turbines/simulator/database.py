"""The source database of the simulated turbines: filled in bulk, and read as record batches while they arrive.

One table, `public.data`. Its comment tells what it was filled with, which is how a second fill knows that there is nothing to
do, and how a table that somebody else made is left alone. Everything goes over ADBC: COPY both ways, constant memory.
"""

import contextlib
from collections.abc import Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from psycopg import sql
from sqlalchemy.pool import QueuePool

from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.systems.turbines.simulator.data import DAYS, SCHEMA, SEED, START, VERSION, rows

if TYPE_CHECKING:
    from adbc_driver_postgresql.dbapi import Connection

_MARK = "simulated turbines"
_LOCK = 7_061_005  # one advisory lock for all fills of a database
_IDLE_CONNECTIONS = 8
# As many as go into one part of an answer; more do not fit into the processor's cache.
_BATCH_BYTES = 2_000_000

_MAKE = """
    CREATE TABLE public.data_filled (
        id bigint NOT NULL,
        turbine text NOT NULL,
        timestamp timestamp NOT NULL,
        wind_speed double precision,
        power double precision,
        ambient_temperature double precision,
        wind_direction double precision
    )
"""
# Indexes after the load: half the time. The old table is there for readers until the commit.
_PUBLISH = (
    "SET LOCAL maintenance_work_mem = '256MB'",
    "ALTER TABLE public.data_filled ADD CONSTRAINT data_filled_id PRIMARY KEY (id)",
    "CREATE INDEX data_filled_time ON public.data_filled (turbine, timestamp)",
    "DROP TABLE IF EXISTS public.data",
    "ALTER TABLE public.data_filled RENAME TO data",
    "ALTER INDEX public.data_filled_id RENAME TO data_id",
    "ALTER INDEX public.data_filled_time RENAME TO data_time",
)


class SourceFailed(PlatformError):
    """The source database does not answer, or has no table; the message says which, without the URL."""


def fill(
    database_url: str, *, start: date = START, days: int = DAYS, turbines: Sequence[str] = (), seed: int = SEED
) -> int:
    """Fills the table with these days of these turbines, or of one without a name, in one transaction.

    Returns:
        The number of rows written: 0 when they were there already.

    Raises:
        ConfigurationError: if there is a table `data` that was not filled here, or the request makes no sense.
        SourceFailed: if the database does not do it.
    """
    if days < 1 or len(set(turbines)) < len(turbines) or not all(turbines):
        raise ConfigurationError(
            f"simulated turbines need at least one day and names that differ: asked for were {days} days of"
            f" {', '.join(map(repr, turbines)) or 'one turbine'}"
        )
    from adbc_driver_postgresql import dbapi

    content = f"{_MARK} {VERSION}, seed {seed}: {days} days from {start} of {', '.join(turbines) or 'one turbine'}"
    with _translated(database_url), dbapi.connect(database_url) as connection:
        _row(connection, sql.SQL("SELECT pg_advisory_xact_lock({})").format(_LOCK))
        if _comment(connection) == content:
            return 0
        return _filled_anew(connection, rows(start, days, turbines, seed=seed), content)


def _comment(connection: "Connection") -> str:
    """What the table was filled with; empty where there is none."""
    found = _row(
        connection, sql.SQL("SELECT t::oid AS t, obj_description(t, 'pg_class') AS c FROM to_regclass('public.data') t")
    )
    comment = found["c"] or ""
    if found["t"] is not None and not comment.startswith(_MARK):
        raise ConfigurationError(
            "the database for simulated turbines has a table public.data that they did not fill, and it was left as it is:"
            " give a database of its own"
        )
    return comment


def _filled_anew(connection: "Connection", batches: Iterator[pa.RecordBatch], content: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(_MAKE)
        written = cursor.adbc_ingest(
            "data_filled",
            pa.RecordBatchReader.from_batches(SCHEMA, batches),
            mode="append",
            db_schema_name="public",
        )
        for statement in _PUBLISH:
            cursor.execute(statement)
        cursor.execute(sql.SQL("COMMENT ON TABLE public.data IS {}").format(content).as_string(None))
        cursor.execute("ANALYZE public.data")
    connection.commit()
    return written


def _row(connection: "Connection", query: sql.Composable) -> dict[str, Any]:
    """The single row of a query, not copied: what gives `void` cannot be."""
    with connection.cursor() as cursor:
        cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
        cursor.execute(query.as_string(None))
        (found,) = cursor.fetch_arrow_table().to_pylist()
        return found


@contextlib.contextmanager
def _translated(database_url: str) -> Iterator[None]:
    """Turns what the driver raises into a failure that carries no secret."""
    from adbc_driver_manager import Error

    try:
        yield
    except (Error, OSError) as error:  # the latter is what a reader raises
        # A URL that cannot be read is repeated by libpq, password included.
        text = " ".join(str(error).replace(database_url, "the URL").split())
        raise SourceFailed(f"the source database failed: {text}") from error


class Source:
    """The table as a server reads it; connections are kept, since opening one takes longer than a day of rows.

    Args:
        database_url: `postgresql://…`; nothing is opened before the first query.
    """

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._pool = QueuePool(self._open, pool_size=_IDLE_CONNECTIONS, max_overflow=-1, reset_on_return=None)

    @contextlib.contextmanager
    def batches(self, query: sql.Composable) -> Iterator[pa.RecordBatchReader]:
        """What a query gives, as it arrives; it ends where the context does, however much was read.

        Raises:
            SourceFailed: also where the batches are read.
        """
        with _translated(self._url):
            pooled = self._pool.connect()
        ended = False
        try:
            with _translated(self._url), contextlib.closing(pooled.cursor()) as cursor:
                cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
                cursor.execute(query.as_string(None))
                reader = cursor.fetch_record_batch()
                yield reader
                # Otherwise rows may still be under way, and the connection is no good for anything else.
                ended = next(iter(reader), None) is None
        except SourceFailed:
            # A server that went away took the idle connections with it.
            self.close()
            raise
        finally:
            if not ended:
                pooled.invalidate()
            pooled.close()

    def close(self) -> None:
        """Closes what is idle; what is in use is closed by whoever uses it, or is kept."""
        self._pool.dispose()
        self._pool = self._pool.recreate()

    def _open(self) -> Any:
        from adbc_driver_postgresql import dbapi

        connection = dbapi.connect(self._url, autocommit=True)
        with connection.cursor() as cursor:
            # Rows in the order of the table, and a core left for those who read them.
            cursor.execute("SET max_parallel_workers_per_gather = 0")
        return connection
