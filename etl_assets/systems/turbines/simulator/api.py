"""The turbines' source as a simulator: an API over a database of 1-minute signals, and the routes that control it.

`fill` fills the database, `planted` tells which faults its rows have; what a server may do wrong with them are the quirks and
the faults of the simulator.
"""

from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Annotated, Any

import pyarrow as pa
from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from psycopg import sql
from pydantic import NaiveDatetime
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Receive, Scope, Send

from etl_assets.simulators.controls import simulator_app
from etl_assets.simulators.faults import Faults
from etl_assets.systems.turbines.simulator.answers import Late, Quirks, arrow_stream, json_text
from etl_assets.systems.turbines.simulator.data import SIGNALS
from etl_assets.systems.turbines.simulator.database import Source, SourceFailed

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


class TurbinesSimulator:
    """The API over a source database; `app` serves it, the methods steer it, also while it is served.

    Args:
        database_url: of the source database, filled by `fill`; it is not opened before the first request.
        turbines: those that the database was filled with; none: the source has one and does not know `turbine=`.
        seed: gives the faults; the same seed, the same sequence.

    Attributes:
        quirks: what the API does other than promised.
    """

    def __init__(self, database_url: str, *, turbines: Sequence[str] = (), seed: int = 0) -> None:
        self.turbines = tuple(turbines)
        self.faults = Faults(seed=seed)
        self._source = Source(database_url)
        self.reset()
        self.app = turbines_app(self)

    def reset(self) -> None:
        """Back to the beginning: no faults, no quirks, nothing held back."""
        self.faults.clear()
        self.quirks = Quirks()

    def close(self) -> None:
        """Closes the idle connections to the database; what is asked for later opens others."""
        self._source.close()

    def hold(self, begin: datetime, end: datetime, *, turbine: str = "") -> None:
        """Holds the minutes of [begin, end), aware times, back until `release`."""
        self.quirks = self.quirks.model_copy(
            update={"late": [*self.quirks.late, Late(begin=begin, end=end, turbine=turbine)]}
        )

    def release(self) -> None:
        """Late minutes are in the answers from now on."""
        self.quirks = self.quirks.model_copy(update={"late": []})

    # What the API serves.

    def answer(
        self, *, start: datetime, end: datetime, columns: Iterable[str], turbine: str, arrow: bool
    ) -> Generator[bytes, None, None]:
        """The rows of one turbine in [start, end), in parts as they come from the database.

        Close the iterator if it is not read to its end: it holds a connection.

        Args:
            columns: known ones, each once.
            arrow: an Arrow IPC stream instead of JSON.
        """
        quirks = self.quirks
        query = _query(start=start, end=end, columns=list(columns), turbine=turbine, quirks=quirks)
        with self._source.batches(query) as reader:
            written = (quirks.applied(batch) for batch in reader)
            schema = quirks.applied(pa.RecordBatch.from_pylist([], schema=reader.schema)).schema
            yield from arrow_stream(schema, written) if arrow else json_text(written)

    def row(self, row_id: int) -> dict[str, Any] | None:
        """A row with all its columns, None if there is none; quirks do not touch it."""
        query = sql.SQL("SELECT * FROM public.data WHERE id = {}").format(row_id)
        with self._source.batches(query) as reader:
            found = reader.read_all().to_pylist()
        for row in found:
            if not self.turbines:
                del row["turbine"]
        return found[0] if found else None


def _query(*, start: datetime, end: datetime, columns: list[str], turbine: str, quirks: Quirks) -> sql.Composable:
    """Without an order: the rows of an interval come in that of the table, and none of them waits for a sort."""
    wanted = sql.SQL(", ").join(map(sql.Identifier, ["timestamp", *columns]))
    last = sql.SQL("<=" if quirks.include_end else "<")
    query = sql.SQL("SELECT {} FROM public.data WHERE turbine = {} AND timestamp >= {} AND timestamp {} {}").format(
        wanted, turbine, start, last, end
    )
    for begin, until in quirks.missing(turbine):
        query += sql.SQL(" AND NOT (timestamp >= {} AND timestamp < {})").format(begin, until)
    return query


def turbines_app(simulator: TurbinesSimulator) -> FastAPI:
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


def _api(simulator: TurbinesSimulator) -> APIRouter:
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
        parts = simulator.answer(
            start=start_timestamp,
            end=end_timestamp,
            columns=[name for name in dict.fromkeys(columns) if name in SIGNALS],
            turbine=_known_turbine(simulator, turbine),
            arrow=arrow,
        )
        return await _answered(parts, media_type=ARROW if arrow else "application/json")

    @router.get("/data/{row_id}", responses={404: {"description": "There is no such row"}})
    async def row(row_id: int) -> dict[str, Any]:
        """One row with all its columns."""
        found = await run_sync(partial(simulator.row, row_id))
        if found is None:
            raise HTTPException(404, f"there is no row {row_id}")
        return found

    return router


def _known_turbine(simulator: TurbinesSimulator, turbine: str | None) -> str:
    if not simulator.turbines:
        return ""
    known = ", ".join(simulator.turbines)
    if turbine is None:
        raise HTTPException(422, f"turbine is missing: known are {known}")
    if turbine not in simulator.turbines:
        raise HTTPException(404, f"there is no turbine {turbine[:100]!r}: known are {known}")
    return turbine


async def _answered(parts: Generator[bytes, None, None], *, media_type: str) -> Response:
    headers = {"Vary": "Accept"}
    try:
        begin, ended = await run_sync(partial(_begun, parts))
    except BaseException:
        parts.close()
        raise
    if ended:
        return Response(begin, media_type=media_type, headers=headers)
    return _Streamed(begin, parts, media_type=media_type, headers=headers)


def _begun(parts: Iterator[bytes]) -> tuple[bytes, bool]:
    """The beginning of an answer, and whether that is all of it."""
    begin: list[bytes] = []
    for part in parts:
        begin.append(part)
        if sum(map(len, begin)) > _WHOLE_BYTES:
            return b"".join(begin), False
    return b"".join(begin), True


class _Streamed(StreamingResponse):
    """An answer that leaves no query running, also where the client goes away."""

    def __init__(self, begin: bytes, parts: Generator[bytes, None, None], **options: Any) -> None:
        super().__init__(_chained(begin, parts), **options)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._parts.close()


def _chained(begin: bytes, parts: Iterator[bytes]) -> Iterator[bytes]:
    yield begin
    yield from parts


def _controls(simulator: TurbinesSimulator) -> APIRouter:
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
