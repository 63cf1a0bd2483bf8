"""The production system as a simulator: readings of machine parameters and work orders, as two streams of numbered records.

By default both are generated, with planted effects (`data`); over files (`files`) it is the API that serves them.
"""

import json
import math
import time
from collections.abc import AsyncGenerator, Iterable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from anyio import sleep
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from etl_assets.errors import ConfigurationError, PlatformError
from etl_assets.simulators.controls import Refusal, simulator_app
from etl_assets.simulators.faults import Faults
from etl_assets.systems.production.simulator.data import VERSION, generated
from etl_assets.systems.production.simulator.files import (
    NOT_JSON,
    FileRejected,
    RecordFile,
    RecordReader,
    digest,
    json_value,
)

STREAMS = ("metrics", "workorders")
_HEARTBEAT_S = 0.8  # the promise is a second at most
_NAP_S = 0.1
_POLL_S = 0.02
# With a pace, as many records at once as come in this time.
_STEP_S = 0.05
# From memory as many at once as a window of a file holds.
_BLOCK_RECORDS = 4_000
_NDJSON = "application/x-ndjson"

_Range = Annotated[tuple[int, int], Field(description="first and last sequence")]


class Changes(BaseModel):
    """What is served other than it is, by sequences; each range includes both ends.

    Attributes:
        holes: left out.
        repeats: served a second time behind their last.
        lines: served in place of the line that belongs there, as they are.
    """

    model_config = ConfigDict(extra="forbid")

    holes: list[_Range] = Field(default_factory=list)
    repeats: list[_Range] = Field(default_factory=list)
    lines: dict[int, str] = Field(default_factory=dict)


class BeyondEnd(Exception):
    """A place was asked for that the stream does not reach; its argument is how many records there are."""


class ServedStream:
    """The records of a stream: those of a file or some in memory, and behind them what is appended while it is served.

    Args:
        file: a file of records; None: there are only those in memory.
        in_memory: the texts of records.
    """

    def __init__(self, file: RecordFile | None, in_memory: Iterable[str] = ()) -> None:
        self.changes = Changes()
        self.file = file
        # Records of the file, once something is appended: from then on it counts as complete.
        self.file_records: int | None = None if file else 0
        self.in_memory = list(in_memory)
        self._lock = Lock()

    def append(self, records: Iterable[Any]) -> None:
        """Adds records at the end: text as it is, which may be other than JSON; anything else as its JSON.

        Raises:
            FileRejected: if the stream is that of a file that cannot be read to its end.
        """
        texts = [record if isinstance(record, str) else json.dumps(record) for record in records]
        with self._lock:
            if self.file and self.file_records is None:
                self.file.limit = self.file.size()
                self.file_records = sum(map(len, self.file.blocks()))
            self.in_memory += texts


