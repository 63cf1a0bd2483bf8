"""The routes of the simulated feed, and those that control it."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import ValidationError

from etl_assets.simulators.controls import Refusal, simulator_app
from etl_assets.systems.events.simulator.files import Quirks

if TYPE_CHECKING:
    from etl_assets.systems.events.simulator.feed import EventsSimulator

# By this name the plan of faults knows the requests for files, whichever they are for.
FILES = "files"
_BLOCK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")

Wanted = Annotated[str, Header(alias="Range", description="`bytes=N-` or `bytes=N-M`")]
Known = Annotated[str, Header(alias="If-Range", description="the ETag of what the range is a part of")]


def events_app(simulator: "EventsSimulator") -> FastAPI:
    """The feed and its controls over one simulator."""
    app = simulator_app("Feed of events (simulated)", simulator.faults)
    app.include_router(_controls(simulator))
    app.include_router(_feed(simulator))
    return app


def _feed(simulator: "EventsSimulator") -> APIRouter:
    router = APIRouter()

    @router.get("/lastupdate.txt")
    def latest(request: Request) -> PlainTextResponse:
        """The three newest files; the first of them has the events."""
        return PlainTextResponse(simulator.last_update(_base_url(request)))

    @router.get("/masterfilelist.txt")
    def listed(request: Request, wanted: Wanted = "", known: Known = "") -> Response:
        """All files there ever were, three of each interval, the oldest first."""
        lines, etag = simulator.master_list(_base_url(request))
        length = sum(map(len, lines))
        part = _Part(length, etag, wanted if simulator.ranges else "", known)
        blocks = _blocks(lines, part.begin, part.end)
        return StreamingResponse(blocks, part.status, part.headers, "text/plain")

    @router.get("/{name}")
    def file(name: str, wanted: Wanted = "", known: Known = "") -> Response:
        """A file of events; the others that the lists name are not here."""
        data, etag = simulator.file(name)
        part = _Part(len(data), etag, wanted if simulator.ranges else "", known)
        return Response(data[part.begin : part.end], part.status, part.headers, "application/zip")

    return router


def _base_url(request: Request) -> str:
    return str(request.base_url).rstrip("/")


class _Part:
    """Which part of a body a request is for, and how the answer says so; without a range, all of it."""

    def __init__(self, length: int, etag: str, wanted: str, known: str) -> None:
        matched = _RANGE.fullmatch(wanted)
        self.status, self.begin, self.end = 200, 0, length
        self.headers = {"ETag": etag}
        if matched and known in ("", etag):
            self.begin = int(matched[1])
            self.end = min(int(matched[2] or length) + 1, length)
            if not self.begin < self.end:
                raise Refusal(416, "there is no such range", headers={"Content-Range": f"bytes */{length}"})
            self.status = 206
            self.headers["Content-Range"] = f"bytes {self.begin}-{self.end - 1}/{length}"
        self.headers["Content-Length"] = str(self.end - self.begin)


def _blocks(lines: Iterable[bytes], begin: int, end: int) -> Iterator[bytes]:
    """The bytes in [begin, end) of all lines, some hundred kilobytes at a time."""
    block, at = bytearray(), 0
    for line in lines:
        block += line[max(begin - at, 0) : max(end - at, 0)]
        at += len(line)
        if len(block) >= _BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    yield bytes(block)


def _controls(simulator: "EventsSimulator") -> APIRouter:
    router = APIRouter(prefix="/_control", tags=["control"])

    @router.get("/files")
    def quirks() -> dict[str, Quirks]:
        """By begin of the interval; only files with a quirk."""
        return {f"{interval:%Y%m%d%H%M%S}": quirks for interval, quirks in simulator.quirks().items()}

    @router.put("/files/{begin}")
    def change(begin: str, wanted: dict[str, Any]) -> Quirks:
        """What is left out stays as it is."""
        try:
            return simulator.change(_instant(begin), **wanted)
        except (ValidationError, ValueError) as error:
            raise Refusal(422, str(error)) from None

    @router.delete("/files/{begin}")
    def restore(begin: str) -> None:
        """The file is as promised again."""
        simulator.restore(_instant(begin))

    @router.post("/files/{begin}/republish")
    def republish(begin: str) -> Quirks:
        """The file has another content from now on."""
        return simulator.republish(_instant(begin))

    @router.post("/advance")
    def advance(intervals: int = 1) -> datetime:
        """Time goes on by so many intervals; the answer is the first one that there is not yet."""
        try:
            return simulator.advance(intervals)
        except ValueError as error:
            raise Refusal(422, str(error)) from None

    @router.post("/reset")
    def reset() -> None:
        simulator.reset()

    return router


def _instant(text: str) -> datetime:
    try:
        return datetime.strptime(text if len(text) == 14 else "", "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise Refusal(404, f"{text[:40]!r} is not the begin of an interval, like 20190121220000") from None
