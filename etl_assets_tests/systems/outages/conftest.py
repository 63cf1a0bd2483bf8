"""The simulated API, and a world of it with a fresh database."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from etl_assets.core.database.connections import Database
from etl_assets.simulators.server import serve
from etl_assets.systems.outages.simulator import OutagesSimulator
from etl_assets.systems.outages.source import OutagesApi
from etl_assets_tests.systems.outages.forker import Command, Forker
from etl_assets_tests.systems.outages.world import World, quick_api

KEY = "the-secret-of-the-outage-api"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[OutagesSimulator, str, OutagesApi]]:
    simulator = OutagesSimulator(api_key=KEY, outages_per_site=12, devices_per_site=3)
    simulator.faults.stall_s = 1.3
    with serve(simulator.app) as url:
        yield simulator, url, quick_api(url, KEY)


@pytest.fixture
def world(
    served: tuple[OutagesSimulator, str, OutagesApi],
    database: Database,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    """A fresh database and a simulator at its beginning; the environment names both."""
    simulator, url, api = served
    simulator.reset()
    simulator.api_key, simulator.conflict_on_replay, simulator.faults.retry_after_s = KEY, False, 0.0
    monkeypatch.setenv("ETL_POSTGRES_URL", database.url)
    monkeypatch.setenv("OUTAGES_API_URL", url)
    monkeypatch.setenv("OUTAGES_API_KEY", KEY)
    return World(database, simulator, url, api)


@pytest.fixture(scope="session")
def forker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """Starts processes at once."""
    with Forker(tmp_path_factory.mktemp("children")) as helper:
        yield helper


@pytest.fixture
def etl_assets(forker: Forker) -> Command:
    return Command(forker)
