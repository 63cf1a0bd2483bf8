"""Both IO managers do what every IO manager has to do."""

from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest

from etl_assets.core.contracts import Contract
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.io_managers import ParquetIOManager, PostgresIOManager
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.files import OF_COMMIT
from etl_assets_tests.core.slices.conformance import (
    ContextConformance,
    IOManagerConformance,
    IOManagerWorld,
    StoreConformance,
    rows,
)
from etl_assets_tests.core.slices.readings import family
from etl_assets_tests.core.slices.tables import create

IN_POSTGRES = family("postgres")
IN_PARQUET = family("parquet")


class TestPostgresIOManager(IOManagerConformance):
    whole, by_site, by_day, by_both = IN_POSTGRES.values()

    @pytest.fixture
    def resources(self, database: Database) -> dict[str, Any]:
        create(database, *IN_POSTGRES.values())
        postgres = PostgresResource(url=database.url)
        return {"postgres": postgres, "postgres_io": PostgresIOManager(postgres=postgres)}

    def stored_values(self, resources: dict[str, Any], contract: type[Contract]) -> list[float]:
        with resources["postgres"].database.connect() as connection:
            found = connection.execute(f"SELECT value FROM {contract.config.table} ORDER BY value").fetchall()
        return [value for (value,) in found]


class ParquetWorld(IOManagerWorld):
    whole, by_site, by_day, by_both = IN_PARQUET.values()

    @pytest.fixture
    def resources(self, database: Database, tmp_path: Path) -> dict[str, Any]:
        postgres = PostgresResource(url=database.url)
        manager = ParquetIOManager(postgres=postgres, url=str(tmp_path / "lake with space"))
        return {"postgres": postgres, "parquet_io": manager}

    def stored_values(self, resources: dict[str, Any], contract: type[Contract]) -> list[float]:
        folder = Path(resources["parquet_io"].url) / contract.config.table.replace(".", "/")
        values: list[float] = []
        for file in folder.rglob("data.parquet"):
            values += pyarrow.dataset.dataset(file).to_table()["value"].to_pylist()
        return sorted(values)


class TestParquetIOManager(ParquetWorld, StoreConformance):
    def test_nothing_but_whole_files_is_left_in_the_store(self, resources: dict[str, Any]) -> None:
        self.run([self.asset(self.whole, rows(1.0), mode="replace")], resources)
        self.run([self.asset(self.whole, rows(2.0).assign(extra=1), mode="replace")], resources)
        files = {path.name for path in Path(resources["parquet_io"].url).rglob("*") if path.is_file()}
        (of_commit,) = files - {"data.parquet", "manifest.json"}
        assert OF_COMMIT.fullmatch(of_commit)


@pytest.mark.long  # the code is that of the manager above, which is tested every day
class TestParquetIOManagerInContext(ParquetWorld, ContextConformance): ...
