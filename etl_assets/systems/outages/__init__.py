"""Outages: from a flaky API to named outages of each site's devices, each delivered once.

`defs()` gives the system's definitions; `sync(site)` does the same work as a plain function.
"""

from typing import TYPE_CHECKING, Any

from etl_assets.core.registry import System

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.systems.outages.script import SyncResult

__all__ = ["SYSTEM", "defs", "sync"]

SYSTEM = System(name="outages", package=__name__, summary="Outages of sites: fetch, map, store, deliver.")


def defs() -> "dg.Definitions":
    """The assets, checks, jobs, schedules, sensors and resources of the system."""
    import dagster as dg

    from etl_assets.systems.outages import assets, automation, checks
    from etl_assets.systems.outages.source import OutagesApiResource

    return dg.Definitions(
        assets=assets.ASSETS,
        asset_checks=checks.CHECKS,
        jobs=[automation.outages_job, automation.deliver_outages_job],
        schedules=[automation.outages_every_15_minutes],
        sensors=[automation.outages_sites, automation.pending_site_outages],
        resources={"outages_api": OutagesApiResource()},
    )


def sync(site: str, **options: Any) -> "SyncResult":
    """Fetch, map, store and deliver the outages of one site; options and failures as of `script.sync_sites`."""
    from etl_assets.systems.outages.script import sync_sites

    (result,) = sync_sites([site], **options)
    return result
