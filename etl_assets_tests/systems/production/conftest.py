"""A fresh database, a broker's database of its own, and the simulated API over small files."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedBroker
from etl_assets.core.sources.streams.broker import Broker
from etl_assets.simulators.server import serve
from etl_assets.systems.production.contracts import STREAMS
from etl_assets.systems.production.simulator import ProductionSimulator
from etl_assets_tests.systems.production.world import Command, Store, World, small_files

# The keys of the streams are fixed where settings name the broker; this database of the server is for those tests only.
BROKER_DATABASE = "7"


@pytest.fixture
def store(
    database: Database, broker_server: EmbeddedBroker, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    """A fresh database and an empty broker; the environment names both."""
    with broker_server as url:
        broker = Broker(url.rpartition("/")[0] + f"/{BROKER_DATABASE}")
        for stream in STREAMS:
            broker.delete(stream.name)
        monkeypatch.setenv("ETL_POSTGRES_URL", database.url)
        monkeypatch.setenv("ETL_BROKER_URL", str(broker._url))
        yield Store(database, broker)
        for stream in STREAMS:
            broker.delete(stream.name)
        broker.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProductionSimulator, str]]:
    simulator = ProductionSimulator(*small_files(tmp_path_factory.mktemp("files")))
    with serve(simulator.app) as url:
        yield simulator, url


@pytest.fixture
def world(store: Store, served: tuple[ProductionSimulator, str], monkeypatch: pytest.MonkeyPatch) -> World:
    """The API over the small files, as they are, and the jobs."""
    simulator, url = served
    simulator.reset()
    monkeypatch.setenv("PRODUCTION_API_URL", url)
    return World.of(store, simulator)


@pytest.fixture
def command(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line over the store."""
    return Command(store.database, store.broker, tmp_path, capsys.readouterr)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are tried again without a pause."""
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda policy, attempt: 0.001)
