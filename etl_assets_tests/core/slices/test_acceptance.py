"""An input of which nothing, or too little, can be loaded changes nothing, whatever it comes in and goes to."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from etl_assets.core.contracts import Contract, Split, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.entries import list_entries
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet, write_parquet
from etl_assets.core.slices.reading import read
from etl_assets.core.slices.replay import replay
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, write, write_together
from etl_assets.errors import InputRefused
from etl_assets_tests.core.slices.tables import as_reader, create, ledger, quarantined, rejected


class Careful(Contract):
    """Rows of which most must be good."""

    id: int = column("Identity")
    site: str = column("Site")
    value: float | None = column("What", le=100)

    class Config:
        table = "plant.careful"
        key = ("id",)
        partition_by = "site"
        max_rejected = 0.5


class CarefulFiles(Contract):
    """Rows of which most must be good, in files."""

    id: int = column("Identity")
    site: str = column("Site")
    value: float | None = column("What", le=100)

    class Config:
        table = "plant.careful_files"
        store = "parquet"
        key = ("id",)
        partition_by = "site"
        max_rejected = 0.5


def rows(*values: float, site: str = "a") -> pd.DataFrame:
    """Rows with identities 0, 1, …; a value above 100 is a bad one."""
    return pd.DataFrame({"id": range(len(values)), "site": site, "value": list(values)})


class Store:
    """A table that has rows, and all that a write of it may change."""

    def __init__(
        self, database: Database, contract: type[Contract], root: ParquetRoot, form: Callable[..., Any]
    ) -> None:
        self.database, self.contract, self.root, self.form = database, contract, root, form

    def write(self, *values: float, **how: Any) -> None:
        slice_, data = Slice(self.contract, "a", {"site": "a"}), self.form(self.contract, rows(*values))
        if self.contract is CarefulFiles:
            write_parquet(self.root, self.database, data, [slice_], Write("partition", source="a file", **how))
        else:
            write(self.database, data, [slice_], Write("partition", source="a file", **how))

    def values(self) -> list[Any]:
        slices = [Slice(self.contract, "a", {"site": "a"})]
        found = (
            read_parquet(self.root, self.database, slices)
            if self.contract is CarefulFiles
            else read(self.database, slices)
        )
        return sorted(found["value"].to_pylist())

    def state(self) -> Sequence[Any]:
        files = sorted(path for path in Path(self.root.url).rglob("*") if path.is_file())
        return self.values(), ledger(self.database), quarantined(self.database), files


@pytest.fixture(params=["rows", "batches"])
def form(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return as_reader if request.param == "batches" else lambda _, frame: frame


@pytest.fixture(params=[Careful, CarefulFiles], ids=["postgres", "parquet"])
def store(request: pytest.FixtureRequest, database: Database, tmp_path: Path, form: Callable[..., Any]) -> Store:
    create(database, Careful)
    store = Store(database, request.param, ParquetRoot(f"{tmp_path}/lake"), form)
    store.write(1.0, 2.0)
    return store


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([200.0, 300.0], "none of the 2 rows can be loaded, nothing was changed; the first, a file, row 0: value 200.0: <= 100"),
        ([200.0], "its only row cannot be loaded, nothing was changed; the first, a file, row 0: value 200.0: <= 100"),
        ([5.0, 200.0, 300.0], "2 of 3 rows are rejected, more than 50%, nothing was changed; the first, a file, row 1: value 200.0"),
    ],
)  # fmt: skip
def test_an_input_of_which_too_little_can_be_loaded_changes_nothing(
    store: Store, values: list[float], said: str
) -> None:
    before = store.state()
    with pytest.raises(InputRefused) as refused:
        store.write(*values)
    assert f"{store.contract.config.table}: {said}" in str(refused.value)
    assert store.state() == before


def test_as_many_bad_rows_as_the_contract_takes_are_in_quarantine(store: Store) -> None:
    store.write(5.0, 200.0)
    assert store.values() == [5.0]
    assert len(quarantined(store.database)) == 1


def test_more_bad_rows_are_taken_where_somebody_says_so_but_never_all(store: Store) -> None:
    store.write(5.0, 200.0, 300.0, max_rejected=1.0)
    assert store.values() == [5.0]
    with pytest.raises(InputRefused, match="none of the 2 rows"):
        store.write(200.0, 300.0, max_rejected=1.0)


def test_an_empty_input_is_no_refused_one(store: Store) -> None:
    store.write()
    assert store.values() == []


def test_what_is_derived_goes_on_with_all_its_rows_in_quarantine(store: Store) -> None:
    store.write(200.0, inputs=Inputs())
    assert store.values() == []
    assert len(quarantined(store.database)) == 1


@pytest.fixture
def table(database: Database) -> Database:
    create(database, Careful)
    return database


def test_a_row_that_somebody_has_corrected_can_be_loaded(table: Database, tmp_path: Path) -> None:
    part = [Slice(Careful, "a", {"site": "a"})]
    write(table, rows(5.0, 200.0), part, Write("partition"))
    ((entry,), _) = list_entries(table)
    replay(table, ParquetRoot(f"{tmp_path}"), entry.id, contract=Careful, corrections={"value": 7.0})
    write(table, rows(5.0, 200.0).iloc[1:], part, Write("partition"))
    assert read(table, part)["value"].to_pylist() == [7.0]


def test_an_input_of_several_slices_is_judged_as_one(table: Database) -> None:
    parts = [Slice(Careful, site, {"site": site}) for site in "ab"]
    bad = rows(200.0, site="a"), rows(200.0, site="b").assign(id=7)
    with pytest.raises(InputRefused, match="none of the 2 rows"):
        write(table, pd.concat(bad), parts, Write("partition"))
    write(table, pd.concat([bad[0], rows(1.0, 2.0, site="b").assign(id=[7, 8])]), parts, Write("partition"))
    assert (len(read(table, parts)), len(quarantined(table))) == (2, 1)


def test_records_that_were_rejected_beforehand_count(table: Database) -> None:
    part = Slice(Careful, "a", {"site": "a"})
    for given in (Split(rows(), [rejected("x")]), Split(as_reader(Careful, rows()), [rejected("x")])):
        with pytest.raises(
            InputRefused, match="its only row cannot be loaded, nothing was changed; the first: id 'x': unknown"
        ):
            write(table, given, [part], Write("partition"))
    with pytest.raises(InputRefused, match="its only row"):
        write_together(table, [(Split(rows(), [rejected("x")]), part)], Write("partition"))
    assert quarantined(table) == []