class Cursor:
    """Reads a stream forward as lines, from one place on. It blocks while it reads: keep it off the event loop.

    Args:
        after: sequence behind which it begins.
        follow: whether that many records may be still to come.

    Raises:
        BeyondEnd: if they may not, and are not there.
        FileRejected: if the stream is that of a file that cannot be opened.
    """

    def __init__(self, stream: ServedStream, *, after: int, follow: bool) -> None:
        self._stream = stream
        self._sequence = after
        # Long in a large file that was never read so far: who follows gets signs of life meanwhile.
        self._for_s = _HEARTBEAT_S if follow else math.inf
        self._reader: RecordReader | None = stream.file.reader(after=after) if stream.file else None
        self._records: list[str] = []
        self._checked = False
        if not follow:
            try:
                self._expect_start()
            except BaseException:
                self.close()
                raise

    def _expect_start(self) -> None:
        try:
            self._fill()
        except FileRejected:
            # Raised again when lines are asked for, where it becomes the last line of the answer.
            return
        reached = self._reader.sequence if self._reader else 0
        if self._stream.file_records is not None:
            reached = self._stream.file_records + len(self._stream.in_memory)
        if not self._records and reached < self._sequence:
            raise BeyondEnd(reached)

    def lines(self, at_most: int | None = None) -> tuple[int, bytes]:
        """How many records come next, and their lines; none at the end of the stream as it is now.

        Raises:
            FileRejected: if the next record of a file cannot be read.
        """
        first, changes = self._sequence + 1, self._stream.changes
        lines = self._next(at_most)
        count = len(lines)
        if changes.holes or changes.repeats or changes.lines:
            lines = self._changed(lines, first, changes)
        return count, "".join(lines).encode()

    def _next(self, at_most: int | None = None) -> list[str]:
        """A line for each of the next records: made around its text, which is not rendered again."""
        if not self._records:
            self._fill()
        records, first, checked = self._records[:at_most], self._sequence + 1, self._checked
        del self._records[:at_most]
        self._sequence += len(records)
        return [
            f'{{"sequence":{sequence},"record":{record}}}\n'
            if checked or json_value(record) is not NOT_JSON
            else f'{{"sequence":{sequence},"text":{json.dumps(record)}}}\n'
            for sequence, record in enumerate(records, first)
        ]

    def _fill(self) -> None:
        """Takes the next block of records from the file, then from memory."""
        if self._reader:
            # Asked before reading: what comes into the file meanwhile is not passed over.
            complete = self._stream.file_records is not None
            self._records, self._checked = self._reader.block(for_s=self._for_s), bool(self._reader.is_array)
            if self._records or not (complete and self._reader.at_end):
                return
            self._reader.close()
            self._reader = None
        begin = self._sequence - (self._stream.file_records or 0)
        self._records, self._checked = self._stream.in_memory[begin : begin + _BLOCK_RECORDS], False

    def _changed(self, lines: list[str], first: int, changes: Changes) -> list[str]:
        """Lines as a test wants them served."""
        result = []
        for sequence, line in enumerate(lines, first):
            if sequence in changes.lines:
                result.append(changes.lines[sequence] + "\n")
            elif not any(a <= sequence <= b for a, b in changes.holes):
                result.append(line)
            for begin, end in changes.repeats:
                if sequence == end:
                    result += self._repeated(begin, end)
        return result

    def _repeated(self, begin: int, end: int) -> list[str]:
        cursor = Cursor(self._stream, after=begin - 1, follow=False)
        result: list[str] = []
        try:
            while len(result) <= end - begin:
                result += cursor._next()
        finally:
            cursor.close()
        return result[: end - begin + 1]

    def finish(self) -> None:
        """Judges what is left when nothing more is waited for.

        Raises:
            FileRejected: if the file ends inside of a record.
        """
        if self._reader:
            self._reader.finish()

    def close(self) -> None:
        if self._reader:
            self._reader.close()


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
        self._files = [path for path in (metrics_file, workorders_file) if path]
        if source is None:
            source = f"files:{digest(*self._files)}" if self._files else f"simulated:{seed}-v{VERSION}"
        self.source = source
        self.reset()
        self.app = simulator_app("Production streams (simulated)", self.faults)
        self.app.include_router(_api(self))
        self.app.include_router(_controls(self))

    def reset(self) -> None:
        """Back to the beginning: nothing appended or changed, no faults."""
        self.faults.clear()
        if self._files:
            streams = [ServedStream(RecordFile(path)) for path in self._files]
        else:
            data = generated(self.seed)
            streams = [ServedStream(None, data[name]) for name in STREAMS]
        self._streams = dict(zip(STREAMS, streams, strict=True))

    def stream(self, name: str) -> ServedStream:
        """One of the two.

        Raises:
            Refusal: if there is no such stream.
        """
        if name not in self._streams:
            raise Refusal(404, f"there is no stream {name[:100]!r}: known are {', '.join(STREAMS)}")
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


def _api(simulator: ProductionSimulator) -> APIRouter:
    router = APIRouter()

    def serve(name: str) -> None:
        @router.get(f"/{name}", name=name)
        async def records(
            after: int = Query(0, ge=0, description="sequence of the last record that is not wanted"),
            follow: bool = Query(False, description="stay open and send what comes"),
            pace: float | None = Query(None, gt=0, allow_inf_nan=False, description="records per second"),
        ) -> Response:
            headers = {"X-Stream-Source": simulator.source}
            try:
                cursor = await run_sync(partial(Cursor, simulator.stream(name), after=after, follow=follow))
            except BeyondEnd as end:
                message = f"after={after} is beyond the end: {name} has {end.args[0]} records"
                raise Refusal(416, message, headers=headers) from None
            except PlatformError as error:
                return Response(_error_line(error), headers=headers, media_type=_NDJSON)
            return _Streamed(cursor, _lines(cursor, follow=follow, pace=pace), headers)

    for name in STREAMS:
        serve(name)
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
    due = wrote = time.monotonic()
    try:
        while True:
            now = time.monotonic()
            if follow and now - wrote >= _HEARTBEAT_S:
                wrote = now
                yield b"\n"
            if now < due:
                await sleep(min(due - now, _NAP_S))
                continue
            # In a thread: the file may be slow, and other streams are served by the same loop.
            count, lines = await run_sync(cursor.lines, at_most)
            now = time.monotonic()
            if count:
                # May be nothing: a hole on purpose.
                if lines:
                    yield lines
                wrote, due = now, max(due + count / pace, now - _STEP_S) if pace else now
            elif follow:
                due = now + _POLL_S
            else:
                cursor.finish()
                return
    except PlatformError as error:
        yield _error_line(error)


def _controls(simulator: ProductionSimulator) -> APIRouter:
    router = APIRouter(prefix="/_control", tags=["control"])

    @router.get("/streams/{name}")
    async def changes(name: str) -> Changes:
        return simulator.stream(name).changes

    @router.put("/streams/{name}")
    async def change(name: str, wanted: Changes) -> Changes:
        """What is left out stays as it is."""
        stream = simulator.stream(name)
        stream.changes = stream.changes.model_copy(update=wanted.model_dump(exclude_unset=True))
        return stream.changes

    @router.post("/streams/{name}/records")
    async def append(name: str, records: list[Any]) -> None:
        stream = simulator.stream(name)
        try:
            await run_sync(stream.append, records)
        except PlatformError as error:
            raise Refusal(422, str(error)) from None

    @router.post("/reset")
    async def reset() -> None:
        simulator.reset()

    return router
