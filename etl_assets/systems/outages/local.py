"""The outages system on one machine: its simulated source, its run in the demo, and what the doctor looks at."""

import contextlib
from collections.abc import Iterator

import typer
from pydantic import SecretStr

from etl_assets.systems.outages.settings import OutagesSettings


@contextlib.contextmanager
def simulated(settings: OutagesSettings) -> Iterator[dict[str, str]]:
    """The simulated outage API; gives the variables that name it."""
    from etl_assets.simulators.server import serve
    from etl_assets.systems.outages.simulator import OutagesSimulator

    simulator = OutagesSimulator(sites=settings.outages_sites)
    with serve(simulator.app) as url:
        yield {"OUTAGES_API_URL": url, "OUTAGES_API_KEY": simulator.api_key}


def simulate(
    host: str = typer.Option("127.0.0.1", help="Address to listen on."),
    port: int = typer.Option(8001, help="Port to listen on; 0 takes a free one."),
) -> None:
    """The outage API; its key is OUTAGES_API_KEY."""
    from etl_assets.simulators.server import serve_in_foreground
    from etl_assets.systems.outages.simulator import OutagesSimulator

    settings = OutagesSettings.load()
    key = SecretStr(settings.required("outages_api_key"))
    simulator = OutagesSimulator(sites=settings.outages_sites, api_key=key.get_secret_value())
    serve_in_foreground(simulator.app, "outage API", host=host, port=port)


def partitions(settings: OutagesSettings) -> dict[str, list[str]]:
    """By name, the dynamic partitions that the local instance begins with."""
    return {"outages_sites": list(settings.outages_sites)}


def demo_runs(settings: OutagesSettings) -> dict[str, dict[str, str]]:
    """By job, the tags that say which partitions its run of the demo is for."""
    from etl_assets.core.dagster.automation import partition_range

    return {"outages_job": partition_range(settings.outages_sites[0], settings.outages_sites[-1])}


def _api(settings: OutagesSettings) -> str:
    from etl_assets.core.sources.http.client import Limits
    from etl_assets.systems.outages.source import OutagesApi

    api = OutagesApi.from_settings(settings, limits=Limits(deadline_s=20))
    return f"{len(api.outages())} outages"


CHECKS = {"outages API": _api}
