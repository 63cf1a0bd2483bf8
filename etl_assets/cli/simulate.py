"""`etl-assets simulate …`: a simulated source, served in the foreground or as files; for containers and for trying things out."""

import contextlib
import signal
import threading
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import Any

import typer
from pydantic import SecretStr

from etl_assets.errors import ConfigurationError
from etl_assets.settings import load_settings
from etl_assets.systems.experiments.simulator.layouts import LayoutName

app = typer.Typer(no_args_is_help=True)
HOST = typer.Option("127.0.0.1", help="Address to listen on.")


@app.callback()
def simulators() -> None:
    """Simulated sources: an API until Ctrl-C or SIGTERM, or files."""


@app.command()
def outages(host: str = HOST, port: int = typer.Option(8001, help="Port to listen on; 0 takes a free one.")) -> None:
    """The outage API; its key is OUTAGES_API_KEY."""
    from etl_assets.systems.outages.simulator.api import OutagesSimulator

    settings = load_settings()
    key = SecretStr(settings.required("outages_api_key"))
    simulator = OutagesSimulator(sites=settings.outages_sites, api_key=key.get_secret_value())
    _serve(simulator.app, "outage API", host=host, port=port)


@app.command()
def production(
    host: str = HOST,
    port: int = typer.Option(8002, help="Port to listen on; 0 takes a free one."),
    metrics: Path | None = typer.Option(None, help="File of readings; default: PRODUCTION_METRICS_FILE."),
    workorders: Path | None = typer.Option(None, help="File of work orders; default: PRODUCTION_WORKORDERS_FILE."),
    source: str | None = typer.Option(None, help="Identity of what is streamed; default: by its content."),
) -> None:
    """The two production streams, over files or generated."""
    from etl_assets.systems.production.simulator import ProductionSimulator

    settings = load_settings()
    simulator = ProductionSimulator(
        metrics or settings.production_metrics_file,
        workorders or settings.production_workorders_file,
        source=source,
    )
    _serve(simulator.app, f"production streams of {simulator.source}", host=host, port=port)


@app.command()
def experiments(
    folder: Path = typer.Argument(help="Folder to write to; files of these names in it are replaced.", metavar="DIR"),
    users: int = typer.Option(200, min=1, help="Rows of users.csv."),
    experiments: int = typer.Option(2_000, min=1, help="Rows of user_experiments.csv."),
    compounds: int = typer.Option(40, min=1, help="Rows of compounds.csv."),
    seed: int = typer.Option(20231231, min=0, help="The same seed gives the same files."),
    layout: LayoutName = typer.Option(
        "comma-tab-lf", help="Delimiter and line ends; the default is that of real files."
    ),
    faults: bool = typer.Option(False, "--faults", help="Add a row with each kind of fault, and tell where they are."),
) -> None:
    """Write the three CSV files of users, experiments and compounds."""
    from etl_assets.systems.experiments.simulator.files import write_files

    try:
        written = write_files(
            folder,
            users=users,
            experiments=experiments,
            compounds=compounds,
            seed=seed,
            layout=layout,
            faults=faults,
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to {folder} ({error.strerror or error}): give a folder that can be written to"
        ) from None
    for path, rows in ((written.users, users), (written.experiments, experiments), (written.compounds, compounds)):
        print(f"{path}: {rows:,} rows without a fault")
    for fault in written.faults:
        print(f"{fault.file}, line {fault.line}, {fault.column}: {fault.kind}")


@app.command()
def turbines(
    host: str = HOST,
    port: int = typer.Option(8000, help="Port to listen on; 0 takes a free one."),
    database_url: str | None = typer.Option(
        None, help="Source database, filled first if it is not; default: `fonte` of the embedded server."
    ),
    start: datetime | None = typer.Option(
        None, formats=["%Y-%m-%d"], help="First day of the signals; default: TURBINES_START_DATE."
    ),
    days: int = typer.Option(10, min=1, help="Number of days."),
    turbines: str | None = typer.Option(
        None, help="Names, comma-separated; default: TURBINES; none: one turbine without a name."
    ),
) -> None:
    """The API over a source database of 1-minute signals of wind turbines."""
    from etl_assets.core.embedded import EmbeddedPostgres
    from etl_assets.systems.turbines.simulator.api import TurbinesSimulator, fill

    settings = load_settings() if turbines is None else load_settings(turbines=turbines)
    names = settings.turbines
    with contextlib.ExitStack() as stack:
        if database_url is None:
            server = EmbeddedPostgres(settings.etl_data_dir)
            stack.enter_context(server)
            database_url = server.create_database("fonte")
        first = start.date() if start else settings.turbines_start_date
        fill(database_url, start=first, days=days, turbines=names)
        simulator = TurbinesSimulator(database_url, turbines=names)
        _serve(simulator.app, f"signals of {', '.join(names) or 'one turbine'}", host=host, port=port)


@app.command()
def events(
    host: str = HOST,
    port: int = typer.Option(8003, help="Port to listen on; 0 takes a free one."),
    start: datetime | None = typer.Option(
        None, formats=["%Y-%m-%d"], help="First day of the feed; default: yesterday."
    ),
    days: int | None = typer.Option(
        None, min=1, help="Number of days; default: until now, and on, a file every 15 minutes."
    ),
    rows: int = typer.Option(2_000, min=0, help="Events of a file."),
) -> None:
    """The feed of events: its lists and a file for every 15 minutes."""
    from etl_assets.systems.events.simulator.feed import EventsSimulator

    first = datetime.combine((start or datetime.now(UTC) - timedelta(days=1)).date(), time(), UTC)
    simulator = EventsSimulator(first, first + timedelta(days=days) if days else None, rows=rows)
    _serve(simulator.app, f"feed of events from {first:%Y-%m-%d}", host=host, port=port)


def _serve(served: Any, name: str, *, host: str, port: int) -> None:
    """Serves an app until Ctrl-C or SIGTERM."""
    from etl_assets.simulators.server import serve

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with contextlib.ExitStack() as stack:
        try:
            url = stack.enter_context(serve(served, host=host, port=port))
        except OSError as error:
            raise ConfigurationError(f"{error.strerror} by --port") from None
        print(f"{name} on {url}", flush=True)
        ended.wait()
