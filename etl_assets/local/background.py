"""Local life: the embedded servers and the simulators in the background, and their end.

The simulators run in one process, which also uses the embedded servers and offers all addresses in `local.env`. It holds
a lock for as long as it lives: once it is killed, nobody believes its `local.env` any more. It is started, counted and
ended like an embedded server: it ends after its last user, also when that one was killed. `up` is a user that stays.
"""

import contextlib
import fcntl
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import typer

from etl_assets.core import registry
from etl_assets.core.embedded.files import add_reference
from etl_assets.core.embedded.server import EmbeddedServer, Launch
from etl_assets.core.results import with_json
from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.settings import LOCAL_ENV, LOCAL_LOCK, Settings, load_settings, local_servers_live, read_local_env

# A look at the lock takes no time; a process that is stopped in the midst of one may take some.
LOOK_S = 5.0
CONFIGURATION = "dagster.yaml"


class LocalServers(EmbeddedServer):
    """The process of the simulators, which uses the embedded servers as well; `acquire` gives the path of `local.env`."""

    name: ClassVar[str] = "simulators"
    stop_steps: ClassVar[list[tuple[str, float]]] = [("SIGTERM", 30.0)]
    start_attempts: ClassVar[int] = 1

    def __init__(self, data_dir: Path, *, options: tuple[str, ...] = ()) -> None:
        super().__init__(data_dir)
        self._options = options

    def _url(self) -> str:
        return str(self.data_dir / LOCAL_ENV)

    def _answers(self) -> bool:
        return local_servers_live(self.data_dir) and (self.data_dir / LOCAL_ENV).is_file()

    def _prepare(self) -> Launch:
        (self.data_dir / LOCAL_ENV).unlink(missing_ok=True)
        return Launch(
            argv=[sys.executable, "-m", "etl_assets.cli", "supervise", *self._options],
            cwd=self.data_dir,
            environment={**os.environ, "ETL_DATA_DIR": str(self.data_dir)},
        )

    def _processes(self) -> set[int]:
        if not local_servers_live(self.data_dir):
            return set()
        with contextlib.suppress(ValueError):
            return {int((self.data_dir / LOCAL_LOCK).read_text())}
        return set()

    def _working_folder(self) -> Path:
        return self.data_dir

    def _delete_files(self) -> None:
        (self.data_dir / LOCAL_ENV).unlink(missing_ok=True)


@with_json
def up() -> object:
    """Start the embedded servers and the simulators in the background; no simulators where ETL_POSTGRES_URL names a database."""
    settings = load_settings()
    # Simulated data have no place in a database that somebody has named.
    simulated = not os.environ.get("ETL_POSTGRES_URL")
    options = ("--stay",) if simulated else ("--stay", "--without-simulators")
    servers = LocalServers(settings.etl_data_dir, options=options)
    ended = _ended(settings.etl_data_dir) if servers.running() else []
    if ended:
        # Another would have another address than the simulators know.
        stop(settings)
    started = f"started again, since {' and '.join(ended)} had ended" if ended else "started"
    said = "already running" if servers.running() else started
    with servers:
        pass  # they stay, since they use themselves
    print(said, f"(data in {settings.etl_data_dir}, stop with `make down`)")
    offered = list(read_local_env(settings.etl_data_dir))
    for name in offered:
        print(f"  {name} is in {settings.etl_data_dir / LOCAL_ENV}")
    if not simulated:
        print("no simulators, since ETL_POSTGRES_URL names a database: sources are those of your settings")
    print(f"\n  export DAGSTER_HOME={shlex.quote(str(dagster_home(settings)))}")
    return {"data_dir": settings.etl_data_dir, "offered": offered, "dagster_home": dagster_home(settings)}


def _ended(data_dir: Path) -> list[str]:
    """The embedded servers that the simulators use and of which the process has gone."""
    from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres

    used = {"ETL_POSTGRES_URL": EmbeddedPostgres(data_dir), "ETL_BROKER_URL": EmbeddedBroker(data_dir)}
    return [used[name].name for name in used.keys() & read_local_env(data_dir) if not used[name].lives()]


