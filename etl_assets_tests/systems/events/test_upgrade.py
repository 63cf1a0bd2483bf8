"""What the revision before left of the events goes over."""

from etl_assets.systems.events.settings import EventsSettings
from etl_assets_tests.core.slices.aged import age
from etl_assets_tests.systems.events.world import ROWS, World


def test_intervals_of_before_are_neither_fetched_nor_derived_anew(world: World) -> None:
    world.load_all()
    before, asked = world.us(), world.asked()
    world.database = age(world.database, EventsSettings.load().storage_url)
    assert world.raw(1).num_rows == ROWS
    done = world.load_all()
    assert (world.us(), world.asked()) == (before, asked)
    assert (done.taken, {one.outcome.loaded for one in done.stored}) == ([], {0})
