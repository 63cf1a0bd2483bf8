"""Turbines: from the signals of each minute to statistics of ten minutes, by day, in a target database.

`defs()` gives the system's definitions; `load(days)` does the same work as a plain function.
"""

from typing import TYPE_CHECKING, Any

from etl_assets.core.registry import System

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.systems.turbines.script import LoadResult

__all__ = ["SYSTEM", "defs", "load"]

SYSTEM = System(name="turbines", package=__name__, summary="Ten-minute statistics of wind turbines, by day.")


def defs() -> "dg.Definitions":
    """The assets, checks, jobs, schedules, sensors and resources of the system."""
    import dagster as dg

    from etl_assets.systems.turbines import assets, automation, checks

    return dg.Definitions(
        assets=assets.ASSETS,
        asset_checks=checks.CHECKS,
        jobs=[automation.turbines_job],
        schedules=[automation.turbines_every_day],
        sensors=[automation.late_turbine_signals],
        resources=assets.RESOURCES,
    )


def load(*arguments: Any, **options: Any) -> "LoadResult":
    """Fetch, compute and store days; see `etl_assets.systems.turbines.script.load`."""
    from etl_assets.systems.turbines.script import load as run

    return run(*arguments, **options)
