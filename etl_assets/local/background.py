"""Local life: the embedded servers and the simulators in the background, and their end.

`up` leaves one process behind, the supervisor. It holds a lock for as long as it lives, keeps the servers leased, runs the
simulators, and offers their addresses in `local.env`. Killed, it takes the simulators with it, the servers stop after
their last user, and nobody believes its `local.env` any more.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer

from etl_assets.errors import PlatformError
from etl_assets.settings import LOCAL_ENV, LOCAL_LOCK, Settings, load_settings, local_servers_live, read_local_env

START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 30
# A look at the lock takes no time; a process that is stopped in the midst of one may take some.
LOOK_S = 5.0
SUPERVISOR_LOG = "local.log"
CONFIGURATION = "dagster.yaml"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(up)
    app.command()(down)
    app.command(hidden=True)(supervise)


def up() -> None:
    """Start the embedded servers and the simulators in the background."""
    settings = load_settings()
    started = ensure_up(settings)
    print("started" if started else "already running", f"(data in {settings.etl_data_dir}, stop with `make down`)")
    for name in read_local_env(settings.etl_data_dir):
        print(f"  {name} is in {settings.etl_data_dir / LOCAL_ENV}")
    print(f'\n  export DAGSTER_HOME="{dagster_home(settings)}"')


def down(
    purge: bool = typer.Option(False, "--purge", help="Delete the local database and broker as well."),
) -> None:
    """Stop the embedded servers and the simulators, whoever uses them."""
    settings = load_settings()
    stopped = stop(settings)
    if purge:
        from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres

        EmbeddedPostgres(settings.etl_data_dir).purge()
        EmbeddedBroker(settings.etl_data_dir).purge()
    print(("stopped" if stopped else "nothing was running") + (", local database and broker deleted" if purge else ""))


def dagster_home(settings: Settings) -> Path:
    """The DAGSTER_HOME of every local command."""
    return settings.etl_data_dir / "dagster"


def prepare_home(settings: Settings) -> Path:
    """Make the home with its `dagster.yaml`, which needs no environment."""
    home = dagster_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    package = Path(__file__).resolve().parent.parent
    shipped = next(f / CONFIGURATION for f in (package, package.parent) if (f / CONFIGURATION).is_file())
    shutil.copyfile(shipped, home / CONFIGURATION)
    return home


def ensure_up(settings: Settings) -> bool:
    """Start the supervisor unless one lives; returns whether this call started it.

    Raises:
        PlatformError: if it does not come up; with the end of its log.
    """
    data_dir = settings.etl_data_dir
    if local_servers_live(data_dir) and read_local_env(data_dir):
        return False
    data_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        (data_dir / LOCAL_ENV).unlink()
    with (data_dir / SUPERVISOR_LOG).open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "etl_assets.cli", "supervise"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=data_dir,
            env={**os.environ, "ETL_DATA_DIR": str(data_dir)},
        )
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if read_local_env(data_dir):
            return True
        if supervisor.poll() is not None:
            break
        time.sleep(0.05)
    if read_local_env(data_dir):  # another command was faster
        return False
    supervisor.terminate()
    tail = (data_dir / SUPERVISOR_LOG).read_text(errors="replace")[-1500:]
    raise PlatformError(f"the local servers did not come up; the end of {data_dir / SUPERVISOR_LOG}:\n{tail}")


def stop(settings: Settings) -> bool:
    """End the supervisor and the servers; returns whether anything was running."""
    from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres

    data_dir = settings.etl_data_dir
    lived = local_servers_live(data_dir)
    if lived:
        pid = _supervisor(data_dir)
        os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + STOP_TIMEOUT_S
        while local_servers_live(data_dir) or _is_running(pid):
            if time.monotonic() > until:
                raise PlatformError(
                    f"the local servers did not stop within {STOP_TIMEOUT_S} s: see {data_dir / SUPERVISOR_LOG}"
                )
            time.sleep(0.02)
    for server in (EmbeddedPostgres(data_dir), EmbeddedBroker(data_dir)):
        lived = server.stop() or lived
    return lived


def _supervisor(data_dir: Path) -> int:
    """The process that holds the servers; it says so a moment after it has the lock."""
    until = time.monotonic() + LOOK_S
    while not (said := (data_dir / LOCAL_LOCK).read_text()):
        if time.monotonic() > until:
            raise PlatformError(f"{data_dir / LOCAL_LOCK} does not name the process that holds it: look for it by `ps`")
        time.sleep(0.01)
    return int(said)


def _is_running(pid: int) -> bool:
    """Whether a process is there; one that has ended and is a child of ours is taken away."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def supervise() -> None:
    """Hold the local servers until told to end (started by `up`)."""
    settings = load_settings()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with _only_supervisor(settings.etl_data_dir), _servers(settings) as offered:
        prepare_home(settings)
        register_partitions(settings)
        _offer(settings.etl_data_dir / LOCAL_ENV, offered)
        try:
            ended.wait()
        finally:
            (settings.etl_data_dir / LOCAL_ENV).unlink(missing_ok=True)


