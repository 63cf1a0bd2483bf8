"""Experiments: from three messy CSV files to features of each user, as of any day.

`defs()` gives the system's definitions; `load(folder, as_of=…)` does the same work as a plain function.
"""

from typing import TYPE_CHECKING, Any

from etl_assets.core.registry import System

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.systems.experiments.script import LoadResult

__all__ = ["SYSTEM", "defs", "load"]

SYSTEM = System(name="experiments", package=__name__, summary="Features of users from three CSV files.")


def defs() -> "dg.Definitions":
    """The assets, checks, jobs, schedules, sensors and resources of the system."""
    import dagster as dg

    from etl_assets.systems.experiments import assets, automation, checks

    return dg.Definitions(
        assets=assets.ASSETS,
        asset_checks=checks.CHECKS,
        jobs=[automation.experiments_job],
        schedules=[automation.experiments_every_day],
        sensors=[automation.experiment_files],
        resources={"experiment_files": assets.ExperimentFilesResource()},
    )


def load(*arguments: Any, **options: Any) -> "LoadResult":
    """Read, judge, store and derive; see `etl_assets.systems.experiments.script.load`."""
    from etl_assets.systems.experiments.script import load as run

    return run(*arguments, **options)
