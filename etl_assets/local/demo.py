"""The demo: every asset materialised from simulated sources, and the Dagster UI over it."""

import contextlib
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from etl_assets.core import registry
from etl_assets.core.embedded.supervisor import child
from etl_assets.core.progress import progress
from etl_assets.core.results import with_json
from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.local import background as local
from etl_assets.settings import Settings, load_settings, simulated_sources

if TYPE_CHECKING:
    import dagster as dg

SIMULATE = typer.Option(False, "--simulate", help="Write simulated data even to the database of ETL_POSTGRES_URL.")
POLL_S = 0.2
POLL_TIMEOUT_S = 5.0
ETL_ASSETS = [sys.executable, "-m", "etl_assets.cli"]
QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


@dataclass(frozen=True)
class Row:
    """A line of the demo's table."""

    asset: str
    rows: int
    seconds: float
    where: str


@with_json
def demo_command(simulate: bool = SIMULATE) -> object:
    """Materialise every asset from simulated sources, print what came of it, and stop everything again."""
    print("starting a database, a broker and the simulated sources …", file=sys.stderr)
    with demo_servers(simulate=simulate) as settings:
        rows = materialise_everything(settings)
        print_table(rows)
        print_next_steps(settings)
    return {"assets": rows}


def dev_command(
    simulate: bool = SIMULATE,
    port: int = typer.Option(3000, min=1, max=65535, help="Port of the Dagster UI."),
    host: str = typer.Option("127.0.0.1", help="Address of the Dagster UI."),
    gateway_port: int | None = typer.Option(None, help="Port of the gateway instead of ETL_GATEWAY_PORT."),
) -> None:
    """The demo, then the Dagster UI and the gateway until Ctrl-C."""
    if gateway_port is None:
        gateway_port = load_settings().etl_gateway_port
    _require_free(host, port, "--port")
    _require_free("127.0.0.1", gateway_port, "--gateway-port", taken=port)
    _interrupt_at_signals()
    with demo_servers(simulate=simulate) as settings:
        # In a process of its own, so that a signal ends it wherever it is.
        with child([*ETL_ASSETS, "demo", *(["--simulate"] if simulate else [])]) as demo:
            code = demo.wait()
        if code:
            raise typer.Exit(code)
        home, url = local.dagster_home(settings), f"http://{host}:{port}"
        workspace = Path(__file__).resolve().parent.parent.parent / "workspace.yaml"
        where = ["-w", str(workspace)] if workspace.is_file() else ["-m", "etl_assets"]
        dagster = [str(Path(sys.executable).parent / "dagster"), "dev", *where, "-h", host, "-p", f"{port}"]
        os.environ["DAGSTER_HOME"] = str(home)
        with (
            child(dagster, cwd=home) as ui,
            child(
                [*ETL_ASSETS, "gateway", "--port", f"{gateway_port}"],
                env={**os.environ, "DAGSTER_GRAPHQL_URL": f"{url}/graphql"},
            ),
        ):
            code = 0
            with contextlib.suppress(KeyboardInterrupt):
                _wait_for_answer(ui, f"{url}/server_info")
                if ui.poll() is None:
                    print(f"\nDagster UI: {url}  (Ctrl-C ends it)", flush=True)
                code = ui.wait()
        if code:
            raise PlatformError(f"`dagster dev` ended with exit code {code}")


def _interrupt_at_signals() -> None:
    """Let the first signal that asks for the end, also one that a shell has ignored in the background, be a Ctrl-C.

    Further ones would cut off what ends the processes.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> None:
        for number in signals:
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    for number in signals:
        signal.signal(number, interrupt)


def _require_free(host: str, port: int, option: str, taken: int | None = None) -> None:
    """Refuse a port on which nothing can be served.

    Raises:
        ConfigurationError: names the option that chooses another one.
    """
    try:
        if port == taken:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            probe.bind((host, port))
    except OSError as error:
        raise ConfigurationError(
            f"cannot serve on {host}:{port} ({error.strerror}): choose another port by {option}"
        ) from error


def _wait_for_answer(process: "subprocess.Popen[bytes]", url: str) -> None:
    """Until a URL answers or the process that serves it has ended."""
    import requests

    with requests.Session() as session:
        session.trust_env = False  # no proxy for what runs here
        while process.poll() is None:
            with contextlib.suppress(requests.RequestException):
                if session.get(url, timeout=POLL_TIMEOUT_S).ok:
                    return
            time.sleep(POLL_S)


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
    servers = local.LocalServers(given.etl_data_dir)
    ran_before = servers.running()
    try:
        with servers:
            if simulate:
                os.environ.update(simulated_sources(given))
            yield load_settings()
    finally:
        if not ran_before:
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
        for job, tags in progress(demo_runs(settings).items(), of="job", name=lambda job: job[0]):
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
    """What was materialised, how many rows it has, how long the write took, and where it is: a path stays on its line, to be copied."""
    here = f"{Path.cwd()}/"
    cells = [("asset", "rows", "seconds", "where")]
    cells += [(row.asset, f"{row.rows:,}", f"{row.seconds:.2f}", row.where.removeprefix(here)) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    for asset, count, seconds, where in cells:
        print(f"{asset:<{widths[0]}}  {count:>{widths[1]}}  {seconds:>{widths[2]}}  {where}".rstrip())


def print_next_steps(settings: Settings) -> None:
    """What there is to look at now, as links that a terminal opens, and what to do next."""
    print("\nto look at:")
    for folder in sorted(settings.reports_dir.glob("*/")):
        pages = [folder / "latest.html"] if (folder / "latest.html").exists() else sorted(folder.rglob("*.html"))[-1:]
        print(*(f"  {page.as_uri()}" for page in pages), sep="\n")
    command = "etl-assets" if shutil.which("etl-assets") else str(Path(sys.executable).with_name("etl-assets"))
    print("next:")
    for what, why in (
        ("dev", "the same with Dagster's UI and the gateway, until Ctrl-C"),
        ("up", "database, broker and simulated sources in the background, for commands of your own"),
        ("quarantine list", "rows that broke their contract, and why"),
        ("doctor", "what your own sources need"),
    ):
        print(f"  {command} {what:<16} {why}")
