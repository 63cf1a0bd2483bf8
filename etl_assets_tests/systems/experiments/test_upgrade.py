"""What the revision before left of the experiments goes over."""

from etl_assets.systems.experiments.script import load
from etl_assets_tests.core.slices.aged import age
from etl_assets_tests.systems.experiments.world import World


def test_tables_of_before_are_loaded_again_without_a_change(world: World) -> None:
    load(world.folder, database=world.database)
    before = world.tables()
    world.database = age(world.database)
    done = load(world.folder, database=world.database)
    assert {one.loaded + one.change.deleted for one in done.tables} == {0}
    assert world.tables() == before
