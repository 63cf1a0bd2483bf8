"""Record batches of any number: gathered, cut, merged, and counted over chunks."""

from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import chunks
from etl_assets.core.slices.chunks import Chunks
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, write
from etl_assets.errors import ContractError
from etl_assets_tests.core.slices.tables import (
    Daily,
    Readings,
    as_reader,
    as_table,
    counts,
    create,
    daily,
    day_slice,
    execute,
    many,
    quarantined,
    readings,
    site_slice,
    store,
    values,
)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 3)


def test_batches_are_gathered_and_cut_to_chunks_in_order() -> None:
    table = pa.table({"n": list(range(10))})
    batches = [
        *table.slice(0, 1).to_batches(),
        *table.slice(1, 0).to_batches(),
        *table.slice(1, 8).to_batches(),
        *table.slice(9).to_batches(),
    ]
    chunks = Chunks(pa.RecordBatchReader.from_batches(table.schema, batches))
    assert chunks.begun is False
    gathered = [chunk["n"].to_pylist() for chunk in chunks]
    assert chunks.begun is True
    assert [n for chunk in gathered for n in chunk] == list(range(10))
    assert max(map(len, gathered)) <= 5


@pytest.mark.parametrize("mode", ["upsert", "replace"])
def test_of_equal_keys_in_many_chunks_the_last_wins_and_is_counted(database: Database, mode: str) -> None:
    create(database, Readings)
    store(database, readings(("a", 0), ("z", 0)), "append")
    rows = [(f"{'abc'[i % 3]}", float(i)) for i in range(1, 40)]
    outcome = store(database, as_reader(Readings, readings(*rows), batch=1), mode)
    assert values(database) == {"a": 39, "b": 37, "c": 38, **({"z": 0} if mode == "upsert" else {})}
    change = {"received": 39, "inserted": 2, "updated": 1, "deduplicated": 36}
    assert counts(outcome) == (change if mode == "upsert" else {**change, "deleted": 1})


def test_an_early_chunk_loses_to_a_late_one_wherever_the_server_puts_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 700)
    create(database, Readings)
    frame = pd.concat([many(700, value=float(n)) for n in range(30)])
    outcome = store(database, as_reader(Readings, frame, batch=700), "upsert")
    assert set(values(database).values()) == {29.0}
    assert counts(outcome) == {"received": 21_000, "inserted": 700, "deduplicated": 20_300}


def test_bad_rows_of_all_chunks_are_in_quarantine_under_their_number_in_the_whole(database: Database) -> None:
    create(database, Readings)
    rows = [(f"k{i}", 5000.0 if i in (1, 7) else 1.0) for i in range(9)]
    outcome = store(database, as_reader(Readings, readings(*rows), batch=2), "upsert")
    assert counts(outcome) == {"received": 9, "inserted": 7, "quarantined": 2}
    assert sorted(row["source"] for row in quarantined(database)) == ["the data, row 1", "the data, row 7"]


def test_batches_go_to_one_partition_only(database: Database) -> None:
    create(database, Readings)
    with pytest.raises(ContractError, match="record batches go to a single partition, not 2"):
        write(database, as_reader(Readings, readings()), [site_slice("a"), site_slice("b")], Write("partition"))


def test_batches_of_another_schema_are_cast_or_refused(database: Database) -> None:
    create(database, Readings)
    table = as_table(Readings, readings(("a", 7)))
    integers = table.set_column(3, "value", table["value"].cast(pa.int64()))
    store(database, integers.to_reader(), "upsert")
    assert values(database) == {"a": 7.0}
    naive = table.set_column(2, "at", table["at"].cast(pa.timestamp("us")))
    with pytest.raises(ContractError, match="give the times a zone"):
        store(database, naive.to_reader(), "upsert")


@pytest.mark.parametrize("mode", ["append", "upsert", "partition"])
def test_batches_of_a_natively_partitioned_table_find_their_partitions(database: Database, mode: str) -> None:
    create(database, Daily)
    outcome = store(database, as_reader(Daily, daily(20, 10)), mode, day_slice(20))
    assert counts(outcome) == {"received": 10, "inserted": 10}
    if mode != "append":
        again = store(database, as_reader(Daily, daily(20, 12, value=2)), mode, day_slice(20))
        assert counts(again) == {"received": 12, "inserted": 2, "updated": 10}
    assert execute(database, "SELECT DISTINCT tableoid::regclass::text FROM plant.daily") == [
        ("plant.daily_p20240520",)
    ]


def test_more_batches_than_memory_are_read_one_chunk_at_a_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(database, Readings)
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 100)
    alive: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for n in range(50):
            alive.append(pa.total_allocated_bytes())
            yield from as_table(Readings, many(100, prefix=f"p{n:02d}")).to_batches()

    reader = pa.RecordBatchReader.from_batches(arrow_schema(Readings), batches())
    assert store(database, reader, "upsert", Slice(Readings)).received == 5_000
    assert max(alive[10:]) < alive[5] + 1_000_000
