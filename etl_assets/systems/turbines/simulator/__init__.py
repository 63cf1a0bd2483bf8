"""The turbines' source as a simulator: an API over a database of 1-minute signals, and the routes that control it.

`fill` fills the database, `planted` tells which faults its rows have; what a server may do wrong with them are the quirks and
the faults of the simulator. Nothing is held longer than a record batch, which becomes text column by column.
"""

import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from io import BytesIO
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from psycopg import sql
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NaiveDatetime
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Receive, Scope, Send

from etl_assets.simulators.controls import simulator_app
from etl_assets.simulators.faults import Faults
from etl_assets.systems.turbines.simulator.data import (
    DAYS,
    SIGNALS,
    START,
    Planted,
    Source,
    SourceFailed,
    fill,
    planted,
    rows,
)

__all__ = ["DAYS", "SIGNALS", "START", "Planted", "SourceFailed", "TurbinesSimulator", "fill", "planted", "rows"]

ARROW = "application/vnd.apache.arrow.stream"
_MINUTE_US = 60_000_000
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


# The answers


class Late(BaseModel):
    """Minutes that the source does not have yet: [begin, end) of one turbine."""

    model_config = ConfigDict(extra="forbid")

    begin: AwareDatetime
    end: AwareDatetime
    turbine: str = Field(default="", description="empty for the only one of a source that names none")


class Quirks(BaseModel):
    """What `GET /data` does other than promised; by default nothing."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    include_end: bool = Field(default=False, description="the row at the end is in the answer")
    shuffled: bool = Field(default=False, description="rows come in any order, within some tens of thousands")
    repeat_every: int = Field(
        default=0, ge=0, description="each so-many-th minute since 1970 comes twice; 0: none does"
    )
    repeat_differs: bool = Field(default=False, description="the earlier of the two is wrong, not the same")
    late: list[Late] = Field(default_factory=list, description="minutes that come only once they are released")
    extra_column: str = Field(default="", description="a column with a text in each row that nobody asked for")
    renamed: dict[str, str] = Field(default_factory=dict, description="column → its name in the answer")
    numbers_as_text: bool = Field(default=False, description='"8.1" for 8.1')
    nan: bool = Field(
        default=False, description="NaN where a value is NULL, in JSON as the token that JSON does not have"
    )

    def missing(self, turbine: str) -> list[tuple[datetime, datetime]]:
        """The late minutes of one turbine, as naive times in UTC."""
        return [(_naive(late.begin), _naive(late.end)) for late in self.late if late.turbine == turbine]

    def applied(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch as this server answers with it."""
        if self.shuffled:
            batch = batch.take(pa.array(np.random.default_rng(0).permutation(batch.num_rows)))
        # After it: of two rows of a minute the later one is right in any order.
        if self.repeat_every:
            batch = self._repeated(batch)
        columns = {name: self._written(batch[name]) for name in batch.schema.names}
        if self.extra_column:
            columns[self.extra_column] = pa.repeat(pa.scalar("ok"), batch.num_rows)
        return pa.RecordBatch.from_pydict({self.renamed.get(name, name): values for name, values in columns.items()})

    def _repeated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        minutes = batch["timestamp"].cast(pa.int64()).to_numpy() // _MINUTE_US
        taken = np.repeat(np.arange(len(minutes)), 1 + (minutes % self.repeat_every == 0))
        batch = batch.take(pa.array(taken))
        if not self.repeat_differs:
            return batch
        wrong = pa.array(np.append(taken[1:] == taken[:-1], False)[: len(taken)])
        columns = [pc.if_else(wrong, pc.add(pc.multiply(values, 0.5), 1.0), values) for values in batch.columns[1:]]
        return pa.RecordBatch.from_arrays([batch["timestamp"], *columns], schema=batch.schema)

    def _written(self, values: pa.Array) -> pa.Array:
        if pa.types.is_timestamp(values.type):
            return values
        if self.nan:
            values = pc.fill_null(values, float("nan"))
        return _numbers(values) if self.numbers_as_text else values


def _naive(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)


def json_text(batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """A JSON array of objects, in parts: one for each batch, and the end."""
    between = b"["
    for batch in batches:
        if batch.num_rows:
            yield between + _objects(batch)
            between = b","
    yield b"]" if between == b"," else b"[]"


def arrow_stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """An Arrow IPC stream, in parts: the schema and the first batch, the other batches, the end-of-stream marker."""
    sink = BytesIO()

    def written() -> bytes:
        part = sink.getvalue()
        sink.seek(0)
        sink.truncate()
        return part

    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
            yield written()
    yield written()


def _objects(batch: pa.RecordBatch) -> memoryview:
    """The rows as JSON objects with commas between them."""
    parts: list[object] = []
    before = "{"
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        quote = '"' if pa.types.is_timestamp(column.type) else ""
        parts += [f"{before}{json.dumps(name)}:{quote}", _token(column)]
        before = f"{quote},"
    parts.append(before.replace(",", "},"))
    rows = pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="null")
    _, offsets, text = rows.buffers()
    # The text of an Arrow array of strings is one stretch of memory; the last row's comma is left out.
    return memoryview(text)[: np.frombuffer(offsets, np.int32)[len(rows)] - 1]


def _token(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        # Whole seconds have 19 characters, with a blank between date and time.
        return pc.binary_replace_slice(column.cast(pa.timestamp("s")).cast(pa.string()), 10, 11, "T")
    if pa.types.is_string(column.type):
        return pc.binary_join_element_wise('"', column, '"', "")
    return _numbers(column)


def _numbers(column: pa.Array) -> pa.Array:
    """Numbers as text, the shortest that reads back as the same."""
    text = column.cast(pa.string())
    if pc.any(pc.is_nan(column)).as_py():
        text = pc.replace_substring(text, "nan", "NaN")
    return text


# The API


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

    app.include_router(_routes(simulator))
    return app


def _routes(simulator: TurbinesSimulator) -> APIRouter:
    @contextlib.asynccontextmanager
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

    @router.get("/_control/quirks", tags=["control"])
    async def quirks() -> Quirks:
        return simulator.quirks

    @router.put("/_control/quirks", tags=["control"])
    async def change(wanted: Quirks) -> Quirks:
        """What is left out is as promised again."""
        simulator.quirks = wanted
        return simulator.quirks

    @router.post("/_control/reset", tags=["control"])
    async def reset() -> None:
        simulator.reset()

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
        begin = await run_sync(_begun, parts)
    except BaseException:
        parts.close()
        raise
    if len(begin) <= _WHOLE_BYTES:
        return Response(begin, media_type=media_type, headers=headers)
    return _Streamed(begin, parts, media_type=media_type, headers=headers)


class _Streamed(StreamingResponse):
    """An answer that leaves no query running, also where the client goes away."""

    def __init__(self, begin: bytes, parts: Generator[bytes, None, None], **options: Any) -> None:
        super().__init__(itertools.chain([begin], parts), **options)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._parts.close()


def _begun(parts: Iterator[bytes]) -> bytes:
    """The beginning of an answer: as many parts as are more than is sent whole, or all."""
    begin: list[bytes] = []
    size = 0
    for part in parts:
        begin.append(part)
        size += len(part)
        if size > _WHOLE_BYTES:
            break
    return b"".join(begin)
