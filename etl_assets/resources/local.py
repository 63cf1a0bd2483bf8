"""Where the platform's servers are for this process: by URL, or embedded in the data folder."""

import functools

from etl_assets.resources.database import Database
from etl_assets.resources.streams import DEFAULT_PREFIX, Broker
from etl_assets.settings import Settings, load_settings


def platform_database(settings: Settings | None = None) -> Database:
    """The platform's database; an embedded server starts when it is first used, and again when it was killed."""
    settings = settings or load_settings()
    if settings.etl_postgres_url is not None:
        return Database(settings.required("etl_postgres_url"), migrate=settings.etl_migrate)
    # Not remembered: a connection after one that was lost asks again, and that is what brings a killed server back.
    return Database(functools.partial(_embedded_postgres, settings), migrate=settings.etl_migrate)


def platform_broker(settings: Settings | None = None, *, prefix: str = DEFAULT_PREFIX) -> Broker:
    """The platform's broker; an embedded server starts when it is first used, and again when it was killed."""
    settings = settings or load_settings()
    if settings.etl_broker_url is not None:
        return Broker(settings.required("etl_broker_url"), prefix=prefix)
    return Broker(functools.partial(_embedded_broker, settings), prefix=prefix)


def _embedded_postgres(settings: Settings) -> str:
    from etl_assets.resources.embedded import EmbeddedPostgres

    return EmbeddedPostgres(settings.etl_data_dir).acquire()


def _embedded_broker(settings: Settings) -> str:
    from etl_assets.resources.embedded import EmbeddedBroker

    return EmbeddedBroker(settings.etl_data_dir).acquire()