@contextlib.contextmanager
def _only_supervisor(data_dir: Path) -> Iterator[None]:
    until = time.monotonic() + LOOK_S
    with (data_dir / LOCAL_LOCK).open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # It may be somebody who only looks whether there is a supervisor.
                if time.monotonic() > until:
                    raise PlatformError("another process holds the local servers") from None
                time.sleep(0.01)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def _servers(settings: Settings) -> Iterator[dict[str, str]]:
    """Servers and simulators; gives the variables that name them."""
    from etl_assets.core.database.connections import Database
    from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres

    with contextlib.ExitStack() as stack:
        offered: dict[str, str] = {}
        if settings.etl_postgres_url is None:
            offered["ETL_POSTGRES_URL"] = stack.enter_context(EmbeddedPostgres(settings.etl_data_dir))
            Database(offered["ETL_POSTGRES_URL"]).prepare()
        if settings.etl_broker_url is None:
            offered["ETL_BROKER_URL"] = stack.enter_context(EmbeddedBroker(settings.etl_data_dir))
        offered.update(stack.enter_context(simulators(settings)))
        offered.update(stack.enter_context(simulated_turbines(settings)))
        offered.update(stack.enter_context(simulated_events()))
        yield offered


@contextlib.contextmanager
def simulators(settings: Settings) -> Iterator[dict[str, str]]:
    """The simulators of all sources; gives the variables that name them."""
    from etl_assets.simulators.server import serve
    from etl_assets.systems.experiments.simulator.files import write_files
    from etl_assets.systems.outages.simulator.api import OutagesSimulator
    from etl_assets.systems.production.simulator import ProductionSimulator

    outages = OutagesSimulator(sites=settings.outages_sites)
    production = ProductionSimulator(settings.production_metrics_file, settings.production_workorders_file)
    files = settings.etl_data_dir / "simulated" / "experiments"
    write_files(files, faults=True)
    with serve(outages.app) as outages_url, serve(production.app) as production_url:
        yield {
            "OUTAGES_API_URL": outages_url,
            "OUTAGES_API_KEY": outages.api_key,
            "PRODUCTION_API_URL": production_url,
            "EXPERIMENTS_DIR": str(files),
        }


@contextlib.contextmanager
def simulated_turbines(settings: Settings) -> Iterator[dict[str, str]]:
    """The simulator of the turbines, whose source is a database of the embedded server; gives the variables that name it."""
    from etl_assets.core.embedded import EmbeddedPostgres
    from etl_assets.simulators.server import serve
    from etl_assets.systems.turbines.simulator.api import TurbinesSimulator, fill
    from etl_assets.systems.turbines.simulator.data import DAYS, START

    server = EmbeddedPostgres(settings.etl_data_dir)
    with server:
        source = server.create_database("fonte")
        fill(source, turbines=settings.turbines)
        with serve(TurbinesSimulator(source, turbines=settings.turbines).app) as url:
            last = START + timedelta(days=DAYS - 1)
            yield {"TURBINES_API_URL": url, "TURBINES_START_DATE": f"{START}", "TURBINES_END_DATE": f"{last}"}


@contextlib.contextmanager
def simulated_events() -> Iterator[dict[str, str]]:
    """The simulated feed of events, from yesterday on; gives the variables that name it."""
    from etl_assets.simulators.server import serve
    from etl_assets.systems.events.simulator.feed import EventsSimulator

    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    with serve(EventsSimulator(first).app) as url:
        yield {"EVENTS_FEED_URL": url, "EVENTS_START_DATE": f"{first:%Y-%m-%d}"}


def register_partitions(settings: Settings) -> None:
    """Add the partitions of the demo to the local instance."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        instance.add_dynamic_partitions("outages_sites", list(settings.outages_sites))


def _offer(path: Path, variables: dict[str, str]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    temporary.replace(path)
