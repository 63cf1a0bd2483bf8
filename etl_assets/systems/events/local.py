"""The events system on one machine: its simulated feed, its run in the demo, and what the doctor looks at."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta

import typer

from etl_assets.systems.events.settings import EventsSettings


@contextlib.contextmanager
def simulated(settings: EventsSettings) -> Iterator[dict[str, str]]:
    """The simulated feed, from yesterday on; gives the variables that name it."""
    from etl_assets.simulators.server import serve
    from etl_assets.systems.events.simulator import EventsSimulator

    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    with serve(EventsSimulator(first).app) as url:
        yield {"EVENTS_FEED_URL": url, "EVENTS_START_DATE": f"{first:%Y-%m-%d}"}


def simulate(
    host: str = typer.Option("127.0.0.1", help="Address to listen on."),
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
    from etl_assets.simulators.server import serve_in_foreground
    from etl_assets.systems.events.simulator import EventsSimulator

    first = datetime.combine((start or datetime.now(UTC) - timedelta(days=1)).date(), time(), UTC)
    simulator = EventsSimulator(first, first + timedelta(days=days) if days else None, rows=rows)
    serve_in_foreground(simulator.app, f"feed of events from {first:%Y-%m-%d}", host=host, port=port)


def demo_runs(settings: EventsSettings) -> dict[str, dict[str, str]]:
    """By job, the tags that say which partitions its run of the demo is for."""
    return {"events_job": {"dagster/partition": f"{settings.events_start_date}"}}


def _feed(settings: EventsSettings) -> str:
    from etl_assets.core.sources.http.client import Limits
    from etl_assets.systems.events.source import EventsFeed

    feed = EventsFeed.from_settings(settings, limits=Limits(read_timeout_s=20, deadline_s=20, max_attempts=2))
    return f"the newest file is {feed.latest().name}"


CHECKS = {"events feed": _feed}
