"""What the revision before left of the outages goes over."""

from pathlib import Path

from etl_assets.core.slices.files import ParquetRoot
from etl_assets.core.slices.parquet import read_parquet
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.sweeping import sweep
from etl_assets.systems.outages.contracts import RawOutages, RawSiteInfo, site_slice
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets_tests.core.slices.aged import age
from etl_assets_tests.systems.outages.world import SITE, World, outage

LATER = "2022-05-01T00:00:00.000Z"
BAD = {"id": "d1", "begin": "in the morning", "end": LATER}


def test_the_next_sync_after_the_upgrade_posts_nothing_and_finds_everything(world: World) -> None:
    world.serve([outage("d1", LATER), BAD])
    world.sync()
    storage = OutagesSettings.load().storage_url
    world.database = age(world.database, storage)
    lake = sorted(path for path in Path(storage).rglob("*") if path.is_file())
    root = ParquetRoot(storage)
    assert read_parquet(root, world.database, [Slice(RawOutages)])["device_id"].to_pylist() == ["d1"]
    assert read_parquet(root, world.database, [site_slice(RawSiteInfo, SITE)]).num_rows == 1
    assert sweep(world.database, root, [RawOutages, RawSiteInfo]).files == 0
    assert sorted(path for path in Path(storage).rglob("*") if path.is_file()) == lake

    (result,) = world.sync()

    assert (result.outages, result.delivered, result.quarantined) == (1, 0, 1)
    assert world.posts() == 1
    assert world.column("SELECT status FROM etl.quarantine") == ["open"]
    assert set(lake) <= {path for path in Path(storage).rglob("*") if path.is_file()} | {
        path for path in lake if path.name == "data.parquet"
    }
    assert read_parquet(root, world.database, [Slice(RawOutages)])["device_id"].to_pylist() == ["d1"]
