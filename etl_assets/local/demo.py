"""The demo: every asset materialised from simulated sources, and the Dagster UI over it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from etl_assets.core import registry
from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.local import background as local
from etl_assets.settings import Settings, load_settings, simulated_sources

if TYPE_CHECKING:
    import dagster as dg

SIMULATE = typer.Option(False, "--simulate", help="Write simulated data even to the database of ETL_POSTGRES_URL.")


QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("demo")(demo_command)
    app.command("dev")(dev_command)


@dataclass(frozen=True)
class Row:
    """A line of the demo's table."""

    asset: str
    rows: int
    seconds: float
    where: str


def demo_command(simulate: bool = SIMULATE) -> None:
    """Materialise every asset from simulated sources, print what came of it, and stop everything again."""
    with demo_servers(simulate=simulate) as settings:
        print_table(materialise_everything(settings))


def dev_command(
    simulate: bool = SIMULATE,
    port: int = typer.Option(3000, help="Port of the Dagster UI."),
    host: str = typer.Option("127.0.0.1", help="Address of the Dagster UI."),
) -> None:
    """The demo, then the Dagster UI and the gateway until Ctrl-C."""
    with demo_servers(simulate=simulate) as settings:
        print_table(materialise_everything(settings))
        print(f"\nDagster UI: http://{host}:{port}  (Ctrl-C ends it)", flush=True)
        home = local.dagster_home(settings)
        workspace = Path(__file__).resolve().parent.parent.parent / "workspace.yaml"
        where = ["-w", str(workspace)] if workspace.is_file() else ["-m", "etl_assets"]
        command = [str(Path(sys.executable).parent / "dagster"), "dev", *where, "-h", host, "-p", str(port)]
        environment = {**os.environ, "DAGSTER_HOME": str(home), "ETL_DATA_DIR": str(settings.etl_data_dir)}
        dagster = subprocess.Popen(command, env=environment, cwd=home)
        with _gateway({**environment, "DAGSTER_GRAPHQL_URL": f"http://{host}:{port}/graphql"}):
            # Told to end by somebody else than Ctrl-C, the UI has not heard of it.
            signal.signal(signal.SIGTERM, lambda *_: dagster.send_signal(signal.SIGINT))
            try:
                code = dagster.wait()
            except KeyboardInterrupt:
                code = _ended(dagster)
        if code not in (0, -2, 130):
            raise PlatformError(f"`dagster dev` ended with exit code {code}")


@contextlib.contextmanager
def _gateway(environment: dict[str, str]) -> Iterator[None]:
    """The gateway beside the UI, over the same Dagster."""
    process = subprocess.Popen([sys.executable, "-m", "etl_assets.cli", "gateway"], env=environment)
    try:
        yield
    finally:
        process.terminate()
        _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that got the same Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        process.wait(timeout=30)
    if process.poll() is None:
        process.terminate()
        process.wait(timeout=10)
    return 0


@contextlib.contextmanager
def demo_servers(*, simulate: bool) -> Iterator[Settings]:
    """The local servers, stopped at the end if they were not running before.

    Raises:
        ConfigurationError: if simulated data would go to a database given by URL without `--simulate`.
    """
    given = load_settings()
    if os.environ.get("ETL_POSTGRES_URL") and not simulate:
        raise ConfigurationError(
            "the demo writes simulated data and ETL_POSTGRES_URL names a database: unset it, or add --simulate"
        )
    os.environ["ETL_DATA_DIR"] = str(given.etl_data_dir)
    started = local.ensure_up(given)
    try:
        if simulate:
            os.environ.update(simulated_sources(given))
        yield load_settings()
    finally:
        if started:
            local.stop(given)


def materialise_everything(settings: Settings) -> list[Row]:
    """Run the job of every system once.

    Raises:
        PlatformError: if a run fails; names the steps.
    """
    import dagster as dg

    import etl_assets

    definitions = etl_assets.defs()
    os.environ["DAGSTER_HOME"] = str(local.dagster_home(settings))
    rows: list[Row] = []
    with dg.DagsterInstance.get() as instance:
        for job, tags in demo_runs(settings).items():
            result = definitions.resolve_job_def(job).execute_in_process(
                instance=instance, tags=tags, run_config=QUIET, raise_on_error=False
            )
            if not result.success:
                failed = [event.step_key for event in result.all_events if event.is_step_failure]
                raise PlatformError(
                    f"{job} failed in {', '.join(map(str, failed))}: see {local.dagster_home(settings)}"
                )
            rows += table_of(result.get_asset_materialization_events())
    return rows


def demo_runs(settings: Settings) -> dict[str, dict[str, str]]:
    """By job, the tags that say which partitions its demo run is for."""
    return {
        job: tags
        for system in registry.systems()
        if (runs := system.part("local", "demo_runs"))
        for job, tags in runs(system.settings(settings)).items()
    }


def table_of(events: "list[dg.DagsterEvent]") -> list[Row]:
    """One line per asset, however many partitions it has."""
    rows: dict[str, Row] = {}
    for event in events:
        materialization = event.step_materialization_data.materialization
        metadata: dict[str, Any] = {name: value.value for name, value in materialization.metadata.items()}
        asset = materialization.asset_key.to_user_string()
        before = rows.get(asset)
        # The whole table if the event tells, else the sum of its partitions.
        whole = metadata.get("dagster/row_count")
        so_far = before.rows if before else 0
        rows[asset] = Row(
            asset,
            int(whole if whole is not None else so_far + metadata.get("dagster/partition_row_count", 0)),
            float(metadata.get("seconds", 0.0)) + (before.seconds if before else 0.0),
            str(metadata.get("relation", "")),
        )
    return list(rows.values())


def print_table(rows: list[Row]) -> None:
    """What was materialised, how many rows it has, how long the write took, and where it is."""
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("asset", "rows", "seconds", Column("where", overflow="fold"), title="Materialised")
    here = f"{Path.cwd()}/"
    for row in rows:
        table.add_row(row.asset, f"{row.rows:,}", f"{row.seconds:.2f}", row.where.removeprefix(here))
    Console().print(table)