@with_json
def down(
    purge: bool = typer.Option(False, "--purge", help="Delete the local database and broker as well."),
) -> object:
    """Stop the embedded servers and the simulators, whoever uses them."""
    settings = load_settings()
    stopped = stop(settings)
    if purge:
        from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres

        EmbeddedPostgres(settings.etl_data_dir).purge()
        EmbeddedBroker(settings.etl_data_dir).purge()
    print(("stopped" if stopped else "nothing was running") + (", local database and broker deleted" if purge else ""))
    return {"stopped": stopped, "deleted": purge}


def dagster_home(settings: Settings) -> Path:
    """The DAGSTER_HOME of every local command.

    Raises:
        ConfigurationError: if Dagster would keep its runs somewhere else.
    """
    home = settings.etl_data_dir / "dagster"
    if "?" in str(home):
        raise ConfigurationError(
            f"Dagster cuts the path of its SQLite files, {home}, at the question mark: set ETL_DATA_DIR to a path without one"
        )
    return home


def prepare_home(settings: Settings) -> Path:
    """Make the home with its `dagster.yaml`, which needs no environment."""
    home = dagster_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    package = Path(__file__).resolve().parent.parent
    shipped = next(f / CONFIGURATION for f in (package, package.parent) if (f / CONFIGURATION).is_file())
    shutil.copyfile(shipped, home / CONFIGURATION)
    return home


def stop(settings: Settings) -> bool:
    """End the simulators and the servers; returns whether anything was running."""
    from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres

    ended = [kind(settings.etl_data_dir).stop() for kind in (LocalServers, EmbeddedPostgres, EmbeddedBroker)]
    return any(ended)


def supervise(
    stay: bool = typer.Option(False, "--stay", help="Be a user of yourself: end only when told to."),
    without_simulators: bool = typer.Option(False, "--without-simulators", help="Run the embedded servers alone."),
) -> None:
    """Run the simulators until told to end (started by `up` and `demo`)."""
    settings = load_settings()
    if stay:
        add_reference(LocalServers(settings.etl_data_dir)._file("users"))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_process(settings.etl_data_dir))
        prepare_home(settings)
        offered = stack.enter_context(_servers(settings, () if without_simulators else registry.systems()))
        register_partitions(settings)
        _offer(settings.etl_data_dir / LOCAL_ENV, offered)
        try:
            ended.wait()
        finally:
            (settings.etl_data_dir / LOCAL_ENV).unlink(missing_ok=True)


@contextlib.contextmanager
def _only_process(data_dir: Path) -> Iterator[None]:
    until = time.monotonic() + LOOK_S
    with (data_dir / LOCAL_LOCK).open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # It may be somebody who only looks whether there is one.
                if time.monotonic() > until:
                    raise PlatformError("another process holds the local servers") from None
                time.sleep(0.01)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def _servers(settings: Settings, simulated_systems: Sequence[registry.System]) -> Iterator[dict[str, str]]:
    """Servers, and the simulators of systems; gives the variables that name them."""
    from etl_assets.core.database.connections import Database
    from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres

    with contextlib.ExitStack() as stack:
        offered: dict[str, str] = {}
        if settings.etl_postgres_url is None:
            offered["ETL_POSTGRES_URL"] = stack.enter_context(EmbeddedPostgres(settings.etl_data_dir))
            Database(offered["ETL_POSTGRES_URL"]).prepare()
        if settings.etl_broker_url is None:
            offered["ETL_BROKER_URL"] = stack.enter_context(EmbeddedBroker(settings.etl_data_dir))
        for system in simulated_systems:
            if simulated := system.part("local", "simulated"):
                offered.update(stack.enter_context(simulated(system.settings(settings))))
        yield offered


def register_partitions(settings: Settings) -> None:
    """Add the partitions of the demo to the local instance."""
    import dagster as dg

    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        for system in registry.systems():
            if partitions := system.part("local", "partitions"):
                for name, keys in partitions(system.settings(settings)).items():
                    instance.add_dynamic_partitions(name, keys)


def _offer(path: Path, variables: dict[str, str]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.touch(mode=0o600)
    temporary.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    temporary.replace(path)
