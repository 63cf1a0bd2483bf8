"""Columns that keep what a row was first stored with: they make no row another, in whatever way it is written."""

from datetime import timedelta

import pandas as pd
import pytest

from etl_assets.core.contracts import Contract, Timestamp, column
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.merging import SAMPLE
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import ContractError
from etl_assets_tests.core.slices.tables import NOON, as_reader, as_table, create, execute, store


class Articles(Contract):
    """Articles of a shop, partitioned by the shop."""

    id: int = column("Identity")
    shop: str = column("Shop")
    price: float | None = column("Price")
    stored_at: Timestamp = column("When the row was first stored as it is")

    class Config:
        table = "plant.articles"
        key = ("id",)
        partition_by = "shop"
        first_stored = ("stored_at",)


def articles(prices: dict[int, float], *, hour: int) -> pd.DataFrame:
    at = NOON + timedelta(hours=hour)
    return pd.DataFrame(
        {
            "id": list(prices),
            "shop": ["a"] * len(prices),
            "price": list(prices.values()),
            "stored_at": pd.Series([at] * len(prices), dtype="datetime64[us, UTC]"),
        }
    )


def hours(database: Database) -> dict[int, tuple[float, int]]:
    """The price of each article, and the hour after noon at which it was stored."""
    rows = execute(database, "SELECT id, price, stored_at FROM plant.articles")
    return {number: (price, (at - NOON) // timedelta(hours=1)) for number, price, at in rows}


@pytest.fixture
def shop(database: Database) -> Slice:
    create(database, Articles)
    return Slice(Articles, "a", {"shop": "a"})


@pytest.mark.parametrize("form", ["frame", "table"])
@pytest.mark.parametrize("mode", ["replace", "partition", "upsert"])
def test_a_row_that_says_the_same_keeps_the_time_of_its_first_write(
    database: Database, shop: Slice, mode: str, form: str
) -> None:
    slices = [shop] if mode == "partition" else [Slice(Articles)]
    for hour, prices in enumerate([{1: 1.0, 2: 2.0}, {1: 1.0, 2: 2.5, 3: 3.0}]):
        frame = articles(prices, hour=hour)
        outcome = store(database, frame if form == "frame" else as_table(Articles, frame), mode, *slices)
    assert (outcome.change.inserted, outcome.change.updated, outcome.change.unchanged) == (1, 1, 1)
    assert hours(database) == {1: (1.0, 0), 2: (2.5, 1), 3: (3.0, 1)}


@pytest.mark.long
def test_a_stream_that_says_the_same_writes_nothing(database: Database, shop: Slice) -> None:
    for hour in range(2):
        outcome = store(
            database, as_reader(Articles, articles({1: 1.0, 2: 2.0, 3: 3.0}, hour=hour)), "upsert", Slice(Articles)
        )
    assert (outcome.change.updated, outcome.change.unchanged) == (0, 3)
    assert hours(database) == {1: (1.0, 0), 2: (2.0, 0), 3: (3.0, 0)}


@pytest.mark.long
def test_rows_that_stay_keep_it_also_where_nearly_all_others_change(database: Database, shop: Slice) -> None:
    count = 3 * SAMPLE
    store(database, articles(dict.fromkeys(range(count), 1.0), hour=0), "partition", shop)
    changed = {number: 1.0 if number % 20 == 0 else 2.0 for number in range(count)}
    outcome = store(database, articles(changed, hour=1), "partition", shop)
    assert (outcome.change.updated, outcome.change.unchanged) == (count * 19 // 20, count // 20)
    assert hours(database) == {number: (price, 0 if price == 1.0 else 1) for number, price in changed.items()}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"first_stored": ("none",), "key": ("id",)}, "none, which is no column"),
        ({"first_stored": ("id",), "key": ("id",)}, "beside the key"),
        ({"first_stored": ("at",)}, "of rows that have a key"),
        ({"first_stored": ("at"), "key": ("id",)}, "mind the commas"),
    ],
)
def test_what_cannot_be_first_stored_is_refused_at_definition(config: dict[str, object], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        type(
            "Odd",
            (Contract,),
            {
                "__doc__": "Odd things.",
                "__annotations__": {"id": int, "at": Timestamp},
                "id": column("Identity"),
                "at": column("When"),
                "Config": type("Config", (), {"table": "plant.odd", **config}),
            },
        )
