"""The production system as a simulator: readings of machine parameters and work orders, as two streams of numbered records.

By default both are generated, with planted effects (`data`); over files it is the API that serves them.
"""

import json
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from anyio import sleep
from anyio.to_thread import run_sync
from fastapi import APIRouter, FastAPI, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.simulators.controls import Refusal, simulator_app
from etl_assets.simulators.faults import Faults
from etl_assets.systems.production.simulator.data import VERSION, generated
from etl_assets.systems.production.simulator.files import RecordFile, digest
from etl_assets.systems.production.simulator.streams import BeyondEnd, Changes, Cursor, ServedStream

STREAMS = ("metrics", "workorders")
_HEARTBEAT_S = 0.8  # the promise is a second at most
_POLL_S = 0.02
# With a pace, as many records at once as come in this time.
_STEP_S = 0.05
_NDJSON = "application/x-ndjson"

_Range = Annotated[tuple[int, int], Field(description="first and last sequence")]


class StreamChanges(BaseModel):
    """What to serve other than it is; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    holes: list[_Range] = Field(default_factory=list)
    repeats: list[_Range] = Field(default_factory=list)
    lines: dict[int, str] = Field(default_factory=dict)


class ProductionSimulator:
    """The two streams; `app` serves them, the methods steer them, also while they are served.

    Args:
        metrics_file: JSON array or NDJSON of readings; None: generated.
        workorders_file: the same for work orders; both are given or none.
        seed: gives the generated data and the faults; the same seed, the same everything.
        source: identity of what is streamed; None: the seed with the version of the generator, or a digest of the files.

    Attributes:
        source: that identity. A consumer that resumes compares it.

    Raises:
        ConfigurationError: if only one file is given, one cannot be read (`FileRejected`), or the source cannot be sent
            in a header.
    """

    def __init__(
        self,
        metrics_file: Path | None = None,
        workorders_file: Path | None = None,
        *,
        seed: int = 0,
        source: str | None = None,
    ) -> None:
        if (metrics_file is None) != (workorders_file is None):
            raise ConfigurationError(
                "files for one stream and generated data for the other do not belong together: give both"
                " PRODUCTION_METRICS_FILE and PRODUCTION_WORKORDERS_FILE, or none"
            )
        if source is not None and not (source.isascii() and source.isprintable() and source == source.strip()):
            raise ConfigurationError(f"the source {source!r} cannot be sent: take printable ASCII characters")
        self.seed = seed
        self.faults = Faults(seed=seed)
        self._files = {"metrics": metrics_file, "workorders": workorders_file} if metrics_file else {}
        if source is None:
            paths = [path for path in (metrics_file, workorders_file) if path]
            source = f"files:{digest(*paths)}" if paths else f"simulated:{seed}-v{VERSION}"
        self.source = source
        self.reset()
        self.app = production_app(self)

    def reset(self) -> None:
        """Back to the beginning: nothing appended or changed, no faults."""
        self.faults.clear()
        data = {} if self._files else generated(self.seed)
        self._streams = {
            name: ServedStream(name, RecordFile(path) if (path := self._files.get(name)) else data[name])
            for name in STREAMS
        }

    def stream(self, name: str) -> ServedStream:
        """One of the two.

        Raises:
            ValueError: if there is no such stream.
        """
        if name not in self._streams:
            raise ValueError(f"there is no stream {name[:100]!r}: known are {', '.join(STREAMS)}")
        return self._streams[name]

    # Steering, for tests and by `/_control`.

    def append(self, name: str, records: Iterable[Any]) -> None:
        """Adds records to the end of a stream, seen at once by those who follow; text may be other than JSON.

        A file is never written to: what is appended comes behind the records that it has now.
        """
        self.stream(name).append(records)

    def skip(self, name: str, first: int, last: int) -> None:
        """Leaves a hole in the sequences of a stream."""
        self.stream(name).changes.holes.append((first, last))

    def repeat(self, name: str, first: int, last: int) -> None:
        """Serves some lines a second time right behind the last of them, as an overlap does."""
        self.stream(name).changes.repeats.append((first, last))

    def poison(self, name: str, sequence: int, line: str) -> None:
        """Serves this text in place of a line."""
        self.stream(name).changes.lines[sequence] = line

    def unchanged(self) -> None:
        """Serves everything as it is again."""
        for stream in self._streams.values():
            stream.changes = Changes()


def production_app(simulator: ProductionSimulator) -> FastAPI:
    """The streams and their controls over one simulator."""
    app = simulator_app("Production streams (simulated)", simulator.faults)
    app.include_router(_api(simulator))
    app.include_router(_controls(simulator))
    return app


def _api(simulator: ProductionSimulator) -> APIRouter:
    router = APIRouter()

    async def streamed(name: str, *, after: int, follow: bool, pace: float | None) -> Response:
        headers = {"X-Stream-Source": simulator.source}
        stream = simulator.stream(name)
        try:
            cursor = await run_sync(partial(stream.cursor, after=after, must_exist=not follow))
        except BeyondEnd as end:
            raise Refusal(
                416, f"after={after} is beyond the end: {name} has {end.records} records", headers=headers
            ) from None
        except PlatformError as error:
            return Response(_error_line(error), headers=headers, media_type=_NDJSON)
        return _Streamed(cursor, _lines(cursor, follow=follow, pace=pace), headers)

    after_sequence = Annotated[int, Query(ge=0, description="sequence of the last record that is not wanted")]
    stays_open = Annotated[bool, Query(description="stay open and send what comes")]
    records_per_second = Annotated[float | None, Query(gt=0, allow_inf_nan=False, description="records per second")]

    @router.get("/metrics")
    async def metrics(
        after: after_sequence = 0, follow: stays_open = False, pace: records_per_second = None
    ) -> Response:
        return await streamed("metrics", after=after, follow=follow, pace=pace)

    @router.get("/workorders")
    async def workorders(
        after: after_sequence = 0, follow: stays_open = False, pace: records_per_second = None
    ) -> Response:
        return await streamed("workorders", after=after, follow=follow, pace=pace)

    return router


def _error_line(error: Exception) -> bytes:
    return json.dumps({"error": str(error)}, separators=(",", ":")).encode() + b"\n"


class _Streamed(StreamingResponse):
    """An answer that leaves no file open, also where the client goes away."""

    def __init__(self, cursor: Cursor, lines: AsyncGenerator[bytes, None], headers: dict[str, str]) -> None:
        super().__init__(lines, media_type=_NDJSON, headers=headers)
        self._cursor = cursor
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._lines.aclose()
            self._cursor.close()


async def _lines(cursor: Cursor, *, follow: bool, pace: float | None) -> AsyncGenerator[bytes, None]:
    """The lines of a stream; with `follow` a blank one at least every second while there is nothing."""
    at_most = None if pace is None else max(int(pace * _STEP_S), 1)
    beats = _Heartbeats() if follow else None
    due = time.monotonic()
    try:
        # Long in a large file that was never read so far.
        while not await run_sync(partial(cursor.approach, for_s=_HEARTBEAT_S)):
            if beats:
                beats.wrote()
                yield b"\n"
        while True:
            # In a thread: the file may be slow, and other streams are served by the same loop.
            count, lines = await run_sync(cursor.lines, at_most)
            if count:
                # May be nothing: a hole on purpose.
                if lines:
                    yield lines
                if beats:
                    beats.wrote()
            elif not follow:
                cursor.finish()
                return
            due = max(due + count / pace, time.monotonic() - _STEP_S) if pace else 0.0
            async for beat in _pause(max(due - time.monotonic(), 0 if count else _POLL_S), beats):
                yield beat
    except PlatformError as error:
        yield _error_line(error)


class _Heartbeats:
    """When the next sign of life is due."""

    def __init__(self) -> None:
        self.wrote()

    def wrote(self) -> None:
        self.due = time.monotonic() + _HEARTBEAT_S


async def _pause(seconds: float, beats: _Heartbeats | None) -> AsyncGenerator[bytes, None]:
    """Waits, and gives a blank line whenever it is time for one."""
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        if beats and now >= beats.due:
            beats.wrote()
            yield b"\n"
        await sleep((min(until, beats.due) if beats else until) - now)


def _controls(simulator: ProductionSimulator) -> APIRouter:
    router = APIRouter(prefix="/_control", tags=["control"])

    def known(name: str) -> ServedStream:
        try:
            return simulator.stream(name)
        except ValueError as error:
            raise Refusal(404, str(error)) from None

    @router.get("/streams/{name}")
    async def changes(name: str) -> dict[str, Any]:
        return asdict(known(name).changes)

    @router.put("/streams/{name}")
    async def change(name: str, wanted: StreamChanges) -> dict[str, Any]:
        now = known(name).changes
        for field in wanted.model_fields_set:
            setattr(now, field, getattr(wanted, field))
        return asdict(now)

    @router.post("/streams/{name}/records")
    async def append(name: str, records: list[Any]) -> None:
        stream = known(name)
        try:
            await run_sync(stream.append, records)
        except PlatformError as error:
            raise Refusal(422, str(error)) from None

    @router.post("/reset")
    async def reset() -> None:
        simulator.reset()

    return router
