"""`etl-assets migrate` and `etl-assets doctor`."""

from collections.abc import Callable

import typer

from etl_assets.failures import PlatformError
from etl_assets.settings import Settings, load_settings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(migrate)
    app.command()(doctor)


def migrate() -> None:
    """Bring the database to the shape that this version needs."""
    from etl_assets.migrations import HEADS
    from etl_assets.resources.local import platform_database

    platform_database(load_settings().model_copy(update={"etl_migrate": "auto"})).prepare()
    print(f"the platform database is at revision {HEADS['platform']}")


def doctor() -> None:
    """Look whether everything that the platform needs is there, and say what to do where it is not."""
    settings = load_settings()
    checks: dict[str, Callable[[Settings], str]] = {
        "settings": lambda s: f"data in {s.etl_data_dir}, parquet in {s.storage_url}",
        "database": _database,
        "broker": _broker,
        "outages API": _outages,
        "production API": _production,
    }
    failed = 0
    for name, check in checks.items():
        try:
            print(f"ok      {name}: {check(settings)}")
        except PlatformError as error:
            failed += 1
            print(f"failed  {name}: {error}")
    if failed:
        raise typer.Exit(1)


def _database(settings: Settings) -> str:
    from etl_assets.resources.local import platform_database

    with platform_database(settings).connect() as connection:
        row = connection.execute("SELECT current_setting('server_version'), current_database()").fetchone()
    kind = "embedded" if settings.etl_postgres_url is None else "by URL"
    return f"PostgreSQL {row[0]}, database {row[1]} ({kind})" if row else kind


def _broker(settings: Settings) -> str:
    from etl_assets.resources.embedded import EmbeddedBroker

    if settings.etl_broker_url is None:
        with EmbeddedBroker(settings.etl_data_dir) as url:
            return _ping(url) + " (embedded)"
    return _ping(settings.required("etl_broker_url")) + " (by URL)"


def _ping(url: str) -> str:
    import redis

    from etl_assets.production.streams import STREAMS
    from etl_assets.resources.streams import Broker

    broker = Broker(url)
    held = ", ".join(f"{broker.held(stream.name):,} records of {stream.name}" for stream in STREAMS)
    broker.close()
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            return f"Redis protocol, version {client.info('server').get('redis_version')}, holds {held}"
    except redis.RedisError as error:
        raise PlatformError(f"the broker does not say its version ({type(error).__name__}): grant it INFO") from None


def _outages(settings: Settings) -> str:
    from etl_assets.outages.api import OutagesApi
    from etl_assets.resources.http import Limits

    api = OutagesApi.from_settings(settings, limits=Limits(deadline_s=20))
    return f"{len(api.outages())} outages"


def _production(settings: Settings) -> str:
    from etl_assets.production.api import ProductionApi
    from etl_assets.production.streams import STREAMS
    from etl_assets.resources.http import Limits

    api, sources = ProductionApi.from_settings(settings, limits=Limits(read_timeout_s=20, deadline_s=20)), {}
    for stream in STREAMS:
        with api.records(stream.name, after=0, follow=False) as records:
            # What is a page and no stream shows in its first piece.
            next(iter(records), b"")
            sources[stream.name] = records.source or "a source without a name"
    return ", ".join(f"{name} from {source}" for name, source in sources.items())
