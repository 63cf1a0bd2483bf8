"""What rows in hand are, once they are stored, as inputs of something else."""

import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.inputs import InputsMoved, standing_inputs
from etl_assets.core.slices.slice import Slice
from etl_assets_tests.core.slices.tables import Readings, create, readings, site_slice, store

PART, TABLE = site_slice("a"), Slice(Readings)


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
