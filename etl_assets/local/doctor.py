"""`etl-assets migrate` and `etl-assets doctor`."""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.settings import Settings, load_settings

if TYPE_CHECKING:
    from etl_assets.core.database.connections import Database


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(migrate)
    app.command()(doctor)


def migrate() -> None:
    """Bring the databases to the shape that this version needs."""
    from etl_assets.core.migrations import HEADS
    from etl_assets.core.servers import platform_database, turbines_target

    settings = load_settings().model_copy(update={"etl_migrate": "auto"})
    platform_database(settings).prepare()
    print(f"the platform database is at revision {HEADS['platform']}")
    try:
        turbines_target(settings).prepare()
    except ConfigurationError as error:
        # Whoever has no turbines needs no database of theirs.
        print(f"the target database of the turbines is left out: {error}", file=sys.stderr)
    else:
        print(f"the target database is at revision {HEADS['target']}")


def doctor() -> None:
    """Look whether everything that the platform needs is there, and say what to do where it is not."""
    settings = load_settings()
    checks: dict[str, Callable[[Settings], str]] = {
        "settings": lambda s: f"data in {s.etl_data_dir}, parquet in {s.storage_url}",
        "database": _database,
        "broker": _broker,
        "outages API": _outages,
        "production API": _production,
        "turbines API": _turbines,
        "target database": _target,
        "events feed": _events,
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
    from etl_assets.core.servers import platform_database

    return _server(platform_database(settings), "embedded" if settings.etl_postgres_url is None else "by URL")


def _target(settings: Settings) -> str:
    from etl_assets.core.servers import turbines_target

    kind = "beside the platform's" if settings.turbines_target_url is None else "by URL"
    return _server(turbines_target(settings), kind)


def _server(database: "Database", kind: str) -> str:
    with database.connect() as connection:
        row = connection.execute("SELECT current_setting('server_version'), current_database()").fetchone()
    return f"PostgreSQL {row[0]}, database {row[1]} ({kind})" if row else kind


def _broker(settings: Settings) -> str:
    from etl_assets.core.embedded import EmbeddedBroker

    if settings.etl_broker_url is None:
        with EmbeddedBroker(settings.etl_data_dir) as url:
            return _ping(url) + " (embedded)"
    return _ping(settings.required("etl_broker_url")) + " (by URL)"


def _ping(url: str) -> str:
    import redis

    from etl_assets.core.sources.streams.broker import Broker
    from etl_assets.systems.production.streaming.streams import STREAMS

    broker = Broker(url)
    held = ", ".join(f"{broker.held(stream.name):,} records of {stream.name}" for stream in STREAMS)
    broker.close()
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            return f"Redis protocol, version {client.info('server').get('redis_version')}, holds {held}"
    except redis.RedisError as error:
        raise PlatformError(f"the broker does not say its version ({type(error).__name__}): grant it INFO") from None


def _outages(settings: Settings) -> str:
    from etl_assets.core.sources.http.client import Limits
    from etl_assets.systems.outages.source import OutagesApi

    api = OutagesApi.from_settings(settings, limits=Limits(deadline_s=20))
    return f"{len(api.outages())} outages"


def _production(settings: Settings) -> str:
    from etl_assets.core.sources.http.client import Limits
    from etl_assets.systems.production.api import ProductionApi
    from etl_assets.systems.production.streaming.streams import STREAMS

    api, sources = ProductionApi.from_settings(settings, limits=Limits(read_timeout_s=20, deadline_s=20)), {}
    for stream in STREAMS:
        with api.records(stream.name, after=0, follow=False) as records:
            # What is a page and no stream shows in its first piece.
            next(iter(records), b"")
            sources[stream.name] = records.source or "a source without a name"
    return ", ".join(f"{name} from {source}" for name, source in sources.items())


def _events(settings: Settings) -> str:
    from etl_assets.core.sources.http.client import Limits
    from etl_assets.systems.events.feed.client import EventsFeed

    feed = EventsFeed.from_settings(settings, limits=Limits(read_timeout_s=20, deadline_s=20, max_attempts=2))
    return f"the newest file is {feed.latest().name}"


def _turbines(settings: Settings) -> str:
    from etl_assets.core.sources.http.client import Limits
    from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS
    from etl_assets.systems.turbines.days import midnight
    from etl_assets.systems.turbines.source import TurbinesApi

    api = TurbinesApi.from_settings(settings, limits=Limits(read_timeout_s=20, deadline_s=20))
    start, hour = midnight(settings.turbines_start_date), timedelta(hours=1)
    found = {
        turbine or "the only turbine": api.minutes(
            start=start, end=start + hour, columns=DEFAULT_COLUMNS, turbine=turbine
        ).table.num_rows
        for turbine in settings.turbines or ("",)
    }
    return f"rows of the first hour of {start:%Y-%m-%d}: " + ", ".join(f"{name} {n:,}" for name, n in found.items())
