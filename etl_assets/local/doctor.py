"""`etl-assets doctor`."""

import functools
from collections.abc import Callable

import typer

from etl_assets.core import registry
from etl_assets.errors import PlatformError
from etl_assets.redaction import public_url
from etl_assets.settings import Settings, load_settings


def doctor() -> None:
    """Look whether everything that the platform needs is there, and say what to do where it is not."""
    settings = load_settings()
    checks: dict[str, Callable[[Settings], str]] = {
        "settings": lambda s: f"data in {s.etl_data_dir}, parquet in {public_url(s.storage_url)}",
        "systems": lambda _: _systems(),
        "database": _database,
        "broker": _broker,
    }
    for system in registry.systems():
        for name, check in system.part("local", "CHECKS", {}).items():
            checks[name] = functools.partial(_of_system, system, check)
    failed = 0
    for name, check in checks.items():
        try:
            print(f"ok      {name}: {check(settings)}")
        except PlatformError as error:
            failed += 1
            print(f"failed  {name}: {error}")
    if failed:
        raise typer.Exit(1)


def _of_system(system: registry.System, check: Callable[[Settings], str], settings: Settings) -> str:
    return check(system.settings(settings))


def _systems() -> str:
    if registry.faults():
        raise PlatformError("; ".join(registry.faults()))
    return ", ".join(system.name for system in registry.systems())


def _database(settings: Settings) -> str:
    from etl_assets.core.servers import platform_database

    return platform_database(settings).described("embedded" if settings.etl_postgres_url is None else "by URL")


def _broker(settings: Settings) -> str:
    from etl_assets.core.embedded import EmbeddedBroker

    if settings.etl_broker_url is None:
        with EmbeddedBroker(settings.etl_data_dir) as url:
            return _ping(url) + " (embedded)"
    return _ping(settings.required("etl_broker_url")) + " (by URL)"


def _ping(url: str) -> str:
    import redis

    from etl_assets.core.sources.streams.broker import Broker

    # The first question goes through our own client, whose failures name the variable.
    broker = Broker(url)
    broker.held("doctor")
    broker.close()
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            return f"Redis protocol, version {client.info('server').get('redis_version')}"
    except redis.RedisError as error:
        raise PlatformError(f"the broker does not say its version ({type(error).__name__}): grant it INFO") from None
