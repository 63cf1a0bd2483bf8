"""Production: two streams through a broker, and what goes with the output of each product.

`defs()` gives the system's definitions; `report()` does the same work as a plain function.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.systems.production.script import ReportResult

__all__ = ["correlation_report", "defs"]


def defs() -> "dg.Definitions":
    """The assets, checks, jobs, schedule and sensor of the system; resources are bound where all systems meet."""
    import dagster as dg

    from etl_assets.systems.production import assets, automation, checks

    return dg.Definitions(
        assets=assets.ASSETS,
        asset_checks=checks.CHECKS,
        jobs=[automation.production_job, automation.drain_production_job],
        schedules=[automation.production_every_hour],
        sensors=[automation.production_lag],
    )


def correlation_report(**options: Any) -> "ReportResult":
    """Relay, drain, align, correlate and report; see `etl_assets.systems.production.script.report`."""
    from etl_assets.systems.production.script import report

    return report(**options)
