"""`etl-assets doctor`: looks, and makes nothing: no server is started, no folder made, no migration run, nothing posted."""

import errno
import functools
import os
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import typer

from etl_assets.core import registry
from etl_assets.core.results import Ended, with_json
from etl_assets.errors import PlatformError
from etl_assets.local.background import CONFIGURATION, dagster_home
from etl_assets.redaction import public_url
from etl_assets.settings import Settings, load_settings

# Below this a database or a file may fail to be written at any moment.
LEAST_FREE_BYTES = 500_000_000
WEBHOOK_TIMEOUT_S = 5.0
DAGSTER_POSTGRES = "DAGSTER_POSTGRES_URL"

Check = Callable[[Settings], str]


@with_json
def doctor(
    systems: list[str] = typer.Argument(
        None, help="Only the checks of these systems and of what all need; by default of all.", metavar="[SYSTEM...]"
    ),
) -> object:
    """Look whether everything that the platform needs is there, and say what to do where it is not. Starts and makes nothing."""
    settings = load_settings()
    checks: dict[str, Check] = {
        "settings": lambda s: f"data in {s.etl_data_dir}, parquet in {public_url(s.storage_url)}",
        "systems": lambda _: _systems(),
        "data folder": lambda s: usable_folder(s.etl_data_dir, "ETL_DATA_DIR"),
        "parquet folder": _parquet,
        "database": _database,
        "broker": _broker,
        "Dagster's database": _dagster,
        "alert webhook": _webhook,
    }
    for system in _chosen(systems):
        for name, check in system.part("local", "CHECKS", {}).items():
            checks[name] = functools.partial(_of_system, system, check)
    looked = [_looked(name, check, settings) for name, check in checks.items()]
    result = {"checks": looked}
    if not all(one["ok"] for one in looked):
        raise Ended(1, result)
    return result


def _chosen(names: list[str] | None) -> list[registry.System]:
    known = {system.name: system for system in registry.systems()}
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"there is no system {name!r}: there are {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def _looked(name: str, check: Check, settings: Settings) -> dict[str, object]:
    """Run a check and print its line."""
    try:
        ok, said = True, check(settings)
    except PlatformError as error:
        ok, said = False, str(error)
    print(f"{'ok    ' if ok else 'failed'}  {name}: {said}")
    return {"name": name, "ok": ok, "said": said}


def _of_system(system: registry.System, check: Check, settings: Settings) -> str:
    return check(system.settings(settings))


def _systems() -> str:
    if registry.faults():
        raise PlatformError("; ".join(registry.faults()))
    return ", ".join(system.name for system in registry.systems())


def usable_folder(folder: Path, variable: str) -> str:
    """Whether a folder can be written to and has room, or can be made.

    Raises:
        PlatformError: if not; names the variable that chooses another one.
    """
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not there.is_dir():
        raise PlatformError(f"{there} is a file: set {variable} to a folder")
    if refusal := _refusal(there):
        raise PlatformError(
            f"{there} cannot be written to ({refusal}): let this user write there, or set {variable} to another"
        )
    free = shutil.disk_usage(there).free
    if free < LEAST_FREE_BYTES:
        raise PlatformError(
            f"the disk of {there} is full ({free / 1e9:.1f} GB are free): make room, or set {variable} to another"
        )
    made = "" if there == folder else ", made by the first command that needs it"
    return f"{folder}{made}, {free / 1e9:,.0f} GB free"


def _refusal(folder: Path) -> str | None:
    """Why no file can be made in a folder; tried with one that never has a name, where the system knows such."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600))
    except (AttributeError, OSError) as error:
        number = getattr(error, "errno", None)
        if number not in (None, errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return os.strerror(number)
        return None if os.access(folder, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    return None


def _parquet(settings: Settings) -> str:
    from etl_assets.core.slices.files import ParquetRoot, is_local

    filesystem, path = ParquetRoot(settings.storage_url).filesystem()
    if is_local(filesystem):
        return usable_folder(Path(path), "ETL_STORAGE_URL" if settings.etl_storage_url else "ETL_DATA_DIR")
    return f"{public_url(settings.storage_url)}, not of this machine: the first write tells"


def _database(settings: Settings) -> str:
    from etl_assets.core.database.connections import Database
    from etl_assets.core.servers import NOT_RUNNING, POSTGRES_URL, standing_postgres

    url = standing_postgres(settings)
    if url is None:
        return NOT_RUNNING
    kind = "embedded" if settings.etl_postgres_url is None else "by URL"
    variable = POSTGRES_URL if settings.etl_postgres_url else None
    return Database(url, migrate=settings.etl_migrate, variable=variable).described(kind)


def _broker(settings: Settings) -> str:
    from etl_assets.core.servers import NOT_RUNNING, standing_broker

    url = standing_broker(settings)
    if url is None:
        return NOT_RUNNING
    return _ping(url) + (" (embedded)" if settings.etl_broker_url is None else " (by URL)")


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


def _dagster(settings: Settings) -> str:
    """Where Dagster keeps its runs: the database of its URL, or files in its home."""
    import psycopg

    from etl_assets.core.database.connections import translated

    if given_url := os.environ.get(DAGSTER_POSTGRES):
        url = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", given_url)
        with (
            translated(f"use the database of {DAGSTER_POSTGRES}", secret=lambda: url),
            psycopg.connect(url, connect_timeout=10) as connection,
        ):
            row = connection.execute("SELECT to_regclass('event_logs') IS NULL").fetchone()
        return f"{DAGSTER_POSTGRES} answers" + (
            "; Dagster makes its tables at its first start" if row == (True,) else ""
        )
    given = os.environ.get("DAGSTER_HOME")
    home = Path(given) if given else dagster_home(settings)
    if (home / CONFIGURATION).is_file():
        return f"files in {usable_folder(home, 'DAGSTER_HOME')}"
    if given:
        raise PlatformError(f"DAGSTER_HOME ({home}) has no {CONFIGURATION}: unset it, or set it to a home of Dagster")
    return f"{home} is not there yet: `etl-assets up` makes it"


def _webhook(settings: Settings) -> str:
    """Whether the webhook's host answers; its URL is a secret, and nothing is posted."""
    variable = "ETL_ALERT_WEBHOOK_URL"
    if settings.etl_alert_webhook_url is None:
        return f"{variable} is not set: alerts go to the log alone"
    url = settings.etl_alert_webhook_url.get_secret_value()
    try:
        if not url.startswith(("http://", "https://")):
            raise PlatformError(f"{variable} is no http or https URL: set it to that of the webhook")
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=WEBHOOK_TIMEOUT_S):
            pass
    except urllib.error.HTTPError as error:
        # Most webhooks take nothing but a POST: the host is there.
        error.close()
        if error.code in (404, 410):
            raise PlatformError(
                f"the host of {variable} knows no such webhook (HTTP {error.code}): ask its owner"
            ) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        kind = reason.strerror if isinstance(reason, OSError) and reason.strerror else type(reason).__name__
        if isinstance(reason, ssl.SSLError):
            kind = "its certificate is not trusted"
        raise PlatformError(
            f"{variable} cannot be reached ({kind}): see whether it is right, and the way to its host"
        ) from None
    return "its host answers; nothing was posted"
