"""What rows in hand are, once they are stored, as inputs of something else."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.inputs import Inputs, InputsMoved, standing_inputs
from etl_assets.core.slices.reading import read
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, write
from etl_assets_tests.core.slices.readings import readings as in_store
from etl_assets_tests.core.slices.tables import Readings, as_reader, create, readings, site_slice, store

PART, TABLE = site_slice("a"), Slice(Readings)
Derived = in_store("postgres", "derived")


@pytest.mark.parametrize(
    ("first", "then"),
    [((PART, "partition"), (TABLE, "replace")), ((TABLE, "replace"), (PART, "partition"))],
    ids=["the whole table", "a partition"],
)
def test_rows_in_hand_are_no_inputs_once_others_are_written_over_them_by(
    database: Database, first: tuple[Slice, str], then: tuple[Slice, str]
) -> None:
    create(database, Readings)
    stored = store(database, readings(("k", 1)), first[1], first[0])
    store(database, readings(("k", 2)), then[1], then[0])
    with pytest.raises(InputsMoved):
        standing_inputs(database, [(first[0], stored.content_hash)])


def test_rows_in_hand_are_inputs_while_they_stand(database: Database) -> None:
    create(database, Readings)
    for slice_, mode in ((PART, "partition"), (TABLE, "replace")):
        stored = store(database, readings(("k", 1)), mode, slice_)
        assert standing_inputs(database, [(slice_, stored.content_hash)]).slices == [slice_]


@pytest.mark.parametrize(
    "form", [lambda frame: frame, lambda frame: as_reader(Readings, frame)], ids=["table", "stream"]
)
def test_a_partition_that_loses_a_row_to_another_has_moved_on(
    form: Callable[[pd.DataFrame], Any], database: Database
) -> None:
    create(database, Readings, Derived)
    for site in ("b", "c"):
        store(database, readings((site, 1.0), site=site), "partition", site_slice(site))
    inputs = {site: Inputs() for site in ("b", "c")}
    for site, read_by in inputs.items():
        read(database, [site_slice(site)], inputs=read_by)
    store(database, form(readings(("new", 1.0))), "upsert", PART)
    for read_by in inputs.values():
        write(database, readings(("d", 1.0)), [Slice(Derived)], Write("replace", inputs=read_by))
    store(database, form(readings(("b", 2.0))), "upsert", PART)
    with pytest.raises(InputsMoved, match="plant.readings was written again"):
        write(database, readings(("d", 2.0)), [Slice(Derived)], Write("replace", inputs=inputs["b"]))
