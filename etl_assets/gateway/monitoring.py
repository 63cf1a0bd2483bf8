"""Liveness, readiness and metrics."""

import asyncio
import logging
import platform
from collections.abc import Awaitable
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel, Field

from etl_assets.gateway.deadlines import stretched
from etl_assets.gateway.problems import Problem
from etl_assets.gateway.routing import Dagster, Data

DEADLINE_S = 1.5
UNKNOWN_ROUTE = "(none)"
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30)

log = logging.getLogger(__name__)
router = APIRouter(tags=["health"])

registry = CollectorRegistry()
# Templates of routes and not paths: a scanner that tries a million paths makes one series.
_requests = Counter(
    "gateway_requests",
    "Requests answered, by route template, method and status.",
    ("route", "method", "status"),
    registry=registry,
)
_seconds = Histogram(
    "gateway_request_seconds",
    "Time from the request to the end of its answer.",
    ("route", "method"),
    buckets=SECONDS,
    registry=registry,
)
_triggers = Counter(
    "gateway_triggers",
    "Triggers by name and outcome: taken, or the reason why one was refused.",
    ("trigger", "outcome"),
    registry=registry,
)
Info("gateway_build", "Version of the gateway.", registry=registry).info(
    {"version": version("etl-assets"), "python": platform.python_version()}
)


def count_request(*, route: str | None, method: str, status: int, seconds: float) -> None:
    """Count an answered request; `route` is the template of its route, None where there is no such path."""
    labels = (route or UNKNOWN_ROUTE, method if method in METHODS else "(other)")
    _requests.labels(*labels, str(status)).inc()
    _seconds.labels(*labels).observe(seconds)


def count_trigger(name: str, outcome: str) -> None:
    """Count a trigger, by its name; `outcome` is `taken` or one of a few fixed reasons."""
    _triggers.labels(name, outcome).inc()


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


def _example(example: object, **answer: object) -> dict[str, Any]:
    return {"content": {"application/json": {"example": example}}, **answer}


READY = {"ready": True, "detail": "ready"}
LOADING = {"ready": False, "detail": "Dagster is still loading the code location"}
NOT_READY = {"ready": False, "database": READY, "dagster": LOADING}


@router.get("/healthz", summary="Whether the process lives", responses={200: _example({"status": "ok"})})
async def healthz() -> Alive:
    """Answer as long as the process lives; nothing else is asked."""
    return Alive(status="ok")


@router.get(
    "/readyz",
    summary="Whether its parts are ready",
    response_model=Readiness,
    responses={
        200: _example({"ready": True, "database": READY, "dagster": READY}),
        503: _example(NOT_READY, description="At least one part is not ready", model=Readiness),
    },
)
async def readyz(request: Request, dagster: Dagster, store: Data) -> JSONResponse:
    """Ask the database and Dagster, side by side; each has its own deadline."""

    async def of_database() -> str:
        async with store.connection() as connection:
            await connection.execute("SELECT 1")
        return ""

    async def of_dagster() -> str:
        return str(LOADING["detail"]) if await dagster.loading() else ""

    database, orchestrator = await asyncio.gather(_part(of_database()), _part(of_dagster()))
    ready = database.ready and orchestrator.ready
    document = Readiness(ready=ready, database=database, dagster=orchestrator)
    if not ready:
        said = f"database: {database.detail}; Dagster: {orchestrator.detail}"
        log.warning("request %s: not ready: %s", request.state.request_id, said)
    return JSONResponse(document.model_dump(), 200 if ready else 503, headers={"Cache-Control": "no-store"})


async def _part(hindrance_of: Awaitable[str]) -> Part:
    """The state of a part, of which something is found that is in the way, or nothing."""
    limit_s = stretched(DEADLINE_S)
    try:
        async with asyncio.timeout(limit_s):
            hindrance = await hindrance_of
    except TimeoutError:
        hindrance = f"no answer within {limit_s:.2g} s"
    except Problem as problem:
        hindrance = problem.detail
    return Part(ready=not hindrance, detail=hindrance or "ready")


EXPOSITION = {
    "schema": {"type": "string"},
    "example": 'gateway_triggers_total{trigger="experiments",outcome="taken"} 1.0\n',
}


@router.get(
    "/metrics",
    summary="Counters, for Prometheus",
    response_class=Response,
    responses={200: {"description": "The text format of Prometheus", "content": {"text/plain": EXPOSITION}}},
)
async def exposition() -> Response:
    """Requests by route, method and status, their duration, triggers by name and outcome, and the version."""
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
