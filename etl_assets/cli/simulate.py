"""`etl-assets simulate …`: a source's simulator in the foreground, for containers and for trying things out."""

import signal
import threading

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
    from etl_assets.simulators.server import serve

    settings = load_settings()
    key = SecretStr(settings.required("outages_api_key"))
    simulator = OutagesSimulator(sites=settings.outages_sites, api_key=key.get_secret_value())
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with serve(simulator.app, host=host, port=port) as url:
        print(f"outage API on {url}", flush=True)
        ended.wait()
