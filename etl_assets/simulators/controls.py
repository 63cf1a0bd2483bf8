"""What the apps of all simulators share: errors as `{"message": …}`, faults on plan, and routes that control them."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from etl_assets.simulators.faults import FaultMiddleware, Faults


class Refusal(Exception):
    """A request that the simulated API refuses; its message goes out in the body."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def simulator_app(title: str, faults: Faults) -> FastAPI:
    """An app that fails on plan, answers errors as `{"message": …}`, and has the fault controls."""
    app = FastAPI(title=title)
    app.add_middleware(FaultMiddleware, faults=faults)
    app.include_router(_fault_controls(faults))

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return JSONResponse({"message": error.message}, error.status, headers=error.headers)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"message": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"message": str(error.errors()[0]["msg"])}, 422)

    return app


class FaultPlan(BaseModel):
    """A change of the plan; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    rates: dict[str, dict[str, float]] = Field(default_factory=dict, description="call → kind → probability")
    scripts: dict[str, list[str]] = Field(default_factory=dict, description="call → kinds of its next requests")
    retry_after_s: float | None = Field(None, ge=0)
    stall_s: float | None = Field(None, ge=0)
    byte_interval_s: float | None = Field(None, ge=0)


def _fault_controls(faults: Faults) -> APIRouter:
    """`GET`, `PUT` and `DELETE /_control/faults`: counts by call and kind, a change of the plan, back to none."""
    router = APIRouter(prefix="/_control/faults", tags=["control"])

    @router.get("")
    async def counts() -> dict[str, dict[str, int]]:
        return faults.counts()

    @router.put("")
    async def change(plan: FaultPlan) -> dict[str, Any]:
        try:
            for call, probabilities in plan.rates.items():
                faults.rates(call, probabilities)
            for call, kinds in plan.scripts.items():
                faults.script(call, kinds)
        except ValueError as error:
            raise Refusal(422, str(error)) from None
        given = plan.model_dump(exclude_none=True)
        for name in given.keys() - {"rates", "scripts"}:
            setattr(faults, name, given[name])
        return given

    @router.delete("")
    async def clear() -> dict[str, dict[str, int]]:
        faults.clear()
        return faults.counts()

    return router
