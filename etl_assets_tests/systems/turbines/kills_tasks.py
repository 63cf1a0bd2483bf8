"""What the children of the kill test do: a backfill by command or as a run of the job, killed at a step or from outside.

Every child ends by itself after `LONGEST_S` at the latest, so that none outlives a test that was itself killed.
"""

import logging
import os
import signal
from typing import Any

from etl_assets_tests.systems.production import kills_tasks
from etl_assets_tests.systems.production.kills_tasks import LONGEST_S, Step, with_kill

# A day of two turbines has 5,760 rows: a transaction has some of the days.
ROWS_TOGETHER = 12_000
STRETCH_DAYS = 3

# Where a backfill can be killed. By label, module, owner and name.
STEPS: dict[str, tuple[str, str]] = {
    "ask the source": ("etl_assets.systems.turbines.source", "TurbinesApi.minutes"),
    "write a file": ("pyarrow.parquet", "write_table"),
    "sync to disk": ("os", "fsync"),
    "publish": ("etl_assets.core.slices.parquet", "publish"),
    "commit of a file": ("etl_assets.core.slices.parquet", "commit"),
    "statistics": ("etl_assets.systems.turbines.transform", "ten_minute_statistics"),
    "signals": ("etl_assets.systems.turbines.databases", "signal_ids"),
    "write together": ("etl_assets.systems.turbines.databases", "write_together"),
    "lock": ("etl_assets.core.slices.lock", "Lock.begin"),
    "fence": ("etl_assets.core.slices.commit", "_entered"),
    "look for drift": ("etl_assets.core.slices.writing", "refuse_drift"),
    "delete or update": ("etl_assets.core.slices.transaction", "Transaction.changed"),
    "bulk load": ("adbc_driver_manager.dbapi", "Cursor.adbc_ingest"),
    "ledger": ("etl_assets.core.slices.commit", "record"),
    "commit": ("adbc_driver_manager.dbapi", "Connection.commit"),
}
AMID = ("ask the source", "write a file", "publish", "commit of a file", "write together", "bulk load", "commit")
OF_THE_JOB: dict[str, tuple[str, str]] = {
    "store the files": ("etl_assets.core.dagster.io_managers", "ParquetIOManager.handle_output"),
    "load the files": ("etl_assets.core.dagster.io_managers", "ParquetIOManager.load_input"),
    "show a day": ("etl_assets.systems.turbines.assets", "metadata_of"),
}
SCRIPT_STEPS: tuple[Step, ...] = (
    *((label, when) for label in STEPS for when in ("before", "after")),
    *((label, "amid") for label in AMID),
)
JOB_STEPS: tuple[Step, ...] = tuple((label, when) for label in OF_THE_JOB for when in ("before", "after"))


# Where one is paused while another takes over: before and after it has asked, and at each step of its commits.
PAUSED_AT: tuple[Step, ...] = (
    ("lock", "after"),
    ("ask the source", "before"),
    ("ask the source", "after"),
    ("write a file", "after"),
    ("fence", "after"),
    ("ledger", "after"),
    ("publish", "before"),
    ("write together", "before"),
    ("commit", "before"),
    ("commit", "after"),
)


def script(first: str, last: str, kill: list[Any] | None = None) -> int:
    """`etl-assets turbines load` for the days from one to another."""
    from etl_assets.cli import run

    _begin(kill)
    return run(["turbines", "load", first, "--to", last], debug=True)


def job(first: str, last: str, kill: list[Any] | None = None) -> int:
    """A run of the job for the same days in this process."""
    import dagster as dg

    from etl_assets.definitions import platform_definitions, resources
    from etl_assets_tests.systems.outages.runs import QUIET

    dg.RetryPolicy.calculate_delay = lambda policy, attempt: 0.001  # type: ignore[method-assign]
    _begin(kill)
    with dg.DagsterInstance.ephemeral(tempdir=os.environ["ETL_DATA_DIR"]) as instance:
        result = (
            platform_definitions(resources())
            .resolve_job_def("turbines_job")
            .execute_in_process(
                instance=instance,
                tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
                run_config=QUIET,
            )
        )
    return 0 if result.success else 1


def _begin(kill: list[Any] | None) -> None:
    from etl_assets.systems.turbines import source, transform

    signal.alarm(LONGEST_S)
    logging.basicConfig(level=logging.ERROR)
    transform.ROWS_TOGETHER, source.LONGEST_STRETCH_DAYS = ROWS_TOGETHER, STRETCH_DAYS
    kills_tasks.STEPS |= STEPS | OF_THE_JOB
    # Some milliseconds after it has begun.
    kills_tasks.AMID |= dict.fromkeys(AMID, kills_tasks._die_soon)
    with_kill(kill)
