"""Experiments: from three messy CSV files to features of each user, as of any day.

`defs()` gives the system's definitions; `load(folder, as_of=…)` does the same work as a plain function.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.systems.experiments.script import LoadResult

__all__ = ["defs", "load"]


def defs() -> "dg.Definitions":
    """The assets, checks, job, schedule and sensor of the system; resources are bound where all systems meet."""
    import dagster as dg

    from etl_assets.systems.experiments import assets, automation, checks

    return dg.Definitions(
        assets=assets.ASSETS,
        asset_checks=checks.CHECKS,
        jobs=[automation.experiments_job],
        schedules=[automation.experiments_every_day],
        sensors=[automation.experiment_files],
    )


def load(*arguments: Any, **options: Any) -> "LoadResult":
    """Read, judge, store and derive; see `etl_assets.systems.experiments.script.load`."""
    from etl_assets.systems.experiments.script import load as run

    return run(*arguments, **options)
