"""The turbines system on one machine: its simulated source, its run in the demo, and what the doctor looks at."""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta

import typer

from etl_assets.systems.turbines.settings import TurbinesSettings


@contextlib.contextmanager
def simulated(settings: TurbinesSettings) -> Iterator[dict[str, str]]:
    """The simulated API, whose source is a database of the embedded server; gives the variables that name it."""
    from etl_assets.core.embedded import EmbeddedPostgres
    from etl_assets.simulators.server import serve
    from etl_assets.systems.turbines.simulator import DAYS, START, TurbinesSimulator, fill

    server = EmbeddedPostgres(settings.etl_data_dir)
    with server:
        source = server.create_database("fonte")
        fill(source, turbines=settings.turbines)
        with serve(TurbinesSimulator(source, turbines=settings.turbines).app) as url:
            last = START + timedelta(days=DAYS - 1)
            yield {"TURBINES_API_URL": url, "TURBINES_START_DATE": f"{START}", "TURBINES_END_DATE": f"{last}"}


def simulate(
    host: str = typer.Option("127.0.0.1", help="Address to listen on."),
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
    from etl_assets.simulators.server import serve_in_foreground
    from etl_assets.systems.turbines.simulator import TurbinesSimulator, fill

    settings = TurbinesSettings.load() if turbines is None else TurbinesSettings.load(turbines=turbines)
    names = settings.turbines
    with contextlib.ExitStack() as stack:
        if database_url is None:
            server = EmbeddedPostgres(settings.etl_data_dir)
            stack.enter_context(server)
            database_url = server.create_database("fonte")
        first = start.date() if start else settings.turbines_start_date
        fill(database_url, start=first, days=days, turbines=names)
        simulator = TurbinesSimulator(database_url, turbines=names)
        serve_in_foreground(simulator.app, f"signals of {', '.join(names) or 'one turbine'}", host=host, port=port)


def demo_runs(settings: TurbinesSettings) -> dict[str, dict[str, str]]:
    """By job, the tags that say which partitions its run of the demo is for."""
    from etl_assets.core.dagster.automation import partition_range

    first, last = settings.turbines_start_date, settings.turbines_end_date
    return {"turbines_job": partition_range(f"{first}", f"{last or first}")}


def _api(settings: TurbinesSettings) -> str:
    from etl_assets.core.sources.http.client import Limits
    from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS
    from etl_assets.systems.turbines.source import TurbinesApi
    from etl_assets.systems.turbines.transform import midnight

    api = TurbinesApi.from_settings(settings, limits=Limits(read_timeout_s=20, deadline_s=20))
    start, hour = midnight(settings.turbines_start_date), timedelta(hours=1)
    found = {
        turbine or "the only turbine": api.minutes(
            start=start, end=start + hour, columns=DEFAULT_COLUMNS, turbine=turbine
        ).table.num_rows
        for turbine in settings.turbines or ("",)
    }
    return f"rows of the first hour of {start:%Y-%m-%d}: " + ", ".join(f"{name} {n:,}" for name, n in found.items())


def _target(settings: TurbinesSettings) -> str:
    from etl_assets.core.servers import NOT_RUNNING, standing_beside, standing_postgres
    from etl_assets.systems.turbines.databases import TARGET

    if settings.turbines_target_url is not None:
        return _described(settings.required("turbines_target_url"), "by URL", settings)
    platform = standing_postgres(settings)
    if platform is None:
        return NOT_RUNNING
    target = standing_beside(platform, TARGET)
    if target is None:
        return f"there is no database {TARGET} beside the platform's yet: the first load makes it"
    return _described(target, "beside the platform's", settings)


def _described(url: str, kind: str, settings: TurbinesSettings) -> str:
    from etl_assets.core.database.connections import Database

    return Database(url, name="target", migrate=settings.etl_migrate).described(kind)


CHECKS = {"turbines API": _api, "target database": _target}
