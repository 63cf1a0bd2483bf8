"""The public feed of events as a simulator: an archive every fifteen minutes, the lists that name them, and routes that control it.

Beside the files of events the lists name two of other kinds for each interval, as the real ones do; those are not served. What
the feed may do other than promised are the quirks of its files.
"""

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import RLock
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import PlainTextResponse

from etl_assets.simulators.controls import Refusal, simulator_app
from etl_assets.simulators.faults import Faults
from etl_assets.systems.events.files import INTERVAL, instant
from etl_assets.systems.events.simulator.files import BEGINNING, ROWS, Listed, Quirks, archive, file_name, listed

__all__ = ["FILES", "EventsSimulator", "Quirks"]

# By this name the plan of faults knows the requests for files, whichever they are for.
FILES = "files"
_NAME = re.compile(r"(\d{14})\.export\.CSV\.zip")
_OTHER_KINDS = ("mentions.CSV", "gkg.csv")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")

Wanted = Annotated[str, Header(alias="Range", description="`bytes=N-` or `bytes=N-M`")]
Known = Annotated[str, Header(alias="If-Range", description="the ETag of what the range is a part of")]


class _Feed(Faults):
    """Faults in which all files are one call: a plan is not for the names of files."""

    def take(self, call: str) -> str:
        return super().take(FILES if call.endswith(".zip") else call)


