"""The simulated source over small databases, and a world of it with two fresh ones."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.definitions import platform_definitions, resources
from etl_assets.simulators.server import serve
from etl_assets.systems.turbines.assets import TurbinesTargetResource
from etl_assets.systems.turbines.simulator import TurbinesSimulator, fill
from etl_assets_tests.systems.turbines.world import FIRST, QuickTurbinesApiResource, World

FARM = ("T01", "T02")
Served = tuple[TurbinesSimulator, str]


def serving(server: EmbeddedPostgres, name: str, **filled: object) -> Iterator[Served]:
    """The simulator over a source database of this name."""
    url = server.create_database(name)
    fill(url, **filled)  # type: ignore[arg-type]
    simulator = TurbinesSimulator(url, turbines=filled.get("turbines", ()))  # type: ignore[arg-type]
    simulator.faults.stall_s = 1.3
    with serve(simulator.app) as address:
        yield simulator, address


@pytest.fixture(scope="session")
def served(postgres_server: EmbeddedPostgres) -> Iterator[Served]:
    """Four days of one turbine that has no name: without a fault, without 2 to 5 o'clock, with small gaps, frozen."""
    yield from serving(postgres_server, "fonte", start=FIRST, days=4)


@pytest.fixture(scope="session")
def served_farm(postgres_server: EmbeddedPostgres) -> Iterator[Served]:
    """Two days of two turbines."""
    yield from serving(postgres_server, "fonte_farm", start=FIRST, days=2, turbines=FARM)


@pytest.fixture
def world(
    served: Served, database: Database, target_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """Empty databases and a source without quirks; the days end with those of the source."""
    simulator, url = served
    monkeypatch.setenv("TURBINES_END_DATE", "2024-05-23")
    return _world(simulator, url, database, target_database, monkeypatch)


@pytest.fixture
def farm(
    served_farm: Served, database: Database, target_database: Database, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> World:
    """As `world`, of two turbines and two days."""
    simulator, url = served_farm
    monkeypatch.setenv("TURBINES", ",".join(FARM))
    monkeypatch.setenv("TURBINES_END_DATE", "2024-05-21")
    return _world(simulator, url, database, target_database, monkeypatch)


def _world(
    simulator: TurbinesSimulator, url: str, database: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> World:
    simulator.reset()
    monkeypatch.setenv("ETL_POSTGRES_URL", database.url)
    monkeypatch.setenv("TURBINES_TARGET_URL", target.url)
    monkeypatch.setenv("TURBINES_API_URL", url)
    return World(database, target, simulator, url)


@pytest.fixture
def instance(data_dir: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(data_dir)) as instance:
        yield instance


@pytest.fixture
def definitions(world: World) -> dg.Definitions:
    """The platform over the world's databases."""
    return definitions_of(world)


def definitions_of(world: World) -> dg.Definitions:
    """The platform over a world."""
    return platform_definitions(
        {
            **resources(PostgresResource(url=world.database.url)),
            "turbines_api": QuickTurbinesApiResource(),
            "turbines_target": TurbinesTargetResource(url=world.target.url),
        }
    )
