"""Answers in fixed words, as the calls of the original exercises have them, and the triggers that answer so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi.responses import JSONResponse

from etl_assets.gateway.orchestrator import LaunchRefused, Orchestrator, OrchestratorDown
from etl_assets.gateway.problems import documented
from etl_assets.gateway.store import STORE_DOWN, Store
from etl_assets.gateway.triggers import Outcome, Trigger, tried
from etl_assets.settings import Settings

Words = Mapping[str, str | bool]
STATUSES = {Outcome.TAKEN: 200, Outcome.TOO_FREQUENT: 400, Outcome.LOADING: 400}
TYPES = {str: "string", bool: "boolean"}


def says(*answers: Words, description: str) -> dict[str, Any]:
    """A documented answer that is one of a few.

    Args:
        answers: have the same names, one of which is `message`.
    """
    values = {name: list(dict.fromkeys(answer[name] for answer in answers)) for name in answers[0]}
    return {
        "description": description,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {name: {"type": TYPES[type(of[0])], "enum": of} for name, of in values.items()},
                    "required": list(values),
                    "additionalProperties": False,
                },
                "examples": {answer["message"]: {"value": dict(answer)} for answer in answers},
            }
        },
    }


def said(answer: Words, status: int = 200) -> JSONResponse:
    """One of these answers."""
    # An answer to a GET might be kept by what lies between, and the next one never reach us.
    return JSONResponse(dict(answer), status, headers={"Cache-Control": "no-store"})


@dataclass(frozen=True)
class TriggerCall:
    """A call that takes a trigger.

    Attributes:
        answers: what it says, by outcome.
        started: what has happened when the trigger was taken, for the document.
    """

    trigger: Trigger
    answers: Mapping[Outcome, Words]
    started: str

    @property
    def responses(self) -> dict[int | str, dict[str, Any]]:
        """Its answers as an operation documents them."""
        refused = [self.answers[outcome] for outcome in (Outcome.TOO_FREQUENT, Outcome.LOADING)]
        return {
            200: says(self.answers[Outcome.TAKEN], description=self.started),
            400: says(
                *refused,
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
        """Take the trigger, and say what came of it.

        Raises:
            StoreDown, OrchestratorDown, LaunchRefused: as `triggers.take`.
        """
        outcome = await tried(
            self.trigger, interval_s=settings.etl_trigger_interval_s, store=store, orchestrator=dagster
        )
        return said(self.answers[outcome], STATUSES[outcome])
