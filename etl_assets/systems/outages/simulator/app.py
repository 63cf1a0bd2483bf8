"""The routes of the simulated outage API, and those that control it."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel

from etl_assets.simulators.controls import Refusal, simulator_app

if TYPE_CHECKING:
    from etl_assets.systems.outages.simulator.api import OutagesSimulator


class LateOutage(BaseModel):
    """A row to add to `GET /outages`."""

    site: str
    device_index: int
    begin: str
    end: str


class ExactData(BaseModel):
    """What to serve instead of generated data."""

    outages: list[Any]
    site_infos: dict[str, Any]


def outages_app(simulator: "OutagesSimulator") -> FastAPI:
    """The API and its controls over one simulator."""
    app = simulator_app("Outage API (simulated)", simulator.faults)
    app.include_router(_api(simulator))
    app.include_router(_controls(simulator))
    return app


def _api(simulator: "OutagesSimulator") -> APIRouter:
    async def admitted(request: Request) -> None:
        simulator.admit(request.headers.get("x-api-key"))

    router = APIRouter(dependencies=[Depends(admitted)])

    @router.get("/outages")
    async def outages() -> Response:
        return Response(simulator.outages_document(), media_type="application/json")

    @router.get("/site-info/{site}")
    async def site_info(site: str) -> Response:
        # Not FastAPI's own rendering: it refuses NaN, which a test may want served.
        return Response(json.dumps(simulator.site_info(site)), media_type="application/json")

    @router.post("/site-outages/{site}")
    async def site_outages(site: str, request: Request) -> dict[str, int]:
        key = request.headers.get("idempotency-key")
        return {"accepted": simulator.deliver(site, await request.body(), key=key)}

    return router


def _controls(simulator: "OutagesSimulator") -> APIRouter:
    router = APIRouter(prefix="/_control", tags=["control"])

    @router.get("/deliveries")
    async def deliveries() -> dict[str, Any]:
        return {
            "deliveries": [asdict(delivery) for delivery in simulator.deliveries],
            "refusals": [asdict(refusal) for refusal in simulator.refusals],
            "replays": simulator.replays,
        }

    @router.get("/sites")
    async def sites() -> dict[str, dict[str, int]]:
        return {
            site: {"acknowledged": len(simulator.acknowledged(site)), "pending": len(simulator.pending(site))}
            for site in simulator.sites()
        }

    @router.post("/reset")
    async def reset() -> None:
        simulator.reset()

    @router.post("/outages")
    async def add_outage(row: LateOutage) -> dict[str, str]:
        try:
            return simulator.add_outage(row.site, row.device_index, row.begin, row.end)
        except ValueError as error:
            raise Refusal(422, str(error)) from None

    @router.put("/data")
    async def serve_exactly(data: ExactData) -> None:
        simulator.serve_exactly(data.outages, data.site_infos)

    return router
