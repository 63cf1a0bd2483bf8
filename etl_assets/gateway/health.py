"""Whether the gateway lives, whether it can do its work, and what it has done so far."""

import asyncio
from collections.abc import Awaitable

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from etl_assets.gateway import metrics
from etl_assets.gateway.dependencies import Dagster, Data
from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.problems import Problem
from etl_assets.gateway.store import Store

DEADLINE_S = 1.5

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process lives."""

    status: str = Field("ok", description="Always `ok`")


class Part(BaseModel):
    """One of the parts that the gateway needs."""

    ready: bool = Field(description="Whether it answers and can be used")
    detail: str = Field(description="What is in the way, if anything is")


class Readiness(BaseModel):
    """Whether the gateway can do its work."""

    ready: bool = Field(description="Whether all parts are")
    database: Part = Field(description="The platform's database, at the version that the gateway needs")
    dagster: Part = Field(description="Dagster, with its code locations loaded")


READY = {"ready": True, "detail": "ready"}
LOADING = {"ready": False, "detail": "Dagster is still loading the code location"}
EXAMPLE = {"ready": True, "database": READY, "dagster": READY}
NOT_READY = {
    "description": "At least one part is not ready",
    "model": Readiness,
    "content": {"application/json": {"example": {"ready": False, "database": READY, "dagster": LOADING}}},
}


@router.get(
    "/healthz",
    summary="Whether the process lives",
    responses={200: {"content": {"application/json": {"example": {"status": "ok"}}}}},
)
async def healthz() -> Alive:
    """Answer as long as the process lives; nothing else is asked."""
    return Alive(status="ok")


@router.get(
    "/readyz",
    summary="Whether its parts are ready",
    response_model=Readiness,
    responses={200: {"content": {"application/json": {"example": EXAMPLE}}}, 503: NOT_READY},
)
async def readyz(dagster: Dagster, store: Data) -> JSONResponse:
    """Ask the database and Dagster, side by side; each has its own deadline."""
    database, orchestrator = await asyncio.gather(_judged(_ask_database(store)), _judged(_ask_dagster(dagster)))
    ready = database.ready and orchestrator.ready
    document = Readiness(ready=ready, database=database, dagster=orchestrator)
    return JSONResponse(document.model_dump(), 200 if ready else 503, headers={"Cache-Control": "no-store"})


@router.get(
    "/metrics",
    summary="Counters, for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "The text format of Prometheus",
            "content": {
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": 'gateway_triggers_total{trigger="experiments",outcome="taken"} 1.0\n',
                }
            },
        }
    },
)
async def exposition() -> Response:
    """Requests by route, method and status, their duration, triggers by name and outcome, and the version."""
    return Response(metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})


async def _judged(asked: Awaitable[str]) -> Part:
    """What came of asking a part; an empty answer says that it is ready."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            hindrance = await asked
    except TimeoutError:
        hindrance = f"no answer within {DEADLINE_S:g} s"
    except Problem as problem:
        hindrance = problem.detail
    return Part(ready=not hindrance, detail=hindrance or "ready")


async def _ask_database(store: Store) -> str:
    async with store.connection() as connection:
        await connection.execute("SELECT 1")
    return ""


async def _ask_dagster(dagster: Orchestrator) -> str:
    return str(LOADING["detail"]) if await dagster.loading() else ""
