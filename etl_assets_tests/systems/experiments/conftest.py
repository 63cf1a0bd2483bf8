"""A fresh database that the environment names, and a folder of files beside it."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.database.connections import Database
from etl_assets.definitions import platform_definitions, resources
from etl_assets_tests.systems.experiments.world import World, write_sample


@pytest.fixture
def world(database: Database, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The sample's files in EXPERIMENTS_DIR, and an empty database."""
    folder = write_sample(tmp_path / "files with space")
    monkeypatch.setenv("ETL_POSTGRES_URL", database.url)
    monkeypatch.setenv("EXPERIMENTS_DIR", str(folder))
    return World(database, folder)


@pytest.fixture
def instance(data_dir: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral(tempdir=str(data_dir)) as instance:
        yield instance


@pytest.fixture
def definitions(world: World) -> dg.Definitions:
    """The platform over the world's database."""
    return platform_definitions(resources(PostgresResource(url=world.database.url)))
