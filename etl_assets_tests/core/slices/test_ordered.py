"""Inputs in the order of their table's key, however the rows lie in the table."""

from datetime import timedelta
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.core.dagster.contract_types import loads
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.io_managers import PostgresIOManager
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import reading
from etl_assets.core.slices.slice import Slice, Span
from etl_assets.errors import ContractError
from etl_assets_tests.core.slices.conformance import DAY, IOManagerConformance, rows
from etl_assets_tests.core.slices.readings import readings
from etl_assets_tests.core.slices.tables import Events, as_table, create, execute, store

Whole = readings("postgres", "ordered_whole")
ByDay = readings("postgres", "ordered_by_day", partition_by="at", key=("value", "id"))
InFiles = readings("parquet", "ordered_files")
UNSORTED = (*range(500, 1000), *range(500))


@pytest.fixture
def resources(database: Database) -> dict[str, Any]:
    create(database, Whole)
    postgres = PostgresResource(url=database.url)
    return {"postgres": postgres, "postgres_io": PostgresIOManager(postgres=postgres)}


def lying_unsorted(database: Database) -> None:
    """A thousand readings that lie in the table in the order of `UNSORTED`."""
    frame = rows(*[0.0] * 1000)
    for half in (frame[500:], frame[:500]):
        store(database, as_table(Whole, half), "append", Slice(Whole))
    assert [found for (found,) in execute(database, "SELECT id FROM plant.ordered_whole")] == list(UNSORTED)


@pytest.mark.long
@pytest.mark.parametrize(
    ("form", "columns"), [(pd.DataFrame, ()), (pa.Table, ("at",)), (pa.RecordBatchReader, ("value", "at"))]
)
def test_an_ordered_input_comes_in_key_order_in_each_form(
    resources: dict[str, Any], form: type, columns: tuple[str, ...]
) -> None:
    lying_unsorted(resources["postgres"].database)
    suite, seen = IOManagerConformance(), []
    given = loads(Whole, *columns, form=form, ordered=True)._replace(key=dg.AssetKey(Whole.table_name()))

    @dg.asset(ins={"given": given})
    def consumer(given: Any) -> None:
        whole = given.read_all() if isinstance(given, pa.RecordBatchReader) else given
        seen.append(whole.to_pandas() if isinstance(whole, pa.Table) else whole)

    made = suite.asset(Whole, rows(1.0, at=DAY + timedelta(days=1)).assign(id=1000), mode="upsert")
    result = suite.run([made, consumer], resources)
    assert result.success, suite.failure(result)
    assert set(seen[0]) == set(columns or Whole.columns)
    assert len(seen[0]) == 1001
    assert seen[0]["at"].is_monotonic_increasing


def test_the_order_is_that_of_all_slices_together(database: Database) -> None:
    create(database, ByDay)
    for day, values in ((20, (5.0, 1.0)), (22, (2.0, 9.0)), (23, (7.0,))):
        frame = rows(*values, at=DAY.replace(day=day))
        store(database, as_table(ByDay, frame), "upsert", Slice(ByDay))
    days = [Slice(ByDay, "", {"at": Span(DAY.replace(day=d), DAY.replace(day=d + 1))}) for d in (20, 22)]
    assert reading.read(database, days, ["value"], ordered=True)["value"].to_pylist() == [1.0, 2.0, 5.0, 9.0]


def test_without_asking_no_time_goes_into_an_order() -> None:
    assert "ORDER BY" not in reading.query([Slice(Whole)], ()).as_string(None)


def test_a_table_without_a_key_has_no_order(database: Database) -> None:
    said = "plant.events has no key by which its rows could be ordered"
    with pytest.raises(ContractError, match=said):
        reading.stream(database, [Slice(Events)], ordered=True)
    with pytest.raises(ContractError, match=said):
        reading.read(database, [Slice(Events)], ordered=True)


@pytest.mark.parametrize("contract", [Events, InFiles])
def test_an_order_that_cannot_be_had_is_refused_where_it_is_asked_for(contract: Any) -> None:
    with pytest.raises(ContractError, match="has no order: only tables in Postgres with a key do"):
        loads(contract, ordered=True)
