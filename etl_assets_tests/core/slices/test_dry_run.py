"""A write to a database for a dry run: the counts of the write, and nothing of it."""

from pathlib import Path

import pandas as pd
import pytest
from psycopg import sql

from etl_assets.core.contracts import Contract, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.inputs import Inputs, standing_inputs
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.parquet import ParquetRoot, write_parquet
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.transaction import relation
from etl_assets.core.slices.writing import Write, write
from etl_assets.errors import TransientError
from etl_assets_tests.core.slices.tables import Readings, as_reader, create, execute, readings, store, values


class Files(Contract):
    """A table in files."""

    id: int = column("Identity", ge=0)
    name: str = column("Name")

    class Config:
        table = "dry.files"
        key = ("id",)
        store = "parquet"


COUNT = sql.SQL("SELECT count(*) AS n FROM {}").format(relation(Readings))


def everything(database: Database) -> list[object]:
    return [execute(database, f"SELECT * FROM {table}") for table in ("etl.ledger", "etl.heads", "etl.quarantine")]


@pytest.mark.parametrize("mode", ["append", "upsert", "replace"])
@pytest.mark.parametrize("batches", [False, True], ids=["a frame", "batches"])
def test_rows_are_judged_and_compared_and_nothing_is_kept(database: Database, mode: str, batches: bool) -> None:
    create(database, Readings)
    store(database, readings(("a", 1), ("b", 2)), "replace")
    before = everything(database), values(database)
    new = [("c", 3), ("d", 4)] if mode == "append" else [("a", 1), ("b", 9), ("c", 3)]
    frame = readings(*new)

    def written(to: Database) -> dict[str, int]:
        data = as_reader(Readings, frame) if batches else frame
        (outcome,) = write(to, data, [Slice(Readings)], Write(mode))
        return outcome.counts()

    dry = written(database.for_dry_run())
    assert (everything(database), values(database)) == before
    assert dry == written(database)
    assert values(database) != before[1]


@pytest.mark.parametrize("mode", ["replace", "snapshot"])
@pytest.mark.parametrize("batches", [False, True], ids=["a frame", "batches"])
def test_no_file_is_written_and_none_is_given_up(database: Database, tmp_path: Path, mode: str, batches: bool) -> None:
    root = ParquetRoot(str(tmp_path / "lake"))

    def written(to: Database, *names: str) -> dict[str, int]:
        frame = pd.DataFrame({"id": range(len(names)), "name": names})
        data = as_reader(Files, frame) if batches else frame
        (outcome,) = write_parquet(root, to, data, [Slice(Files)], Write(mode))
        return outcome.counts()

    for names in (("a", "b"), ("a", "c"), ("a", "c")):
        before = everything(database), sorted(tmp_path.rglob("*"))
        dry = written(database.for_dry_run(), *names)
        assert (everything(database), sorted(tmp_path.rglob("*"))) == before
        assert dry == written(database, *names)


def test_writes_of_one_session_see_each_other(database: Database) -> None:
    create(database, Readings)
    dry = database.for_dry_run()
    with Session(dry) as session:
        with session.transaction() as transaction:
            transaction.append(Readings, as_reader(Readings, readings(("a", 1))))
            session.commit("none")
        with session.transaction() as transaction:
            assert transaction.rows(COUNT).to_pylist() == [{"n": 1}]
    assert values(database) == {}


def test_a_slice_that_somebody_writes_is_not_waited_for(database: Database) -> None:
    create(database, Readings)
    with locked(database, [Slice(Readings)]), pytest.raises(TransientError, match="another writer is at"):
        write(database.for_dry_run(), readings(("a", 1)), [Slice(Readings)], Write("replace"))


def test_what_is_in_hand_stands_for_what_is_not_stored(database: Database) -> None:
    found = standing_inputs(database.for_dry_run(), [(Slice(Readings), "a hash of rows that are nowhere")])
    assert found.slices == Inputs().slices
