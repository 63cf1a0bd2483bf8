"""`etl-assets simulate …`: a source's simulator in the foreground, for containers and for trying things out."""

import signal
import threading
from pathlib import Path
from typing import Any

import typer
from pydantic import SecretStr

from etl_assets.settings import load_settings

app = typer.Typer(no_args_is_help=True)
HOST = typer.Option("127.0.0.1", help="Address to listen on.")


@app.callback()
def simulators() -> None:
    """Serve a simulated source until Ctrl-C or SIGTERM."""


@app.command()
def outages(host: str = HOST, port: int = typer.Option(8001, help="Port to listen on; 0 takes a free one.")) -> None:
    """The outage API; its key is OUTAGES_API_KEY."""
    from etl_assets.simulators.outages import OutagesSimulator

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
    from etl_assets.simulators.production import ProductionSimulator

    settings = load_settings()
    simulator = ProductionSimulator(
        metrics or settings.production_metrics_file,
        workorders or settings.production_workorders_file,
        source=source,
    )
    _serve(simulator.app, f"production streams of {simulator.source}", host=host, port=port)


def _serve(served: Any, name: str, *, host: str, port: int) -> None:
    """Serves an app until Ctrl-C or SIGTERM."""
    from etl_assets.simulators.server import serve

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with serve(served, host=host, port=port) as url:
        print(f"{name} on {url}", flush=True)
        ended.wait()
