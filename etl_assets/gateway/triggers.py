"""Starting a run at most once: the section that only one trigger at a time is in, with its rate limit.

What holds for all gateways on one database is decided in the database: who is in the section (an advisory lock) and when
a trigger was last taken (a row, by the database's clock). Whether a run is under way, Dagster knows.
"""

import logging
from dataclasses import dataclass

from etl_assets.gateway.contracts import Triggers
from etl_assets.gateway.orchestrator import Orchestrator, Run, StillLoading
from etl_assets.gateway.store import Busy, Connection, Store, StoreDown

# A moment that lies ahead comes of a clock that was set back; to wait for it could take years.
CLAIM = f"""
    INSERT INTO {Triggers.config.table} AS last (name, triggered_at, run_id) VALUES (%(name)s, clock_timestamp(), '')
    ON CONFLICT (name) DO UPDATE SET triggered_at = excluded.triggered_at, run_id = excluded.run_id
    WHERE last.triggered_at <= clock_timestamp() - make_interval(secs => %(interval_s)s)
       OR last.triggered_at > clock_timestamp()
    RETURNING (triggered_at AT TIME ZONE 'UTC')::date::text
"""
RECORD = (
    f"UPDATE {Triggers.config.table} SET triggered_at = clock_timestamp(), run_id = %(run_id)s WHERE name = %(name)s"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trigger:
    """What a trigger starts.

    Attributes:
        name: of its row in `gateway.triggers`.
        job: is run for the partition of the present day (UTC).
    """

    name: str
    job: str


class TooFrequent(Exception):
    """The trigger was taken a moment ago, its run is not finished, or another request is just taking it."""


class Loading(Exception):
    """Dagster is still loading the code that would run."""


async def take(trigger: Trigger, *, interval_s: float, store: Store, orchestrator: Orchestrator) -> Run:
    """Start the run of a trigger, unless it is too early for one.

    The row is written before the launch and committed after it: a database that cannot keep it launches nothing, and a
    launch that fails uses up nothing.

    Args:
        interval_s: least time since the trigger was last taken.

    Raises:
        TooFrequent, Loading: if nothing was started, for that reason.
        StoreDown, OrchestratorDown, LaunchRefused: if nothing was started, since one of them failed.
    """
    run = None
    try:
        async with store.exclusive(trigger.name) as connection:
            day = await _claim(connection, trigger, interval_s=interval_s)
            with connection.elsewhere():
                await _verify(trigger, orchestrator)
            # The lock is ours for as long as the session lives; that it still does is asked as late as can be.
            await connection.execute("SELECT 1")
            with connection.elsewhere():
                run = await orchestrator.launch(trigger.job, partition=day)
            await connection.execute(RECORD, {"name": trigger.name, "run_id": run.run_id})
    except Busy:
        raise TooFrequent from None
    except StillLoading:
        raise Loading from None
    except StoreDown:
        if run is None:
            raise
        # The run is under way, and to say otherwise would ask for a second one; as long as it lasts it holds off others.
        log.warning("run %s of %s was started, but the time could not be recorded", run.run_id, trigger.job)
    return run


async def _claim(connection: Connection, trigger: Trigger, *, interval_s: float) -> str:
    """Write the row of the trigger, and give the present day."""
    cursor = await connection.execute(CLAIM, {"name": trigger.name, "interval_s": interval_s})
    row = await cursor.fetchone()
    if row is None:
        raise TooFrequent
    return str(row[0])


async def _verify(trigger: Trigger, orchestrator: Orchestrator) -> None:
    if await orchestrator.loading():
        raise Loading
    if await orchestrator.unfinished(trigger.job):
        raise TooFrequent
