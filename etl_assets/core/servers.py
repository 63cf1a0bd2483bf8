"""Where the platform's servers are for this process: by URL, or embedded in the data folder."""

import functools
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

from etl_assets.core.database.connections import Database, translated
from etl_assets.core.sources.streams.broker import DEFAULT_PREFIX, Broker
from etl_assets.errors import ConfigurationError
from etl_assets.settings import Settings, load_settings

TARGET = "alvo"


def platform_database(settings: Settings | None = None) -> Database:
    """The platform's database; an embedded server starts when it is first used, and again when it was killed."""
    settings = settings or load_settings()
    if settings.etl_postgres_url is not None:
        return Database(settings.required("etl_postgres_url"), migrate=settings.etl_migrate)
    # Not remembered: a connection after one that was lost asks again, and that is what brings a killed server back.
    return Database(functools.partial(_embedded_postgres, settings), migrate=settings.etl_migrate)


def turbines_target(settings: Settings | None = None) -> Database:
    """The target database of the turbines' statistics; by default one beside the platform's, on the same server."""
    settings = settings or load_settings()
    if settings.turbines_target_url is not None:
        url: str | Callable[[], str] = settings.required("turbines_target_url")
    else:
        url = functools.partial(_target_beside_platform, settings, functools.cache(_beside))
    return Database(url, history="target", migrate=settings.etl_migrate)


def platform_broker(settings: Settings | None = None, *, prefix: str = DEFAULT_PREFIX) -> Broker:
    """The platform's broker; an embedded server starts when it is first used, and again when it was killed."""
    settings = settings or load_settings()
    if settings.etl_broker_url is not None:
        return Broker(settings.required("etl_broker_url"), prefix=prefix)
    return Broker(functools.partial(_embedded_broker, settings), prefix=prefix)


def _embedded_postgres(settings: Settings) -> str:
    from etl_assets.core.embedded import EmbeddedPostgres

    return EmbeddedPostgres(settings.etl_data_dir).acquire()


def _target_beside_platform(settings: Settings, beside: Callable[[str], str]) -> str:
    given = settings.etl_postgres_url is not None
    return beside(settings.required("etl_postgres_url") if given else _embedded_postgres(settings))


def _beside(platform_url: str) -> str:
    """The URL of the target on the platform's server; the database is made if it is not there.

    Raises:
        ConfigurationError: if it is not there and this role may not make it.
    """
    import psycopg
    from psycopg import sql

    with (
        translated("look for the target database", secret=lambda: platform_url),
        psycopg.connect(platform_url, autocommit=True) as connection,
    ):
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (TARGET,)).fetchone() is None:
            try:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(TARGET)))
            except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                pass  # another process was faster, or is at it in this moment
            except psycopg.errors.InsufficientPrivilege:
                raise ConfigurationError(
                    f"there is no database {TARGET} beside the platform's, and its role may not make one:"
                    " set TURBINES_TARGET_URL to the database of the statistics"
                ) from None
    return urlunsplit(urlsplit(platform_url)._replace(path=f"/{TARGET}"))


def _embedded_broker(settings: Settings) -> str:
    from etl_assets.core.embedded import EmbeddedBroker

    return EmbeddedBroker(settings.etl_data_dir).acquire()
