"""The routes of the simulated turbine API, and those that control it."""

from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import NaiveDatetime
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Receive, Scope, Send

from etl_assets.simulators.controls import simulator_app
from etl_assets.systems.turbines.simulator.answers import Quirks
from etl_assets.systems.turbines.simulator.data import SIGNALS
from etl_assets.systems.turbines.simulator.source import SourceFailed

if TYPE_CHECKING:
    from etl_assets.systems.turbines.simulator.api import TurbinesSimulator

ARROW = "application/vnd.apache.arrow.stream"
# Up to here an answer is sent whole, with its length; beyond it is streamed, and nobody knows how long it will be.
_WHOLE_BYTES = 1_000_000
_ROW = {"timestamp": "2024-05-20T00:00:00", "wind_speed": 8.1, "power": 1200.0}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The rows, in no promised order",
        "content": {"application/json": {"example": [_ROW]}, ARROW: {}},
    },
    400: {"description": "None of the columns is known"},
    404: {"description": "There is no such turbine"},
}


def turbines_app(simulator: "TurbinesSimulator") -> FastAPI:
    """The API and its controls over one simulator; its errors are FastAPI's own, `{"detail": …}`."""
    app = simulator_app("Turbine signals (simulated)", simulator.faults)
    app.add_exception_handler(StarletteHTTPException, http_exception_handler)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, request_validation_exception_handler)  # type: ignore[arg-type]

    @app.exception_handler(SourceFailed)
    async def failed(request: Request, error: SourceFailed) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503)

    app.include_router(_api(simulator))
    app.include_router(_controls(simulator))
    return app


def _api(simulator: "TurbinesSimulator") -> APIRouter:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        simulator.close()

    router = APIRouter(lifespan=lifespan)

    @router.get("/data", responses=_RESPONSES, response_class=Response)
    async def data(
        start_timestamp: Annotated[NaiveDatetime, Query(description="first instant, UTC without a zone")],
        end_timestamp: Annotated[NaiveDatetime, Query(description="first instant that is not wanted any more")],
        columns: Annotated[list[str], Query(description=f"any of {', '.join(SIGNALS)}; unknown ones are left out")],
        turbine: Annotated[str | None, Query(description="ignored by a source that has only one")] = None,
        accept: Annotated[str, Header(description=f"`{ARROW}`: an Arrow IPC stream")] = "",
    ) -> Response:
        """The signals of one turbine in [start, end), of any number of minutes."""
        if end_timestamp < start_timestamp:
            raise HTTPException(422, f"end_timestamp {end_timestamp} is before start_timestamp {start_timestamp}")
        if not {"timestamp", *SIGNALS}.intersection(columns):
            raise HTTPException(400, "Invalid column names")
        arrow = any(kind.split(";")[0].strip().lower() == ARROW for kind in accept.split(","))
        pieces = simulator.answer(
            start=start_timestamp,
            end=end_timestamp,
            columns=[name for name in dict.fromkeys(columns) if name in SIGNALS],
            turbine=_known_turbine(simulator, turbine),
            arrow=arrow,
        )
        return await _answered(pieces, media_type=ARROW if arrow else "application/json")

    @router.get("/data/{row_id}", responses={404: {"description": "There is no such row"}})
    async def row(row_id: int) -> dict[str, Any]:
        """One row with all its columns."""
        found = await run_sync(partial(simulator.row, row_id))
        if found is None:
            raise HTTPException(404, f"there is no row {row_id}")
        return found

    return router


def _known_turbine(simulator: "TurbinesSimulator", turbine: str | None) -> str:
    if not simulator.turbines:
        return ""
    known = ", ".join(simulator.turbines)
    if turbine is None:
        raise HTTPException(422, f"turbine is missing: known are {known}")
    if turbine not in simulator.turbines:
        raise HTTPException(404, f"there is no turbine {turbine[:100]!r}: known are {known}")
    return turbine


async def _answered(pieces: Generator[bytes, None, None], *, media_type: str) -> Response:
    headers = {"Vary": "Accept"}
    try:
        begin, ended = await run_sync(partial(_begun, pieces))
    except BaseException:
        pieces.close()
        raise
    if ended:
        return Response(begin, media_type=media_type, headers=headers)
    return _Streamed(begin, pieces, media_type=media_type, headers=headers)


def _begun(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """The beginning of an answer, and whether that is all of it."""
    begin: list[bytes] = []
    for piece in pieces:
        begin.append(piece)
        if sum(map(len, begin)) > _WHOLE_BYTES:
            return b"".join(begin), False
    return b"".join(begin), True


class _Streamed(StreamingResponse):
    """An answer that leaves no query running, also where the client goes away."""

    def __init__(self, begin: bytes, pieces: Generator[bytes, None, None], **options: Any) -> None:
        super().__init__(_chained(begin, pieces), **options)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._pieces.close()


def _chained(begin: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield begin
    yield from pieces


def _controls(simulator: "TurbinesSimulator") -> APIRouter:
    router = APIRouter(prefix="/_control", tags=["control"])

    @router.get("/quirks")
    async def quirks() -> Quirks:
        return simulator.quirks

    @router.put("/quirks")
    async def change(wanted: Quirks) -> Quirks:
        """What is left out is as promised again."""
        simulator.quirks = wanted
        return simulator.quirks

    @router.post("/reset")
    async def reset() -> None:
        simulator.reset()

    return router
