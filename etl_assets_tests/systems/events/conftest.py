"""The simulated feed over small files, and a world of it with a fresh database."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.database.connections import Database
from etl_assets.definitions import platform_definitions, resources
from etl_assets.simulators.server import serve
from etl_assets.systems.events import commands as command
from etl_assets.systems.events.files import INTERVAL
from etl_assets.systems.events.simulator import EventsSimulator
from etl_assets_tests.systems.events.sensor import Sensor
from etl_assets_tests.systems.events.world import CLOCKS, FIRST, ROWS, QuickEventsFeedResource, World, clock

Served = tuple[EventsSimulator, str]


@pytest.fixture(scope="session")
def served_feed() -> Iterator[Served]:
    """Four intervals of few events."""
    simulator = EventsSimulator(FIRST, FIRST + 4 * INTERVAL, rows=ROWS)
    with serve(simulator.app) as url:
        yield simulator, url


@pytest.fixture
def world(
    served_feed: Served, database: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """An empty database and a feed without quirks, a minute after its last interval."""
    simulator, url = served_feed
    simulator.reset()
    simulator.faults.retry_after_s, simulator.faults.stall_s = 0.0, 2.5
    monkeypatch.setenv("ETL_POSTGRES_URL", database.url)
    monkeypatch.setenv("EVENTS_FEED_URL", url)
    monkeypatch.setenv("EVENTS_START_DATE", f"{FIRST:%Y-%m-%d}")
    temporary, files = tmp_path / "temporary", tmp_path / "files"
    for folder in (temporary, files):
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    made = World(database, simulator, url, temporary, files)
    for module in (*CLOCKS, command):
        monkeypatch.setattr(module, "datetime", clock(lambda: made.now()))
    return made


@pytest.fixture
def instance(data_dir: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(data_dir)) as instance:
        yield instance


@pytest.fixture
def definitions(world: World) -> dg.Definitions:
    """The platform over the world's database."""
    return platform_definitions(
        {**resources(PostgresResource(url=world.database.url)), "events_feed": QuickEventsFeedResource()}
    )


@pytest.fixture
def sensor(
    world: World, definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> Sensor:
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda *_: 0.001)
    return Sensor(world, definitions, instance, monkeypatch)
