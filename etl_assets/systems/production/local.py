"""The production system on one machine: its simulated source, its run in the demo, and what the doctor looks at."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import typer

from etl_assets.systems.production.settings import ProductionSettings


@contextlib.contextmanager
def simulated(settings: ProductionSettings) -> Iterator[dict[str, str]]:
    """The two simulated streams; gives the variables that name them."""
    from etl_assets.simulators.server import serve
    from etl_assets.systems.production.simulator import ProductionSimulator

    simulator = ProductionSimulator(settings.production_metrics_file, settings.production_workorders_file)
    with serve(simulator.app) as url:
        yield {"PRODUCTION_API_URL": url}


def simulate(
    host: str = typer.Option("127.0.0.1", help="Address to listen on."),
    port: int = typer.Option(8002, help="Port to listen on; 0 takes a free one."),
    metrics: Path | None = typer.Option(None, help="File of readings; default: PRODUCTION_METRICS_FILE."),
    workorders: Path | None = typer.Option(None, help="File of work orders; default: PRODUCTION_WORKORDERS_FILE."),
    source: str | None = typer.Option(None, help="Identity of what is streamed; default: by its content."),
) -> None:
    """The two production streams, over files or generated."""
    from etl_assets.simulators.server import serve_in_foreground
    from etl_assets.systems.production.simulator import ProductionSimulator

    settings = ProductionSettings.load()
    simulator = ProductionSimulator(
        metrics or settings.production_metrics_file,
        workorders or settings.production_workorders_file,
        source=source,
    )
    serve_in_foreground(simulator.app, f"production streams of {simulator.source}", host=host, port=port)


def demo_runs(settings: ProductionSettings) -> dict[str, dict[str, str]]:
    """By job, the tags that say which partitions its run of the demo is for."""
    return {"production_job": {}}


def _api(settings: ProductionSettings) -> str:
    from etl_assets.core.sources.http.client import Limits
    from etl_assets.systems.production.contracts import STREAMS
    from etl_assets.systems.production.source import ProductionApi

    api, sources = ProductionApi.from_settings(settings, limits=Limits(read_timeout_s=20, deadline_s=20)), {}
    for stream in STREAMS:
        with api.records(stream.name, after=0, follow=False) as records:
            # What is a page and no stream shows in its first bytes.
            next(iter(records), b"")
            sources[stream.name] = records.source or "a source without a name"
    return ", ".join(f"{name} from {source}" for name, source in sources.items())


def _backlog(settings: ProductionSettings) -> str:
    from etl_assets.core.servers import NOT_RUNNING, standing_broker
    from etl_assets.core.sources.streams.broker import Broker
    from etl_assets.systems.production.contracts import STREAMS

    url = standing_broker(settings)
    if url is None:
        return NOT_RUNNING
    broker = Broker(url)
    try:
        return "holds " + ", ".join(f"{broker.held(stream.name):,} records of {stream.name}" for stream in STREAMS)
    finally:
        broker.close()


CHECKS = {"production API": _api, "production backlog": _backlog}
