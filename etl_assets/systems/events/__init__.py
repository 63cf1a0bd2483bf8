"""Events: files of a public feed, one of each quarter of an hour, to the events in the United States.

`defs()` gives the system's definitions; `load(first, last)` does the same work as a plain function.
"""

from typing import TYPE_CHECKING, Any

from etl_assets.core.registry import System

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.systems.events.script import LoadResult

__all__ = ["SYSTEM", "defs", "load"]

SYSTEM = System(name="events", package=__name__, summary="US events from a public feed of files, one every 15 minutes.")


def defs() -> "dg.Definitions":
    """The assets, checks, jobs, schedules, sensors and resources of the system."""
    import dagster as dg

    from etl_assets.systems.events import assets, automation, checks

    return dg.Definitions(
        assets=assets.ASSETS,
        asset_checks=checks.CHECKS,
        jobs=[automation.events_job],
        schedules=[automation.events_every_day],
        sensors=[automation.events_feed_files],
        resources={"events_feed": assets.EventsFeedResource()},
    )


def load(*arguments: Any, **options: Any) -> "LoadResult":
    """Fetch intervals and store their US events; see `etl_assets.systems.events.script.load`."""
    from etl_assets.systems.events.script import load as run

    return run(*arguments, **options)
