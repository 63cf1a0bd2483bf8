"""What the revision before left of the turbines goes over."""

from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets_tests.core.slices.aged import age
from etl_assets_tests.systems.turbines.world import FIRST, World


def test_a_day_of_before_is_read_and_loaded_again_without_a_change(world: World) -> None:
    world.load(FIRST)
    before, raw = world.ten_minute(), world.raw(FIRST)
    world.database = age(world.database, TurbinesSettings.load().storage_url)
    world.target = age(world.target)
    assert world.raw(FIRST).equals(raw)
    done = world.load(FIRST)
    assert [one.change.unchanged for one in done.raw] == [raw.num_rows]
    assert [(one.data.loaded, one.data.change.deleted) for one in done.stored] == [(0, 0)]
    assert world.ten_minute() == before
    assert world.raw(FIRST).equals(raw)