class EventsSimulator:
    """The feed; `app` serves it, the methods steer it, also while it is served.

    The calls of its faults are `lastupdate.txt`, `masterfilelist.txt` and `files`.

    Args:
        first: begin of the first interval, aware, on a quarter of an hour.
        last: begin of the first interval that there is not yet; None: the feed goes on with the clock, and has an interval
            as soon as it is over.
        rows: events of each file.
        seed: gives the events and the faults; the same seed, the same bytes.
        clock: what time it is, for a feed that goes on.

    Attributes:
        ranges: whether a part of a file can be asked for.
        advertised_url: what addresses in the lists begin with; empty: as the feed was asked.
        broken_lines: lines that the master list has in its middle, each with its end.
        last_update_text: what `lastupdate.txt` says instead; None: what is so.
    """

    def __init__(
        self,
        first: datetime,
        last: datetime | None = None,
        *,
        rows: int = ROWS,
        seed: int = 0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.first, self.rows, self.seed = _begin(first), rows, seed
        self._configured_last = None if last is None else _begin(last)
        self._clock = clock
        self.faults = _Feed(seed=seed)
        self._lock = RLock()
        self.reset()
        self.app = _app(self)

    def reset(self) -> None:
        """Back to the beginning: no faults, no quirks, no time gone by."""
        with self._lock:
            self.faults.clear()
            self.ranges = True
            self.advertised_url = self.broken_lines = ""
            self.last_update_text: str | None = None
            self._last = self._configured_last
            self._quirks: dict[datetime, Quirks] = {}

    # What the feed serves.

    def last_update(self, base_url: str) -> str:
        """The newest files, three lines; nothing if there is none."""
        if self.last_update_text is not None:
            return self.last_update_text
        newest = (interval for interval in reversed(self.intervals()) if self._is_listed(interval))
        return next((self._lines(interval, base_url) for interval in newest), "")

    def master_list(self, base_url: str) -> bytes:
        """The lines of all files, those of an interval together."""
        lines = [self._lines(interval, base_url) for interval in self.intervals() if self._is_listed(interval)]
        lines.insert(len(lines) // 2, self.broken_lines)
        return "".join(lines).encode()

    def file(self, name: str) -> bytes:
        """A file.

        Raises:
            Refusal: 404, or what a withdrawn file is answered with.
        """
        matched = _NAME.fullmatch(name)
        interval = matched and _interval(matched[1])
        if not interval or not self._is_served(interval):
            status = self._of(interval).withdrawn_as if interval else 404
            raise Refusal(status, f"there is no file {name[:100]!r}")
        data = self.archive(interval)
        with self._lock:
            quirks = self._of(interval)
            if not quirks.halves:
                return data
            self.change(interval, halves=quirks.halves - 1)
        return data[: len(data) // 2]

    # What tests and the demo steer and inspect.

    def end(self) -> datetime:
        """Begin of the first interval that there is not yet."""
        if self._last is not None:
            return self._last
        now = self._clock()
        return max(self.first, now - (now - BEGINNING) % INTERVAL)

    def intervals(self) -> list[datetime]:
        """The intervals that there are, with those that are held."""
        return [self.first + number * INTERVAL for number in range((self.end() - self.first) // INTERVAL)]

    def advance(self, intervals: int = 1) -> datetime:
        """Lets time go on; gives the first interval that there is not yet.

        Raises:
            ValueError: if the feed goes on by itself.
        """
        with self._lock:
            if self._last is None or intervals < 0:
                raise ValueError(
                    f"by {intervals} intervals: time goes forward only, and by command only if the feed has an end"
                )
            self._last += intervals * INTERVAL
            return self._last

    def quirks(self) -> dict[datetime, Quirks]:
        """The files that are other than promised."""
        with self._lock:
            return dict(sorted(self._quirks.items()))

    def change(self, interval: datetime, **wanted: Any) -> Quirks:
        """Changes the quirks of a file, by the names of their fields; what is left out stays.

        Raises:
            ValueError: for an unknown quirk, or a value that it cannot have.
        """
        with self._lock:
            self._quirks[interval] = Quirks(**{**self._of(interval).model_dump(), **wanted})
            return self._quirks[interval]

    def restore(self, interval: datetime) -> None:
        """The file is as promised: a late one is there."""
        with self._lock:
            self._quirks.pop(interval, None)

    def republish(self, interval: datetime) -> Quirks:
        """Publishes a file again, under its name with another content, size and MD5."""
        with self._lock:
            return self.change(interval, version=self._of(interval).version + 1)

    def listed(self, interval: datetime) -> Listed:
        """Size and MD5 of a file, as the lists say them."""
        quirks, true = self._of(interval), listed(*self._made(interval))
        return Listed(
            true.size if quirks.listed_size is None else quirks.listed_size,
            true.md5 if quirks.listed_md5 is None else quirks.listed_md5,
        )

    def archive(self, interval: datetime) -> bytes:
        """A whole file."""
        return archive(*self._made(interval))

    def _of(self, interval: datetime) -> Quirks:
        return self._quirks.get(interval, Quirks())

    def _made(self, interval: datetime) -> tuple[datetime, int, int, int, str]:
        """What gives the bytes of a file."""
        quirks = self._of(interval)
        return interval, self.rows, self.seed, quirks.version, quirks.defect

    def _is_listed(self, interval: datetime) -> bool:
        """Whether a file is there; a held one is not, and may come after this answer."""
        with self._lock:
            quirks = self._of(interval)
            if quirks.held and quirks.answers_until_there:
                left = quirks.answers_until_there - 1
                self.change(interval, held=left > 0, answers_until_there=left)
            return not quirks.held

    def _is_served(self, interval: datetime) -> bool:
        exists = self.first <= interval < self.end() and (interval - BEGINNING) % INTERVAL == timedelta(0)
        return exists and self._is_listed(interval) and not self._of(interval).withdrawn

    def _lines(self, interval: datetime, base_url: str) -> str:
        base, events = self.advertised_url or base_url, self.listed(interval)
        lines = [f"{events.size} {events.md5} {base}/{file_name(interval)}\n"]
        for kind in _OTHER_KINDS:
            name = file_name(interval, kind)
            digest = _md5(name.encode())
            lines.append(f"{100_000 + int(digest[:5], 16)} {digest} {base}/{name}\n")
        return "".join(lines)


def _app(simulator: EventsSimulator) -> FastAPI:
    """The feed and its controls over one simulator."""
    app = simulator_app("Feed of events (simulated)", simulator.faults)
    control: dict[str, Any] = {"tags": ["control"]}

    def base_url(request: Request) -> str:
        return str(request.base_url).rstrip("/")

    def answer(data: bytes, media_type: str, wanted: str, known: str) -> Response:
        """A body, or the part of it that a request is for."""
        length, headers = len(data), {"ETag": f'"{_md5(data)}"'}
        matched = _RANGE.fullmatch(wanted) if simulator.ranges else None
        if not matched or known not in ("", headers["ETag"]):
            return Response(data, 200, headers, media_type)
        begin, end = int(matched[1]), min(int(matched[2] or length) + 1, length)
        if begin >= end:
            raise Refusal(416, "there is no such range", headers={"Content-Range": f"bytes */{length}"})
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{length}"
        return Response(data[begin:end], 206, headers, media_type)

    @app.get("/lastupdate.txt")
    def latest(request: Request) -> PlainTextResponse:
        """The three newest files; the first of them has the events."""
        return PlainTextResponse(simulator.last_update(base_url(request)))

    @app.get("/masterfilelist.txt")
    def listed(request: Request, wanted: Wanted = "", known: Known = "") -> Response:
        """All files there ever were, three of each interval, the oldest first."""
        return answer(simulator.master_list(base_url(request)), "text/plain", wanted, known)

    @app.get("/_control/files", **control)
    def quirks() -> dict[str, Quirks]:
        """By begin of the interval; only files with a quirk."""
        return {f"{interval:%Y%m%d%H%M%S}": quirks for interval, quirks in simulator.quirks().items()}

    @app.put("/_control/files/{begin}", **control)
    def change(begin: str, wanted: dict[str, Any]) -> Quirks:
        """What is left out stays as it is."""
        return _or_refused(simulator.change, _named(begin), **wanted)

    @app.delete("/_control/files/{begin}", **control)
    def restore(begin: str) -> None:
        """The file is as promised again."""
        simulator.restore(_named(begin))

    @app.post("/_control/files/{begin}/republish", **control)
    def republish(begin: str) -> Quirks:
        """The file has another content from now on."""
        return simulator.republish(_named(begin))

    @app.post("/_control/advance", **control)
    def advance(intervals: int = 1) -> datetime:
        """Time goes on by so many intervals; the answer is the first one that there is not yet."""
        return _or_refused(simulator.advance, intervals)

    @app.post("/_control/reset", **control)
    def reset() -> None:
        simulator.reset()

    @app.get("/{name}")
    def file(name: str, wanted: Wanted = "", known: Known = "") -> Response:
        """A file of events; the others that the lists name are not here."""
        return answer(simulator.file(name), "application/zip", wanted, known)

    return app


def _or_refused(call: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What a call gives; what it says of a wrong value is answered."""
    try:
        return call(*given, **named)
    except ValueError as error:
        raise Refusal(422, str(error)) from None


def _named(begin: str) -> datetime:
    interval = _interval(begin)
    if interval is None:
        raise Refusal(404, f"{begin[:40]!r} is not the begin of an interval, like 20190121220000")
    return interval


def _interval(text: str) -> datetime | None:
    try:
        return instant(text)
    except ValueError:
        return None


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _begin(instant: datetime) -> datetime:
    begin = instant.astimezone(UTC) if instant.tzinfo else instant
    if not begin.tzinfo or begin < BEGINNING or (begin - BEGINNING) % INTERVAL:
        raise ValueError(f"{instant} is no aware instant on a quarter of an hour since {BEGINNING}")
    return begin
