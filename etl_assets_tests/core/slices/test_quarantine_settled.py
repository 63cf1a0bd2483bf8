"""What becomes of entries in quarantine when their slice is written again: gone from the source, there again, replayed and taken away."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.entries import Filter, accept, list_entries
from etl_assets.core.slices.parquet import ParquetRoot, write_parquet
from etl_assets.core.slices.replay import replay
from etl_assets.core.slices.slice import OneOf, Slice
from etl_assets.core.slices.writing import Write, write
from etl_assets.errors import PermanentError
from etl_assets_tests.core.slices.readings import readings as in_store
from etl_assets_tests.core.slices.tables import Readings, as_reader, create, readings, values

BAD, WORSE, GOOD = ("4", 2000.0), ("5", 3000.0), ("6", 1.0)
BESIDE = ("7", 1.0)  # without it nothing could be loaded, and nothing would be written
Store = Callable[..., None]


InParquet = in_store("parquet", "settled")


@pytest.fixture(params=["postgres", "parquet", pytest.param("stream", marks=pytest.mark.long)])
def store(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Store:
    """Writes rows of a site, one way or another."""
    create(database, Readings)
    contract = InParquet if request.param == "parquet" else Readings

    def stored(*rows: tuple[str, float], mode: str = "partition", site: str = "a", **how: bool) -> None:
        frame, slice_ = readings(*rows, site=site), Slice(contract, site, {"site": site})
        if request.param == "parquet":
            write_parquet(ParquetRoot(f"{tmp_path}"), database, frame, [slice_], Write(mode, **how))
        elif request.param == "stream":
            write(database, as_reader(Readings, frame, batch=1), [slice_], Write(mode, **how))
        else:
            write(database, frame, [slice_], Write(mode, **how))

    return stored


def statuses(database: Database) -> dict[str, str]:
    entries, _ = list_entries(database, Filter(status="all"))
    return {f"{entry.raw['id']}@{entry.raw['site']}": entry.status for entry in entries}


def set_replayed(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE etl.quarantine SET status = 'replayed'")


def test_a_row_that_the_source_has_no_more_or_has_right_is_gone(store: Store, database: Database) -> None:
    store(BAD, WORSE, GOOD)
    store(WORSE, GOOD, ("4", 2.0))
    assert statuses(database) == {"4@a": "gone", "5@a": "open"}
    assert [entry.raw["id"] for entry in list_entries(database)[0]] == ["5"]


def test_a_row_that_was_gone_and_is_met_again_is_open_again(store: Store, database: Database) -> None:
    for row in (BAD, GOOD, BAD):
        store(row, BESIDE)
    assert statuses(database) == {"4@a": "open"}


def test_the_entries_of_another_partition_are_left_alone(store: Store, database: Database) -> None:
    store(BAD, BESIDE, site="a")
    store(GOOD, site="b")
    assert statuses(database) == {"4@a": "open"}


def test_a_replayed_row_that_is_met_again_is_open_again_for_its_row_was_taken_away(
    store: Store, database: Database
) -> None:
    store(BAD, WORSE, BESIDE)
    set_replayed(database)
    store(BAD, BESIDE)
    assert statuses(database) == {"4@a": "open", "5@a": "replayed"}


def test_rows_that_are_merged_say_nothing_of_those_that_do_not_come(database: Database) -> None:
    create(database, Readings)
    for row in (BAD, WORSE):
        write(database, readings(row, BESIDE), [Slice(Readings)], Write("upsert"))
    assert statuses(database) == {"4@a": "open", "5@a": "open"}


def test_a_merged_row_that_was_gone_is_open_again(database: Database) -> None:
    create(database, Readings)
    for mode, row in (("replace", BAD), ("replace", GOOD), ("upsert", BAD)):
        write(database, readings(row, BESIDE), [Slice(Readings)], Write(mode))
    assert statuses(database) == {"4@a": "open"}


def test_a_write_of_some_of_a_partition_says_nothing_of_the_rest(database: Database) -> None:
    create(database, Readings)
    for identity, value in (BAD, WORSE):
        slice_ = Slice(Readings, "a", {"site": "a", "id": OneOf((identity, BESIDE[0]))})
        write(database, readings((identity, value), BESIDE), [slice_], Write("partition"))
    assert statuses(database) == {"4@a": "open", "5@a": "open"}


def test_a_row_that_was_replayed_into_an_older_snapshot_is_open_again(database: Database, tmp_path: Path) -> None:
    def snapshot(*rows: tuple[str, float]) -> None:
        slice_ = Slice(InParquet, "a", {"site": "a"})
        write_parquet(ParquetRoot(f"{tmp_path}"), database, readings(*rows), [slice_], Write("snapshot"))

    snapshot(BAD, BESIDE)
    set_replayed(database)
    snapshot(BAD, WORSE, BESIDE)
    assert statuses(database) == {"4@a": "open", "5@a": "open"}
    snapshot(WORSE, BESIDE)
    assert statuses(database) == {"4@a": "gone", "5@a": "open"}


Partial = in_store("postgres", "partial", partial_loads=True, partition_by="site")


def test_a_table_that_is_loaded_in_part_closes_nothing_and_opens_what_it_takes_away(database: Database) -> None:
    create(database, Partial)
    slice_ = Slice(Partial, "a", {"site": "a"})
    write(database, in_partial(BAD, WORSE, BESIDE), [slice_], Write("partition"))
    set_replayed(database)
    write(database, in_partial(BAD, GOOD), [slice_], Write("partition"))
    assert statuses(database) == {"4@a": "open", "5@a": "replayed"}
    write(database, in_partial(GOOD), [slice_], Write("partition"))
    assert statuses(database) == {"4@a": "open", "5@a": "replayed"}


def in_partial(*rows: tuple[str, float]) -> pd.DataFrame:
    return readings(*rows).astype({"id": "int64"})


def test_a_row_that_is_gone_from_its_source_is_not_replayed(database: Database, tmp_path: Path) -> None:
    create(database, Readings)
    for row in (BAD, GOOD):
        write(database, readings(row, BESIDE), [Slice(Readings)], Write("replace", source="a file"))
    ((entry,), _) = list_entries(database, Filter(status="gone"))
    with pytest.raises(
        PermanentError,
        match="is gone: its source .a file, row 0. was read again without it, or given up, so there is",
    ):
        replay(database, ParquetRoot(f"{tmp_path}"), entry.id, contract=Readings, corrections={"value": 1.0})


def test_an_accepted_row_does_not_take_the_place_of_a_later_one_when_it_is_replayed(
    database: Database, tmp_path: Path
) -> None:
    create(database, Readings)
    whole = [Slice(Readings)]
    write(database, readings(("k", 5000.0), BESIDE), whole, Write("upsert"))
    entries, _ = list_entries(database)
    accept(database, entries, lambda _: Readings, who="who", reason="why")
    write(database, readings(("k", 9.0)), whole, Write("upsert"))
    root = ParquetRoot(f"{tmp_path}")
    done = replay(database, root, entries[0].id, contract=Readings, corrections={"value": 7.0})
    assert done.outcome == "superseded"
    assert values(database) == {"k": 9.0, "7": 1.0}


@pytest.mark.parametrize(
    "form", [lambda frame: frame, lambda frame: as_reader(Readings, frame)], ids=["table", "stream"]
)
def test_a_later_record_that_says_what_is_there_already_is_not_replaced_by_a_replay(
    form: Callable[[pd.DataFrame], Any], database: Database, tmp_path: Path
) -> None:
    create(database, Readings)
    for value in (9.0, 5000.0, 9.0):
        write(database, form(readings(("k", value), ("other", 1.0))), [Slice(Readings)], Write("upsert"))
    assert statuses(database) == {"k@a": "superseded"}
    ((entry,), _) = list_entries(database, Filter(status="all"))
    done = replay(database, ParquetRoot(f"{tmp_path}"), entry.id, contract=Readings, corrections={"value": 7.0})
    assert (done.outcome, values(database)) == ("superseded", {"k": 9.0, "other": 1.0})


def test_a_later_record_of_another_key_leaves_an_entry_open(database: Database) -> None:
    create(database, Readings)
    for row in (("k", 5000.0), ("other", 1.0)):
        write(database, readings(row, BESIDE), [Slice(Readings)], Write("upsert"))
    assert statuses(database) == {"k@a": "open"}
