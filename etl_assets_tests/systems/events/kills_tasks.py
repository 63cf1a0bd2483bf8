"""What the children of the kill test do: a backfill of a day by command or as a run of the job, killed at a step or from outside.

Every child ends by itself after `LONGEST_S` at the latest, so that none outlives a test that was itself killed.
"""

import logging
import os
import signal
import time
from importlib import import_module
from typing import Any

from etl_assets_tests.systems.production import kills_tasks
from etl_assets_tests.systems.production.kills_tasks import LONGEST_S, Step, with_kill

# Of the files of the day some are noted, and some stored, together.
RECORDED_TOGETHER, STORED_TOGETHER = 8, 5

# Where a backfill can be killed. By label, module, owner and name.
STEPS: dict[str, tuple[str, str]] = {
    "read the list": ("etl_assets.systems.events.script", "all_listed"),
    "look into the manifest": ("etl_assets.systems.events.raw_layer", "entries"),
    "lock": ("etl_assets.core.slices.lock", "Lock.begin"),
    "download": ("etl_assets.systems.events.source", "EventsFeed.downloaded"),
    "verify and parse": ("etl_assets.systems.events.raw_layer", "read_file"),
    "write a file": ("pyarrow.parquet", "write_table"),
    "sync to disk": ("os", "fsync"),
    "rename": ("etl_assets.core.slices.parquet", "publish"),
    "commit of a file": ("etl_assets.core.slices.parquet", "commit"),
    "record_unless_changed": ("etl_assets.systems.events.raw_layer", "record_unless_changed"),
    "read the files": ("etl_assets.systems.events.us_events", "read_parquet"),
    "rule": ("etl_assets.systems.events.us_events", "us_events"),
    "decide what is stored once": ("etl_assets.systems.events.us_events", "deduplicated_events"),
    "write together": ("etl_assets.systems.events.us_events", "write_together"),
}
# The same functions store files and notes; here they are meant in the transactions of US events and manifest.
OF_THE_TRANSACTION: dict[str, tuple[str, str]] = {
    "fence": ("etl_assets.core.slices.commit", "_entered"),
    "look for drift": ("etl_assets.core.slices.writing", "refuse_drift"),
    "delete or update": ("etl_assets.core.slices.transaction", "Transaction.changed"),
    "bulk load": ("adbc_driver_manager.dbapi", "Cursor.adbc_ingest"),
    "ledger": ("etl_assets.core.slices.commit", "record"),
    "commit": ("adbc_driver_manager.dbapi", "Connection.commit"),
}
OF_THE_JOB: dict[str, tuple[str, str]] = {
    "read the list, job": ("etl_assets.systems.events.assets", "all_listed"),
    "show the files": ("etl_assets.systems.events.assets", "raw_metadata"),
    "show the events": ("etl_assets.systems.events.assets", "us_metadata"),
}
# In the order in which a backfill comes by, and at which call of each a child is killed, at most.
ORDER = ("read the list, job", *STEPS, *OF_THE_TRANSACTION, "show the files", "show the events")
ONCE, OF_A_FILE, OF_SEVERAL = 1, 3, 2
MOST_CALLS = dict.fromkeys(ORDER, OF_SEVERAL) | {
    **dict.fromkeys(("read the list", "look into the manifest", *OF_THE_JOB), ONCE),
    **dict.fromkeys(
        ("lock", "download", "verify and parse", "write a file", "sync to disk", "rename", "commit of a file", "rule"),
        OF_A_FILE,
    ),
}
AMID = (
    "download",
    "write a file",
    "rename",
    "commit of a file",
    "record_unless_changed",
    "write together",
    "bulk load",
    "commit",
)
SCRIPT_STEPS: tuple[Step, ...] = (
    *((label, when) for label in (*STEPS, *OF_THE_TRANSACTION) for when in ("before", "after")),
    *((label, "amid") for label in AMID),
)
JOB_STEPS: tuple[Step, ...] = tuple((label, when) for label in OF_THE_JOB for when in ("before", "after"))


# Where one is paused while another takes over: before and after it has asked, and at each step of its commits.
PAUSED_AT: tuple[Step, ...] = (
    ("lock", "after"),
    ("download", "before"),
    ("download", "after"),
    ("write a file", "after"),
    ("commit of a file", "before"),
    ("rename", "before"),
    ("read the files", "after"),
    ("write together", "before"),
    ("ledger", "after"),
    ("commit", "before"),
)


def script(first: str, last: str, kill: list[Any] | None = None) -> int:
    """`etl-assets events load` for the intervals from one day to another."""
    from etl_assets.cli import run

    _begin(kill)
    return run(["events", "load", "--from", first, "--to", last], debug=True)


def job(first: str, last: str, kill: list[Any] | None = None) -> int:
    """A run of the job for the first of these days in this process."""
    import dagster as dg

    from etl_assets.definitions import platform_definitions, resources
    from etl_assets_tests.systems.outages.runs import QUIET

    dg.RetryPolicy.calculate_delay = lambda policy, attempt: 0.001  # type: ignore[method-assign,assignment]
    _begin(kill)
    with dg.DagsterInstance.ephemeral(tempdir=os.environ["ETL_DATA_DIR"]) as instance:
        result = (
            platform_definitions(resources())
            .resolve_job_def("events_job")
            .execute_in_process(instance=instance, partition_key=first, run_config=QUIET)
        )
    return 0 if result.success else 1


def _begin(kill: list[Any] | None) -> None:
    from etl_assets.core.sources.http.client import ApiClient
    from etl_assets.systems.events import raw_layer as intake
    from etl_assets.systems.events import us_events as us_store

    signal.alarm(LONGEST_S)
    # Whoever was paused finds files of which it knows another size: they are asked for again, and again.
    ApiClient.__init__.__kwdefaults__["sleep"] = lambda seconds: time.sleep(min(seconds, 0.01))
    logging.basicConfig(level=logging.ERROR)
    intake.RECORDED_TOGETHER, us_store.STORED_TOGETHER = RECORDED_TOGETHER, STORED_TOGETHER
    kills_tasks.STEPS |= STEPS | OF_THE_TRANSACTION | OF_THE_JOB
    # Some milliseconds after it has begun.
    kills_tasks.AMID |= dict.fromkeys(AMID, kills_tasks._die_soon)
    if kill and kill[0] in OF_THE_TRANSACTION:
        _in_the_transaction(kill)
    else:
        with_kill(kill)


def _in_the_transaction(kill: list[Any]) -> None:
    """Kills this process at a step, counted from the first transaction of US events on."""
    us_store: Any = import_module("etl_assets.systems.events.us_events")
    write = us_store.write_together

    def armed(*given: Any) -> Any:
        us_store.write_together = write
        with_kill(kill)
        return write(*given)

    us_store.write_together = armed
