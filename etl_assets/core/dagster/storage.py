"""Dagster's own storage in Postgres, over a pool of connections: for `dagster.yaml`, never for data of the platform.

    storage:
      custom:
        module: etl_assets.core.dagster.storage
        class: PooledPostgresStorage
        config:
          postgres_url: {env: DAGSTER_POSTGRES_URL}

dagster-postgres opens a connection for each statement, some sixteen per step. Here the three storages of a process share
one pool, whatever number of instances the process makes. The pool stays open when an instance is disposed of: a
sensor's instance lives for one tick, and the next tick wants the connection again.
"""

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

import sqlalchemy as sa
from dagster._config import BoolSource, Field, IntSource, StringSource
from dagster._core.storage.sql import create_engine
from dagster._serdes import ConfigurableClassData
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)
from dagster_postgres.utils import retry_pg_connection_fn

from etl_assets.errors import ConfigurationError

DRIVER = "postgresql+psycopg2"
SCHEMES = ("postgresql", "postgres", "postgresql+psycopg2", "postgresql+psycopg")
# With these Dagster's three storages are complete; it makes them itself at the first start.
TABLES = {"runs", "instance_info", "event_logs", "asset_keys", "jobs", "instigators"}
LOCK = 7_061_002


@dataclass(frozen=True)
class PoolOptions:
    """How many connections a process keeps, and for how long.

    Attributes:
        size: connections that stay open.
        max_overflow: further ones while they are needed.
        recycle_s: age at which a connection is replaced: below the idle time-out of what lies between.
        statement_timeout_ms: limit of a statement; None for the server's own.
    """

    size: int = 2
    max_overflow: int = 10
    recycle_s: int = 900
    statement_timeout_ms: int | None = None


def normalised_url(url: str) -> str:
    """The URL with the driver that dagster-postgres works on; a bare `postgresql://` means another one to SQLAlchemy 2.1.

    Raises:
        ConfigurationError: if it is no URL of a Postgres database; never shows it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ConfigurationError("the URL of Dagster's storage must begin with postgresql://")
    return f"{DRIVER}://{rest}"


@functools.cache
def pooled_engine(url: str, options: PoolOptions) -> sa.Engine:
    """The engine of this process for a database: the same one for the same arguments."""
    engine: sa.Engine = create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=options.size,
        max_overflow=options.max_overflow,
        pool_recycle=options.recycle_s,
        # Costs a round trip; without it the first statements after a restart of the server fail.
        pool_pre_ping=True,
    )
    if options.statement_timeout_ms is not None:
        milliseconds = int(options.statement_timeout_ms)
        sa.event.listen(engine, "connect", lambda connection, _: _limit_statements(connection, milliseconds))
    # A connection must not be used on both sides of a fork.
    os.register_at_fork(after_in_child=lambda: engine.dispose(close=False))
    return engine


def _limit_statements(connection: Any, milliseconds: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = {milliseconds}")
    connection.commit()


@contextlib.contextmanager
def creating_tables(engine: sa.Engine) -> Iterator[bool]:
    """Whether Dagster's tables have to be made; if so, only this process makes them until the end of the block.

    Webserver, daemon and code location meet an empty database at the same moment.
    """
    if retry_pg_connection_fn(lambda: _complete(engine)):
        yield False
        return
    with engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        try:
            yield not _complete(engine)
        finally:
            connection.execute(sa.text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})


def _complete(engine: sa.Engine) -> bool:
    return set(sa.inspect(engine).get_table_names()) >= TABLES


class _Configured:
    """How a storage is made from its section of `dagster.yaml`."""

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        default = PoolOptions()
        return {
            "postgres_url": Field(StringSource, description="postgresql://…, as {env: NAME}"),
            "should_autocreate_tables": Field(BoolSource, is_required=False, default_value=True),
            "pool_size": Field(IntSource, is_required=False, default_value=default.size),
            "max_overflow": Field(IntSource, is_required=False, default_value=default.max_overflow),
            "pool_recycle_seconds": Field(IntSource, is_required=False, default_value=default.recycle_s),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """The storage that a section of `dagster.yaml` describes.

        Raises:
            ConfigurationError: if a password stands in the file itself, where `dagster instance info` would print it.
        """
        url = config_value["postgres_url"]
        written = inst_data.config_dict.get("postgres_url") if inst_data else None
        if isinstance(written, str) and urlsplit(written).password:
            raise ConfigurationError(
                "dagster.yaml holds the password of Dagster's storage: write postgres_url: {env: DAGSTER_POSTGRES_URL}"
            )
        pool = PoolOptions(
            config_value["pool_size"], config_value["max_overflow"], config_value["pool_recycle_seconds"]
        )
        return cls(url, config_value["should_autocreate_tables"], inst_data, pool)  # type: ignore[call-arg]


class _Pooled(_Configured):
    """What the three storages have in common: the engine that replaces the one without a pool."""

    postgres_url: str

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        pool: PoolOptions = PoolOptions(),
    ) -> None:
        url = normalised_url(postgres_url)
        self._pool = pool
        engine = pooled_engine(url, pool)
        with contextlib.ExitStack() as stack:
            create = should_autocreate_tables and stack.enter_context(creating_tables(engine))
            super().__init__(url, create, inst_data)  # type: ignore[call-arg]
        self._engine = engine

    def optimize_for_webserver(self, statement_timeout: int, pool_recycle: int, max_overflow: int) -> None:
        """Keep to the webserver's limits; still one pool for the whole process."""
        options = PoolOptions(self._pool.size, max_overflow, pool_recycle, statement_timeout)
        self._engine = pooled_engine(self.postgres_url, options)


class PooledPostgresRunStorage(_Pooled, PostgresRunStorage):
    """Runs; for `run_storage` in `dagster.yaml`."""


class PooledPostgresEventLogStorage(_Pooled, PostgresEventLogStorage):
    """Events and assets; for `event_log_storage` in `dagster.yaml`."""


class PooledPostgresScheduleStorage(_Pooled, PostgresScheduleStorage):
    """Ticks of schedules and sensors; for `schedule_storage` in `dagster.yaml`."""


class PooledPostgresStorage(_Configured, DagsterPostgresStorage):
    """All three storages over one pool; for `storage: {custom: …}` in `dagster.yaml`."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        pool: PoolOptions = PoolOptions(),
    ) -> None:
        arguments = (postgres_url, should_autocreate_tables, None, pool)
        self.postgres_url = normalised_url(postgres_url)
        self.should_autocreate_tables = should_autocreate_tables
        self._inst_data = inst_data
        self._run_storage = PooledPostgresRunStorage(*arguments)
        self._event_log_storage = PooledPostgresEventLogStorage(*arguments)
        self._schedule_storage = PooledPostgresScheduleStorage(*arguments)
        # The parent's own constructor would make three storages without a pool.
        super(DagsterPostgresStorage, self).__init__()

    @property
    def run_storage_data(self) -> ConfigurableClassData | None:
        return self._part("PooledPostgresRunStorage")

    @property
    def event_storage_data(self) -> ConfigurableClassData | None:
        return self._part("PooledPostgresEventLogStorage")

    @property
    def schedule_storage_data(self) -> ConfigurableClassData | None:
        return self._part("PooledPostgresScheduleStorage")

    def _part(self, name: str) -> ConfigurableClassData | None:
        return ConfigurableClassData(__name__, name, self._inst_data.config_yaml) if self._inst_data else None
