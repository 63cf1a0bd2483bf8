"""Tables that are in Postgres and copied to parquet: everything that an IO manager does, and both hold the same rows."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from etl_assets.core.contracts import Contract
from etl_assets.core.dagster.contract_types import stored
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.io_managers import MirroredIOManager, PostgresIOManager
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import copies, reading
from etl_assets.core.slices.copies import mirror
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import ContractError, PermanentError, TransientError
from etl_assets_tests.core.slices.conformance import IOManagerConformance, rows
from etl_assets_tests.core.slices.readings import family, readings
from etl_assets_tests.core.slices.tables import Events, as_table, create, execute, store

MIRRORED = family("postgres")
Whole = MIRRORED["whole"]


@pytest.mark.long  # what it inherits is tested every day for the manager that it extends
class TestMirroredIOManager(IOManagerConformance):
    whole, by_site, by_day, by_both = MIRRORED.values()

    @pytest.fixture
    def resources(self, database: Database, tmp_path: Path) -> dict[str, Any]:
        create(database, *MIRRORED.values())
        postgres = PostgresResource(url=database.url)
        manager = MirroredIOManager(postgres=postgres, url=str(tmp_path / "lake with space"))
        # Inputs are loaded from Postgres, by whichever of the two Dagster asks.
        return {
            "postgres": postgres,
            "postgres_io": PostgresIOManager(postgres=postgres),
            "postgres_and_parquet_io": manager,
        }

    def asset(self, contract: type[Contract], value: Any, *, mode: str, partitions: Any = None) -> dg.AssetsDefinition:
        @dg.asset(**stored(contract, mode=mode, mirrored=True), partitions_def=partitions)
        def made() -> Any:
            return value() if callable(value) else value

        return made

    def stored_values(self, resources: dict[str, Any], contract: type[Contract]) -> list[float]:
        """The values in Postgres, which are those in the files."""
        found = execute(resources["postgres"].database, f"SELECT value FROM {contract.config.table} ORDER BY value")
        in_postgres = [value for (value,) in found]
        assert sorted(row["value"] for row in self.copied(resources, contract)) == in_postgres
        return in_postgres

    def copied(self, resources: dict[str, Any], contract: type[Contract]) -> list[dict[str, Any]]:
        """The rows of all files of a table, as they lie in them."""
        folder = Path(resources["postgres_and_parquet_io"].url) / contract.config.table.replace(".", "/")
        return [row for file in sorted(folder.rglob("*.parquet")) for row in pq.ParquetFile(file).read().to_pylist()]

    @pytest.mark.parametrize("mode", ["upsert", "append"])
    def test_what_is_added_is_copied_with_what_was_there_in_key_order(
        self, resources: dict[str, Any], mode: str
    ) -> None:
        for value, first in ((2.0, 5), (1.0, 3)):
            frame = rows(value, value).assign(id=[first + 1, first])
            assert self.run([self.asset(self.whole, frame, mode=mode)], resources).success
        assert [row["id"] for row in self.copied(resources, self.whole)] == [3, 4, 5, 6]
        assert self.stored_values(resources, self.whole) == [1.0, 1.0, 2.0, 2.0]

    def test_a_copy_is_no_second_write_in_the_ledger(self, resources: dict[str, Any]) -> None:
        self.run([self.asset(self.whole, rows(1.0, 2.0, 101.0), mode="replace")], resources)
        found = execute(resources["postgres"].database, "SELECT mode, received, inserted, quarantined FROM etl.ledger")
        assert found == [("replace", 3, 2, 1)]
        assert len(self.copied(resources, self.whole)) == 2

    def test_the_materialisation_shows_both_places(self, resources: dict[str, Any]) -> None:
        metadata = self.metadata(self.run([self.asset(self.whole, rows(1.0, 2.0), mode="replace")], resources))[None]
        assert metadata["relation"] == "plant.postgres_whole"
        assert metadata["parquet"].endswith("lake with space/plant/postgres_whole")
        assert metadata["parquet_rows_copied"] == 2

    def test_a_step_that_failed_between_the_two_is_put_right_by_its_next_run(
        self, resources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.run([self.asset(self.whole, rows(1.0), mode="replace")], resources)
        with monkeypatch.context() as patched:
            patched.setattr(copies.pq, "ParquetWriter", fail)
            assert not self.run([self.asset(self.whole, rows(7.0, 8.0), mode="replace")], resources).success
        found = execute(resources["postgres"].database, "SELECT value FROM plant.postgres_whole ORDER BY value")
        assert found == [(7.0,), (8.0,)]
        assert [row["value"] for row in self.copied(resources, self.whole)] == [1.0]
        result = self.run([self.asset(self.whole, rows(7.0, 8.0), mode="replace")], resources)
        assert self.metadata(result)[None]["unchanged"] == 2
        assert self.stored_values(resources, self.whole) == [7.0, 8.0]
        files = [path.name for path in Path(resources["postgres_and_parquet_io"].url).rglob("*") if path.is_file()]
        assert files == ["data.parquet"]

    def test_what_the_contract_forbids_is_in_neither(self, resources: dict[str, Any]) -> None:
        made = self.asset(self.whole, pa.Table.from_pandas(rows(101.0)).to_reader, mode="replace")
        assert self.run([made], resources).success
        assert self.stored_values(resources, self.whole) == []
        assert len(self.quarantine(resources)) == 1


def fail(*_: object) -> None:
    raise PermanentError("no room on the disk")


@pytest.mark.long
def test_a_copy_that_loses_the_database_is_made_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Whole)
    store(database, as_table(Whole, rows(1.0, 2.0)), "replace", Slice(Whole))
    lost = threading.Event()
    stream = reading.stream

    def cut(*args: Any, **options: Any) -> pa.RecordBatchReader:
        whole = stream(*args, **options)

        def batches() -> Iterator[pa.RecordBatch]:
            yield whole.read_next_batch()
            if not lost.is_set():
                lost.set()
                raise TransientError("the connection was lost")

        return pa.RecordBatchReader.from_batches(whole.schema, batches())

    monkeypatch.setattr(reading, "stream", cut)
    assert mirror(ParquetRoot(str(tmp_path)), database, Slice(Whole)) == 2
    assert lost.is_set()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["data.parquet"]


def test_a_table_without_a_key_is_copied_as_it_lies(database: Database, tmp_path: Path) -> None:
    create(database, Events)
    execute(database, "INSERT INTO plant.events VALUES ('2024-05-20Z', 'b'), ('2024-05-20Z', 'a')")
    assert mirror(ParquetRoot(str(tmp_path)), database, Slice(Events)) == 2


def test_only_a_table_in_postgres_is_mirrored() -> None:
    with pytest.raises(ContractError, match="is in parquet: only tables in Postgres are mirrored"):
        stored(readings("parquet", "in_files"), mode="replace", mirrored=True)


def test_a_mirrored_asset_shows_both_kinds() -> None:
    arguments = stored(Whole, mode="replace", mirrored=True)
    assert arguments["kinds"] == {"postgres", "parquet", "python"}
    assert stored(Whole, mode="replace")["kinds"] == {"postgres", "python"}
