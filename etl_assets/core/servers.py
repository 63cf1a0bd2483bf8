"""Where the platform's servers are for this process: by URL, or embedded in the data folder."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from etl_assets.core.database.connections import Database, translated
from etl_assets.core.sources.streams.broker import DEFAULT_PREFIX, Broker
from etl_assets.errors import ConfigurationError
from etl_assets.settings import Settings, load_settings

if TYPE_CHECKING:
    import psycopg

POSTGRES_URL = "ETL_POSTGRES_URL"


def platform_database(settings: Settings | None = None) -> Database:
    """The platform's database; an embedded server starts when it is first used, and again when it was killed."""
    settings = settings or load_settings()
    if settings.etl_postgres_url is not None:
        return Database(settings.required("etl_postgres_url"), migrate=settings.etl_migrate, variable=POSTGRES_URL)
    # Not remembered: a connection after one that was lost asks again, and that is what brings a killed server back.
    return Database(functools.partial(_embedded_postgres, settings), migrate=settings.etl_migrate)


def platform_broker(settings: Settings | None = None, *, prefix: str = DEFAULT_PREFIX) -> Broker:
    """The platform's broker; an embedded server starts when it is first used, and again when it was killed."""
    settings = settings or load_settings()
    if settings.etl_broker_url is not None:
        return Broker(settings.required("etl_broker_url"), prefix=prefix)
    return Broker(functools.partial(_embedded_broker, settings), prefix=prefix)


NOT_RUNNING = "embedded, not running: the first command that needs it starts it, `etl-assets up` keeps it running"


def standing_postgres(settings: Settings) -> str | None:
    """The URL of the platform's database as it is; None for an embedded one that does not run. Starts nothing."""
    from etl_assets.core.embedded import EmbeddedPostgres

    if settings.etl_postgres_url is not None:
        return settings.required("etl_postgres_url")
    return EmbeddedPostgres(settings.etl_data_dir).url_if_running()


def standing_broker(settings: Settings) -> str | None:
    """As `standing_postgres`, of the platform's broker."""
    from etl_assets.core.embedded import EmbeddedBroker

    if settings.etl_broker_url is not None:
        return settings.required("etl_broker_url")
    return EmbeddedBroker(settings.etl_data_dir).url_if_running()


def _embedded_postgres(settings: Settings) -> str:
    from etl_assets.core.embedded import EmbeddedPostgres

    return EmbeddedPostgres(settings.etl_data_dir).acquire()


def beside_platform(settings: Settings, name: str, *, variable: str) -> Callable[[], str]:
    """What gives the URL of a database on the platform's server; it is made when it is first asked for and not there.

    Args:
        variable: the environment variable that names another database instead.
    """
    found = functools.cache(functools.partial(_beside, name, variable))
    given = settings.etl_postgres_url is not None
    return lambda: found(settings.required("etl_postgres_url") if given else _embedded_postgres(settings))


def _beside(name: str, variable: str, platform_url: str) -> str:
    """The URL of a database on the platform's server; the database is made if it is not there.

    Raises:
        ConfigurationError: if it is not there and this role may not make it.
    """
    import psycopg
    from psycopg import sql

    with (
        translated(f"look for the database {name}", secret=lambda: platform_url, variable=POSTGRES_URL),
        psycopg.connect(platform_url, autocommit=True) as connection,
    ):
        if not _has_database(connection, name):
            try:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                pass  # another process was faster, or is at it in this moment
            except psycopg.errors.InsufficientPrivilege:
                raise ConfigurationError(
                    f"there is no database {name} beside the platform's, and its role may not make one:"
                    f" set {variable} to a database that is there"
                ) from None
    return _url_beside(platform_url, name)


def standing_beside(platform_url: str, name: str) -> str | None:
    """The URL of a database on the platform's server; None if there is none of this name. Makes nothing."""
    import psycopg

    with (
        translated(f"look for the database {name}", secret=lambda: platform_url, variable=POSTGRES_URL),
        psycopg.connect(platform_url, autocommit=True, connect_timeout=10) as connection,
    ):
        return _url_beside(platform_url, name) if _has_database(connection, name) else None


def _has_database(connection: "psycopg.Connection[Any]", name: str) -> bool:
    return connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is not None


def _url_beside(platform_url: str, name: str) -> str:
    return urlunsplit(urlsplit(platform_url)._replace(path=f"/{name}"))


def _embedded_broker(settings: Settings) -> str:
    from etl_assets.core.embedded import EmbeddedBroker

    return EmbeddedBroker(settings.etl_data_dir).acquire()
