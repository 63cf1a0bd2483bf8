"""Triggers: start a run at most once, under a lock and with a rate limit, and answer in the words of the exercises.

What holds for all gateways on one database is decided in the database: an advisory lock per trigger, and when it was last
taken (a row, by the database's clock). Whether a run is under way, Dagster knows.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from fastapi.responses import JSONResponse

from etl_assets.gateway import monitoring
from etl_assets.gateway.contracts import Triggers
from etl_assets.gateway.graphql import OrchestratorDown, StillLoading
from etl_assets.gateway.orchestrator import LaunchRefused, Orchestrator, Run
from etl_assets.gateway.problems import documented
from etl_assets.gateway.routing import Words, words_documented, words_response
from etl_assets.gateway.store import STORE_DOWN, Busy, Connection, Store, StoreDown
from etl_assets.settings import Settings

# A moment in the future comes of a clock that was set back; to wait for it could take years.
CLAIM = f"""
    INSERT INTO {Triggers.config.table} AS last (name, triggered_at, run_id) VALUES (%(name)s, clock_timestamp(), '')
    ON CONFLICT (name) DO UPDATE SET triggered_at = excluded.triggered_at, run_id = excluded.run_id
    WHERE last.triggered_at <= clock_timestamp() - make_interval(secs => %(interval_s)s)
       OR last.triggered_at > clock_timestamp()
    RETURNING triggered_at
"""
RECORD = (
    f"UPDATE {Triggers.config.table} SET triggered_at = clock_timestamp(), run_id = %(run_id)s WHERE name = %(name)s"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What of its job a trigger starts.

    Attributes:
        partition: a day.
        run_config: None means that of the partition.
    """

    partition: str
    run_config: Mapping[str, Any] | None = None


async def present_day(_connection: Connection, now: datetime) -> Plan:
    """Start the day that it is, in UTC."""
    return Plan(f"{now:%Y-%m-%d}")


@dataclass(frozen=True)
class Trigger:
    """What a trigger starts.

    Attributes:
        name: of its row in `gateway.triggers`.
        job: that is run.
        plan: what of it, at an instant of the database's clock (aware UTC).
    """

    name: str
    job: str
    plan: Callable[[Connection, datetime], Awaitable[Plan]] = present_day


class Outcome(StrEnum):
    """What came of a trigger that failed at nothing."""

    TAKEN = "taken"
    TOO_FREQUENT = "too frequent"
    LOADING = "loading"


class TooFrequent(Exception):
    """The trigger was taken a moment ago, its run is not finished, or another request is just taking it."""


@dataclass(frozen=True)
class TriggerCall:
    """A call that takes a trigger.

    Attributes:
        answers: in which words, by outcome.
        started: what has happened when the trigger was taken, for the document.
    """

    trigger: Trigger
    answers: Mapping[Outcome, Words]
    started: str

    @property
    def responses(self) -> dict[int | str, dict[str, Any]]:
        """Its answers as an operation documents them."""
        return {
            200: words_documented(self.answers[Outcome.TAKEN], description=self.started),
            400: words_documented(
                self.answers[Outcome.TOO_FREQUENT],
                self.answers[Outcome.LOADING],
                description=(
                    "Nothing was started: a run is queued or running, the last trigger is a moment ago"
                    " (ETL_TRIGGER_INTERVAL_S), another one is under way, or Dagster is still loading the code"
                ),
            ),
            **documented(
                LaunchRefused(f"there is no job '{self.trigger.job}': the jobs are outages_job"),
                OrchestratorDown(),
                STORE_DOWN,
            ),
        }

    async def answer(self, dagster: Orchestrator, store: Store, settings: Settings) -> JSONResponse:
        """Take the trigger if it can be taken, count what came of it, and say so.

        Raises:
            StoreDown, OrchestratorDown, LaunchRefused: as `take`.
        """
        outcome = Outcome.TAKEN
        try:
            await take(self.trigger, interval_s=settings.etl_trigger_interval_s, store=store, orchestrator=dagster)
        except TooFrequent:
            outcome = Outcome.TOO_FREQUENT
        except StillLoading:
            outcome = Outcome.LOADING
        monitoring.count_trigger(self.trigger.name, outcome)
        return words_response(self.answers[outcome], 200 if outcome is Outcome.TAKEN else 400)


async def take(trigger: Trigger, *, interval_s: float, store: Store, orchestrator: Orchestrator) -> Run:
    """Start the run of a trigger, unless it is too early for one.

    The row is written before the launch and committed after it: a database that cannot keep it launches nothing, and a
    launch that fails uses up nothing.

    Args:
        interval_s: least time since the trigger was last taken.

    Raises:
        TooFrequent, StillLoading: if nothing was started, for that reason.
        StoreDown, OrchestratorDown, LaunchRefused: if nothing was started, since one of them failed.
    """
    run = None
    try:
        async with store.exclusive(trigger.name) as connection:
            claim = await connection.execute(CLAIM, {"name": trigger.name, "interval_s": interval_s})
            if (claimed := await claim.fetchone()) is None:
                raise TooFrequent
            plan = await trigger.plan(connection, claimed[0])
            with connection.deadline_paused():
                if await orchestrator.loading():
                    raise StillLoading
                if await orchestrator.unfinished(trigger.job):
                    raise TooFrequent
            # The lock is ours for as long as the session lives; that it still does is checked as late as can be.
            await connection.execute("SELECT 1")
            with connection.deadline_paused():
                run = await orchestrator.launch(trigger.job, partition=plan.partition, run_config=plan.run_config)
            await connection.execute(RECORD, {"name": trigger.name, "run_id": run.run_id})
    except Busy:
        raise TooFrequent from None
    except StoreDown:
        if run is None:
            raise
        # The run is under way, and to say otherwise would ask for a second one; as long as it lasts it holds off others.
        log.warning("run %s of %s was started, but the time could not be recorded", run.run_id, trigger.job)
    return run
